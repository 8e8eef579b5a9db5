r"""A world where everything about guidance can be computed: a mixture of Gaussians with
classes.

The idea: noise a mixture of Gaussians, and it stays one. So the score at every noise
level, the probability of a class given a noisy point, and what a perfect network would
answer are formulas, not trainings. Whatever a guided sampler does wrong here, no network
is to blame.

    p(x)        = sum_k w_k N(x; mu_k, s_k^2 I)                     each k belongs to a class y
    p_t(x)      = sum_k w_k N(x; sqrt(abar) mu_k, v_k I),           v_k = abar s_k^2 + 1 - abar
    grad log p_t(x)   = sum_k r_k(x) (sqrt(abar) mu_k - x) / v_k,   r_k: how likely x came from k
    eps(x, t)   = -sqrt(1 - abar) grad log p_t(x)                   the perfect network
    grad log p_t(y|x) = grad log p_t(x|y) - grad log p_t(x)         Bayes' rule

Two densities that are easily taken for each other:

    tilted      p(x) p(y|x)^s / Z                what guidance is often said to draw from
    guided      where the guided walk really ends, `guided_density` (one dimension)

Their noisy versions have different scores: the noised tilted density is not the tilted
noised density. For one Gaussian inside a wider one both are Gaussians, and
`guided_gaussian_variance` gives the guided one's variance in closed form.

Chapters 10 and 11 use this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.errors import Dalle2EduError


@dataclass(frozen=True)
class GaussianMixture:
    """K round Gaussians in D dimensions, each with a class.

    weights (K,), positive, adding up to 1; means (K, D); stds (K,), positive; classes
    int64 (K,). float64 throughout. Raises Dalle2EduError if they don't fit together.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor
    classes: Tensor

    def __post_init__(self) -> None:
        k = len(self.weights)
        fits = self.means.dim() == 2 and len(self.means) == k
        if not fits or len(self.stds) != k or len(self.classes) != k:
            raise Dalle2EduError(
                "A mixture of K Gaussians has weights (K,), means (K, D), stds (K,) and"
                " classes (K,)."
            )
        total = float(self.weights.sum())
        positive = bool((self.weights > 0).all()) and bool((self.stds > 0).all())
        if not positive or abs(total - 1) > 1e-9:
            raise Dalle2EduError(
                "A mixture's weights must be positive and add up to 1, and its stds be"
                " positive."
            )

    def of_class(self, y: int) -> GaussianMixture:
        """p(x | y): the Gaussians of one class, their weights adding up to 1 again.
        Raises Dalle2EduError for a class without any.
        """
        chosen = self.classes == y  # (K,)
        if not bool(chosen.any()):
            raise Dalle2EduError(f"No Gaussian of this mixture has the class {y}.")
        weights = self.weights[chosen]
        return GaussianMixture(
            weights=weights / weights.sum(),
            means=self.means[chosen],
            stds=self.stds[chosen],
            classes=self.classes[chosen],
        )

    def noised(self, abar: float) -> GaussianMixture:
        """p_t: what is left of the mixture where ᾱ_t is abar; abar = 1 changes
        nothing.
        """
        variances = abar * self.stds**2 + (1 - abar)  # v_k
        return GaussianMixture(
            weights=self.weights,
            means=math.sqrt(abar) * self.means,
            stds=variances.sqrt(),
            classes=self.classes,
        )

    def log_terms(self, x: Tensor) -> Tensor:
        """log of w_k N(x; mu_k, s_k^2 I) for every point and Gaussian: (N, D) -> (N,
        K).
        """
        offsets = x[:, None] - self.means[None]  # (N, K, D)
        distances = offsets.square().sum(dim=-1)  # (N, K), squared
        dim = x.shape[1]
        normaliser = dim * (self.stds.log() + 0.5 * math.log(2 * math.pi))  # (K,)
        exponents = -0.5 * distances / self.stds**2
        return self.weights.log() + exponents - normaliser

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x): (N, D) -> (N,)."""
        return self.log_terms(x).logsumexp(dim=1)

    def score(self, x: Tensor) -> Tensor:
        """grad log p(x): (N, D) -> (N, D). Each Gaussian pulls towards its own mean."""
        r = self.log_terms(x).softmax(dim=1)  # r_k, (N, K)
        pulls = (self.means[None] - x[:, None]) / self.stds[None, :, None] ** 2
        return (r[..., None] * pulls).sum(dim=1)  # (N, K, D) => (N, D)

    def log_class_probability(self, x: Tensor, y: int) -> Tensor:
        """log p(y | x): (N, D) -> (N,)."""
        log_terms = self.log_terms(x)  # (N, K)
        of_class = log_terms[:, self.classes == y]
        return of_class.logsumexp(dim=1) - log_terms.logsumexp(dim=1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n points, (n, D)."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        shape = (n, self.means.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.means[k] + self.stds[k, None] * noise


def perfect_eps(
    mixture: GaussianMixture, diffusion: GaussianDiffusion
) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser that no training can beat: (x_t (N, D), t (N,)) -> eps, (N, D).

    t names steps of `diffusion`, unrespaced, and is the same for all rows, as samplers
    ask it.
    """

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        abar = float(diffusion.alphas_cumprod[int(t[0])])
        score = mixture.noised(abar).score(x_t.double())
        return (-math.sqrt(1 - abar) * score).to(x_t.dtype)

    return model


# --- two densities --------------------------------------------------------------------


def tilted_density(
    mixture: GaussianMixture, y: int, scale: float, grid: Tensor
) -> Tensor:
    """p(x) p(y|x)^s, made to integrate to 1 over an evenly spaced grid: (N,) -> (N,).

    One dimension. With s = 1 it is p(x | y).
    """
    x = grid[:, None]  # (N, 1)
    log_tilted = mixture.log_density(x)
    log_tilted = log_tilted + scale * mixture.log_class_probability(x, y)
    # the largest is subtracted first: exp() of it would underflow far from the data
    tilted = (log_tilted - log_tilted.max()).exp()
    step = grid[1] - grid[0]
    return tilted / (tilted.sum() * step)


def guided_score(
    mixture: GaussianMixture, y: int, scale: float, abar: float, x: Tensor
) -> Tensor:
    """What a guided sampler follows at one noise level: score + s grad log p(y|x),
    (N, D) -> (N, D).

    It is the same thing as null + s (conditional - null): chapter 11's equation.
    """
    null = mixture.noised(abar).score(x)
    conditional = mixture.of_class(y).noised(abar).score(x)
    return null + scale * (conditional - null)


@torch.no_grad()
def flow(
    score: Callable[[Tensor, float], Tensor], x_T: Tensor, steps: int = 500
) -> Tensor:
    """Where a walk without noise (DDIM, eta = 0) ends if its steps are fine: x_T (N, D)
    -> x_0.

    score(x, abar) is that of the noisy points at the level abar. Solves dx/dsigma =
    -sigma score in EDM's coordinates (x divided by sqrt(abar)) by Heun's method.
    """
    sigmas = torch.logspace(2, -4, steps + 1, dtype=torch.float64)  # 100 => 0.0001

    def slope(x: Tensor, sigma: float) -> Tensor:
        abar = 1 / (1 + sigma**2)
        shrunk = math.sqrt(abar) * x  # in the coordinates that preserve the variance
        return -sigma * math.sqrt(abar) * score(shrunk, abar)

    x = sigmas[0] * x_T  # of standard deviation σ: nearly all noise
    for now, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        first = slope(x, now)
        straight = x + (following - now) * first
        second = slope(straight, following)
        x = x + (following - now) * (first + second) / 2
    return x


def guided_flow(
    mixture: GaussianMixture, y: int, scale: float, x_T: Tensor, steps: int = 500
) -> Tensor:
    """The same with the guided score: where guided DDIM ends, x_T (N, D) -> x_0."""

    def score(x: Tensor, abar: float) -> Tensor:
        return guided_score(mixture, y, scale, abar, x)

    return flow(score, x_T, steps)


def guided_density(
    mixture: GaussianMixture, y: int, scale: float, points: int = 801
) -> tuple[Tensor, Tensor]:
    """The density that guided DDIM draws from, in one dimension: places (N - 1,),
    rising, and densities (N - 1,).

    In one dimension the walk keeps the order of the points, so the mass between two
    neighbours stays what it was in the noise: density = mass / width.
    """
    # equally likely slices of the noise, without the two endless ones
    quantiles = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
    x_T = math.sqrt(2) * torch.erfinv(2 * quantiles - 1)  # (N,)
    ends = guided_flow(mixture, y, scale, x_T[:, None])[:, 0]  # (N,)
    widths = ends.diff()
    mass = quantiles.diff()
    middles = (ends[1:] + ends[:-1]) / 2
    return middles, mass / widths


def guided_gaussian_variance(inside: float, outside: float, scale: float) -> float:
    """The variance that guided DDIM ends with, where p(x|y) = N(0, inside) and p(x) =
    N(0, outside).

        guided  inside^s outside^(1 - s)        tilted  1 / (s / inside + (1 - s) / outside)

    The guided score is linear in x, so the walk multiplies x by a number that can be
    integrated: with variances v + sigma^2 at the noise sigma, d log x / d(sigma^2) = 1/2
    (s / (inside + sigma^2) + (1 - s) / (outside + sigma^2)). Integrated from sigma^2 =
    0 to S, the factor squared tends to (inside^s outside^(1 - s)) / S, and the noise has
    variance S.
    """
    return inside**scale * outside ** (1 - scale)
