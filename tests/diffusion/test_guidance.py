import pytest
import torch

from dalle2_edu.diffusion.guidance import classifier_free, dynamic_threshold, within
from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.samplers import ddim_sample
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.errors import Dalle2EduError

X, T = torch.randn(2, 3, 4, 4), torch.tensor([7, 9])
NULL, TEXT = {"text": torch.zeros(2, 5)}, {"text": torch.randn(2, 5)}


class Recorder:
    """A model that answers 2C channels, each row by itself, and remembers the batches
    that it was given.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, ...]] = []

    def __call__(self, x_t, t, text):
        self.batches.append((x_t, t, text))
        shift = text.sum(dim=1).reshape(-1, 1, 1, 1)
        return torch.cat(
            [torch.sin(x_t + shift) + t.reshape(-1, 1, 1, 1), x_t * shift], dim=1
        )


def test_scale_1_is_off():
    model = Recorder()
    out = classifier_free(model, 1.0, NULL, TEXT)(X, T)
    assert [len(x_t) for x_t, _, _ in model.batches] == [2]
    assert torch.equal(out, model(X, T, **TEXT))


def test_guidance_is_one_batched_call_null_first():
    model = Recorder()
    classifier_free(model, 3.0, NULL, TEXT)(X, T)
    ((x_t, t, text),) = model.batches
    assert torch.equal(
        x_t, torch.cat([X, X])
    )  # the null pass sees the same x_t: it is no condition
    assert t.tolist() == [7, 9, 7, 9]
    assert torch.equal(text, torch.cat([NULL["text"], TEXT["text"]]))


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_only_the_mean_half_is_guided(scale):
    model = Recorder()
    out = classifier_free(model, scale, NULL, TEXT)(X, T)
    null, conditional = model(X, T, **NULL), model(X, T, **TEXT)
    assert torch.allclose(
        out[:, :3], (1 - scale) * null[:, :3] + scale * conditional[:, :3], atol=1e-5
    )
    assert torch.equal(out[:, 3:], conditional[:, 3:])


def test_an_answer_without_variance_is_guided_whole():
    def model(x_t, t, shift):
        return x_t + shift

    guided = classifier_free(
        model, 2.0, {"shift": torch.zeros(4, 1)}, {"shift": torch.ones(4, 1)}
    )
    x = torch.randn(4, 8)
    assert torch.allclose(guided(x, torch.zeros(4, dtype=torch.int64)), x + 2)


def test_guided_gaussians_move_on_by_the_scale(gaussian_world):
    """p(x) = N(0, s^2) and p(x | y) = N(m, s^2) give p(x) (p(x | y) / p(x))^g = N(g m,
    s^2).
    """
    diffusion = GaussianDiffusion(cosine_betas(1000))

    def model(x_t, t, mean):
        at_zero = gaussian_world(diffusion, 0.0, 0.2).denoise(x_t, t)
        at_one = gaussian_world(diffusion, 1.0, 0.2).denoise(x_t, t)
        return at_zero + mean * (at_one - at_zero)

    x_T = torch.randn(4000, 1, dtype=torch.float64)
    null, text = {"mean": torch.zeros(4000, 1)}, {"mean": torch.full((4000, 1), 0.3)}
    x0 = ddim_sample(
        classifier_free(model, 2.5, null, text),
        diffusion.respace("250"),
        x_T,
        torch.randn,
        clip=None,
    )
    exact = gaussian_world(diffusion, 2.5 * 0.3, 0.2).transport(
        x_T, diffusion.alphas_cumprod[-1].item()
    )
    assert (x0 - exact).abs().max() < 0.03


def test_conditions_of_different_form_are_one_clear_line():
    with pytest.raises(Dalle2EduError, match="holds"):
        classifier_free(Recorder(), 2.0, {}, TEXT)
    with pytest.raises(Dalle2EduError, match="shaped"):
        classifier_free(Recorder(), 2.0, {"text": torch.zeros(1, 5)}, TEXT)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(Dalle2EduError, match="finite number"):
        classifier_free(Recorder(), scale, TEXT, TEXT)


def test_guidance_in_an_interval_is_off_outside_of_it():
    calls = []

    def named(name):
        return lambda x_t, t: calls.append((name, int(t[0]))) or x_t

    model = within(named("guided"), named("plain"), low=200, high=600)
    for step in (700, 600, 400, 200, 100):
        model(X, torch.full((2,), step))
    assert calls == [
        ("plain", 700),
        ("guided", 600),
        ("guided", 400),
        ("guided", 200),
        ("plain", 100),
    ]
    with pytest.raises(Dalle2EduError, match="never on"):
        within(named("guided"), named("plain"), low=5, high=4)


@pytest.mark.parametrize("spread", [0.2, 1.0, 5.0])
def test_dynamic_thresholding_is_diffusers_own(spread):
    from diffusers import DDPMScheduler

    oracle = DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=0.99, sample_max_value=1e9
    )
    x0 = spread * torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x0[1] *= 3  # each picture has its own threshold
    ours = dynamic_threshold(x0, quantile=0.99)
    torch.testing.assert_close(ours, oracle._threshold_sample(x0))
    assert float(ours.abs().max()) <= 1


def test_a_sampler_takes_the_threshold_for_its_clip():
    process = GaussianDiffusion(cosine_betas(1000), prediction="x0").respace(3)
    seen = []
    ddim_sample(
        lambda x_t, t: 4 * torch.ones_like(x_t),
        process,
        X,
        noise=None,
        clip=lambda x0: dynamic_threshold(x0, 0.9),
        callback=lambda step, x, pred_x0: seen.append(pred_x0),
    )
    assert all(torch.equal(x0, torch.ones_like(x0)) for x0 in seen)
