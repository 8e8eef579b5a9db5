"""How the benchmark measures: turns, spread, the machine's ceiling, memory.

Two programs that are timed one after the other are timed on two machines: a processor
that has warmed up is slower, and a neighbour comes and goes. So the contestants take
turns, in an order drawn anew each round, and what is shown is the median and the
quartiles of the rounds. On a GPU the work is only queued when a call returns: CUDA's
own events take the time there, and the host waits for the last one.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
WARMUP = 3 if ON_GPU else 1  # compiled networks are compiled in the first rounds
Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Seconds of the rounds: median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{shown(self.median)} ({shown(self.low)} to {shown(self.high)})"


def shown(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def spread(seconds: list[float]) -> Spread:
    low, median, high = torch.tensor(seconds, dtype=torch.float64).quantile(
        torch.tensor([0.25, 0.5, 0.75]).double()
    )
    return Spread(median.item(), low.item(), high.item())


def take_turns(
    contestants: Mapping[str, Work], rounds: int, warmup: int = WARMUP
) -> dict[str, Spread]:
    """Time every contestant once a round, in an order of its own each round; the first
    `warmup` rounds don't count.
    """
    order, luck = list(contestants), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        luck.shuffle(order)
        for name in order:
            passed = timed(contestants[name])
            if turn >= warmup:
                seconds[name].append(passed)
    return {name: spread(each) for name, each in seconds.items()}


def timed(work: Work) -> float:
    """The seconds that one call takes, on the GPU if there is one."""
    if not ON_GPU:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    begin, end = (
        torch.cuda.Event(enable_timing=True),
        torch.cuda.Event(enable_timing=True),
    )
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def half_precision(enabled: bool = ON_GPU) -> contextlib.AbstractContextManager[object]:
    """bf16 where it pays: matrix products and convolutions. On the GPU always, here
    only if asked.
    """
    return (
        torch.autocast(DEVICE.type, torch.bfloat16)
        if enabled
        else contextlib.nullcontext()
    )


# --- the ceiling ----------------------------------------------------------------------


def matrix_rate(dtype: torch.dtype, sizes: tuple[int, ...], seconds: float) -> float:
    """The largest rate of a product of two square matrices, in operations a second; 2
    n^3 operations a product.
    """
    return max(rate(product(size, dtype), 2 * size**3, seconds) for size in sizes)


def convolution_rate(
    dtype: torch.dtype, channels: tuple[int, ...], seconds: float
) -> float:
    """The same of a 3 x 3 convolution over eight maps of 32 x 32.

    On a processor another library computes it than the matrix product, at times twice
    as fast.
    """
    return max(
        rate(convolution(width, dtype), 2 * 9 * width**2 * 8 * 32**2, seconds)
        for width in channels
    )


def product(size: int, dtype: torch.dtype) -> Work:
    a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def convolution(width: int, dtype: torch.dtype) -> Work:
    x, kernel = (
        torch.randn(8, width, 32, 32, device=DEVICE),
        torch.randn(width, width, 3, 3, device=DEVICE),
    )
    x, kernel = (
        each.to(dtype).contiguous(memory_format=torch.channels_last)
        for each in (x, kernel)
    )
    return lambda: F.conv2d(x, kernel, padding=1)


def rate(work: Work, operations: int, seconds: float) -> float:
    """Operations a second: the fastest of the calls that fit into `seconds`, three at
    least.
    """
    timed(work)
    passed, began = [timed(work) for _ in range(3)], time.perf_counter()
    while time.perf_counter() - began < seconds:
        passed.append(timed(work))
    return operations / min(passed)


# --- memory ---------------------------------------------------------------------------


def peak_bytes() -> int:
    """The most memory that this process has held: on the GPU, if there is one."""
    if ON_GPU:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if (
        status.is_file()
    ):  # ru_maxrss of a child starts at what the parent held, this starts at nothing
        line = next(
            line for line in status.read_text().splitlines() if line.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


# --- the machine ----------------------------------------------------------------------


def machine() -> str:
    """The processor as the system names it, its cores and the threads that are used;
    and the GPU.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [
        line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
    ]
    cpu = (
        f"{names[0] if names else 'CPU'}, {os.cpu_count()} cores, {torch.get_num_threads()}"
        " threads"
    )
    return (
        f"{torch.cuda.get_device_name()} beside {cpu}" if ON_GPU else f"{cpu}, no GPU"
    )
