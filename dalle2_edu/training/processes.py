"""The hardware of a run: which device, how many processes, and what to do when one is
lost.

`accelerate` hides whether a run has one CPU, one GPU or many. This file asks it, and
adds what it does not say.

A process that dies leaves the others waiting for its gradients. They wait `PATIENCE`
seconds (set DALLE2_EDU_PATIENCE to change it) and then end in one line.

Chapter 24 uses this file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list
from torch.backends import mps

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training.precision import choose_precision
from dalle2_edu.training.task import TrainConfig

PATIENCE = 600  # seconds; the others wait while the first one draws a grid or saves


def make_accelerator(
    config: TrainConfig, device: str | None, used: str | None = None
) -> Accelerator:
    """`accelerate`'s handle on the hardware: "cpu", "cuda", or None for the best there
    is.

    used: the precision that a run was begun in, for `mixed_precision="auto"`.
    """
    check_device(device)
    # `wants_fsdp` read it; `sharding.py` does it
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    # accelerate keeps its first answer for the life of the process; a notebook trains
    # many models.
    AcceleratorState._reset_state()
    if PartialState._shared_state and not torch.distributed.is_initialized():
        # forget the device as well, unless processes talk to each other already
        PartialState._reset_state()
    on_cpu = device == "cpu" or (device is None and only_cpu())
    precision = agreed_precision(config.mixed_precision, on_cpu, used)
    accelerator = Accelerator(
        # without it, several processes on CPUs do not talk to each other
        cpu=on_cpu,
        mixed_precision=precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=patience())],
    )
    # every process takes an equal share of the global batch
    if config.batch_size % accelerator.num_processes:
        raise Dalle2EduError(
            f"A batch of {config.batch_size} can't be shared by {accelerator.num_processes}"
            " processes: choose a multiple."
        )
    return accelerator


def check_device(device: str | None) -> None:
    """Raise Dalle2EduError for a device that is unknown or not here."""
    if device not in (None, "cpu", "cuda", "mps"):
        raise Dalle2EduError(
            f"Unknown device {device!r}; known: cpu, cuda, mps, none for the best there is."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise Dalle2EduError(
            "There is no CUDA GPU here: leave the device out, or use cpu."
        )


def agreed_precision(wanted: str, on_cpu: bool, used: str | None) -> str:
    """ "auto" as "no" or "bf16": the first process measures, the others do as it
    does.
    """
    if wanted != "auto":
        return wanted
    state = PartialState(cpu=on_cpu, timeout=patience())
    answer = [""]
    if state.is_main_process:
        answer = [choose_precision(state.device, used)]
    if used not in (None, answer[0]) and state.is_main_process:
        print(
            f"This machine is faster in another precision: {used} becomes {answer[0]}."
        )
    broadcast_object_list(answer)  # all take the first one's
    return answer[0]


def only_cpu() -> bool:
    """Whether there is nothing faster here."""
    return not torch.cuda.is_available() and not mps.is_available()


def processes() -> PartialState:
    """Which of how many processes this is, for what must be decided before a run
    begins.
    """
    return PartialState(cpu=only_cpu(), timeout=patience())


def wants_fsdp() -> bool:
    """Whether `accelerate launch --use_fsdp` started this process."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def patience() -> timedelta:
    """How long processes wait for each other."""
    wish = os.environ.get("DALLE2_EDU_PATIENCE", str(PATIENCE))
    try:
        return timedelta(seconds=max(1.0, float(wish)))
    except (ValueError, OverflowError):
        raise Dalle2EduError(
            f"DALLE2_EDU_PATIENCE is {wish!r}; it must be a number of seconds."
        ) from None


@contextmanager
def lost_processes() -> Iterator[None]:
    """Turn what the network says of a process that is gone into one line."""
    try:
        yield
    except RuntimeError as error:  # PyTorch's errors of the network are such
        # no C++ lines
        reason = re.sub(r"\[\S+:\d+\]", "", " ".join(str(error).split()))
        alone = os.environ.get("WORLD_SIZE", "1") == "1"
        # any other error of a computation goes on as it is
        if alone or not any(word in reason.lower() for word in LOST):
            raise
        raise Dalle2EduError(
            f"Another process of this training is gone or took over"
            f" {patience().total_seconds():g} s ({reason.strip()[:120]}). See what it said, and start"
            " all of them again with --resume."
        ) from error


LOST = (
    "timed out",
    "timeout",
    "connection",
    "closed by peer",
    "broken pipe",
    "gloo",
    "nccl",
)
