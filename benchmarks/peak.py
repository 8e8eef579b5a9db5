"""The most memory that one training step or one drawing takes, in a fresh process for
each side.

python benchmarks/peak.py ours decoder 100M        prints two numbers of bytes: at the peak, and after the imports
python benchmarks/peak.py theirs drawing FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import networks
from networks import How, Size
from timing import ON_GPU, peak_bytes

SIZES = {size.name: size for size in (networks.TINY, networks.SMALL, networks.LARGE)}
STEPS = 2  # the optimiser's moments come with the first


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak, and bytes that the imports alone had taken."""

    peak: int
    imports: int

    def __str__(self) -> str:
        return (
            f"{self.peak / 2**30:.2f} GiB ({(self.peak - self.imports) / 2**30:.2f} above its"
            " imports)"
        )


def measured(side: str, what: str, which: str) -> Peak:
    """Run this file in a process of its own."""
    command = [sys.executable, __file__, side, what, which]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, imports = map(int, done.stdout.split()[-2:])
    return Peak(peak, imports)


def step(side: str, part: str, size: Size) -> int:
    """Some training steps; returns what the imports took."""
    build = networks.ours
    if side == "theirs":
        from rivals import (
            theirs as build,
        )  # only here: our side's process does not hold diffusers
    imports = 0 if ON_GPU else peak_bytes()
    how = (
        How()
        if side == "ours"
        else How(channels_last=False, compiled=False, fused=False)
    )
    work = networks.trainer(build(size, part), networks.inputs_of(size, part), how)
    for _ in range(STEPS):
        work()
    return imports


def drawing(side: str, folder: Path) -> int:
    """One drawing; returns what the imports took."""
    import drawings  # only here: a training step needs less

    if side == "theirs":
        from rivals import TheirKarlo
    imports = 0 if ON_GPU else peak_bytes()
    work = (
        drawings.our_work(folder)
        if side == "ours"
        else drawings.their_work(TheirKarlo(folder, drawings.DTYPE))
    )
    work()
    return imports


if __name__ == "__main__":
    side, what, which = sys.argv[1:]
    before = (
        drawing(side, Path(which))
        if what == "drawing"
        else step(side, what, SIZES[which])
    )
    print(peak_bytes(), before)
