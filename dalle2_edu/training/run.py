"""One run: a model, its optimizer and its average on their device, and one step of
training.

    batch      of this step, this process's share
    loss       the task's
    gradient   clipped to a norm
    Adam       at this step's learning rate
    average    of the weights (`ema.py`)

Every random number of a step is a function of the seed, the step and the rank
(`order.py`), so a checkpoint needs no random state.

Chapter 08 writes this step in fifteen lines and then reads this file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training.checkpoints import (
    Checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from dalle2_edu.training.ema import EMA
from dalle2_edu.training.logs import Logs, save_grid
from dalle2_edu.training.muon import Muon
from dalle2_edu.training.order import make_order, seed_for
from dalle2_edu.training.sharding import fill_module, gathered, shard, whole
from dalle2_edu.training.task import Task, TrainConfig, learning_rate


class Meter:
    """Means of the last steps' numbers, added up on the device so that the CPU need not
    wait for a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.names: list[str] = []
        self.count = 0
        self.sums = torch.zeros(0, device=device)
        # the first with a number not finite
        self.bad_step = torch.tensor(-1, device=device)

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Take in one step's scalars; the first two, loss and gradient norm, must be
        finite.
        """
        # (names,)
        row = torch.stack([self._scalar(value) for value in values.values()])
        if not self.count:
            self.names = list(values)
            self.sums = torch.zeros_like(row)
        self.sums += row
        self.count += 1
        bad = ~row[:2].isfinite().all() & (self.bad_step < 0)
        self.bad_step = torch.where(
            bad, torch.full_like(self.bad_step, step), self.bad_step
        )

    def _scalar(self, value: Tensor) -> Tensor:
        return torch.as_tensor(value, device=self.device).detach().float().reshape(())

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over the steps since `clear` and over the processes."""
        means = accelerator.reduce(self.sums / max(1, self.count), reduction="mean")
        return dict(zip(self.names, means.tolist(), strict=True))

    def clear(self) -> None:
        self.count = 0

    def state(self) -> dict[str, Any]:
        """For the checkpoint: a resumed run must log the same means."""
        return {"names": self.names, "count": self.count, "sums": self.sums.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        self.names = [str(name) for name in state["names"]]
        self.count = int(state["count"])
        self.sums = torch.tensor(state["sums"], device=self.device)


class Run:
    """A task under way: the model and its optimizer on their device, the average, and
    how far it has come. config: the task's, or that of the longer run which it has
    become.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        accelerator: Accelerator,
        fsdp: bool = False,
    ) -> None:
        self.task = task
        self.config = config
        self.accelerator = accelerator
        self.fsdp = fsdp
        # the bare module; `self.model` is the wrapper around it
        self.inner = task.model
        self.ema = EMA(task.model, config.ema) if config.ema else None
        self.order = make_order(task, config)
        self.meter = Meter(accelerator.device)
        self.step = 0
        self.minutes = 0.0
        self.last_row: dict[str, float] = {}
        if task.state:
            task.state.to(accelerator.device)
        self._prepare()

    def _prepare(self) -> None:
        """Bring the model, its optimizer and its average onto the device or devices."""
        accelerator, device = self.accelerator, self.accelerator.device
        if self.fsdp:
            shard(self.inner, accelerator)
            # "evaluation" leaves the sharding to us; the wrapper adds mixed precision
            # alone
            self.model = accelerator.prepare_model(self.inner, evaluation_mode=True)
            optimizer = make_optimizer(self.inner, self.config, device)
            self.optimizer = accelerator.prepare_optimizer(optimizer)
        else:
            optimizer = make_optimizer(self.inner, self.config, device)
            self.model, self.optimizer = accelerator.prepare(self.inner, optimizer)
        if self.ema and self.fsdp:
            shard(self.ema.module, accelerator)
        elif self.ema:
            self.ema.module.to(device)
            # all processes have the first one's weights now
            self.ema.copy_from(self.inner)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same run."""
        try:
            self._restore(checkpoint.tensors, checkpoint.state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise Dalle2EduError(
                f"{checkpoint.path / 'state.json'} does not fit the run ({reason[:200]}):"
                f" remove {checkpoint.path}, and the run goes on from the checkpoint before it."
            ) from error

    def _restore(
        self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]
    ) -> None:
        fill_module(self.inner, tensors["model"])
        if self.ema:
            fill_module(self.ema.module, tensors["ema"])
        if self.task.state:
            self.task.state.load_state_dict(tensors["task"])
        restore_optimizer(self.inner, self.optimizer.optimizer, tensors["optimizer"])
        self.meter.restore(state["meter"])
        self.step = int(state["step"])
        self.minutes = float(state["minutes"])
        self.last_row = dict(state["numbers"])

    # --- one step ---------------------------------------------------------------------

    def update(self) -> None:
        """One step of training."""
        self.model.train()
        loss, numbers = self.task.loss(self.model, self.next_batch(), self.seeded())
        self.accelerator.backward(loss)
        norm = self.clip_gradient()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.inner, self.step)
        self.meter.add(self.step, {"loss": loss, "gradient_norm": norm, **numbers})
        self.step += 1

    def clip_gradient(self) -> Tensor:
        """Shorten a gradient that is longer than `clip_norm`; return the length that it
        had.
        """
        longest = self.config.clip_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), longest)
        return whole(norm)

    def next_batch(self) -> dict[str, Tensor]:
        """This process's share of the step's global batch, on the device."""
        rank = self.accelerator.process_index
        # what the batch draws, and dropout
        set_seed(seed_for("global", self.config.seed, self.step, rank))
        batch = self.task.batch(self.share(self.step))
        if self.task.stream and self.step + 1 < self.config.steps:
            self.task.stream.prefetch(self.share(self.step + 1))
        device = self.accelerator.device
        return {
            name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()
        }

    def share(self, step: int) -> Tensor:
        """Which examples of a step's global batch are this process's: (B,) => (B /
        processes,).
        """
        shares = self.order(step).chunk(self.accelerator.num_processes)
        return shares[self.accelerator.process_index]

    def seeded(self) -> torch.Generator:
        """The generator of this step's noise and timesteps, on the device."""
        seed = seed_for(
            "loss", self.config.seed, self.step, self.accelerator.process_index
        )
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def due(self, every: int) -> bool:
        """Whether something done every so many steps, and at the end, is due now."""
        return self.step == self.config.steps or self.step % every == 0

    # --- what it leaves behind --------------------------------------------------------

    def check_finite(self, folder: Path) -> None:
        """Raise `Dalle2EduError` if any process met a loss or gradient that was not a
        finite number.
        """
        found = self.accelerator.gather(self.meter.bad_step.reshape(1)).tolist()
        bad = [step for step in found if step >= 0]
        if bad:
            kept = max(folder.glob("step-*"), default=None)
            last = (
                f"the last good checkpoint is {kept}"
                if kept
                else "there is no checkpoint yet"
            )
            raise Dalle2EduError(
                f"{self.task.name}: the loss was not finite at step {min(bad) + 1}, so the run"
                f" stopped; {last}. Try a learning rate below"
                f" {self.config.learning_rate:g} in a new folder."
            )

    def log(self, logs: Logs | None) -> dict[str, float]:
        """Write one row of means since the last one, and return them."""
        means = self.meter.means(self.accelerator)
        rate = learning_rate(self.step - 1, self.config)
        head = {"step": self.step, "minutes": self.minutes, "learning_rate": rate}
        self.last_row = {**head, **means}
        self.meter.clear()
        if logs:
            logs.write(self.last_row)
        return means

    @torch.no_grad()
    def sample(self, file: Path) -> None:
        """Let the averaged model draw its grid; of a sharded one, in every process."""
        model = self.ema.module if self.ema else self.inner.eval()
        with self.accelerator.autocast():
            pictures = self.task.sample(model)
        if pictures is not None and self.accelerator.is_main_process:
            save_grid(pictures, file)

    def save(self, folder: Path, identity: dict[str, Any]) -> None:
        """Write a checkpoint; of a sharded model every process must call this, and the
        main one writes. identity: what makes this run this run.
        """
        tensors = {"model": self.inner.state_dict()}
        if self.ema:
            tensors["ema"] = self.ema.module.state_dict()
        if self.task.state:
            tensors["task"] = self.task.state.state_dict()
        tensors["optimizer"] = optimizer_tensors(self.inner, self.optimizer.optimizer)
        if self.fsdp:
            tensors = {part: gathered(named) for part, named in tensors.items()}
        if self.accelerator.is_main_process:
            save_checkpoint(folder, {**identity, **self.progress()}, tensors)

    def progress(self) -> dict[str, Any]:
        """The part of the checkpoint's JSON that changes: how far the run has come."""
        return {
            "step": self.step,
            "minutes": self.minutes,
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "numbers": self.last_row,
            "meter": self.meter.state(),
        }


def make_optimizer(
    model: nn.Module, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (arXiv 1711.05101) on the parameters that are
    not frozen; for "muon", the matrices are moved by Muon instead.

    Biases and the gains of normalisations, all that is not a matrix or a kernel, are
    not decayed: pulling a gain towards 0 regularises nothing, it only mutes a layer.
    CLIP does the same (arXiv 2103.00020, 2.5)."""
    if config.optimizer == "muon":
        return Muon(
            model,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=config.betas,
        )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.adam_eps,
        # one pass over each parameter, not a dozen
        fused=device.type in ("cpu", "cuda"),
    )
