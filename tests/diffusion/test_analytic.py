"""The best variance, against a world where it is known."""

from __future__ import annotations

import pytest
import torch

from dalle2_edu.diffusion.analytic import (
    AnalyticDiffusion,
    noise_second_moment,
    optimal_variance,
)
from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.samplers import ancestral_sample
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.errors import Dalle2EduError

MEAN, STD = 0.5, 0.6


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_the_estimate_is_the_true_variance_of_the_step_back(
    gaussian_world, prediction
) -> None:
    whole = GaussianDiffusion(cosine_betas(1000), prediction=prediction)
    world, short = gaussian_world(whole, MEAN, STD), whole.respace(8)
    data = MEAN + STD * torch.randn(400, 100).double()
    estimate = optimal_variance(
        short, noise_second_moment([(world.denoise, data, torch.randn)], short), STD**2
    )
    abar = short.alphas_cumprod
    spread = STD**2 * (1 - abar) / world.total(abar)  # Var[x_0 | x_t]
    true = short.posterior_variance + short.posterior_mean_coef1**2 * spread
    torch.testing.assert_close(estimate, true, rtol=0.06, atol=1e-4)
    assert (estimate > short.posterior_variance)[1:].all()


def test_few_steps_keep_the_datas_spread_that_the_fixed_variance_loses(
    gaussian_world,
) -> None:
    whole = GaussianDiffusion(cosine_betas(1000), prediction="x0")
    world, short = gaussian_world(whole, MEAN, STD), whole.respace(5)
    data = MEAN + STD * torch.randn(400, 100)
    moment = noise_second_moment([(world.denoise, data, torch.randn)], short)
    best = AnalyticDiffusion(short, optimal_variance(short, moment, STD**2))
    x_T = torch.randn(20_000, 4)
    fixed, analytic = (
        ancestral_sample(world.denoise, way, x_T, torch.randn, clip=None).std().item()
        for way in (short, best)
    )
    assert fixed < 0.85 * STD
    # Step 0 adds no noise and so loses what spread is left at step 0: none to speak of.
    assert analytic == pytest.approx(STD, rel=0.02)


def test_batches_weigh_by_their_size() -> None:
    process = GaussianDiffusion(cosine_betas(1000), prediction="eps").respace(3)

    def says(value: float):
        return lambda x, t: torch.full_like(x, value)

    batches = [
        (says(0.0), torch.randn(3, 5), torch.randn),
        (says(1.0), torch.randn(1, 5), torch.randn),
    ]
    torch.testing.assert_close(
        noise_second_moment(batches, process),
        torch.full((3,), 0.25).double(),
        rtol=0,
        atol=1e-5,
    )


def test_bounds_hold_for_a_network_that_breaks_them() -> None:
    process = GaussianDiffusion(cosine_betas(1000)).respace(6)
    too_loud = optimal_variance(process, torch.full((6,), 1.5))
    torch.testing.assert_close(too_loud, process.posterior_variance)
    silent = optimal_variance(process, torch.zeros(6), data_variance=0.3)
    most = process.posterior_variance + process.posterior_mean_coef1**2 * 0.3
    assert (silent <= most + 1e-12).all()
    assert silent[-1] == pytest.approx(most[-1].item())


def test_what_cannot_be_estimated_is_refused() -> None:
    process = GaussianDiffusion(cosine_betas(1000)).respace(6)
    with pytest.raises(Dalle2EduError, match="data"):
        noise_second_moment([], process)
    with pytest.raises(Dalle2EduError, match="6 steps"):
        optimal_variance(process, torch.zeros(5))
