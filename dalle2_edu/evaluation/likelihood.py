r"""Bits per dimension: how short could a data set be written down by someone who knows
the model?

The idea: a model that gives a picture the probability p(x) can be turned into a
compressor that needs -log2 p(x) bits for it. A diffusion model does not say p(x), but
it bounds it from below, so we count the bits that are enough:

    bits/dim = (L_0 + L_1 + ... + L_(T-1) + L_T) / (dimensions ln 2)

(improved DDPM, 2102.09672, section 3) with dimensions = channels x height x width.
Eight bits per dimension is what the bytes take unwritten; a model must stay below.
Likelihood and looks are different things: most bits pay for the last, invisible levels
of noise.

Each picture has separate noise, by its place in the set: the result does not depend
on the batch size.

Chapter 09 (better and faster) uses this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.samplers import Denoiser
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.errors import Dalle2EduError


@dataclass(frozen=True)
class Likelihood:
    """What a data set costs, in bits per dimension: the mean over its pictures, and
    where the bits go.
    """

    bits_per_dim: float
    error: float  # standard error of the mean, from the spread over the pictures
    prior: float  # L_T
    terms: Tensor  # L_0 ... L_(T-1) of each picture, (N, T)


def likelihood(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    images: Tensor,
    seed: int = 0,
    batch_size: int = 64,
    clip: float | None = None,
) -> Likelihood:
    """The bound on the bits of images, uint8 (N, C, H, W), N > 1, by one draw of noise
    for each picture and step.

    model(x_t, t) lives on the device of its choice, CPU pictures are moved by the
    caller. A respaced process gives the cost of the shorter chain. clip as in
    `GaussianDiffusion.predict_start`. Raises Dalle2EduError for fewer than two pictures
    or pictures that aren't bytes: of floats no finite number of bits is enough.
    """
    if images.dtype != torch.uint8 or len(images) < 2:
        raise Dalle2EduError(
            "Bits are counted of two or more pictures made of bytes (uint8), not of"
            f" {len(images)} in {images.dtype}."
        )
    priors = []
    terms = []
    for places in torch.arange(len(images)).split(batch_size):
        x0 = images[places].float() / 127.5 - 1  # bytes 0..255 => [-1, 1]
        # by the picture's place, so that its noise does not depend on the batch
        seeds = [seed * 1_000_003 + place for place in places.tolist()]
        noise = SeededNoise(seeds, images.device)
        priors.append(diffusion.prior_bpd(x0))  # L_T of each picture, (B,)
        # L_0 ... L_(T-1), (B, T)
        terms.append(diffusion.vlb_terms(model, x0, noise, clip))
    prior = torch.cat(priors)  # (N,)
    term = torch.cat(terms)  # (N, T)
    bits = prior + term.sum(dim=1)  # the whole bound, (N,)
    error = bits.std() / len(bits) ** 0.5  # of the mean
    return Likelihood(
        bits_per_dim=bits.mean().item(),
        error=error.item(),
        prior=prior.mean().item(),
        terms=term,
    )
