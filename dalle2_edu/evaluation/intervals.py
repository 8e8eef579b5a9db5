"""How sure a number is: every share and mean in the report comes with its 95% interval.

The idea: a hundred pictures are a sample. Had you drawn other prompts or another seed,
92 right might have been 88 or 95. A model is better than another only if the difference
is larger than that.

    Wilson (1927):  (p + z^2/2n  +-  z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    for a share p of n, z = 1.96

The paper (2204.06125, appendix B) uses the plain p +- z sqrt(p(1-p)/n) with n = 1,000.
With 100 right out of 100 that one says "100% +- 0", which nobody should believe; Wilson
says [96.3%, 100%]. A mean gets the normal interval, and a median, which has no such
formula, the bootstrap: draw the sample again from itself, with replacement, and see
where its median goes.

Chapter 20 uses this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Z_95 = 1.96  # standard deviations that hold 95% of a normal distribution


@dataclass(frozen=True)
class Measure:
    """A number, its 95% interval, and how many pictures it was taken from."""

    value: float
    low: float
    high: float
    n: int


def share(right: Tensor) -> Measure:
    """Share of True in bool (n,), in per cent, with Wilson's interval."""
    n = len(right)
    p = float(right.double().mean())  # the share
    shrink = 1 + Z_95**2 / n  # the common denominator: 1 + z^2/n
    centre = (p + Z_95**2 / (2 * n)) / shrink  # pulled from p towards one half
    variance = p * (1 - p) / n + Z_95**2 / (4 * n**2)  # not 0 even where all are right
    half = Z_95 * variance**0.5 / shrink
    # rounding only: Wilson's ends lie in [0, 1]
    low = max(0.0, centre - half)
    high = min(1.0, centre + half)
    return Measure(value=100 * p, low=100 * low, high=100 * high, n=n)


def mean(values: Tensor) -> Measure:
    """Mean of (n,), n >= 2, with the normal interval."""
    values = values.double()
    centre = float(values.mean())
    error = float(values.std()) / len(values) ** 0.5  # the standard error of the mean
    half = Z_95 * error
    return Measure(value=centre, low=centre - half, high=centre + half, n=len(values))


def median(values: Tensor, draws: int = 1000, seed: int = 0) -> Measure:
    """Median of (n,) with the bootstrap's interval: 95 in 100 of the `draws` medians
    lie in it.
    """
    values = values.double()
    n = len(values)
    generator = torch.Generator().manual_seed(seed)
    # drawn again, with replacement
    index = torch.randint(n, (draws, n), generator=generator)
    medians = values[index].quantile(0.5, dim=1)  # (draws, n) -> (draws,)
    low = medians.quantile(0.025).item()
    high = medians.quantile(0.975).item()
    return Measure(value=float(values.quantile(0.5)), low=low, high=high, n=n)
