"""A task so small that a run takes a blink, and a script that runs it in processes that
may be killed.

    python tiny_task.py '[{"out": "run", "config": {"steps": 20}, "resume": false, "die_at": "fsync:3"}]'

runs each job in a fork of its own, so that the slow imports are paid once, and prints
the list of exit codes (-9 for SIGKILL). Under torchrun it runs the first job in the
process itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training import Task, TrainConfig, checkpoints, train


class TinyTask(Task):
    """Remove noise from 2 x 2 pictures. With `noise` 0 nothing is random but the order
    of the examples.
    """

    def __init__(
        self, config: TrainConfig, noise: float = 1.0, width: int = 8, bad_step: int = 0
    ) -> None:
        self.noise, self.width, self.bad_step = noise, width, bad_step
        torch.manual_seed(0)
        middle = (
            nn.Sequential(nn.BatchNorm1d(width), nn.Dropout(0.2))
            if noise
            else nn.ReLU()
        )
        model = nn.Sequential(nn.Linear(12, width), middle, nn.Linear(width, 12))
        size = 10  # not a multiple of the batch: batches reach across epochs
        super().__init__("tiny", config, model, size)
        self.examples = torch.randn(size, 12)
        self.steps_done = 0

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"x": self.examples[indices]}  # (B, 12)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch["x"]
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        loss = (model(x + self.noise * noise) - x).pow(2).mean()
        self.steps_done += 1
        return (loss * torch.nan if self.steps_done == self.bad_step else loss), {
            "size": x.abs().mean()
        }

    def sample(self, model: nn.Module) -> Tensor:
        x = self.examples.to(next(model.parameters()).device)
        return model(x).clamp(-1, 1).reshape(-1, 3, 2, 2)  # (10, 12) => (10, 3, 2, 2)

    def metadata(self) -> dict[str, Any]:
        return {"width": self.width}


def die_at(place: str) -> None:
    """SIGKILL this process just before the n-th call of a function: "fsync:3"."""
    name, count = place.split(":")
    owners = {"fsync": os, "rename": Path, "save_file": checkpoints, "rmtree": shutil}
    owners["batch"] = TinyTask
    original: Callable[..., Any] = getattr(owners[name], name)
    calls = iter(range(int(count) - 1, -1, -1))

    def deadly(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owners[name], name, deadly)


def run(job: dict[str, Any]) -> None:
    """Train, then write the trained weights beside the checkpoints; one clear line for
    a reader's mistake.
    """
    if "die_at" in job and os.environ.get("RANK", "0") == job.get("who", "0"):
        die_at(job["die_at"])
    task = TinyTask(TrainConfig(**job["config"]), job.get("noise", 1.0))
    try:
        train(
            task,
            Path(job["out"]),
            job.get("resume", False),
            progress=False,
            device="cpu",
        )
    except Dalle2EduError as error:
        sys.exit(str(error))
    weights = torch.cat(
        [p.detach().flatten() for p in task.model.parameters()]
    )  # (number of weights,)
    save_file(
        {"weights": weights},
        Path(job["out"]) / f"rank{os.environ.get('RANK', 0)}.safetensors",
    )


def in_a_fork(job: dict[str, Any]) -> int:
    """Run the job in a child; return its exit code, negative for the signal that killed
    it.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        run(job)
        code = 0
    except SystemExit as mistake:
        print(mistake, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs = json.loads(sys.argv[1])
    if "RANK" in os.environ:
        run(jobs[0])
    else:
        torch.optim.AdamW(
            [nn.Parameter(torch.zeros(1))]
        )  # the first one imports a thousand modules
        print(json.dumps([in_a_fork(job) for job in jobs]))
