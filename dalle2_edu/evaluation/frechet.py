"""The Fréchet distance: do the generated pictures, taken together, look like the real ones?

The idea: a network turns every picture into a vector of features. A set of pictures becomes a
cloud of vectors; describe each cloud by its mean mu and covariance Sigma, as if it were a
Gaussian, and measure how far one Gaussian is from the other. A distance of zero means that the
two sets agree in what is common and in how much it varies. It never looks at a prompt: a model
that ignores its prompts can have an excellent distance.

    d^2 = |mu_1 - mu_2|^2 + Tr(Sigma_1 + Sigma_2 - 2 (Sigma_1 Sigma_2)^(1/2))   Heusel, 1706.08500, eq. 6

The paper's FID (2204.06125, Table 2) takes the 2,048 features of Inception-v3. Ours takes the
image embedding of a CLIP that the generator has never seen, so the numbers can't be compared
with anybody's FID. Compare them with the floor instead: the distance between two sets of real
pictures, which is above zero because the sets are finite.

Chapter 20 uses this file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from dalle2_edu.errors import Dalle2EduError


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Squared Fréchet distance between the Gaussians fitted to two sets of features (N, D) and
    (M, D).

    Each set needs more than D pictures: a covariance of rank below D says nothing about the
    missing directions, and the distance then tells how many pictures there were rather than
    what they look like. The arithmetic is in float64, because the matrix root of a nearly
    singular product loses half of the digits. Raises Dalle2EduError for shapes that don't
    match, for too few pictures and for features that aren't finite."""
    _check(real, generated)
    metric = FrechetInceptionDistance(feature=_PassThrough(real.shape[1]))
    metric.update(real.detach().cpu().double(), real=True)
    metric.update(generated.detach().cpu().double(), real=False)
    return max(0.0, float(metric.compute()))  # rounding can leave -1e-15 between equal sets


def frechet_error(real: Tensor, generated: Tensor, draws: int = 50, seed: int = 0) -> float:
    """Standard error of the distance: the spread over `draws` bootstrap copies of both sets.

    Only the spread is used. The bootstrap's mean lies above the distance, because a resampled
    set has doubles and thus fewer different pictures, and the estimate falls with their number;
    so its percentiles would not contain the value."""
    generator = torch.Generator().manual_seed(seed)
    values = [
        frechet_distance(_resample(real, generator), _resample(generated, generator))
        for _ in range(draws)
    ]
    return float(torch.tensor(values, dtype=torch.float64).std())


def _resample(features: Tensor, generator: torch.Generator) -> Tensor:
    index = torch.randint(len(features), (len(features),), generator=generator)
    return features[index.to(features.device)]  # (N, D), drawn with replacement


class _PassThrough(nn.Module):
    """Stands where torchmetrics has Inception-v3: our features are computed already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features  # torchmetrics asks for it, to size its sums

    def forward(self, features: Tensor) -> Tensor:
        return features


def _check(real: Tensor, generated: Tensor) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
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
