"""The intervals against published and known values."""

import pytest
import torch

from dalle2_edu.evaluation import intervals


def test_wilson() -> None:
    some = intervals.share(torch.arange(10) < 8)
    assert (some.value, some.low, some.high) == pytest.approx(
        (80, 49.0, 94.3), abs=0.05
    )
    every = intervals.share(torch.ones(100, dtype=torch.bool))
    assert (every.low, every.high, every.n) == pytest.approx((96.3, 100, 100), abs=0.05)
    assert intervals.share(torch.zeros(5, dtype=torch.bool)).low == 0


def test_mean_and_median() -> None:
    middle = intervals.mean(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert middle.value == 2.5
    assert middle.high - middle.value == pytest.approx(1.96 * 1.29099 / 2, rel=1e-4)
    ranks = torch.tensor([1, 1, 2, 5, 90])
    assert intervals.median(ranks).value == 2
    assert intervals.median(ranks) == intervals.median(ranks)
    assert 1 <= intervals.median(ranks).low <= 2 <= intervals.median(ranks).high <= 90
