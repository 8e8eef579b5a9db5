"""bf16 or float32? Measured, since no name of a processor tells.

bf16 keeps float32's range and gives up two thirds of its digits. A processor or GPU
with bf16 instructions trains two to four times faster in it; one without them has to
imitate them, and is slower than in plain float32. So `mixed_precision="auto"` times one
small training step in both.

    where bf16 takes less time    "bf16"
    elsewhere                     "no"

**Resume.** The precision that was used is written into each checkpoint. A resumed run
keeps it, so that on one machine the bits are those of an unbroken run, unless the other
precision is clearly faster here (`CLEARLY`): then the run has come to another kind of
machine, where the bits differ anyway. It goes on in the faster one, and says so.

Chapters 08 and 24 use this file.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import nn

CLEARLY = 1.5  # times as fast; two timings of one machine do not differ by so much
ROUNDS = 5  # the fastest counts: others on the machine can only slow a round down


def choose_precision(device: torch.device, used: str | None = None) -> str:
    """ "bf16" or "no", whichever trains faster on this device. used: what the run was
    begun in, which is kept unless the other is clearly faster.
    """
    speedup = bf16_speedup(device.type)
    # kept, unless float32 is clearly faster here
    if used == "bf16" and speedup > 1 / CLEARLY:
        return "bf16"
    # kept, unless bf16 is clearly faster here
    if used == "no" and speedup < CLEARLY:
        return "no"
    return "bf16" if speedup > 1 else "no"


@lru_cache
def bf16_speedup(device_type: str) -> float:
    """How many times as fast a training step is in bf16; measured once per process, in
    about a second.
    """
    device = torch.device(device_type)
    # the weights drawn here touch no run's numbers
    with torch.random.fork_rng(devices=[]):
        model = small_network().to(device)
    images = torch.zeros(8, 3, 32, 32, device=device)  # (B, 3, S, S)
    in_float32 = fastest(model, images, nullcontext())
    in_bf16 = fastest(model, images, torch.autocast(device_type, dtype=torch.bfloat16))
    return in_float32 / in_bf16


def small_network() -> nn.Module:
    """What our models are made of: convolutions, normalisation and linear layers."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.GroupNorm(8, 64),
        nn.SiLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.AvgPool2d(4),
        nn.Flatten(),  # (B, 64, 8, 8) => (B, 4096)
        nn.Linear(4096, 256),
    )


def fastest(model: nn.Module, images: torch.Tensor, context: Any) -> float:
    """The seconds of the fastest forward and backward pass; the first one, which sets
    things up, is not counted.
    """
    # the fastest, not the mean: see ROUNDS
    seconds = []
    for _ in range(1 + ROUNDS):
        wait_for(images.device)
        began = time.perf_counter()
        with context:
            loss = model(images).float().square().mean()
        loss.backward()
        wait_for(images.device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def wait_for(device: torch.device) -> None:
    """A GPU works on after Python has gone on: wait until it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
