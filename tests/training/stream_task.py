"""A task that learns from shards and writes down what it saw, and a script that runs it in several processes.

torchrun --nproc-per-node 2 stream_task.py '[{"shards": "set-{0..2}.tar", "out": "run", "steps": 5, "fsdp": true}]'
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dalle2_edu.data.stream import Stream
from dalle2_edu.text2image.transformer import TransformerBlock
from dalle2_edu.training import TrainConfig, train

SIDE = 4
CONFIG = TrainConfig(
    steps=1, batch_size=4, learning_rate=1e-2, adam_eps=1e-3, warmup=1, ema=0.9, log_every=1, save_every=100
)


class StreamTask:
    """Tell a picture's mean colour from its rows, with a block that FSDP gathers and lets go by itself."""

    name = "stream"

    def __init__(self, config: TrainConfig, stream: Stream, diary: Path) -> None:
        self.config, self.stream, self.size, self.diary = config, stream, len(stream), diary
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Linear(12, 8), Rows(), nn.Linear(8, 3))

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images, captions = self.stream.take(indices)
        with self.diary.open("a") as diary:
            diary.write(" ".join(several[0] for several in captions) + "\n")
        return {"images": images}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Any]:
        images = batch["images"].float() / 255  # (B, 3, S, S)
        rows = images.permute(0, 2, 1, 3).flatten(2)  # => (B, S, 3 S)
        return (model(rows).float().mean(dim=1) - images.mean(dim=(2, 3))).square().mean(), {}

    def sample(self, model: nn.Module) -> None:
        return None

    def metadata(self) -> dict[str, Any]:
        return {}


class Rows(nn.Module):
    """A transformer's block over a picture's rows."""

    def __init__(self) -> None:
        super().__init__()
        self.block = TransformerBlock(8, heads=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, None)


def run(shards: str, out: str, steps: int, fsdp: bool = False) -> None:
    """Train to `steps`, going on from what is there; each process keeps its own diary."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    stream = Stream(shards, SIDE, progress=False)
    config = TrainConfig(**{**vars(CONFIG), "steps": steps})
    task = StreamTask(config, stream, folder / f"seen-{os.environ.get('RANK', 0)}.txt")
    train(task, folder, resume=True, progress=False, device="cpu", fsdp=fsdp)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(sys.argv[1]):
        run(**job)
