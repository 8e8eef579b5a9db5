r"""Inpainting: paint a hole anew so that it fits what is around it, with a network that
never learned to.

The idea: the known part needs no guess. At each level of noise we know what it should
look like, the picture noised to that level; so it is put in place of what the sampler
made of it, and the network sees the true surroundings of the hole while it paints.

    known part    x_(t-1) = sqrt(abar_(t-1)) x_0 + sqrt(1 - abar_(t-1)) eps          RePaint (arXiv 2201.09865), Eq. 8a
    hole          x_(t-1) = one step of the sampler from x_t                         Eq. 8b
    both          x_(t-1) = mask * hole + (1 - mask) * known                         Eq. 8c
    going back    x_t     = sqrt(1 - beta_t) x_(t-1) + sqrt(beta_t) eps              Algorithm 1, line 9

The trap: a step looks at the surroundings as they were noised one level higher. What it
paints fits their *old* noise, and the known part never adapts to the painted part.
RePaint goes back up a few levels (`jump`), which mixes both parts into one noise, and
comes down again, several times (`resamples`). Each time the network harmonises them a
little more. The walk up and down is `repaint_walk`.

Here mask is True where to PAINT; RePaint's m is 1 where the picture is known.

The other way is to teach the network: GLIDE (arXiv 2112.10741, section 3) feeds the
known picture and the mask as four more input channels whose weights start at zero. Such
a denoiser is closed over both, `lambda x_t, t: model(cat(x_t, known, mask), t)`, and
can be given to `repaint` with resamples=1, which then only keeps the known pixels in
place.

Chapter 14 (GLIDE) uses this file; chapter 19 has unCLIP inpaint.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dalle2_edu.diffusion.process import Clip, GaussianDiffusion
from dalle2_edu.diffusion.samplers import (
    Callback,
    Denoiser,
    Noise,
    ddim_move,
    ddim_sigmas,
)
from dalle2_edu.errors import Dalle2EduError

GREY_LEVEL = 2 / 255  # one step of a byte, in [-1, 1]


def repaint_walk(steps: int, jump: int, resamples: int) -> list[int]:
    """The levels of noise that RePaint visits, from `steps` (noise) to 0 (clean), each
    beside the one before.

    On its way down the walk comes to level 1, 1 + jump, 1 + 2 jump, ... `resamples`
    times each: it climbs `jump` levels again after all but the last visit. resamples=1
    goes straight down. 250 steps with RePaint's jump and resamples of 10 make 4,570
    moves. Raises Dalle2EduError unless all three are 1 or more.
    """
    if min(steps, jump, resamples) < 1:
        raise Dalle2EduError(
            f"steps, jump and resamples must be 1 or more, not {steps}, {jump} and {resamples}."
        )
    landings = range(1, steps - jump + 1, jump)  # the levels from which it climbs again
    climbs_left = dict.fromkeys(landings, resamples - 1)
    level = steps  # how noisy the picture is now
    walk = [steps]
    while level > 0:
        level -= 1  # one step of the sampler
        walk.append(level)
        if climbs_left.get(level, 0):  # up again, before it goes on down
            climbs_left[level] -= 1
            walk += range(level + 1, level + jump + 1)  # up, one level after the other
            level += jump
    return walk


@torch.no_grad()
def repaint(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    known: Tensor,
    mask: Tensor,
    noise: Noise,
    jump: int = 5,
    resamples: int = 5,
    eta: float = 1.0,
    clip: Clip = 1.0,
    callback: Callback | None = None,
    progress: str | None = None,
) -> Tensor:
    """Paint what the mask marks, keep the rest exactly; RePaint, Algorithm 1.

    known: (B, C, H, W), its numbers under the mask are not looked at. mask: bool, True
    where to paint, any shape that broadcasts to it. eta is the share of fresh noise in
    a step down, as in `ddim_sample`: RePaint's ancestral sampling is 1. The other
    arguments are those of the samplers; callback(move, x, pred_x0) is called after each
    move down. Returns (B, C, H, W), equal to known, bit by bit, where the mask is
    False. Raises Dalle2EduError for a mask that is not bool or of another size.
    """
    _check_mask(mask, known)
    sigmas = ddim_sigmas(diffusion, eta).tolist()  # σ_t of each step
    levels = repaint_walk(diffusion.num_timesteps, jump, resamples)
    moves = list(pairwise(levels))  # from which level to which
    x = noise(known.shape).to(known.dtype)  # x_T
    # nothing under the mask can leak
    known = torch.where(mask, torch.zeros_like(known), known)
    for move, (level, goal) in enumerate(
        moves if progress is None else tqdm(moves, desc=progress)
    ):
        if goal > level:  # up: both parts get the same new noise
            x = _noised_once(diffusion, x, level, noise)
            continue
        sigma = sigmas[level - 1]
        # Eq. 8b
        x, pred_x0 = _denoised_once(model, diffusion, x, level, sigma, noise, clip)
        surroundings = _at_level(diffusion, known, goal, noise)  # Eq. 8a
        x = torch.where(mask, x, surroundings)  # Eq. 8c
        if callback is not None:
            callback(move, x, pred_x0)
    return x


def _denoised_once(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x: Tensor,
    level: int,
    sigma: float,
    noise: Noise,
    clip: Clip,
) -> tuple[Tensor, Tensor]:
    """One level down, and the predicted x_0. Level 1 is the process's step 0."""
    index = torch.full((len(x),), level - 1, dtype=torch.int64, device=x.device)  # (B,)
    t = diffusion.original_timesteps(index)  # what the network calls this step
    model_out = model(x, t)
    pred_x0 = diffusion.predict_start(model_out, x, index, clip)  # predicted x_0
    eps = diffusion.predict_noise_from_start(x, index, pred_x0)  # ε that goes with it
    abar_prev = diffusion.alphas_cumprod_prev[level - 1].item()  # ᾱ_(t-1)
    x = ddim_move(pred_x0, eps, abar_prev, sigma)
    if sigma > 0:
        x = x + sigma * noise(x.shape).to(x.dtype)  # + σ_t z
    return x, pred_x0


def _noised_once(
    diffusion: GaussianDiffusion, x: Tensor, level: int, noise: Noise
) -> Tensor:
    """One level up, by the forward process."""
    beta = diffusion.betas[level].item()  # β_t
    eps = noise(x.shape).to(x.dtype)  # ε
    signal = (1 - beta) ** 0.5  # √(1 - β_t)
    sigma = beta**0.5  # √β_t
    return signal * x + sigma * eps


def _at_level(
    diffusion: GaussianDiffusion, known: Tensor, level: int, noise: Noise
) -> Tensor:
    """The known picture noised to a level; level 0 is the picture itself."""
    if level == 0:  # clean: nothing to add
        return known
    # (B,)
    index = torch.full((len(known),), level - 1, dtype=torch.int64, device=known.device)
    eps = noise(known.shape).to(known.dtype)  # new noise at every visit
    return diffusion.q_sample(known, index, eps)


def _check_mask(mask: Tensor, known: Tensor) -> None:
    try:
        fits = torch.broadcast_shapes(mask.shape, known.shape) == known.shape
    except RuntimeError:
        fits = False
    if mask.dtype != torch.bool or not fits:
        raise Dalle2EduError(
            f"The mask must be bool and fit pictures {tuple(known.shape)}: it is {mask.dtype}"
            f" {tuple(mask.shape)}."
        )


# --- the seam -------------------------------------------------------------------------


@dataclass(frozen=True)
class Seam:
    """How much neighbouring pixels differ on average, (B,) each: across the mask's
    edge, and inside what was painted.

    ratio is 1 where the edge looks like any other place, more where a seam shows. A
    hole that is flatter than a step of a byte counts as one step.
    """

    across: Tensor  # (B,)
    inside: Tensor  # (B,)

    @property
    def ratio(self) -> Tensor:
        return self.across / self.inside.clamp(min=GREY_LEVEL)


def seam(images: Tensor, mask: Tensor) -> Seam:
    """Measure the seam of painted pictures (B, C, H, W) along the edge of a bool mask
    (B or 1, 1, H, W).

    nan where there is no edge, or where no two painted pixels are neighbours.
    """
    mask = mask.expand(len(images), 1, *images.shape[-2:])  # (B, 1, H, W)
    zeros = images.new_zeros(len(images))  # (B,)
    across = zeros.clone()  # sum of the differences over the edge
    edges = zeros.clone()  # and their number
    inside = zeros.clone()  # the same inside the mask
    inner = zeros.clone()
    for dim in (-2, -1):  # down, then to the right
        length = images.shape[dim] - 1
        difference = images.diff(dim=dim).abs()  # (B, C, H - 1, W) or (B, C, H, W - 1)
        difference = difference.mean(dim=1)  # over the channels
        # of two neighbours: is this one painted?
        first = mask.narrow(dim, 0, length)[:, 0]
        second = mask.narrow(dim, 1, length)[:, 0]  # and this one?
        on_edge = first ^ second  # exactly one of the two
        both_painted = first & second
        across += (difference * on_edge).sum(dim=(1, 2))
        edges += on_edge.sum(dim=(1, 2))
        inside += (difference * both_painted).sum(dim=(1, 2))
        inner += both_painted.sum(dim=(1, 2))
    # 0 / 0 is nan: there was nothing to measure
    return Seam(across / edges, inside / inner)
