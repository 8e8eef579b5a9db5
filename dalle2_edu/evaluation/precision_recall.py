"""Precision and recall of a set of pictures: is what was drawn real, and was all that
is real drawn?

The Fréchet distance is one number for two failures. A generator that draws one perfect
picture for ever and one that draws everything, badly, can have the same. Improved
precision and recall (arXiv 1904.06991) takes them apart. Each set is a cloud of
features. Around each point of a cloud put a ball that reaches to its k-th nearest
neighbour in the same cloud: together the balls are a guess of where that distribution
lives.

    precision = share of generated features inside a ball of the real ones          Eq. 2
    recall    = share of real features inside a ball of the generated ones          Eq. 3

    high precision, low recall    few things, drawn well
    low precision, high recall    everything, drawn badly

Both depend on k and on how many pictures there are (more pictures, smaller balls), so
compare only numbers of equal k and N, and with the real pictures' own: two sets of real
pictures do not reach 1.

Chapters 03, 06 and 20 use this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import intervals
from dalle2_edu.evaluation.intervals import Measure

NEIGHBOUR = 3  # k, as in the paper


@dataclass(frozen=True)
class PrecisionRecall:
    """Both shares in per cent, with Wilson's 95% intervals. The intervals hold the
    balls fixed: they say what other pictures of the *judged* set would change.
    """

    precision: Measure
    recall: Measure


def precision_recall(
    real: Tensor, generated: Tensor, k: int = NEIGHBOUR
) -> PrecisionRecall:
    """Of features real (N, D) and generated (M, D), say a judge's embeddings.

    Raises Dalle2EduError for shapes that don't match, for a set of no more than k, and
    for features that aren't finite.
    """
    _check(real, generated, k)
    return PrecisionRecall(
        precision=intervals.share(inside(generated, real, k)),
        recall=intervals.share(inside(real, generated, k)),
    )


def inside(points: Tensor, cloud: Tensor, k: int = NEIGHBOUR) -> Tensor:
    """Which points (M, D) lie in a ball of the cloud (N, D): bool (M,);
    1904.06991, Eq. 1.
    """
    # float64, and no shortcut by a matrix product: a copy of a point is at distance 0
    distance = _distances(points, cloud)  # (M, N)
    return (distance <= radii(cloud, k)).any(dim=1)


def radii(cloud: Tensor, k: int = NEIGHBOUR) -> Tensor:
    """How far each point's k-th nearest neighbour is, (N,), itself not counted."""
    # the nearest of all is the point itself
    return _distances(cloud, cloud).kthvalue(k + 1, dim=1).values


def _distances(a: Tensor, b: Tensor) -> Tensor:
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(a.detach().double(), b.detach().double(), compute_mode=exact)


def _check(real: Tensor, generated: Tensor, k: int) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise Dalle2EduError(
            "Precision and recall compare features (N, D) with (M, D), "
            f"not {tuple(real.shape)} with {tuple(generated.shape)}."
        )
    if k < 1 or min(len(real), len(generated)) <= k:
        raise Dalle2EduError(
            f"The {k}-th nearest neighbour needs more than {k} pictures on each side, and k"
            f" of at least 1; there are {len(real)} and {len(generated)}."
        )
    if not (real.isfinite().all() and generated.isfinite().all()):
        raise Dalle2EduError(
            "Some features are not finite; look at the pictures, or the network behind them."
        )
