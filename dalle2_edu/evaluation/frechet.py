"""The Fréchet distance: do the generated pictures, taken together, look like the real
ones?

The idea: a network turns every picture into a vector of features. A set of pictures
becomes a cloud of vectors; describe each cloud by its mean mu and covariance Sigma, as
if it were a Gaussian, and measure how far one Gaussian is from the other. A distance of
zero means that the two sets agree in what is common and in how much it varies. It never
looks at a prompt: a model that ignores its prompts can have an excellent distance.

    d^2 = |mu_1 - mu_2|^2 + Tr(Sigma_1 + Sigma_2 - 2 (Sigma_1 Sigma_2)^(1/2))   Heusel, 1706.08500, eq. 6

The paper's FID (2204.06125, Table 2) takes the 2,048 features of Inception-v3. Ours
takes the image embedding of a CLIP that the generator has never seen, so the numbers
can't be compared with anybody's FID. Compare them with the floor instead: the distance
between two sets of real pictures, which is above zero because the sets are finite.

Chapters 03, 04, 05, 09, 10, 11, 18 and 20 use this file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Squared Fréchet distance between the Gaussians fitted to two sets of features.

    real (N, D), generated (M, D). Each set needs more than D pictures: a covariance of
    rank below D says nothing about the missing directions, and the distance then tells
    how many pictures there were rather than what they look like. Raises Dalle2EduError
    for shapes that don't match, for too few pictures and for features that aren't
    finite.
    """
    _check(real, generated)
    mu_1, sigma_1 = gaussian(real)
    mu_2, sigma_2 = gaussian(generated)
    means = (mu_1 - mu_2).square().sum()  # |mu_1 - mu_2|^2
    root = trace_of_root(sigma_1, sigma_2)  # Tr (Sigma_1 Sigma_2)^(1/2)
    total = sigma_1.trace() + sigma_2.trace()  # Tr (Sigma_1 + Sigma_2)
    spreads = total - 2 * root
    distance = float(means + spreads)
    return max(0.0, distance)  # rounding can leave -1e-15 between equal sets


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of features (N, D), in float64.

    In float32 the root below would lose half of its few digits where a variance is
    small.
    """
    features = features.detach().cpu().double()
    mu = features.mean(dim=0)  # (D,)
    sigma = torch.cov(features.T)  # (D, D), unbiased: divided by N - 1
    return mu, sigma


def trace_of_root(sigma_1: Tensor, sigma_2: Tensor) -> Tensor:
    """Tr (Sigma_1 Sigma_2)^(1/2), of two covariances (D, D).

    The trace of a root is the sum of the roots of the eigenvalues. The product of two
    symmetric matrices is not symmetric, but its eigenvalues are those of the symmetric
    matrix Sigma_1^(1/2) Sigma_2 Sigma_1^(1/2), which are real and not negative.
    """
    values, vectors = torch.linalg.eigh(sigma_1)  # Sigma_1 = V diag(values) V^T
    roots = values.clamp(min=0).sqrt()  # rounding may leave one at -1e-17
    half = vectors * roots @ vectors.T  # Sigma_1^(1/2) = V diag(roots) V^T
    product = half @ sigma_2 @ half  # symmetric
    eigenvalues = torch.linalg.eigvalsh(product)
    return eigenvalues.clamp(min=0).sqrt().sum()


def frechet_error(
    real: Tensor, generated: Tensor, draws: int = 50, seed: int = 0
) -> float:
    """Standard error of the distance: the spread over `draws` bootstrap copies of both
    sets.

    Only the spread is used. The bootstrap's mean lies above the distance, because a
    resampled set has doubles and thus fewer different pictures, and the estimate falls
    with their number; so its percentiles would not contain the value.
    """
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        real_copy = _resample(real, generator)
        generated_copy = _resample(generated, generator)
        values.append(frechet_distance(real_copy, generated_copy))
    return float(torch.tensor(values, dtype=torch.float64).std())


def _resample(features: Tensor, generator: torch.Generator) -> Tensor:
    n = len(features)
    index = torch.randint(n, (n,), generator=generator)  # with replacement
    return features[index.to(features.device)]  # (N, D)


def _check(real: Tensor, generated: Tensor) -> None:
    matrices = real.ndim == 2 and generated.ndim == 2
    if not matrices or real.shape[1] != generated.shape[1]:
        raise Dalle2EduError(
            "The Fréchet distance compares features (N, D) with (M, D), "
            f"not {tuple(real.shape)} with {tuple(generated.shape)}."
        )
    if min(len(real), len(generated)) <= real.shape[1]:
        raise Dalle2EduError(
            f"The Fréchet distance needs more than {real.shape[1]} pictures, one per feature,"
            f" on each side; there are {len(real)} and {len(generated)}."
        )
    if not (real.isfinite().all() and generated.isfinite().all()):
        raise Dalle2EduError(
            "Some features are not finite; look at the pictures, or the network behind them."
        )
