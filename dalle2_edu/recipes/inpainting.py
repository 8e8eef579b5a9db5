"""Fine-tuning for inpainting: random regions are erased, the rest is shown.

    rectangles   a side from an eighth to three quarters of the picture
    strokes      a brush that goes back and forth between a few random points: edges at every angle, thin and thick
    everything   one picture in ten, so that the network stays a decoder that can draw on an empty sheet

The loss counts the pixels of the hole only: at sampling the known ones are put in place
anyway (`repaint`), and a network this small has no strength to spare. (GLIDE, arXiv
2112.10741, section 3, speaks of no such restriction.)

**The decoder** learns so on whole pictures. Half of the time it does not get the image
embedding: that embedding was made from the whole picture and tells what is in the hole,
and a network that reads it need not look around. GLIDE has no image embedding.

**The upsamplers** learn on crops. Outside of the hole their small picture is a true
one; inside it is what the stage below painted. So it is damaged only there, and more
than for a plain upsampler: what was painted into a hole does not quite meet what is
around it. A line goes on a pixel too far up, a background is a shade too dark; the
known pixels tell how to set it right.

Chapters 17 and 19 use this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.process import GaussianDiffusion, index_timesteps
from dalle2_edu.drawing.pictures import cover
from dalle2_edu.drawing.run import Run, SeededNoise
from dalle2_edu.recipes.data import LARGE_SIZE, noise_like, shrink, to_float
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.recipes.unclip import (
    DECODER_TRAINING,
    UPSAMPLER_TRAINING,
    DecoderTask,
    Numbers,
    UpsamplerTask,
    fresh_or_pairs,
    random_crops,
)
from dalle2_edu.text2image.inpainting import repaint
from dalle2_edu.unclip import upsampler
from dalle2_edu.unclip.inpaint_networks import InpaintDecoder, InpaintUpsampler
from dalle2_edu.unclip.inpainting import inpaint_detail

IMAGE_DROP = 0.5  # how often the decoder must do without z_i
MOVED = 1.0  # standard deviation of what `misdrawn` moves, in pixels
TINTED = 0.06  # and of how far it is off in colour, of a picture's [-1, 1]
EVERYTHING = 0.1  # the share of pictures that are erased altogether
POINTS = 5  # that a stroke goes through


class InpaintTask(DecoderTask):
    """As the decoder's task, with a hole in each picture."""

    def network(self, model: Any) -> nn.Module:
        """model: the trained decoder that it starts from."""
        return InpaintDecoder.from_decoder(model)

    def measure_data(self) -> None:
        """Nothing: it keeps what its decoder knows of the embeddings."""

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        n = len(indices)
        network: Any = self.model
        keep = torch.rand(n) >= IMAGE_DROP
        batch = super().batch(indices)
        hole = random_holes(n, network.config.unet.image_size)
        return {**batch, "image_keep": keep, "hole": hole}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Numbers]:
        x0 = to_float(batch.pop("images"))  # (B, 3, S, S)
        index = index_timesteps(len(x0), self.diffusion, generator)
        noise = noise_like(x0, generator)
        loss = hole_loss(self.diffusion, model, x0, index, noise, known=x0, **batch)
        return loss, {}

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures with their holes grey above, painted below: (2 * GRID, 3, S, S)."""
        device = next(model.parameters()).device
        known, conditional, empty = self.chosen(device)
        hole = fixed_holes(len(known), known.shape[-1], device)
        place = {"known": known, "hole": hole}
        denoiser = classifier_free(
            model, 2.0, {**empty, **place}, {**conditional, **place}
        )
        noise = SeededNoise(range(len(known)), device)
        process = self.diffusion.respace(25)
        drawn = repaint(denoiser, process, known, hole, noise, resamples=1)
        return torch.cat([without(known, hole), drawn]).cpu()


class InpaintUpsamplerTask(UpsamplerTask):
    """As the upsampler's task, with a hole in each picture."""

    def network(self, model: Any) -> nn.Module:
        """model: the trained upsampler that it starts from."""
        return InpaintUpsampler.from_upsampler(model)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images = shrink(self.images[indices], self.side)
        hole = random_holes(len(indices), self.side).to(images.dtype)
        both = torch.cat([images, hole], dim=1)  # (B, 4, S, S): cropped alike
        crops = random_crops(both, self.crop, step=upsampler.FACTOR)
        return {"images": crops[:, :3], "hole": crops[:, 3:].bool()}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Numbers]:
        images = to_float(batch["images"])  # (B, 3, S/4, S/4)
        hole = batch["hole"]  # (B, 1, S/4, S/4)
        small = upsampler.reduce(images, upsampler.FACTOR)
        painted = self.damaged(misdrawn(small, generator), generator)
        low_res = torch.where(cover(hole, small.shape[-1]), painted, small)
        x0 = upsampler.to_detail(images, low_res)
        index = index_timesteps(len(x0), self.diffusion, generator)
        noise = noise_like(x0, generator)
        given = {"low_res": low_res, "known": images}
        return hole_loss(self.diffusion, model, x0, index, noise, hole, **given), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures with their holes grey above, painted below, from true small
        pictures: (GRID, 3, S, S).
        """
        assert isinstance(model, InpaintUpsampler)
        known = self.chosen(next(model.parameters()).device)
        n, device = len(known), known.device
        hole = fixed_holes(n, self.side, device)
        low_res = upsampler.reduce(known, upsampler.FACTOR)
        run = Run(list(range(n)), device)
        drawn = inpaint_detail(model, self.stage, low_res, known, hole, run)
        return torch.cat([without(known, hole), drawn]).cpu()


def without(known: Tensor, hole: Tensor) -> Tensor:
    """The pictures with their holes grey."""
    return torch.where(hole, torch.zeros_like(known), known)


def hole_loss(
    diffusion: GaussianDiffusion,
    model: nn.Module,
    x0: Tensor,
    index: Tensor,
    noise: Tensor,
    hole: Tensor,
    **given: Tensor,
) -> Tensor:
    """The mean loss of a pixel in the holes (B, 1, H, W) of a batch; the rest as in
    `training_losses`.
    """
    target = diffusion.calculate_v(x0, index, noise)

    def right_outside(x_t: Tensor, t: Tensor, **given: Tensor) -> Tensor:
        return torch.where(hole, model(x_t, t, hole=hole, **given), target)

    # a picture's loss is the mean over all of its pixels, (B,)
    losses = diffusion.training_losses(right_outside, x0, index, noise, **given)
    share = hole.float().mean(dim=(1, 2, 3)).sum()
    one_pixel = 1 / hole[0].numel()  # a batch of crops may have no hole at all
    return losses["loss"].sum() / share.clamp(min=one_pixel)


def misdrawn(low_res: Tensor, generator: torch.Generator) -> Tensor:
    """The small picture as a stage below may paint it that did not see the large one:
    (B, 3, H, W), same out.

    Everything is moved by up to about a pixel, not everywhere alike, and the colours
    are a little off; each picture gets its own share of it, from none to all.
    """
    n, _, height, width = low_res.shape
    device = low_res.device

    def random(draw: Callable[..., Tensor], *shape: int) -> Tensor:
        return draw(n, *shape, generator=generator, device=generator.device).to(device)

    share = random(torch.rand, 1, 1, 1)
    # a shift (x, y) at each corner of the picture
    coarse = random(torch.randn, 2, 2, 2)
    shift = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    size = torch.tensor([width, height], device=device)[:, None, None]
    # pixels => the grid's units, 2 to a picture
    shift = share * shift * MOVED * 2 / size
    identity = torch.eye(2, 3, device=device).expand(n, 2, 3)
    grid = F.affine_grid(identity, [n, 1, height, width], align_corners=False)
    grid = grid + shift.movedim(1, -1)  # (B, H, W, 2)
    moved = F.grid_sample(low_res, grid, padding_mode="border", align_corners=False)
    tint = random(torch.randn, 3, 1, 1)
    return (moved + share * tint * TINTED).clamp(-1, 1)


def fixed_holes(n: int, side: int, device: torch.device) -> Tensor:
    """The same holes in every grid."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return random_holes(n, side).to(device)


def random_holes(n: int, side: int) -> Tensor:
    """What to erase of n pictures: bool (n, 1, side, side), True where. Drawn from
    torch's global generator.
    """
    kind = torch.rand(n, 1, 1)
    holes = torch.where(kind < 0.5, rectangles(n, side), strokes(n, side))
    return (holes | (kind > 1 - EVERYTHING))[:, None]


def rectangles(n: int, side: int) -> Tensor:
    """A rectangle in each of n pictures, wholly inside: bool (n, side, side)."""
    size = side * (1 / 8 + 5 / 8 * torch.rand(n, 2))  # (n, 2): height, width
    first = torch.rand(n, 2) * (side - size)
    last = first + size
    centres = torch.arange(side) + 0.5  # of the pixels
    # (n, 2, side)
    inside = (centres >= first[..., None]) & (centres <= last[..., None])
    # (n, side, 1) and (n, 1, side)
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def strokes(n: int, side: int) -> Tensor:
    """A zigzag of a round brush in each of n pictures: bool (n, side, side)."""
    points = side * torch.rand(n, POINTS, 2)
    radius = side * (0.03 + 0.09 * torch.rand(n, 1, 1))
    centres = torch.arange(side) + 0.5  # of the pixels
    # (S, S, 2)
    pixels = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1)
    start = points[:, :-1, None, None]  # (n, POINTS - 1, 1, 1, 2)
    way = points.diff(dim=1)[:, :, None, None]  # from each point to the next
    offset = pixels - start  # (n, POINTS - 1, S, S, 2)
    length = way.square().sum(-1).clamp(min=1e-6)
    along = ((offset * way).sum(-1) / length).clamp(0, 1)  # the segment's nearest point
    distance = (offset - along[..., None] * way).norm(dim=-1)  # (n, POINTS - 1, S, S)
    return distance.amin(dim=1) <= radius


# --- recipes: they start from trained networks, so they need fewer steps --------------

DECODER_TUNING = replace(
    DECODER_TRAINING, steps=5000, decay="cosine", sample_every=1000
)
DECODER_TUNING_ON_GPU = {
    "steps": 5000,
    "batch_size": 512,
    "ema": 0.9995,
    "save_every": 1000,
    "sample_every": 1000,
}
UPSAMPLER_TUNING = replace(UPSAMPLER_TRAINING, steps=3000)
UPSAMPLER_TUNING_ON_GPU = {
    "steps": 5000,
    "batch_size": 512,
    "ema": 0.9995,
    "save_every": 2500,
    "sample_every": 2500,
}

RECIPES = (
    Recipe(
        "inpaint",
        InpaintDecoder,
        InpaintTask,
        domains=("shapes", "emoji"),
        teaches="the decoder, taught to inpaint",
        part="inpaint_decoder",
        reads_clip=True,
        starts_from="decoder",
        cpu=DECODER_TUNING,
        gpu=DECODER_TUNING_ON_GPU,
        data=fresh_or_pairs,
    ),
    Recipe(
        "inpaint-upsampler-64",
        InpaintUpsampler,
        InpaintUpsamplerTask,
        domains=("shared",),
        teaches="32 -> 64 pixels, taught to inpaint",
        starts_from="upsampler_64",
        cpu=UPSAMPLER_TUNING,
        gpu=UPSAMPLER_TUNING_ON_GPU,
        picture_size=LARGE_SIZE,
        options={"damage": "blur"},
    ),
    Recipe(
        "inpaint-upsampler-128",
        InpaintUpsampler,
        InpaintUpsamplerTask,
        domains=("shared",),
        teaches="64 -> 128 pixels, taught to inpaint",
        starts_from="upsampler_128",
        cpu=UPSAMPLER_TUNING,
        gpu=UPSAMPLER_TUNING_ON_GPU,
        picture_size=LARGE_SIZE,
        options={"damage": "bsr"},
    ),
)
