"""Bits per dimension against the entropy of a world whose entropy is known."""

import math

import pytest
import torch
from torch.distributions import Normal

from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation.likelihood import likelihood

MEAN, STD = 0.1, 0.2
DIFFUSION = GaussianDiffusion(cosine_betas(50), "eps", "learned_range")


def perfect(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The best answer there is for pixels drawn from N(MEAN, STD^2): the mean of eps,
    and the true variance's share.
    """
    abar = DIFFUSION.table("alphas_cumprod", t, x_t)
    total = abar * STD**2 + 1 - abar
    eps = (1 - abar).sqrt() / total * (x_t - abar.sqrt() * MEAN)
    spread = STD**2 * (1 - abar) / total  # Var[x_0 | x_t]
    variance = (
        DIFFUSION.table("posterior_variance", t, x_t)
        + DIFFUSION.table("posterior_mean_coef1", t, x_t) ** 2 * spread
    )
    small, large = (
        DIFFUSION.table("posterior_log_variance", t, x_t),
        DIFFUSION.table("log_betas", t, x_t),
    )
    share = (variance.log() - small) / (large - small)
    return torch.cat([eps, (2 * share - 1).expand_as(x_t)], dim=1)


def pictures(n: int) -> torch.Tensor:
    x = MEAN + STD * torch.randn(
        n, 3, 16, 16, generator=torch.Generator().manual_seed(0)
    )
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def test_a_perfect_model_pays_the_entropy():
    """Density times the width of a byte, 2/255: the entropy in closed form is log2(STD
    sqrt(2 pi e) 255 / 2).
    """
    images = pictures(128)
    found = likelihood(perfect, DIFFUSION, images)
    x0 = images.double() / 127.5 - 1
    truth = -(Normal(MEAN, STD).log_prob(x0) + math.log(2 / 255)).mean() / math.log(2)
    assert truth.item() == pytest.approx(
        math.log2(STD * math.sqrt(2 * math.pi * math.e) * 255 / 2), abs=0.02
    )
    assert found.bits_per_dim == pytest.approx(truth.item(), abs=0.03)
    assert found.terms.shape == (128, 50) and 0 <= found.prior < 1e-3
    assert found.prior + found.terms.sum().item() / 128 == pytest.approx(
        found.bits_per_dim, rel=1e-4
    )
    assert 0 < found.error < 0.02


def test_a_wrong_variance_costs_bits_and_the_same_seed_gives_the_same():
    images = pictures(16)
    right = likelihood(perfect, DIFFUSION, images, batch_size=5)
    again = likelihood(perfect, DIFFUSION, images, batch_size=16)
    assert again.bits_per_dim == pytest.approx(right.bits_per_dim, rel=1e-5)
    assert (
        likelihood(perfect, DIFFUSION, images, seed=1).bits_per_dim
        != right.bits_per_dim
    )
    fixed = GaussianDiffusion(cosine_betas(50), "eps", "fixed_large")
    wrong = likelihood(lambda x_t, t: perfect(x_t, t)[:, :3], fixed, images)
    assert wrong.bits_per_dim > right.bits_per_dim + 0.1


@pytest.mark.parametrize(
    "images", [torch.zeros(4, 3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_only_several_pictures_of_bytes_have_a_cost(images):
    with pytest.raises(Dalle2EduError, match="two or more pictures made of bytes"):
        likelihood(perfect, DIFFUSION, images)
