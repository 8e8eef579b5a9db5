"""The Fréchet distance against the closed form, and what it refuses."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation.frechet import frechet_distance, frechet_error


def cloud(
    n: int, seed: int, scale: float = 1.0, shift: float = 0.0, dim: int = 6
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator)
    return torch.randn(n, dim, generator=generator) @ mix * scale + shift


def closed_form(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    s1, s2 = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root))


def test_equals_the_closed_form() -> None:
    real, generated = cloud(300, seed=0), cloud(200, seed=1, scale=1.3, shift=0.5)
    assert frechet_distance(real, generated) == pytest.approx(
        closed_form(real, generated), rel=1e-8
    )


class Computed(nn.Module):
    """Stands where torchmetrics has Inception-v3: our features are computed already."""

    num_features = 6

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_equals_torchmetrics() -> None:
    real, generated = cloud(300, seed=2), cloud(200, seed=3, scale=0.7, shift=-0.2)
    metric = FrechetInceptionDistance(feature=Computed())
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    assert frechet_distance(real, generated) == pytest.approx(
        float(metric.compute()), rel=1e-6
    )


def test_a_shift_counts_squared_and_equal_sets_are_at_zero() -> None:
    real = cloud(100, seed=0)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(real, real + 2.0) == pytest.approx(6 * 2.0**2, rel=1e-6)


def test_keeps_its_digits_on_nearly_singular_features_of_length_one() -> None:
    """As CLIP's are: a common direction much longer than the differences, which float32
    sums would drown.
    """
    real, generated = (
        torch.nn.functional.normalize(1e-3 * cloud(200, seed=s) + 1.0, dim=1)
        for s in (0, 1)
    )
    assert frechet_distance(real, generated) == pytest.approx(
        closed_form(real, generated), rel=1e-4
    )


def test_error_is_repeatable_and_falls_with_more_pictures() -> None:
    few = frechet_error(cloud(40, seed=0), cloud(40, seed=0) + 1, draws=20)
    many = frechet_error(cloud(1000, seed=0), cloud(1000, seed=0) + 1, draws=20)
    assert few == frechet_error(cloud(40, seed=0), cloud(40, seed=0) + 1, draws=20)
    assert 0 < many < few / 2


@pytest.mark.parametrize(
    ("real", "generated", "says"),
    [
        (torch.zeros(20, 6), torch.zeros(20, 5), "compares features"),
        (torch.zeros(20, 6), torch.zeros(6, 6), "more than 6 pictures"),
        (torch.zeros(20, 6), torch.full((20, 6), torch.nan), "not finite"),
    ],
)
def test_refuses(real: Tensor, generated: Tensor, says: str) -> None:
    with pytest.raises(Dalle2EduError, match=says):
        frechet_distance(real, generated)
