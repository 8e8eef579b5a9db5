"""One training loop for every model of the book.

A CLIP, a prior and a decoder differ in what they learn from and in what they call a loss. All
the rest is the same: draw a batch, take the gradient, clip it, let Adam step, average the
weights, write down how it goes. A recipe says the first in a `Task`; this file does the rest,
on one CPU, one GPU or many (`accelerate`).

The one idea worth a chapter is **randomness as a function**. A usual loop pulls random numbers
from one long stream, so step 1000 depends on all that was drawn before it. Here every random
number of a step is a function of the run's seed, the step and the rank (the number of the
process) alone:

    picture order of epoch e      permutation seeded by (seed, e); of shards, see `data/stream.py`
    pictures of step s            places s B ... (s + 1) B - 1 of the epochs' permutations laid end to end
    noise, timesteps, dropout     generators seeded by (seed, s, rank), anew at each step
    learning rate, EMA decay      functions of s

What a task remembers from one step to the next, if anything (`Task.state`), is saved with the
weights. So a checkpoint needs no random state. On the CPU a run that was killed and resumed
ends with the same bits as one that was never interrupted (given as many threads), and two
processes see the same global batches as one.

Several processes, on CPUs or GPUs:    torchrun --nproc-per-node 2 your_script.py
On GPUs as well:                       accelerate launch --num_processes 2 your_script.py
A model too large for one GPU:         accelerate launch --use_fsdp ...; see `sharding.py`

Chapter 08 writes this loop in fifteen lines and then reads this file; chapter 24 launches it on
many GPUs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.backends import mps
from tqdm.auto import tqdm

from dalle2_edu.data.stream import ShardOrder
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    optimizer_tensors,
    remove_unfinished,
    restore_optimizer,
    save_checkpoint,
)
from dalle2_edu.training.ema import EMA
from dalle2_edu.training.logs import LOGGERS, Logs, save_grid
from dalle2_edu.training.sharding import fill_module, gathered, shard, whole

# --- what a recipe hands over -----------------------------------------------------------------


# the share of the steps in which the learning rate falls; the steps before do not depend on how
# many
COOLDOWN = 0.2


@dataclass(frozen=True)
class TrainConfig:
    """How to train. `batch_size` is the global one: all processes together.

    `clip_norm` and `ema` are off at 0. With `decay="cosine"` the learning rate falls to 0 at
    the last step; with "cooldown" it stays as it is and falls to 0 in the last fifth, so that a
    run may still be made longer until then. Raises `Dalle2EduError` for a value that can't be.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 100  # steps; Adam's second moment is a guess until it has seen some gradients
    decay: Literal["constant", "cosine", "cooldown"] = "constant"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    ema: float = 0.999
    clip_norm: float = 1.0
    mixed_precision: Literal["no", "bf16"] = "no"
    log_every: int = 50
    save_every: int = 500
    sample_every: int = 0  # 0: never
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "save_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup", "sample_every", "clip_norm", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("ema", 0 <= self.ema < 1, "in [0, 1)")
        self._require(
            "decay",
            self.decay in ("constant", "cosine", "cooldown"),
            "constant, cosine or cooldown",
        )
        self._require("mixed_precision", self.mixed_precision in ("no", "bf16"), "no or bf16")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise Dalle2EduError(f"{name} is {getattr(self, name)}; it must be {rule}.")


class Task(Protocol):
    """What to train: a model, its examples and its loss. Any object with these members will do.

    In `loss`, call the model as `model(...)`: what arrives is `accelerate`'s wrapper, and only
    its `forward` averages gradients over the processes and runs in mixed precision. Draw noise
    from `generator`, which lives on the model's device, or from the global generators of torch,
    numpy and Python: all are seeded for the step. Return the same names at every step.

    A task whose loss depends on what earlier steps gave (`ImportanceSampler` does) keeps that
    in the buffers of a module, its attribute `state`: the loop moves it to the device, and a
    checkpoint holds it. A task whose examples come from shards has them as its attribute
    `stream` (`Stream` or `Embedded`): it says how many samples each shard has, and is told
    which ones the next step will want. Other tasks need no such attributes."""

    name: str
    model: nn.Module
    config: TrainConfig
    about: dict[
        str, Any
    ]  # what else makes this run this run, such as its recipe and data; `metadata` includes it
    size: int  # how many examples there are; an endless world picks a number, say a million

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The examples with these indices, int64 (B,) in 0..size-1 on the CPU; tensors on any
        device.
        """

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss (mean over the batch), and other scalars to log under their names."""

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures, float (N, 3, H, W) in [-1, 1], by the averaged model; None if it draws
        none.
        """

    def metadata(self) -> dict[str, Any]:
        """What it takes to build the model again, as JSON can hold it; the same whenever the
        run resumes.
        """


# --- everything that depends on the step is a function of it ----------------------------------


def seed_for(*parts: object) -> int:
    """A 32-bit seed that depends on all the parts, and looks unrelated for parts that differ in
    one bit.
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of update `step` (0 for the first): a linear warm-up, then what `decay`
    says.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    share = {
        "constant": 1.0,
        "cosine": 0.5 * (1 + math.cos(math.pi * step / config.steps)),
        "cooldown": min(1.0, (config.steps - step) / max(1, config.steps * COOLDOWN)),
    }
    return config.learning_rate * warm * share[config.decay]


class Order:
    """Which examples each step sees: every one once per epoch, in a new order each time."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int) -> Tensor:
        """The indices of step `step`'s global batch, int64 (batch_size,); may reach into the
        next epoch.
        """
        places = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)  # (B,)
        epochs = places // self.size  # (B,)
        parts = [
            self._of_epoch(int(e))[places[epochs == e] % self.size] for e in epochs.unique()
        ]
        return torch.cat(parts)  # (B,)

    def _of_epoch(self, epoch: int) -> Tensor:
        if epoch != self._epoch:  # the last one is kept: an epoch has many steps
            generator = torch.Generator().manual_seed(seed_for("order", self.seed, epoch))
            self._epoch, self._permutation = (
                epoch,
                torch.randperm(self.size, generator=generator),
            )
        return self._permutation


# --- the run ----------------------------------------------------------------------------------


class Meter:
    """Means of the last steps' numbers, added up on the device so that the CPU need not wait
    for a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.names: list[str] = []
        self.count = 0
        self.sums = torch.zeros(0, device=device)
        self.bad_step = torch.tensor(
            -1, device=device
        )  # the first with a loss or gradient not finite

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Take in one step's scalars; the first two, loss and gradient norm, must be finite."""
        scalars = [
            torch.as_tensor(value, device=self.device).detach() for value in values.values()
        ]
        row = torch.stack([scalar.float().reshape(()) for scalar in scalars])  # (names,)
        if not self.count:
            self.names, self.sums = list(values), torch.zeros_like(row)
        self.sums += row
        self.count += 1
        bad = ~row[:2].isfinite().all() & (self.bad_step < 0)
        self.bad_step = torch.where(bad, torch.full_like(self.bad_step, step), self.bad_step)

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
        self.names, self.count = state["names"], state["count"]
        self.sums = torch.tensor(state["sums"], device=self.device)


class Run:
    """A task under way: the model and its optimizer on their device, the average, and how far
    it has come.
    """

    def __init__(self, task: Task, accelerator: Accelerator, fsdp: bool = False) -> None:
        self.task, self.config, self.accelerator, self.fsdp = (
            task,
            task.config,
            accelerator,
            fsdp,
        )
        self.inner = task.model  # the bare module; `self.model` is the wrapper around it
        self.ema = EMA(task.model, self.config.ema) if self.config.ema else None
        self.state: nn.Module | None = getattr(task, "state", None)
        if self.state:
            self.state.to(accelerator.device)
        if fsdp:
            shard(task.model, accelerator)
            self.model = accelerator.prepare_model(
                task.model, evaluation_mode=True
            )  # for its mixed precision alone
            self.optimizer = accelerator.prepare_optimizer(
                make_optimizer(task, accelerator.device)
            )
        else:
            self.model, self.optimizer = accelerator.prepare(
                task.model, make_optimizer(task, accelerator.device)
            )
        if self.ema and fsdp:
            shard(self.ema.module, accelerator)
        elif self.ema:
            self.ema.module.to(accelerator.device)
            self.ema.copy_from(
                self.inner
            )  # several processes: they all start from the first one's weights
        self.stream: Any = getattr(task, "stream", None)
        self.order = make_order(task)
        self.meter = Meter(accelerator.device)
        self.step, self.minutes = 0, 0.0
        self.last_row: dict[str, float] = {}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same run."""
        tensors, state = checkpoint.tensors, checkpoint.state
        fill_module(self.inner, tensors["model"])
        if self.ema:
            fill_module(self.ema.module, tensors["ema"])
        if self.state:
            self.state.load_state_dict(tensors["task"])
        restore_optimizer(self.inner, self.optimizer.optimizer, tensors["optimizer"])
        self.meter.restore(state["meter"])
        self.step, self.minutes, self.last_row = (
            state["step"],
            state["minutes"],
            state["numbers"],
        )

    def update(self) -> None:
        """One step of training."""
        self.model.train()
        loss, numbers = self.task.loss(self.model, self.next_batch(), self.seeded())
        self.accelerator.backward(loss)
        norm = whole(
            self.accelerator.clip_grad_norm_(
                self.model.parameters(), self.config.clip_norm or math.inf
            )
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.inner, self.step)
        self.meter.add(self.step, {"loss": loss, "gradient_norm": norm, **numbers})
        self.step += 1

    def next_batch(self) -> dict[str, Tensor]:
        """This process's share of the step's global batch, on the device."""
        rank = self.accelerator.process_index
        set_seed(
            seed_for("global", self.config.seed, self.step, rank)
        )  # dropout, and what the batch draws
        batch = self.task.batch(self.share(self.step))
        if self.stream and self.step + 1 < self.config.steps:
            self.stream.prefetch(self.share(self.step + 1))
        return {
            name: tensor.to(self.accelerator.device, non_blocking=True)
            for name, tensor in batch.items()
        }

    def share(self, step: int) -> Tensor:
        """Which examples of a step's global batch are this process's: (B,) => (B /
        processes,).
        """
        return self.order(step).chunk(self.accelerator.num_processes)[
            self.accelerator.process_index
        ]

    def seeded(self) -> torch.Generator:
        """The generator of this step's noise and timesteps, on the device."""
        seed = seed_for("loss", self.config.seed, self.step, self.accelerator.process_index)
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def due(self, every: int) -> bool:
        """Whether something done every so many steps, and at the end, is due now."""
        return self.step == self.config.steps or self.step % every == 0

    def check_finite(self, folder: Path) -> None:
        """Raise `Dalle2EduError` if any process met a loss or gradient that was not a finite
        number.
        """
        bad = [
            step
            for step in self.accelerator.gather(self.meter.bad_step.reshape(1)).tolist()
            if step >= 0
        ]
        if bad:
            kept = max(folder.glob("step-*"), default=None)
            raise Dalle2EduError(
                f"{self.task.name}: the loss was not finite at step {min(bad) + 1}, so the run"
                " stopped;"
                f" {f'the last good checkpoint is {kept}' if kept else 'there is no checkpoint yet'}."
                f" Try a learning rate below {self.config.learning_rate:g} in a new folder."
            )

    def log(self, logs: Logs | None) -> dict[str, float]:
        """Write one row of means since the last one, and return them."""
        means = self.meter.means(self.accelerator)
        rate = learning_rate(self.step - 1, self.config)
        self.last_row = {
            "step": self.step,
            "minutes": self.minutes,
            "learning_rate": rate,
            **means,
        }
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

    def save(self, folder: Path) -> None:
        """Write a checkpoint; of a sharded model every process must call this, and the main one
        writes.
        """
        tensors = {"model": self.inner.state_dict()}
        if self.ema:
            tensors["ema"] = self.ema.module.state_dict()
        if self.state:
            tensors["task"] = self.state.state_dict()
        tensors["optimizer"] = optimizer_tensors(self.inner, self.optimizer.optimizer)
        if self.fsdp:
            tensors = {part: gathered(named) for part, named in tensors.items()}
        if self.accelerator.is_main_process:
            save_checkpoint(folder, {**identity(self.task), **self.progress()}, tensors)

    def progress(self) -> dict[str, Any]:
        """The part of the checkpoint's JSON that changes: how far the run has come."""
        return {
            "step": self.step,
            "minutes": self.minutes,
            "processes": self.accelerator.num_processes,
            "numbers": self.last_row,
            "meter": self.meter.state(),
        }


def make_optimizer(task: Task, device: torch.device) -> torch.optim.AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101) on the parameters that are not
    frozen.

    Biases and the gains of normalisations, all that is not a matrix or a kernel, are not
    decayed: pulling a gain towards 0 regularises nothing, it only mutes a layer. CLIP does the
    same (arXiv 2103.00020, 2.5)."""
    config = task.config
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.adam_eps,
        fused=device.type in ("cpu", "cuda"),  # one pass over each parameter instead of a dozen
    )


def make_order(task: Task) -> Order | ShardOrder:
    """Which examples each step sees, as a function of the step and the seed."""
    seed, stream = task.config.seed, getattr(task, "stream", None)
    if stream is None:
        return Order(task.size, task.config.batch_size, seed)

    def seeded(*parts: object) -> torch.Generator:
        return torch.Generator().manual_seed(seed_for("order", seed, *parts))

    return ShardOrder(stream.counts, task.config.batch_size, seeded)


# --- starting, and starting again -------------------------------------------------------------


def make_accelerator(config: TrainConfig, device: str | None) -> Accelerator:
    """`accelerate`'s handle on the hardware: "cpu", "cuda", or None for the best there is."""
    if device not in (None, "cpu", "cuda", "mps"):
        raise Dalle2EduError(
            f"Unknown device {device!r}; known: cpu, cuda, mps, none for the best there is."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise Dalle2EduError("There is no CUDA GPU here: leave the device out, or use cpu.")
    os.environ.pop(
        "ACCELERATE_USE_FSDP", None
    )  # `wants_fsdp` has read it, and `sharding.py` does it
    # accelerate keeps its first answer for the life of the process; a notebook trains many
    # models.
    AcceleratorState._reset_state()
    if PartialState._shared_state and not torch.distributed.is_initialized():
        PartialState._reset_state()
    # Several processes talk to each other on a machine without a GPU only if accelerate is told
    # that it is one.
    on_cpu = device == "cpu" or (device is None and only_cpu())
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=config.mixed_precision)
    if config.batch_size % accelerator.num_processes:
        raise Dalle2EduError(
            f"A batch of {config.batch_size} can't be shared by {accelerator.num_processes}"
            " processes: choose a multiple."
        )
    return accelerator


def only_cpu() -> bool:
    """Whether there is nothing faster here."""
    return not torch.cuda.is_available() and not mps.is_available()


def processes() -> PartialState:
    """Which of how many processes this is, for what must be decided before a run begins."""
    return PartialState(cpu=only_cpu())


def wants_fsdp() -> bool:
    """Whether `accelerate launch --use_fsdp` started this process."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def identity(task: Task) -> dict[str, Any]:
    """What makes this run this run, as JSON gives it back."""
    fields = {"task": task.name, "size": task.size, "config": dataclasses.asdict(task.config)}
    return json.loads(json.dumps({**fields, "metadata": task.metadata()}))


def find_start(task: Task, out: Path, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, None to start anew.

    Raises `Dalle2EduError` if the folder holds a run and `resume` is False, or if it holds
    another run."""
    checkpoint = latest_checkpoint(out / "checkpoint")
    if checkpoint is None:
        return None
    if not resume:
        raise Dalle2EduError(
            f"{out} already holds a run of {checkpoint.step} steps: add --resume, or choose"
            " another folder."
        )
    different = _differences(checkpoint.state, identity(task), checkpoint.step)
    different += _shape_differences(checkpoint, task.model)
    if different:
        raise Dalle2EduError(
            f"{checkpoint.path} is of another run; it differs in {'; '.join(different[:5])}."
        )
    return checkpoint


def _differences(
    old: dict[str, Any], new: dict[str, Any], done: int, prefix: str = ""
) -> list[str]:
    """What differs after `done` steps, as "config.seed (was 0, now 1)". What does not touch the
    training may differ.
    """
    found = []
    for key, value in new.items():
        name, before = f"{prefix}{key}", old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            missing = dict.fromkeys(before.keys() - value.keys())
            found += _differences(before, {**value, **missing}, done, f"{name}.")
        elif before != value and not (
            name in FREE or (name == "config.steps" and _still_open(old, new, done))
        ):
            found.append(f"{name} (was {before}, now {value})")
    return found


FREE = ("config.save_every", "config.sample_every")  # how often to save or sample never matters


def _still_open(old: dict[str, Any], new: dict[str, Any], done: int) -> bool:
    """Whether the first `done` steps are the same in both configs, which differ in how many
    steps there are.
    """
    cooling_from = (1 - COOLDOWN) * min(old["steps"], new["steps"])
    return old["decay"] == "constant" or (old["decay"] == "cooldown" and done <= cooling_from)


def _shape_differences(checkpoint: Checkpoint, model: nn.Module) -> list[str]:
    old = {name: list(tensor.shape) for name, tensor in checkpoint.tensors["model"].items()}
    new = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    names = sorted(old.keys() | new.keys())
    return [
        f"{n} (was {old.get(n)}, now {new.get(n)})" for n in names if old.get(n) != new.get(n)
    ]


# --- the loop ---------------------------------------------------------------------------------


def train(
    task: Task,
    out: Path,
    resume: bool = False,
    progress: bool = True,
    logger: Literal["csv", "tensorboard"] = "csv",
    max_minutes: float | None = None,
    device: str | None = None,
    fsdp: bool = False,
) -> Path:
    """Train `task` in the folder `out`; return the path of the last checkpoint.

    `fsdp` splits the model among the processes (`sharding.py`); its weights are then whole in
    the checkpoint only. `resume` goes on from the folder's last checkpoint, or starts if there
    is none. `max_minutes` stops early with a checkpoint, whose `state.json` says how many steps
    were done. Afterwards `task.model` holds the trained weights (not the average). Under
    `accelerate launch` or `torchrun`, call it in every process, with a shared `out`.

    Raises `Dalle2EduError`, with the last good checkpoint intact, for a loss that is not
    finite, a full disk, a folder that holds another run, a damaged checkpoint with none before
    it."""
    if logger not in LOGGERS:
        raise Dalle2EduError(f"Unknown logger {logger!r}; known: {', '.join(LOGGERS)}.")
    out, fsdp = Path(out), fsdp or wants_fsdp()
    accelerator = make_accelerator(task.config, device)
    start = find_start(task, out, resume)
    accelerator.wait_for_everyone()  # everyone has read before the first writes
    run = Run(task, accelerator, fsdp)
    if start:
        run.restore(start)
    logs = None
    if accelerator.is_main_process:
        remove_unfinished(out / "checkpoint")
        logs = Logs(out, logger, run.step)
    try:
        return _run_to_the_end(run, out, logs, progress, _clock(run, max_minutes))
    finally:
        if logs:
            logs.close()
        accelerator.unwrap_model(
            run.model, keep_fp32_wrapper=False
        )  # the task gets its bare model back


def _clock(run: Run, max_minutes: float | None) -> Callable[[], bool]:
    """A function that keeps `run.minutes` and says whether the time is up, alike in every
    process.
    """
    began, before = time.monotonic(), run.minutes

    def time_is_up() -> bool:
        passed = (time.monotonic() - began) / 60
        run.minutes = before + passed
        if max_minutes is None:
            return False
        up = torch.tensor([float(passed >= max_minutes)], device=run.accelerator.device)
        return bool(run.accelerator.reduce(up, reduction="sum").item() > 0)

    return time_is_up


def _run_to_the_end(
    run: Run, out: Path, logs: Logs | None, progress: bool, time_is_up: Callable[[], bool]
) -> Path:
    config, folder = run.config, out / "checkpoint"
    main = run.accelerator.is_main_process
    # Looking at the numbers makes a GPU wait, and processes wait for each other; alone on a CPU
    # it is free.
    alone_on_cpu = run.accelerator.num_processes == 1 and run.accelerator.device.type == "cpu"
    stop = False
    bar = tqdm(
        total=config.steps,
        initial=run.step,
        desc=run.task.name,
        disable=not (progress and main),
    )
    with bar:
        while run.step < config.steps and not stop:
            run.update()
            bar.update()
            if alone_on_cpu or run.due(config.log_every) or run.due(config.save_every):
                run.check_finite(folder)
                stop = time_is_up()
            if run.due(config.log_every):
                bar.set_postfix({name: f"{value:.4g}" for name, value in run.log(logs).items()})
            if (main or run.fsdp) and config.sample_every and run.due(config.sample_every):
                run.sample(out / "samples" / f"step-{run.step:08d}.png")
            if (main or run.fsdp) and (stop or run.due(config.save_every)):
                run.save(folder)
    run.accelerator.wait_for_everyone()
    return folder / f"step-{run.step:08d}"
