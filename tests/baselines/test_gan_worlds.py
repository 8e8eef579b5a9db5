"""The exact worlds against closed forms: what a book says of GANs in numbers."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm

from dalle2_edu.baselines.gan import Objective
from dalle2_edu.baselines.gan_worlds import (
    RingTraining,
    dirac_eigenvalues,
    dirac_jacobian,
    dirac_walk,
    jensen_shannon,
    jensen_shannon_estimate,
    modes_covered,
    optimal_discriminator,
    ring_centres,
    train_ring,
)
from dalle2_edu.errors import Dalle2EduError


def logs(mean: float) -> torch.Tensor:
    return torch.tensor(norm.logpdf(torch.linspace(-12, 14, 4001).double(), mean))


def test_jensen_shannon_is_scipys_squared() -> None:
    cell = 26 / 4000
    for mean in (0.0, 0.7, 2.0):
        theirs = jensenshannon(logs(0).exp(), logs(mean).exp()) ** 2
        ours = jensen_shannon(logs(0), logs(mean), cell).item()
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_the_best_discriminator_finds_all_of_it_and_a_worse_one_less() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, generator=generator, dtype=torch.float64)
    exact = jensen_shannon(logs(0), logs(1.5), 26 / 4000).item()

    def logit(points: torch.Tensor) -> torch.Tensor:
        best = optimal_discriminator(
            torch.tensor(norm.logpdf(points, 0)), torch.tensor(norm.logpdf(points, 1.5))
        )
        return torch.logit(best)

    best = jensen_shannon_estimate(logit(x), logit(x + 1.5)).item()
    timid = jensen_shannon_estimate(logit(x) / 2, logit(x + 1.5) / 2).item()
    assert best == pytest.approx(exact, abs=0.003)
    assert timid < exact - 0.01


@pytest.mark.parametrize(
    ("kind", "slope"), [("minimax", 0.5), ("non_saturating", 0.5), ("wasserstein", 1)]
)
@pytest.mark.parametrize("r1", [0.0, 0.3, 1.0, 3.0])
def test_dirac_eigenvalues_are_the_papers(kind: str, slope: float, r1: float) -> None:
    measured = torch.linalg.eigvals(dirac_jacobian(kind, r1))
    expected = dirac_eigenvalues(slope, r1)

    def key(value: complex) -> tuple[float, float]:
        return round(value.real, 6), round(value.imag, 6)

    ours, theirs = (sorted(map(key, v.tolist())) for v in (measured, expected))
    # a double eigenvalue is found to half of the digits
    assert torch.tensor(ours).sub(torch.tensor(theirs)).abs().max() < 1e-4


def test_without_a_penalty_the_players_spiral_out_and_with_r1_they_meet() -> None:
    """One step multiplies by 1 + h lambda: |1 + i h / 2| > 1, |1 + h lambda| < 1."""
    start = (0.01, 0.0)  # near enough for the linear part to be all
    free = dirac_walk("non_saturating", 100, start=start).norm(dim=1)
    held = dirac_walk("non_saturating", 100, start=start, r1=0.3).norm(dim=1)
    assert free[-1] / free[0] == pytest.approx(abs(1 + 0.1j) ** 100, rel=0.01)
    shrink = 1 + 0.2 * dirac_eigenvalues(0.5, 0.3)[0]
    ratio = float(held[-1] / held[0])
    assert ratio == pytest.approx(float(abs(shrink)) ** 100, rel=0.4)
    turns = dirac_walk("non_saturating", 400, start=start, in_turns=True).norm(dim=1)
    assert 0.8 < turns[-1] / turns[0] < 1.25


def test_modes_are_counted() -> None:
    centres = ring_centres()
    assert modes_covered(centres.repeat(20, 1)) == (8, 1.0)
    assert modes_covered(centres[:3].repeat(20, 1)) == (3, 1.0)
    assert modes_covered(torch.zeros(20, 2)) == (0, 0.0)


def test_ring_training_is_its_seeds_doing_and_packs_must_fit() -> None:
    short = RingTraining(Objective(r1=0.1), steps=3, batch_size=16, packed=2)
    one, same, other = (train_ring(short, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == (2000, 2) and math.isfinite(one.sum())
    with pytest.raises(Dalle2EduError, match="packs of 3"):
        RingTraining(batch_size=16, packed=3)
