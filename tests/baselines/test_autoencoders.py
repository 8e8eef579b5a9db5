"""Autoencoders against Monte Carlo, PyTorch's own divergence, and a known score."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from dalle2_edu.baselines.autoencoders import (
    Autoencoder,
    AutoencoderConfig,
    Vae,
    VaeConfig,
    active_units,
    denoising_loss,
    free_bits,
    gaussian_nll,
    importance_bound,
    kl_to_prior,
    reparameterise,
    score_from_residual,
)
from dalle2_edu.errors import Dalle2EduError

SMALL = {"image_size": 8, "channels": (8, 16), "latent": 3}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_vae(seed: int = 0) -> Vae:
    torch.manual_seed(seed)
    return Vae(VaeConfig(**SMALL))


def bytes_like(n: int, seed: int = 0) -> Tensor:
    """Random pictures made of bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, 8, 8), generator=generator) / 127.5 - 1


# --- the divergence -------------------------------------------------------------------


def test_the_divergence_is_torchs_and_monte_carlos() -> None:
    mean = torch.tensor([0.0, 1.5, -0.3], dtype=torch.float64)
    log_variance = torch.tensor([0.0, -2.0, 1.0], dtype=torch.float64)
    ours = kl_to_prior(mean, log_variance)
    q, prior = Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)
    assert torch.allclose(ours, kl_divergence(q, prior))
    eps = torch.randn(
        400_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    z = reparameterise(mean, log_variance, eps)
    draws = q.log_prob(z) - prior.log_prob(z)
    spread = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - ours).abs() <= 5 * spread + 1e-12).all()
    assert ours[0] == 0


def test_gradients_pass_through_the_drawn_latent() -> None:
    """d/d mu E f(mu + sigma eps) and d/d sigma, for f = z^2: 2 mu and 2 sigma."""
    mean = torch.tensor(0.7, requires_grad=True)
    log_variance = torch.tensor(-0.4, requires_grad=True)
    eps = random(400_000)
    reparameterise(mean, log_variance, eps).square().mean().backward()
    assert mean.grad is not None and log_variance.grad is not None
    assert abs(mean.grad - 2 * 0.7) < 0.01
    # sigma^2 = exp(l), so d sigma^2 / d l = sigma^2
    assert abs(log_variance.grad - math.exp(-0.4)) < 0.01


# --- the bound ------------------------------------------------------------------------


def test_the_bound_is_below_the_likelihood_that_importance_sampling_finds() -> None:
    vae = small_vae()
    with torch.no_grad():
        vae.encoder.head.bias.add_(1.0)  # a posterior that is off: the gap is wide
    x = bytes_like(3)
    eps = random(500, 3, 3)
    single = torch.stack([importance_bound(vae, x, each[None]) for each in eps])
    whole = importance_bound(vae, x, eps)  # nearly log p(x)
    some = importance_bound(vae, x, eps[:10])
    assert (single.mean(dim=0) < whole - 0.1).all()
    assert whole.sum() > some.sum() - 1
    # One draw each, averaged, is Eq. (3) with its rate in closed form.
    bits = torch.stack([sum(vae.bits_per_dim(x, each)) for each in eps])
    nats = -bits * 192 * math.log(2)
    assert torch.allclose(nats.mean(dim=0), single.mean(dim=0), rtol=2e-3)


def test_the_smooth_distortion_is_the_bytes_mass_where_s_is_wide() -> None:
    vae = small_vae()
    # greys near the middle: far from both the outermost bytes and the mass's floor
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(64, 192, (4, 3, 8, 8), generator=generator) / 127.5 - 1
    eps = random(4, 3)
    distortion, rate = vae(x, eps)
    bits, rate_bits = vae.bits_per_dim(x, eps)
    unit = 192 * math.log(2)
    assert torch.allclose(distortion / unit, bits, atol=0.01)
    assert torch.allclose(rate.sum(dim=1) / unit, rate_bits)


def test_a_byte_costs_eight_bits_where_nothing_is_known() -> None:
    """A Gaussian as flat as the range of bytes."""
    nll = gaussian_nll(
        torch.linspace(-1, 1, 256), torch.zeros(256), torch.tensor(0.0)
    ) / math.log(2)
    assert 7.5 < nll.mean() < 8.6


def test_every_parameter_is_reached_and_the_scale_is_learned() -> None:
    vae = small_vae()
    distortion, rate = vae(bytes_like(4), random(4, 3))
    (distortion.mean() + rate.sum(dim=1).mean()).backward()
    assert all(p.grad is not None for p in vae.parameters())
    assert vae.scale.grad != 0
    assert abs(vae.log_scale.item() + 1) < 1e-6


def test_free_bits_charge_only_what_is_above() -> None:
    rate = torch.tensor([[0.0, 2.0], [0.2, 4.0]], requires_grad=True)
    charged = free_bits(rate, 0.5)
    assert charged == 0.5 + 3.0
    charged.backward()
    assert rate.grad is not None
    assert rate.grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]
    assert free_bits(rate, 0.0) == rate.sum(dim=1).mean()


def test_a_silent_number_is_not_active() -> None:
    mean = torch.stack([random(50), 1e-3 * random(50, seed=1), torch.full((50,), 3.0)])
    assert active_units(mean.T).tolist() == [True, False, False]


# --- pictures in, pictures out --------------------------------------------------------


@pytest.mark.parametrize(
    "config", [(32, (32, 64, 128), 64), (16, (16, 32), 16), (8, (8,), 2)]
)
def test_shapes_and_the_narrow_door(config: tuple) -> None:
    size, channels, latent = config
    model = Autoencoder(AutoencoderConfig(size, channels, latent))
    x = random(2, 3, size, size)
    assert model.encode(x).shape == (2, latent)
    assert model(x).shape == x.shape
    vae = Vae(VaeConfig(size, channels, latent))
    mean, log_variance = vae.encode(x)
    assert mean.shape == log_variance.shape == (2, latent)
    assert vae.sample([4, 5]).shape == x.shape


def test_a_seed_is_a_picture_whatever_stands_beside_it() -> None:
    vae = small_vae()
    both, alone = vae.sample([7, 8]), vae.sample([8])
    assert torch.allclose(both[1:], alone, atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


# --- the residual is the score --------------------------------------------------------


def test_the_best_linear_denoisers_residual_is_a_gaussians_score() -> None:
    """Data N(0, 2^2): r(x~) = x~ 4 / (4 + sigma^2), score -x~ / (4 + sigma^2)."""
    sigma = 0.5
    x, eps = 2 * random(200_000, 1), random(200_000, 1, seed=1)
    model = nn.Linear(1, 1, bias=False)
    noisy = x + sigma * eps
    with torch.no_grad():  # least squares
        model.weight.copy_((noisy * x).mean() / noisy.square().mean())
        at_best = denoising_loss(model, x, sigma, eps)
        ours = score_from_residual(model(noisy), noisy, sigma)
        assert torch.allclose(ours, -noisy / (4 + sigma**2), rtol=0.02, atol=0)
        model.weight.mul_(1.05)
        assert denoising_loss(model, x, sigma, eps) > at_best
    # what is left is Var(x | x~)
    assert abs(at_best - 4 * sigma**2 / (4 + sigma**2)) < 0.01


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"channels": ()}, "one multiple of 8 or more"),
        ({"channels": (12,)}, "one multiple of 8 or more"),
        ({"image_size": 20, "channels": (8, 8, 8)}, "can't be halved 3 times"),
        ({"latent": 0}, "latent is 0"),
    ],
)
def test_sizes_that_can_not_be(values: dict, said: str) -> None:
    for config in (AutoencoderConfig, VaeConfig):
        with pytest.raises(Dalle2EduError, match=said):
            config(**values)


def test_wrong_input_is_answered_in_one_line() -> None:
    model, vae = Autoencoder(AutoencoderConfig(**SMALL)), small_vae()
    for network in (model, vae):
        with pytest.raises(Dalle2EduError, match=r"\(B, 3, 8, 8\), not \(2, 3, 4, 4\)"):
            network.encode(random(2, 3, 4, 4))
        with pytest.raises(Dalle2EduError, match=r"latents \(B, 3\), not \(2, 4\)"):
            network.decode(random(2, 4))
    with pytest.raises(Dalle2EduError, match="sigma is 0"):
        score_from_residual(random(1), random(1), 0)
    with pytest.raises(Dalle2EduError, match="noise is -1"):
        AutoencoderConfig(noise=-1)
