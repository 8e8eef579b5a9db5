import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from dalle2_edu.diffusion.process import (
    GaussianDiffusion,
    discretised_gaussian_log_likelihood,
    normal_cdf,
    normal_kl,
)
from dalle2_edu.diffusion.schedules import cosine_betas, linear_betas
from dalle2_edu.errors import Dalle2EduError

ALL_INDICES = torch.tensor([0, 1, 500, 998, 999])


def pictures(count: int = 5, channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.rand(count, channels, size, size, dtype=torch.float64) * 2 - 1


# ----------------------------------------------------------------- against things that


@pytest.mark.parametrize(
    ("ours", "theirs", "betas"),
    [
        ("linear", "linear", linear_betas(1000)),
        ("cosine", "squaredcos_cap_v2", cosine_betas(1000)),
    ],
)
def test_tables_are_diffusers_tables(ours, theirs, betas):
    scheduler = DDPMScheduler(
        beta_schedule=theirs
    )  # float32: its cumulative product drifts by 1e-4
    assert torch.allclose(
        GaussianDiffusion(betas).alphas_cumprod.float(),
        scheduler.alphas_cumprod,
        rtol=2e-4,
    )


@pytest.mark.parametrize(
    ("prediction", "theirs"),
    [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")],
)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_forward_and_reverse_steps_are_those_of_diffusers(
    prediction, theirs, variance, t
):
    diffusion = GaussianDiffusion(linear_betas(1000), prediction, variance)
    scheduler = DDPMScheduler(prediction_type=theirs, variance_type=variance)
    for name in (
        "betas",
        "alphas_cumprod",
    ):  # like for like: the equations are compared, not float32
        setattr(scheduler, name, getattr(diffusion, name))
    scheduler.alphas = 1 - diffusion.betas
    x0, noise, index = (
        pictures(),
        torch.randn(5, 3, 8, 8, dtype=torch.float64),
        torch.full((5,), t),
    )
    x_t = diffusion.q_sample(x0, index, noise)
    assert torch.allclose(x_t, scheduler.add_noise(x0, noise, index), atol=1e-12)
    assert torch.allclose(
        diffusion.calculate_v(x0, index, noise),
        scheduler.get_velocity(x0, noise, index),
        atol=1e-12,
    )

    model_out = torch.randn_like(x0)
    step = diffusion.p_mean_variance(model_out, x_t, index, clip=1.0)
    expected = scheduler.step(
        model_out, t, x_t, generator=torch.Generator().manual_seed(1)
    )
    z = torch.randn(
        x_t.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    sample = step.mean + (t > 0) * (0.5 * step.log_variance).exp() * z
    assert torch.allclose(step.pred_x0, expected.pred_original_sample, atol=1e-10)
    assert torch.allclose(sample, expected.prev_sample, atol=1e-10)


def test_posterior_by_monte_carlo():
    """400,000 pixels go forward by Eq. (1) alone; the regression of x_(t-1) on x_t must
    be Eq. (3).
    """
    diffusion = GaussianDiffusion(linear_betas(20)[:12])
    x0, index = 0.7, 8
    x = torch.full((400_000,), x0, dtype=torch.float64)
    for beta in diffusion.betas[: index + 1]:
        before, x = x, (1 - beta).sqrt() * x + beta.sqrt() * torch.randn_like(x)
    covariance = torch.cov(torch.stack([before, x]))
    slope = covariance[0, 1] / covariance[1, 1]
    mean, variance, _ = diffusion.q_posterior(
        torch.full((2, 1), x0, dtype=torch.float64),
        torch.tensor([[0.0], [1.0]], dtype=torch.float64),
        torch.tensor([index] * 2),
    )
    assert (mean[1] - mean[0]).item() == pytest.approx(slope.item(), abs=0.01)
    assert mean[0].item() == pytest.approx(
        (before.mean() - slope * x.mean()).item(), abs=0.01
    )
    assert variance[0].item() == pytest.approx(
        (covariance[0, 0] - slope * covariance[0, 1]).item(), rel=0.01
    )


def test_bits_per_dim_of_a_perfect_model_is_the_entropy_of_the_data(gaussian_world):
    """With the true mean and variance the bound is tight: -log2 of the density times
    the bin width.
    """
    diffusion = GaussianDiffusion(cosine_betas(50), "eps", "learned_range")
    world = gaussian_world(diffusion, 0.1, 0.2)
    x0 = (
        ((0.1 + 0.2 * torch.randn(128, 3, 16, 16, dtype=torch.float64)) + 1) * 127.5
    ).round() / 127.5 - 1
    bits = diffusion.bits_per_dim(
        lambda x_t, t: world.denoise_with_variance(diffusion, x_t, t),
        x0,
        lambda shape: torch.randn(shape).double(),
    )
    truth = -(Normal(0.1, 0.2).log_prob(x0) + math.log(2 / 255)).mean() / math.log(2)
    assert bits.mean().item() == pytest.approx(truth.item(), abs=0.025)


def test_the_terms_are_the_bound_and_the_loss_samples_them(gaussian_world):
    """One fixed noise for all: then the sum of the terms, the bound and the mean of the
    losses are one number.
    """
    diffusion = GaussianDiffusion(cosine_betas(12), "eps", "learned_range")
    world, x0 = gaussian_world(diffusion, 0.1, 0.2), pictures(3)
    fixed = torch.randn(x0.shape, dtype=torch.float64)

    def model(x_t, t):
        return world.denoise_with_variance(diffusion, x_t, t)

    terms = diffusion.vlb_terms(model, x0, lambda shape: fixed)
    assert terms.shape == (3, 12)
    bits = diffusion.bits_per_dim(model, x0, lambda shape: fixed)
    assert torch.allclose(terms.sum(dim=1) + diffusion.prior_bpd(x0), bits)
    losses = torch.stack(
        [
            diffusion.vlb_losses(model, x0, torch.full((3,), i), fixed)["loss"]
            for i in range(12)
        ],
        dim=1,
    )
    assert torch.allclose(losses.mean(dim=1), terms.sum(dim=1))


def test_likelihood_and_divergence_against_torch_distributions():
    every_byte = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, scale in [(0.0, 0.3), (-0.95, 0.05), (1.4, 0.5)]:
        log_scale = torch.full_like(every_byte, math.log(scale))
        likelihood = discretised_gaussian_log_likelihood(
            every_byte, torch.full_like(every_byte, mean), log_scale
        ).exp()
        normal = Normal(torch.tensor(mean, dtype=torch.float64), scale)
        assert likelihood.sum().item() == pytest.approx(1, abs=1e-9)
        inner = normal.cdf(every_byte + 1 / 255) - normal.cdf(every_byte - 1 / 255)
        assert torch.allclose(likelihood[1:-1], inner[1:-1], atol=4e-4)
    x = torch.linspace(-9, 9, 10_001, dtype=torch.float64)
    assert (normal_cdf(x) - torch.special.ndtr(x)).abs().max() < 2.5e-4

    mean1, mean2, log1, log2 = torch.randn(4, 100, dtype=torch.float64)
    expected = kl_divergence(
        Normal(mean1, (0.5 * log1).exp()), Normal(mean2, (0.5 * log2).exp())
    )
    assert torch.allclose(normal_kl(mean1, log1, mean2, log2), expected)


# ----------------------------------------------------------------- by its own rules


def test_eps_x0_and_v_say_the_same():
    diffusion = GaussianDiffusion(cosine_betas(1000))
    x0, noise = pictures(), torch.randn(5, 3, 8, 8, dtype=torch.float64)
    x_t = diffusion.q_sample(x0, ALL_INDICES, noise)
    v = diffusion.calculate_v(x0, ALL_INDICES, noise)
    assert torch.allclose(
        diffusion.predict_start_from_v(x_t, ALL_INDICES, v), x0, atol=1e-12
    )
    assert torch.allclose(
        diffusion.predict_noise_from_start(x_t, ALL_INDICES, x0), noise, atol=1e-9
    )
    assert torch.allclose(
        diffusion.predict_start_from_noise(x_t, ALL_INDICES, noise), x0, atol=1e-9
    )


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_right_answer_has_no_loss(prediction):
    diffusion = GaussianDiffusion(cosine_betas(1000), prediction)
    x0, noise = pictures(), torch.randn(5, 3, 8, 8, dtype=torch.float64)
    answer = {
        "eps": noise,
        "x0": x0,
        "v": diffusion.calculate_v(x0, ALL_INDICES, noise),
    }[prediction]
    losses = diffusion.training_losses(lambda x_t, t: answer, x0, ALL_INDICES, noise)
    assert losses.keys() == {"loss", "mse"}
    assert losses["loss"].tolist() == [0] * 5
    x_t = diffusion.q_sample(x0, ALL_INDICES, noise)
    assert torch.allclose(
        diffusion.p_mean_variance(answer, x_t, ALL_INDICES).pred_x0, x0, atol=1e-9
    )


def test_learned_range_runs_from_posterior_variance_to_beta():
    diffusion = GaussianDiffusion(linear_betas(1000), "eps", "learned_range")
    x_t, index = pictures(), torch.tensor([1, 2, 500, 998, 999])
    for raw, table in [(-1.0, diffusion.posterior_variance), (1.0, diffusion.betas)]:
        step = diffusion.p_mean_variance(
            torch.cat([x_t, torch.full_like(x_t, raw)], dim=1), x_t, index
        )
        assert torch.allclose(step.variance[:, 0, 0, 0], table[index])


def test_the_bound_teaches_the_variance_and_leaves_the_mean_alone():
    diffusion = GaussianDiffusion(cosine_betas(1000), "eps", "learned_range")
    x0, noise, index = (
        pictures(),
        torch.randn(5, 3, 8, 8, dtype=torch.float64),
        torch.tensor([0, 1, 10, 500, 999]),
    )
    model_out = torch.randn(5, 6, 8, 8, dtype=torch.float64, requires_grad=True)
    losses = diffusion.training_losses(lambda x_t, t: model_out, x0, index, noise)
    (of_vb,) = torch.autograd.grad(losses["vb"].sum(), model_out, retain_graph=True)
    (of_mse,) = torch.autograd.grad(losses["mse"].sum(), model_out, retain_graph=True)
    (of_loss,) = torch.autograd.grad(losses["loss"].sum(), model_out)
    assert (of_vb[:, :3] == 0).all()
    assert (of_vb[:, 3:] != 0).any()
    assert torch.equal(of_loss, of_mse + of_vb)


def test_respaced_process_tells_the_network_the_original_step():
    diffusion = (
        GaussianDiffusion(cosine_betas(1000), "v", "fixed_large")
        .respace("100")
        .respace("ddim10")
    )
    assert (diffusion.num_timesteps, diffusion.prediction, diffusion.variance) == (
        10,
        "v",
        "fixed_large",
    )
    seen = []

    def model(x_t, t, label):
        seen.append((t, label))
        return x_t

    label = torch.arange(2)
    diffusion.training_losses(
        model, pictures(2), torch.tensor([0, 9]), pictures(2), label=label
    )
    assert seen[0][0].tolist() == diffusion.timestep_map[[0, 9]].tolist() == [0, 908]
    assert seen[0][1] is label
    full = GaussianDiffusion(cosine_betas(1000)).alphas_cumprod[diffusion.timestep_map]
    assert torch.allclose(diffusion.alphas_cumprod, full, rtol=1e-12)


def test_clip_bounds_the_guess():
    diffusion = GaussianDiffusion(cosine_betas(1000))
    x_t = torch.randn(5, 3, 8, 8)
    step = diffusion.p_mean_variance(torch.randn_like(x_t), x_t, ALL_INDICES, clip=0.5)
    assert step.pred_x0.abs().max() == 0.5


def test_tables_made_in_inference_mode_can_be_trained_with():
    diffusion = GaussianDiffusion(cosine_betas(1000))
    weight = torch.ones(1, requires_grad=True)
    with torch.inference_mode():
        diffusion.q_sample(torch.zeros(1, 1), torch.tensor([3]), torch.zeros(1, 1))
    diffusion.q_sample(
        weight * torch.ones(1, 1), torch.tensor([3]), torch.zeros(1, 1)
    ).sum().backward()
    assert weight.grad is not None


def test_half_precision_answers_are_reckoned_in_the_pictures_precision():
    diffusion = GaussianDiffusion(cosine_betas(1000), "x0")
    losses = diffusion.training_losses(
        lambda x_t, t: x_t.bfloat16(),
        torch.rand(2, 3, 4, 4),
        torch.tensor([3, 999]),
        torch.randn(2, 3, 4, 4),
    )
    assert losses["loss"].dtype == torch.float32


def test_embeddings_diffuse_as_pictures_do():
    diffusion = GaussianDiffusion(cosine_betas(1000), "x0").respace(25)
    losses = diffusion.training_losses(
        lambda x_t, t: x_t, torch.randn(4, 16), torch.arange(4), torch.randn(4, 16)
    )
    assert losses["loss"].shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction": "score"}, "eps, x0 or v"),
        ({"variance": "learned"}, "fixed_small, fixed_large or learned_range"),
        ({"betas": torch.tensor([0.1, 1.0])}, "between 0 and 1"),
        ({"betas": torch.tensor([0.1, float("nan")])}, "between 0 and 1"),
        ({"timestep_map": [1, 2]}, "1000 betas but 2 timesteps"),
    ],
)
def test_bad_process_is_one_clear_line(arguments, message):
    with pytest.raises(Dalle2EduError, match=message):
        GaussianDiffusion(**{"betas": linear_betas(1000), **arguments})


def test_wrong_channels_are_one_clear_line():
    diffusion = GaussianDiffusion(linear_betas(1000), "eps", "learned_range")
    with pytest.raises(Dalle2EduError, match="6 channels"):
        diffusion.p_mean_variance(
            torch.zeros(5, 3, 8, 8), torch.zeros(5, 3, 8, 8), ALL_INDICES
        )
