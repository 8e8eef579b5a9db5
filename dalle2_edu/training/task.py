"""What a training is told: how to train (`TrainConfig`), and what (`Task`).

A CLIP, a prior and a decoder differ in what they learn from and in what they call a
loss. That is a `Task`. All the rest is the same for every model, and `loop.py` does it.

The learning rate is a function of the step, as everything in a run is:

    warm-up      it rises in a straight line: Adam's second moment is a guess at first
    constant     it stays
    cosine       it falls to 0 along half a cosine
    cooldown     it stays, and falls to 0 in a straight line in the last fifth

A run that has cooled down can still be made longer. Then it has a *restart*: the rate
warms up again, and the new steps have a decay of their own. The steps before a restart
stay what they were.

Chapter 08 uses this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dalle2_edu.errors import Dalle2EduError

# --- how to train ---------------------------------------------------------------------

COOLDOWN = 0.2  # the share of the steps in which the learning rate falls
DECAYS = ("constant", "cosine", "cooldown")
PRECISIONS = ("auto", "no", "bf16")
OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. `batch_size` is the global one: all processes together.

    `clip_norm` and `ema` are off at 0. `mixed_precision="auto"` computes in bf16 where
    that is faster (`precision.py`). `optimizer="muon"` moves matrices by Muon and the
    rest by AdamW (`muon.py`). Raises `Dalle2EduError` for a value that can't be."""

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 100  # steps
    decay: Literal["constant", "cosine", "cooldown"] = "constant"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    ema: float = 0.999
    clip_norm: float = 1.0
    mixed_precision: Literal["auto", "no", "bf16"] = "no"
    log_every: int = 50
    save_every: int = 500
    sample_every: int = 0  # 0: never
    seed: int = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    restarts: tuple[int, ...] = ()  # steps at which a lengthened run warmed up again

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "save_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup", "sample_every", "clip_norm", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("ema", 0 <= self.ema < 1, "in [0, 1)")
        self._require("decay", self.decay in DECAYS, "constant, cosine or cooldown")
        known = self.mixed_precision in PRECISIONS
        self._require("mixed_precision", known, "auto, no or bf16")
        self._require("optimizer", self.optimizer in OPTIMIZERS, "adamw or muon")
        rising = sorted({*self.restarts, self.steps}) == [*self.restarts, self.steps]
        self._require("restarts", rising, "rising steps, all before the last")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise Dalle2EduError(f"{name} is {getattr(self, name)}; it must be {rule}.")

    @property
    def last_restart(self) -> int:
        """The first step of the run's last part."""
        return self.restarts[-1] if self.restarts else 0


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of update `step` (0 for the first)."""
    began = max((start for start in config.restarts if start <= step), default=0)
    end = min(
        (start for start in config.restarts if start > step), default=config.steps
    )
    place = step - began  # in this part of the run
    length = end - began
    warm = min(1.0, (place + 1) / max(1, config.warmup))
    share = {
        "constant": 1.0,
        "cosine": 0.5 * (1 + math.cos(math.pi * place / length)),
        "cooldown": min(1.0, (length - place) / max(1, length * COOLDOWN)),
    }
    return config.learning_rate * warm * share[config.decay]


# --- what to train --------------------------------------------------------------------


class Task:
    """What to train: a model, its examples and its loss. A task of your own is a
    subclass with `batch` and `loss`; a model that draws also has `sample`.

    name: of the run, in logs and messages. size: how many examples there are; an
    endless world picks a number, say a million. about: what else makes this run this
    run, such as its recipe and its data. stream: where the examples come from, if they
    come from shards (`Stream` or `Embedded`): it says how many samples each shard has,
    and is told which ones the next step will want. state: a module whose buffers hold
    what a loss remembers of earlier steps, if anything (`ImportanceSampler` does): the
    loop moves it to the device, and a checkpoint keeps it.
    """

    def __init__(
        self,
        name: str,
        config: TrainConfig,
        model: nn.Module,
        size: int,
        about: Mapping[str, Any] | None = None,
        stream: Any = None,
        state: nn.Module | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.model = model
        self.size = size
        self.about = dict(about or {})
        self.stream = stream
        self.state = state

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The examples with these indices, int64 (B,) in 0..size-1 on the CPU; tensors
        on any device.
        """
        raise NotImplementedError(f"{type(self).__name__} has no batch")

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss (mean over the batch), and other scalars to log under their
        names.

        Call the model as `model(...)`: what arrives is `accelerate`'s wrapper, and only
        its `forward` averages gradients over the processes and runs in mixed precision.
        Draw noise from `generator`, which lives on the model's device, or from the
        global generators of torch, numpy and Python: all are seeded for the step.
        Return the same names at every step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures, float (N, 3, H, W) in [-1, 1], by the averaged model; None if it
        draws none.
        """
        return None

    def measure_data(self) -> None:
        """Put into the model what it must know of its data before the first step, such
        as their mean. Called again after weights from elsewhere were put in (`--from`).
        """

    def metadata(self) -> dict[str, Any]:
        """What it takes to build the model again, as JSON can hold it; the same
        whenever the run resumes.
        """
        config: Any = self.model.config
        return {"model": asdict(config), **self.about}
