"""Continuous time against closed forms and diffusers.

The pictures are single numbers from two Gaussians, so E[x_0 | x] and the density are
known.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from dalle2_edu.diffusion.continuous import (
    Preconditioning,
    clean_from_velocity,
    edm_sigmas,
    euler_sample,
    flow_pair,
    flow_sample,
    flow_velocity,
    heun_sample,
    noise_from_clean,
    score_from_clean,
    to_variance_preserving,
)
from dalle2_edu.errors import Dalle2EduError

MEANS = torch.tensor([-1.0, 2.0], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
STD = 0.3


def log_density(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """log p(x) of x = alpha x_0 + sigma eps, (B,)."""
    variance = (alpha * STD) ** 2 + sigma**2
    apart = x[:, None] - alpha * MEANS  # (B, 2)
    parts = (
        SHARES.log() - apart**2 / (2 * variance) - 0.5 * torch.tensor(variance).log()
    )
    return parts.logsumexp(dim=1)


def clean(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[x_0 | x], (B,)."""
    variance = (alpha * STD) ** 2 + sigma**2
    apart = x[:, None] - alpha * MEANS
    weights = (SHARES.log() - apart**2 / (2 * variance)).softmax(dim=1)
    return (weights * (MEANS + alpha * STD**2 / variance * apart)).sum(dim=1)


def edm_clean(x: Tensor, sigma: Tensor) -> Tensor:
    return clean(x, alpha=1.0, sigma=float(sigma[0]))


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.5), (0.8, 0.6), (0.3, 0.7)])
def test_the_score_is_the_slope_of_the_log_density(alpha: float, sigma: float) -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_density(x, alpha, sigma).sum(), x)
    found = score_from_clean(x, clean(x, alpha, sigma), alpha, sigma)
    torch.testing.assert_close(found, slope)


def test_one_noisy_picture_in_three_coordinates() -> None:
    x0 = torch.tensor([-1.2, 0.4], dtype=torch.float64)
    eps = torch.tensor([0.3, -0.7], dtype=torch.float64)
    sigma = torch.tensor(1.5, dtype=torch.float64)
    alpha_vp, sigma_vp = to_variance_preserving(sigma)
    assert alpha_vp**2 + sigma_vp**2 == pytest.approx(1)
    edm = x0 + sigma * eps
    torch.testing.assert_close(alpha_vp * edm, alpha_vp * x0 + sigma_vp * eps)
    torch.testing.assert_close(noise_from_clean(edm, x0, 1.0, float(sigma)), eps)
    point, speed = flow_pair(x0, eps, torch.tensor([0.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(clean_from_velocity(point[:1], speed[:1], 0.25), x0[:1])
    # The flow's time is sigma / (alpha + sigma): the same picture, scaled.
    t = float(sigma / (1 + sigma))
    torch.testing.assert_close((1 - t) * edm, (1 - t) * x0 + t * eps)


def test_the_flow_of_probability_ends_at_the_data() -> None:
    start = 80 * torch.randn(
        4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    drawn = heun_sample(edm_clean, start, edm_sigmas(60))
    left = (drawn < 0.5).double()
    # three standard errors: .022
    assert float(left.mean()) == pytest.approx(0.3, abs=0.03)
    assert float(drawn[left == 1].std()) == pytest.approx(STD, abs=0.03)


def test_heun_errs_with_the_square_of_the_step_and_euler_with_the_step() -> None:
    start = 80 * torch.linspace(-2, 2, 9, dtype=torch.float64)
    truth = heun_sample(edm_clean, start, edm_sigmas(4000))

    def error(sampler, steps: int) -> float:
        # Both stop at sigma_min, since the last step down to 0 is straight in either.
        return float(
            (sampler(edm_clean, start, edm_sigmas(steps)) - truth).abs().mean()
        )

    assert 1.7 < error(euler_sample, 200) / error(euler_sample, 400) < 2.3
    assert 3.3 < error(heun_sample, 200) / error(heun_sample, 400) < 4.7


def test_flow_matching_ends_at_the_data_too() -> None:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        time = float(t[0])
        x0 = clean(x, alpha=1 - time, sigma=time)
        return flow_velocity(x0, noise_from_clean(x, x0, 1 - time, time))

    start = torch.randn(
        4000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    drawn = flow_sample(velocity, start, steps=400)
    assert float((drawn < 0.5).double().mean()) == pytest.approx(0.3, abs=0.03)


def test_the_levels_and_the_network_are_those_of_diffusers() -> None:
    scheduler = EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0
    )
    scheduler.set_timesteps(18)
    torch.testing.assert_close(
        edm_sigmas(18).float(), scheduler.sigmas, rtol=1e-4, atol=1e-6
    )

    wrapped = Preconditioning(sigma_data=0.5)
    sigma = torch.tensor(1.7)
    x, answer = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    theirs = scheduler.precondition_outputs(x, answer, sigma)
    torch.testing.assert_close(
        wrapped.c_skip(sigma) * x + wrapped.c_out(sigma) * answer, theirs
    )
    torch.testing.assert_close(
        wrapped.c_in(sigma) * x, scheduler.precondition_inputs(x, sigma)
    )


def test_a_step_of_flow_matching_is_that_of_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    x = torch.randn(2, 3, 4, 4)
    direction = torch.randn(2, 3, 4, 4)
    theirs = x
    for time in scheduler.timesteps:
        theirs = scheduler.step(direction, time, theirs).prev_sample
    torch.testing.assert_close(flow_sample(lambda x, t: direction, x, steps=4), theirs)


@pytest.mark.parametrize(
    "wrong", [lambda: edm_sigmas(1), lambda: flow_sample(None, None, 0)]
)
def test_no_steps_are_refused(wrong) -> None:
    with pytest.raises(Dalle2EduError, match="steps must be"):
        wrong()
