"""The linear VAE against probabilistic PCA, Monte Carlo and Shannon."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from dalle2_edu.baselines.linear_vae import (
    LinearVae,
    Ppca,
    fit_ppca,
    spectrum,
    water_filling,
)
from dalle2_edu.errors import Dalle2EduError

D, K = 6, 2


def cloud(n: int = 4000) -> Tensor:
    """Points with variances of about 9, 4, 1, .5, .2, .1 along random axes."""
    generator = torch.Generator().manual_seed(0)
    widths = torch.tensor([9, 4, 1, 0.5, 0.2, 0.1], dtype=torch.float64).sqrt()
    z = torch.randn(n, D, generator=generator, dtype=torch.float64) * widths
    turn, _ = torch.linalg.qr(
        torch.randn(D, D, generator=generator, dtype=torch.float64)
    )
    return z @ turn + 3


def exact(model: Ppca) -> LinearVae:
    vae = LinearVae(D, K).double()
    vae.set_exact(model)
    return vae


def bound(vae: LinearVae, x: Tensor) -> Tensor:
    distortion, rate = vae(x)
    return -(distortion + rate.sum(dim=1)).detach()


def turned(model: Ppca, angle: float) -> Ppca:
    """The same distribution of x with the latent turned: W R."""
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return Ppca(model.weight @ turn, model.bias, model.variance)


def test_the_bound_touches_the_exact_likelihood() -> None:
    x = cloud()
    model = fit_ppca(x, K)
    assert torch.allclose(bound(exact(model), x), model.log_likelihood(x), atol=1e-9)


def test_the_gap_is_the_divergence_from_the_true_posterior() -> None:
    """A turned latent has the same likelihood, and a posterior that no diagonal can
    match.
    """
    x = cloud(100)
    model = turned(fit_ppca(x, K), 0.5)
    vae = exact(model)
    gap = model.log_likelihood(x) - bound(vae, x)
    mean, covariance = model.posterior(x)
    ours = torch.diag(vae.log_variance.exp()).detach()
    q = MultivariateNormal(vae.encoder(x).detach(), ours)
    wanted = kl_divergence(q, MultivariateNormal(mean, covariance))
    assert torch.allclose(gap, wanted, atol=1e-9)
    assert gap.min() > 0.01


def test_no_weights_are_more_likely() -> None:
    x = cloud()
    best = fit_ppca(x, K)
    top = best.log_likelihood(x).mean()
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        shake = torch.randn(D, K, generator=generator, dtype=torch.float64)
        near = Ppca(best.weight + 0.05 * shake, best.bias, best.variance * 1.02)
        assert near.log_likelihood(x).mean() < top


def test_trained_by_gradients_it_reaches_the_exact_likelihood() -> None:
    x = cloud(500)
    torch.manual_seed(0)
    vae = LinearVae(D, K).double()
    optimizer = torch.optim.LBFGS(
        vae.parameters(), max_iter=300, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        distortion, rate = vae(x)
        value = (distortion + rate.sum(dim=1)).mean()
        value.backward()
        return value

    optimizer.step(loss)
    wanted = fit_ppca(x, K).log_likelihood(x).mean()
    assert abs(bound(vae, x).mean() - wanted) < 1e-3


def test_the_closed_form_is_the_mean_over_drawn_latents() -> None:
    x = cloud(5)
    torch.manual_seed(0)
    vae = LinearVae(D, K).double()
    drawn = 200_000
    eps = torch.randn(drawn, 1, K, dtype=torch.float64)
    with torch.no_grad():
        z = vae.encoder(x) + vae.log_variance.exp().sqrt() * eps  # (drawn, 5, K)
        error = (x - vae.decoder(z)).square().sum(dim=-1)  # (drawn, 5)
        spread = error.std(dim=0) / drawn**0.5
        off = (error.mean(dim=0) - vae.squared_error(x)).abs()
    assert (off < 5 * spread).all()


@pytest.mark.parametrize("theta", [0.05, 0.7, 20.0])
def test_a_linear_vae_at_the_level_theta_fills_with_water(theta: float) -> None:
    """With s^2 = theta the best weights spend Shannon's rate and leave his error."""
    x = cloud()
    variances, axes = spectrum(x)
    length = (variances[:K] - theta).clamp(min=0).sqrt()
    level = torch.tensor(theta, dtype=torch.float64)
    vae = exact(Ppca(axes[:, :K] * length, x.mean(dim=0), level))
    kept, left = water_filling(variances[:K], theta)
    _, rate = vae(x)
    assert torch.allclose(rate.mean(dim=0), kept, atol=1e-9)
    error = vae.squared_error(x).mean()
    assert torch.allclose(error, left.sum() + variances[K:].sum(), atol=1e-9)
    assert (rate.mean(dim=0) < 1e-9).tolist() == (variances[:K] <= theta).tolist()


def test_what_can_not_be_is_said_in_one_line() -> None:
    with pytest.raises(Dalle2EduError, match="latent is 6"):
        fit_ppca(cloud(10), D)
    with pytest.raises(Dalle2EduError, match="two or more points"):
        spectrum(torch.zeros(3))
    with pytest.raises(Dalle2EduError, match="theta is 0"):
        water_filling(torch.ones(2), 0)
