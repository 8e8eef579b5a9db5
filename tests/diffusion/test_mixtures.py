"""The exact world: against autograd, closed forms and a sampler's walk."""

import math

import pytest
import torch

from dalle2_edu.diffusion.classifier_guidance import class_gradient, classifier_guided
from dalle2_edu.diffusion.guidance import guide
from dalle2_edu.diffusion.mixtures import (
    GaussianMixture,
    flow,
    guided_density,
    guided_flow,
    guided_gaussian_variance,
    guided_score,
    perfect_eps,
    tilted_density,
)
from dalle2_edu.diffusion.process import GaussianDiffusion, Prediction
from dalle2_edu.diffusion.samplers import ancestral_sample, ddim_sample
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.errors import Dalle2EduError


def mixture(weights, means, stds, classes) -> GaussianMixture:
    def double(x):
        return torch.tensor(x, dtype=torch.float64)

    return GaussianMixture(
        double(weights), double(means), double(stds), torch.tensor(classes)
    )


TWO = mixture([0.5, 0.5], [[-1.0], [1.0]], [0.4, 0.4], [0, 1])
PLANE = mixture(
    [0.2, 0.5, 0.3], [[-1.0, 0.5], [1.0, 0.0], [0.3, 2.0]], [0.4, 0.7, 0.2], [0, 1, 1]
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_the_score_is_the_gradient_of_the_log_density():
    x = normal(20, 2).requires_grad_()
    noised = PLANE.noised(0.6)
    (gradient,) = torch.autograd.grad(noised.log_density(x).sum(), x)
    torch.testing.assert_close(noised.score(x.detach()), gradient)


def test_class_probabilities_add_up_and_follow_bayes():
    x = normal(20, 2)
    by_class = [PLANE.log_class_probability(x, y) for y in (0, 1)]
    torch.testing.assert_close(
        sum(p.exp() for p in by_class), torch.ones(20, dtype=torch.float64)
    )
    bayes = PLANE.of_class(1).log_density(x) + math.log(0.8) - PLANE.log_density(x)
    torch.testing.assert_close(by_class[1], bayes)


def test_samples_have_the_mixture_s_mean_and_variance():
    x = TWO.sample(40_000, torch.Generator().manual_seed(0))
    assert abs(float(x.mean())) < 0.02
    assert float(x.var()) == pytest.approx(1 + 0.16, abs=0.02)


def test_without_guidance_the_walk_ends_in_the_class():
    x, density = guided_density(TWO, 1, scale=1.0)
    exact = TWO.of_class(1).log_density(x[:, None]).exp()
    inner = slice(20, -20)  # the outermost slices are wide
    torch.testing.assert_close(density[inner], exact[inner], rtol=0.02, atol=0.0)


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
def test_guided_gaussians_have_the_variance_of_the_closed_form(scale):
    inside = mixture([1.0], [[0.0]], [1.0], [0])
    outside = mixture([1.0], [[0.0]], [math.sqrt(3)], [0])

    def score(x, abar):
        null = outside.noised(abar).score(x)
        return null + scale * (inside.noised(abar).score(x) - null)

    x_T = normal(5, 1)
    factor = flow(score, x_T)[0, 0] / x_T[0, 0]  # the walk is linear
    expected = guided_gaussian_variance(1.0, 3.0, scale)
    assert float(factor**2) == pytest.approx(expected, rel=2e-3)
    # and it is not the tilted density's
    tilted = 1 / (scale + (1 - scale) / 3)
    assert abs(expected - tilted) > 0.05


def test_the_guided_density_is_not_the_tilted_one():
    grid = torch.linspace(-6, 8, 4001, dtype=torch.float64)
    tilted = tilted_density(TWO, 1, 4.0, grid)
    assert float(torch.trapezoid(tilted, grid)) == pytest.approx(1, abs=1e-6)
    x, density = guided_density(TWO, 1, 4.0)
    tilted_mean = torch.trapezoid(grid * tilted, grid)
    guided_mean = torch.trapezoid(x * density, x) / torch.trapezoid(density, x)
    assert float(tilted_mean) == pytest.approx(1.017, abs=0.005)
    assert float(guided_mean) == pytest.approx(1.533, abs=0.01)


def test_a_sampler_s_walk_ends_where_the_flow_does():
    process = GaussianDiffusion(cosine_betas(1000))
    null, conditional = perfect_eps(TWO, process), perfect_eps(TWO.of_class(1), process)

    def guided(x_t, t):
        return guide(null(x_t, t), conditional(x_t, t), scale=3.0, channels=1)

    x_T = normal(400, 1)
    drawn = ddim_sample(guided, process.respace(250), x_T, None, clip=None)
    ends = guided_flow(TWO, 1, 3.0, x_T)
    assert float((drawn - ends).abs().max()) < 0.03


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_an_exact_classifier_makes_the_conditional_model(prediction: Prediction):
    """Bayes' rule: the network of all points and the classifier's gradient are the
    network of one class.
    """
    process = GaussianDiffusion(cosine_betas(1000), prediction)

    def network(world):
        eps = perfect_eps(world, process)
        return lambda x_t, t: process.prediction_from_noise(x_t, t, eps(x_t, t))

    def classifier(x_t, t):
        noised = PLANE.noised(float(process.alphas_cumprod[int(t[0])]))
        logs = [noised.log_class_probability(x_t, y) for y in (0, 1)]
        return torch.stack(logs, dim=1) + 5.0  # logits are known up to a constant

    x_t = normal(6, 2)
    t = torch.full((6,), 400)
    gradient = class_gradient(classifier, torch.ones(6, dtype=torch.int64))
    pulled = classifier_guided(network(PLANE), gradient, process, clip=None)
    torch.testing.assert_close(pulled(x_t, t), network(PLANE.of_class(1))(x_t, t))


def test_both_kinds_of_guidance_are_one_score():
    x, abar = normal(10, 2), 0.3
    noised = PLANE.noised(abar)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(noised.log_class_probability(x, 1).sum(), x)
    x = x.detach()
    expected = noised.score(x) + 2.5 * gradient
    torch.testing.assert_close(guided_score(PLANE, 1, 2.5, abar, x), expected)


def test_the_shifted_mean_of_short_steps_draws_from_the_class():
    process = GaussianDiffusion(cosine_betas(1000))
    classifier_noise = torch.Generator().manual_seed(1)

    def gradient(x_t, t):
        abar = float(process.alphas_cumprod[int(t[0])])
        return guided_score(TWO, 1, 1.0, abar, x_t) - TWO.noised(abar).score(x_t)

    def noise(shape):
        return torch.randn(shape, generator=classifier_noise, dtype=torch.float64)

    drawn = ancestral_sample(
        perfect_eps(TWO, process),
        process,
        normal(2000, 1),
        noise,
        clip=None,
        gradient=gradient,
    )
    assert float(drawn.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(drawn.std()) == pytest.approx(0.4, abs=0.03)


def test_what_is_no_mixture():
    with pytest.raises(Dalle2EduError, match="add up to 1"):
        mixture([0.5, 0.6], [[0.0], [1.0]], [1.0, 1.0], [0, 1])
    with pytest.raises(Dalle2EduError, match=r"means \(K, D\)"):
        mixture([1.0], [0.0], [1.0], [0])
    with pytest.raises(Dalle2EduError, match="class 7"):
        TWO.of_class(7)
