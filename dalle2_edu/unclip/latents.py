r"""Latents: the two halves of a picture in unCLIP, and how to walk between two of them.

The idea: a picture has two halves. z_i is its CLIP embedding: what the picture is of.
x_T is the noise from which the decoder, given z_i, paints exactly this picture:
everything that CLIP does not see. Keep x_T and move z_i, and the picture changes its
meaning but not its pose; keep z_i and redraw the noise, and it is another picture of
the same.

    bipartite latent   (z_i, x_T)                                        unCLIP (arXiv 2204.06125), section 3
    blend              z(theta) = slerp(z_1, z_2, theta)                 theta from 0 to 1, section 3.2
    text diff          z_d = (z_t - z_t0) / |z_t - z_t0|
                       z(theta) = slerp(z_i, z_d, theta)                 theta from 0 to 0.25 ... 0.5, section 3.3
    PCA                z ~ mean + sum_(k <= rank) c_k e_k                section 4 (figure 7) and 2.2 (the AR prior)

Embeddings have length 1, so the straight line between two of them leaves the sphere;
its middle is shorter than any embedding the decoder has seen. The way to go is the arc.
With omega the angle between a and b,

    slerp(a, b, theta) = sin((1 - theta) omega) / sin(omega) a + sin(theta omega) / sin(omega) b
                       = cos(theta omega) a + sin(theta omega) p,   p the unit vector in b's direction off a

The second form is computed here: where a and b are parallel or opposite, sin(omega) is
0 and the first one breaks.

Chapter 19 uses this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError

# a unit vector's part off the other one is nothing but rounding below this
PARALLEL = 1e-6


@dataclass(frozen=True)
class Latent:
    """The bipartite latent of B pictures: z_i (B, D), their CLIP embeddings, and x_T
    (B, 3, S, S), the noise that the decoder starts from.
    """

    z_i: Tensor  # what the picture is of
    x_T: Tensor  # noqa: N815


# --- slerp ----------------------------------------------------------------------------


def slerp(a: Tensor, b: Tensor, theta: float | Tensor) -> Tensor:
    """The point at the share theta of the way from a to b along the sphere.

    a, b: (B, ...), where all numbers of a picture are one vector; or one vector, (D,).
    theta: from 0 to 1, one number or (B,). Returns the shape of a and b.

    The direction turns evenly; the length goes evenly from one's to the other's, so
    equal lengths stay. Between opposite vectors all half circles are equally short: one
    is chosen, always the same. The zero vector has no direction: the other's is kept
    all the way. Raises Dalle2EduError for theta outside [0, 1] or unequal shapes.
    """
    if a.shape != b.shape:
        raise Dalle2EduError(
            f"There is no way from shape {tuple(a.shape)} to {tuple(b.shape)}: they must be"
            " the same."
        )
    theta = torch.as_tensor(theta, dtype=a.dtype, device=a.device)
    inside = (theta >= 0) & (theta <= 1)
    if not bool(inside.all()):
        raise Dalle2EduError(
            f"theta goes from 0, the one end, to 1, the other; {theta.flatten().tolist()} lies"
            " outside."
        )
    theta = theta.reshape(-1, 1)  # (B, 1) or (1, 1)
    if a.dim() == 1:
        return _slerp_rows(a[None], b[None], theta)[0]
    rows = _slerp_rows(a.flatten(1), b.flatten(1), theta)  # (B, everything else)
    return rows.reshape(a.shape)


def _slerp_rows(a: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    """slerp of the rows (B, D); theta (B, 1) or (1, 1)."""
    length = torch.lerp(_length(a), _length(b), theta)  # (B, 1)
    unit_a = _unit(a, otherwise=b)  # (B, D)
    unit_b = _unit(b, otherwise=a)
    cosine = _dot(unit_a, unit_b)  # cos(omega), (B, 1)
    rest = unit_b - cosine * unit_a  # the part of b at a right angle to a
    aside = _unit(rest, otherwise=_perpendicular(unit_a))
    # Gram-Schmidt twice: where a and b are nearly parallel, the first rest is rounding
    left = _dot(unit_a, aside)
    rest = aside - left * unit_a
    aside = _unit(rest, otherwise=aside)  # p, (B, D)
    # atan2 and not acos: near 0 and pi, acos loses half of the digits
    difference = _length(unit_a - unit_b)  # 2 sin(omega / 2), (B, 1)
    total = _length(unit_a + unit_b)  # 2 cos(omega / 2), (B, 1)
    omega = 2 * torch.atan2(difference, total)
    angle = theta * omega
    turned = torch.cos(angle) * unit_a + torch.sin(angle) * aside  # (B, D)
    return length * turned


def _length(x: Tensor) -> Tensor:
    """The length of each row, (B, 1)."""
    return x.norm(dim=1, keepdim=True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The dot product of rows, (B, 1). Summed: acos of the bare product is a bug found
    in the wild.
    """
    return (a * b).sum(dim=1, keepdim=True)


def _unit(x: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of length 1; where a row is nothing, the other's direction (zero if that is
    nothing too).
    """
    length = _length(x)  # (B, 1)
    smallest = torch.finfo(x.dtype).tiny  # keeps 0 / 0 away
    other_length = _length(otherwise).clamp(min=smallest)
    other = otherwise / other_length
    unit = x / length.clamp(min=PARALLEL)
    return torch.where(length > PARALLEL, unit, other)


def _perpendicular(a: Tensor) -> Tensor:
    """Some direction at a right angle to each row: the axis that the row has least of,
    less its share along the row.
    """
    least = a.abs().argmin(dim=1)  # (B,)
    axis = torch.nn.functional.one_hot(least, a.shape[1]).to(a.dtype)  # (B, D)
    return axis - _dot(a, axis) * a


# --- text diffs -----------------------------------------------------------------------


def text_direction(target: Tensor, source: Tensor | None = None) -> Tensor:
    """z_d: where the words lead, from the source's embeddings (B, D) to the target's,
    at length 1; section 3.3.

    Without a source the target itself is the direction. Raises Dalle2EduError if the
    two say the same.
    """
    difference = target if source is None else target - source
    size = difference.norm(dim=-1, keepdim=True)  # |z_t - z_t0|
    if not bool((size > PARALLEL).all()):
        raise Dalle2EduError(
            "The two texts are the same to CLIP: there is no direction from the one to the"
            " other."
        )
    return difference / size  # z_d


# --- PCA ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PCA:
    """The axes along which embeddings differ most: mean (D,), axes (D, D) with a unit
    vector in each row, and the variances (D,) along them, largest first.
    """

    mean: Tensor  # (D,)
    axes: Tensor  # e_k, one row each
    variances: Tensor  # (D,), falling

    def project(self, z: Tensor, rank: int | None = None) -> Tensor:
        """z (B, D) as coordinates on the first `rank` axes, (B, rank); all of them if
        rank is None.
        """
        axes = self.axes[: self._checked(rank)]  # (rank, D)
        return (z - self.mean) @ axes.T  # c_k = (z - mean) . e_k

    def restore(self, coordinates: Tensor) -> Tensor:
        """Coordinates (B, rank) -> embeddings (B, D)."""
        axes = self.axes[: coordinates.shape[1]]  # (rank, D)
        return self.mean + coordinates @ axes  # mean + sum_k c_k e_k

    def reconstruct(self, z: Tensor, rank: int) -> Tensor:
        """What the first `rank` axes keep of z, (B, D): section 4 paints it. Rank 0
        leaves the mean.
        """
        return self.restore(self.project(z, rank))

    def error(self) -> Tensor:
        """The share of the squared distance from the mean that each rank loses: (D +
        1,), 1 at rank 0, 0 at rank D.
        """
        nothing = self.variances.new_zeros(1)  # rank 0
        # (1,) + (D,) => (D + 1,)
        kept = torch.cat([nothing, self.variances.cumsum(dim=0)])
        return 1 - kept / kept[-1]  # (D + 1,), from 1 down to 0

    def rank_for(self, error: float = 0.01) -> int:
        """The smallest rank that loses less than this share. unCLIP's 319 of 1024 axes
        lose less than 1%.
        """
        small_enough = self.error() < error  # (D + 1,)
        return int(small_enough.double().argmax())  # the first True

    def _checked(self, rank: int | None) -> int:
        most = len(self.axes)
        if rank is not None and not 0 <= rank <= most:
            raise Dalle2EduError(
                f"The rank is the number of axes kept, from 0 to {most}, not {rank}."
            )
        return most if rank is None else rank


def fit_pca(embeddings: Tensor) -> PCA:
    """The principal axes of embeddings (N, D), N at least 2, in their type; computed
    in float64.

    An axis may point either way: here its largest number is positive, so that another
    machine finds the same. Raises Dalle2EduError for fewer than two embeddings, or if
    all are the same.
    """
    if embeddings.dim() != 2 or len(embeddings) < 2:
        raise Dalle2EduError(
            f"PCA needs two embeddings or more, (N, D), not shape {tuple(embeddings.shape)}."
        )
    exact = embeddings.detach().double()  # eigh in float32 mixes close axes
    mean = exact.mean(dim=0)  # (D,)
    centred = exact - mean  # (N, D)
    covariance = centred.T @ centred / (len(exact) - 1)  # (D, D)
    variances, columns = torch.linalg.eigh(covariance)  # rising order
    if variances[-1] < torch.finfo(embeddings.dtype).eps ** 2:
        raise Dalle2EduError("All embeddings are the same: they differ along no axis.")
    falling = variances.flip(0).clamp(min=0)  # (D,); rounding may bring one below 0
    axes = columns.flip(1).T  # (D, D), one axis per row, falling
    largest = axes.abs().argmax(dim=1, keepdim=True)  # (D, 1)
    sign = axes.gather(1, largest).sign()  # (D, 1)
    dtype = embeddings.dtype
    oriented = axes * sign
    return PCA(
        mean=mean.to(dtype),
        axes=oriented.to(dtype),
        variances=falling.to(dtype),
    )
