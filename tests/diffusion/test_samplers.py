import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UnCLIPScheduler,
)

from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.samplers import (
    ancestral_sample,
    ddim_invert,
    ddim_sample,
    ddim_sigmas,
    dpm_solver_sample,
)
from dalle2_edu.diffusion.schedules import cosine_betas, linear_betas
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.errors import Dalle2EduError

MEAN, STD = 0.3, 0.2


def normal(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def double_noise(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def no_noise(shape):
    raise AssertionError("noise was asked for")


def made_up_model(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """No denoiser of anything, but it bends, so that a wrong step shows."""
    return 0.7 * torch.sin(3 * x_t) + 0.3 * x_t * (t / 1000).reshape(
        -1, *[1] * (x_t.dim() - 1)
    )


# ----------------------------------------------------------------- known distributions


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    "betas", [cosine_betas(1000), linear_betas(4000)], ids=["cosine", "linear"]
)
def test_ddim_carries_noise_to_the_data(gaussian_world, prediction, betas):
    """Not only the distribution: every single value must land where the exact flow
    takes it.
    """
    diffusion = GaussianDiffusion(betas, prediction)
    world = gaussian_world(diffusion, MEAN, STD)
    x_T = normal(2000)
    x0 = ddim_sample(world.denoise, diffusion, x_T, no_noise, clip=None)
    assert (
        x0 - world.transport(x_T, diffusion.alphas_cumprod[-1].item())
    ).abs().max() < 0.02 * STD


def test_ddim_error_falls_with_the_number_of_steps(gaussian_world):
    full = GaussianDiffusion(cosine_betas(1000))
    world, x_T = gaussian_world(full, MEAN, STD), normal(500)
    exact = world.transport(x_T, full.alphas_cumprod[-1].item())
    errors = [
        (
            ddim_sample(world.denoise, full.respace(count), x_T, no_noise, clip=None)
            - exact
        )
        .abs()
        .max()
        .item()
        for count in (25, 100, 400)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_many_ancestral_steps_give_the_data(gaussian_world, variance):
    diffusion = GaussianDiffusion(cosine_betas(1000), "eps", variance)
    world = gaussian_world(diffusion, MEAN, STD)
    x0 = ancestral_sample(
        world.denoise, diffusion, normal(8_000), double_noise(1), clip=None
    )
    assert x0.mean().item() == pytest.approx(MEAN, abs=0.008)
    assert x0.std().item() == pytest.approx(STD, rel=0.03)


def test_few_ancestral_steps_give_the_data_if_the_variance_is_right(gaussian_world):
    """Strided to 25 steps, fixed_small comes out too narrow; the true variance does
    not.
    """
    full = GaussianDiffusion(cosine_betas(1000), "eps", "learned_range")
    diffusion, world = full.respace("25"), gaussian_world(full, MEAN, STD)
    x0 = ancestral_sample(
        lambda x_t, t: world.denoise_with_variance(diffusion, x_t, t),
        diffusion,
        normal(40_000),
        double_noise(1),
        None,
    )
    assert x0.mean().item() == pytest.approx(MEAN, abs=0.005)
    assert x0.std().item() == pytest.approx(STD, rel=0.02)
    narrow = GaussianDiffusion(cosine_betas(1000), "eps", "fixed_small")
    x0 = ancestral_sample(
        world.denoise, narrow.respace("25"), normal(40_000), double_noise(1), clip=None
    )
    assert x0.std() < 0.97 * STD


def test_inversion_finds_the_noise_and_the_picture_comes_back(gaussian_world):
    diffusion = GaussianDiffusion(linear_betas(4000), "v")
    world = gaussian_world(diffusion, MEAN, STD)
    x0 = MEAN + STD * normal(500)
    x_T = ddim_invert(world.denoise, diffusion, x0, clip=None)
    assert x_T.std().item() == pytest.approx(1, abs=0.1)
    assert (
        ddim_sample(world.denoise, diffusion, x_T, no_noise, clip=None) - x0
    ).abs().max() < 0.02 * STD


def even_in_lambda(
    steps: int, low: float = -4.0, high: float = 3.0
) -> GaussianDiffusion:
    """A process whose levels are evenly spaced in lambda = log(alpha / sigma), from
    high (clean) to low.
    """
    abar = torch.sigmoid(2 * torch.linspace(high, low, steps + 1, dtype=torch.float64))
    return GaussianDiffusion(1 - abar / torch.cat([abar.new_ones(1), abar[:-1]]), "x0")


@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_has_the_order_that_it_claims(gaussian_world, order):
    """Half the step, a quarter of the error (or half of it at order 1), up to the
    cleanest level of the process.
    """
    errors = []
    for steps in (40, 80, 160, 320):
        diffusion, reached, x_T = even_in_lambda(steps), [], normal(200)
        world = gaussian_world(diffusion, MEAN, STD)
        dpm_solver_sample(
            world.denoise,
            diffusion,
            x_T,
            None,
            order,
            lambda step, x, _, reached=reached: reached.append(x),
        )
        first, last = diffusion.alphas_cumprod[0], diffusion.alphas_cumprod[-1]
        # every value keeps its rank
        ratio = (world.total(first) / world.total(last)).sqrt()
        exact = first.sqrt() * MEAN + ratio * (x_T - last.sqrt() * MEAN)
        # the move after that goes to abar = 1
        errors.append((reached[-2] - exact).abs().max())
    orders = torch.stack(errors).log2().diff().neg()
    assert orders[-1].item() == pytest.approx(order, abs=0.1), orders


@pytest.mark.parametrize(
    "betas", [cosine_betas(1000), linear_betas(1000)], ids=["cosine", "linear"]
)
def test_dpm_solver_needs_fewer_steps_than_ddim_if_they_are_even_in_lambda(
    gaussian_world, betas
):
    """Even in t, the last steps before the clean picture are so long in lambda that a
    line is no guide.
    """
    full = GaussianDiffusion(betas)
    world, x_T = gaussian_world(full, MEAN, STD), normal(500)
    exact = world.transport(x_T, full.alphas_cumprod[-1].item())

    def error(sampler, spec):
        return (sampler(world.denoise, full.respace(spec), x_T) - exact).abs().max()

    def ddim(*args):
        return ddim_sample(*args, no_noise, clip=None)

    def dpm(*args):
        return dpm_solver_sample(*args, clip=None)

    assert error(dpm, "logsnr20") < 0.2 * min(
        error(ddim, "20"), error(ddim, "logsnr20")
    )
    assert error(dpm, "20") > 5 * error(dpm, "logsnr20")


# ----------------------------------------------------------------- other implementation


def like_for_like(scheduler, diffusion: GaussianDiffusion):
    """Give diffusers our float64 tables: the walks are compared, not its float32
    betas.
    """
    scheduler.betas, scheduler.alphas_cumprod = (
        diffusion.betas,
        diffusion.alphas_cumprod,
    )
    scheduler.alphas = 1 - diffusion.betas
    return scheduler


@pytest.mark.parametrize(
    ("prediction", "theirs"),
    [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")],
)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_diffusers_ddim(prediction, theirs, eta):
    full = GaussianDiffusion(linear_betas(1000), prediction)
    scheduler = like_for_like(DDIMScheduler(prediction_type=theirs), full)
    scheduler.set_timesteps(25)
    x_T, noise = normal(16), double_noise(1)
    x = x_T
    for t in scheduler.timesteps:
        z = None if t == 0 or eta == 0 else noise(x.shape)  # at t = 0 sigma is 0
        out, eta_t = made_up_model(x, t.reshape(1)), 0.0 if z is None else eta
        x = scheduler.step(
            out, t, x, eta_t, use_clipped_model_output=True, variance_noise=z
        ).prev_sample
    ours = ddim_sample(made_up_model, full.respace("ddim25"), x_T, double_noise(1), eta)
    assert torch.allclose(ours, x, atol=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_is_diffusers_ddpm(variance):
    full = GaussianDiffusion(cosine_betas(1000), "v", variance)
    scheduler = like_for_like(
        DDPMScheduler(prediction_type="v_prediction", variance_type=variance), full
    )
    scheduler.set_timesteps(25)
    x, generator = normal(16), torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:
        x = scheduler.step(
            made_up_model(x, t.reshape(1)), t, x, generator=generator
        ).prev_sample
    ours = ancestral_sample(
        made_up_model, full.respace("ddim25"), normal(16), double_noise(1)
    )
    assert torch.allclose(ours, x, atol=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_ancestral_is_diffusers_unclip(variance):
    full = GaussianDiffusion(cosine_betas(1000), "eps", variance)
    theirs = "fixed_small_log" if variance == "fixed_small" else variance
    scheduler = like_for_like(UnCLIPScheduler(variance_type=theirs), full)
    scheduler.set_timesteps(25)

    def model(x_t, t):
        out = made_up_model(x_t, t)
        return (
            out
            if variance == "fixed_small"
            else torch.cat([out, torch.tanh(x_t)], dim=1)
        )

    x, generator = normal(16), torch.Generator().manual_seed(1)
    before = [*scheduler.timesteps[1:].tolist(), None]
    for t, previous in zip(scheduler.timesteps.tolist(), before, strict=True):
        out = model(x, torch.tensor([t]))
        x = scheduler.step(
            out, t, x, prev_timestep=previous, generator=generator
        ).prev_sample
    ours = ancestral_sample(model, full.respace("25"), normal(16), double_noise(1))
    assert torch.allclose(ours, x, atol=1e-9)


def test_ddim_with_eta_1_is_ancestral_sampling_with_the_small_variance():
    diffusion = GaussianDiffusion(cosine_betas(1000)).respace("fast27")
    ours = ddim_sample(made_up_model, diffusion, normal(16), double_noise(1), eta=1.0)
    assert torch.allclose(
        ours,
        ancestral_sample(made_up_model, diffusion, normal(16), double_noise(1)),
        atol=1e-9,
    )
    assert torch.allclose(
        ddim_sigmas(diffusion, 1.0) ** 2, diffusion.posterior_variance, rtol=1e-9
    )


@pytest.mark.parametrize(
    ("prediction", "theirs"),
    [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")],
)
@pytest.mark.parametrize("spec", ["5", "25", "logsnr12"])
def test_dpm_solver_is_diffusers_dpm_solver(prediction, theirs, spec):
    full = GaussianDiffusion(cosine_betas(1000), prediction)
    diffusion = full.respace(spec)
    scheduler = like_for_like(
        DPMSolverMultistepScheduler(prediction_type=theirs, final_sigmas_type="zero"),
        full,
    )
    scheduler.set_timesteps(timesteps=diffusion.timestep_map.flip(0).tolist())
    sigma = (
        diffusion.sqrt_one_minus_alphas_cumprod / diffusion.sqrt_alphas_cumprod
    )  # theirs, but in float64
    scheduler.sigmas = torch.cat([sigma.flip(0), sigma.new_zeros(1)])
    x = x_T = normal(16)
    for t in scheduler.timesteps:
        x = scheduler.step(made_up_model(x, t.reshape(1)), t, x).prev_sample.double()
    ours = dpm_solver_sample(made_up_model, diffusion, x_T, clip=None)
    assert torch.allclose(
        ours, x, rtol=1e-3, atol=1e-5
    )  # they work in float32, and so far out eps is large


@pytest.mark.parametrize("clip", [None, 1.0])
def test_dpm_solver_of_order_1_is_ddim(clip):
    diffusion = GaussianDiffusion(linear_betas(1000)).respace("15")
    ours = dpm_solver_sample(made_up_model, diffusion, normal(16), clip, order=1)
    assert torch.allclose(
        ours,
        ddim_sample(made_up_model, diffusion, normal(16), no_noise, clip=clip),
        atol=1e-10,
    )
    assert not torch.allclose(
        ours, dpm_solver_sample(made_up_model, diffusion, normal(16), clip), atol=1e-3
    )


# ----------------------------------------------------------------- how they behave


@pytest.mark.parametrize("sampler", [ancestral_sample, ddim_sample])
def test_a_picture_is_the_same_alone_and_in_a_batch(sampler):
    diffusion = GaussianDiffusion(cosine_betas(1000)).respace("10")
    extra = {"eta": 0.7} if sampler is ddim_sample else {}

    def paint(seeds):
        noise = SeededNoise(seeds)
        return sampler(
            made_up_model, diffusion, noise((len(seeds), 3, 8, 8)), noise, **extra
        )

    batch = paint([5, 6, 7])
    assert torch.equal(paint([6])[0], batch[1])
    assert torch.equal(paint([7, 5])[1], batch[0])
    assert not torch.equal(batch[0], batch[1])


def test_seeded_noise_is_standard_normal_and_counts_its_seeds():
    noise = SeededNoise(range(4))
    draws = noise((4, 3, 64, 64))
    assert draws.dtype == torch.float32
    assert draws.mean().abs() < 0.02
    assert draws.std().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(draws, noise((4, 3, 64, 64)))
    with pytest.raises(Dalle2EduError, match="4 seeds"):
        noise((5, 3, 8, 8))


def test_no_sampler_reads_a_value_back():
    """Tensors on the meta device have shapes but no values: who asks for one, as a GPU
    sync would, fails.
    """
    diffusion = GaussianDiffusion(cosine_betas(1000), "eps", "learned_range").respace(
        "10"
    )
    x = torch.empty(2, 3, 8, 8, device="meta")

    def model(x_t, t):
        assert t.device == x_t.device
        return torch.cat([x_t, x_t], dim=1)

    def noise(shape):
        return torch.empty(shape, device="meta")

    assert ancestral_sample(model, diffusion, x, noise).shape == x.shape
    assert ddim_sample(model, diffusion, x, noise, eta=0.5).shape == x.shape
    assert ddim_invert(model, diffusion, x).shape == x.shape
    assert dpm_solver_sample(model, diffusion, x).shape == x.shape


def test_callback_sees_every_step_and_progress_has_its_label(capsys):
    diffusion = GaussianDiffusion(cosine_betas(1000)).respace("5")
    seen = []

    def watch(step, x_t, pred_x0):
        seen.append((step, x_t, pred_x0))

    x0 = ddim_sample(
        made_up_model,
        diffusion,
        normal(3),
        no_noise,
        callback=watch,
        progress="painting",
    )
    assert [step for step, _, _ in seen] == [0, 1, 2, 3, 4]
    assert torch.equal(seen[-1][1], x0)
    assert max(pred_x0.abs().max() for _, _, pred_x0 in seen) <= 1
    assert "painting" in capsys.readouterr().err
    ancestral_sample(
        made_up_model, diffusion, normal(3), double_noise(1), callback=watch
    )
    ddim_invert(made_up_model, diffusion, normal(3), callback=watch)
    assert [step for step, _, _ in seen[5:]] == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    x0 = dpm_solver_sample(made_up_model, diffusion, normal(3), callback=watch)
    assert [step for step, _, _ in seen[14:]] == [0, 1, 2, 3, 4]
    assert torch.equal(seen[-1][1], x0) and torch.equal(
        x0, seen[-1][2]
    )  # the last move goes to the guess itself
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_impossible_eta_is_one_clear_line(eta):
    with pytest.raises(Dalle2EduError, match="from 0 to 1"):
        ddim_sample(
            made_up_model,
            GaussianDiffusion(cosine_betas(10)),
            normal(2),
            no_noise,
            eta=eta,
        )


@pytest.mark.parametrize("order", [0, 3])
def test_orders_that_are_not_built_are_one_clear_line(order):
    with pytest.raises(Dalle2EduError, match="order 1 or 2"):
        dpm_solver_sample(
            made_up_model, GaussianDiffusion(cosine_betas(10)), normal(2), order=order
        )
