"""Fine-tuning for inpainting: random regions are erased, the rest is shown.

    rectangles   a side from an eighth to three quarters of the picture
    strokes      a brush that goes back and forth between a few random points: edges at every angle, thin and thick
    everything   one picture in ten, so that the network stays a decoder that can draw on an empty sheet

The loss counts the pixels of the hole only: at sampling the known ones are put in place anyway
(`repaint`), and a network this small has no strength to spare. (GLIDE, arXiv 2112.10741,
section 3, speaks of no such restriction.)

The decoder (`unclip/inpaint_networks.py`) learns so on whole pictures. It is denied the image
embedding half of the time: that embedding was made of the whole picture and tells what is in
the hole, and who reads it need not look around. GLIDE has no such informer.

The upsamplers (`unclip/inpaint_networks.py`) learn on crops. Their small picture is a true one
outside of the hole, and inside it what the stage below drew: so only there it is damaged, and
more than for a plain upsampler, for what was painted into a hole does not quite meet what is
around it. A line goes on a pixel too far up, a ground is a shade too dark; the known pixels
tell how to set it right.

Chapters 17 and 19 use this file.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data.stream import Stream
from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.process import GaussianDiffusion, index_timesteps
from dalle2_edu.drawing.pictures import cover
from dalle2_edu.drawing.run import Run, SeededNoise
from dalle2_edu.text2image.inpainting import repaint
from dalle2_edu.training import tasks
from dalle2_edu.training.loop import TrainConfig
from dalle2_edu.training.tasks import (
    Data,
    DecoderTask,
    UpsamplerTask,
    noise_like,
    random_crops,
    shrink,
    to_float,
)
from dalle2_edu.unclip import upsampler
from dalle2_edu.unclip.decoder import Decoder
from dalle2_edu.unclip.inpaint_networks import InpaintDecoder, InpaintUpsampler
from dalle2_edu.unclip.inpainting import inpaint_detail
from dalle2_edu.unclip.upsampler import Upsampler

IMAGE_DROP = 0.5  # how often the decoder must do without z_i
MOVED, TINTED = (
    1.0,
    0.06,
)  # standard deviations of what `misdrawn` does: in pixels, and of a picture's [-1, 1]
EVERYTHING = 0.1  # the share of pictures that are erased altogether
POINTS = 5  # that a stroke goes through


class InpaintTask(DecoderTask):
    """As the decoder's task, with a hole in each picture. It starts from a trained decoder."""

    def __init__(self, name: str, data: Data, config: TrainConfig, decoder: Decoder):
        model = InpaintDecoder.from_decoder(decoder)
        super().__init__(name, data, config, model.config)
        self.model = model

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        keep, side = torch.rand(len(indices)) >= IMAGE_DROP, self.model_config.unet.image_size
        return {
            **super().batch(indices),
            "image_keep": keep,
            "hole": random_holes(len(indices), side),
        }

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = to_float(batch.pop("images"))
        index = index_timesteps(len(x0), self.diffusion, generator)
        return (
            hole_loss(
                self.diffusion, model, x0, index, noise_like(x0, generator), known=x0, **batch
            ),
            {},
        )

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures with their holes grey above, painted below: (2 * GRID, 3, S, S)."""
        assert isinstance(model, InpaintDecoder)
        chosen = torch.arange(0, self.size, max(1, self.size // tasks.GRID))[: tasks.GRID]
        device, n = model.null_image_emb.device, len(chosen)
        real = self.data.draw(chosen, text_drop=1.0)
        known = to_float(real["images"]).to(device)
        hole = fixed_holes(n, known.shape[-1], device)
        text = {
            name: each.to(device).expand(n, *each.shape[1:])
            for name, each in self.data.null.as_conditioning().items()
        }
        seen = {"known": known, "hole": hole, **text}
        image_emb = real["image_emb"].to(device)
        keep = torch.ones(n, dtype=torch.bool, device=device)
        empty = {"image_emb": image_emb, "image_keep": ~keep, **seen}
        denoiser = classifier_free(
            model, 2.0, empty, {"image_emb": image_emb, "image_keep": keep, **seen}
        )
        noise = SeededNoise(range(n), device)
        drawn = repaint(denoiser, self.diffusion.respace(25), known, hole, noise, resamples=1)
        return torch.cat([torch.where(hole, torch.zeros_like(known), known), drawn]).cpu()


class InpaintUpsamplerTask(UpsamplerTask):
    """As the upsampler's task, with a hole in each picture. It starts from a trained
    upsampler.
    """

    def __init__(
        self,
        name: str,
        images: Tensor | Stream,
        config: TrainConfig,
        trained: Upsampler,
        damage: str,
    ):
        model = InpaintUpsampler.from_upsampler(trained)
        super().__init__(name, images, config, model.config, damage)
        self.model = model

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        side = self.model_config.unet.image_size
        images, hole = shrink(self.images[indices], side), random_holes(len(indices), side)
        crops = random_crops(
            torch.cat([images, hole.to(images.dtype)], dim=1), self.crop, step=upsampler.FACTOR
        )
        return {"images": crops[:, :3], "hole": crops[:, 3:].bool()}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, hole = to_float(batch["images"]), batch["hole"]
        small = upsampler.reduce(images, upsampler.FACTOR)
        low_res = torch.where(
            cover(hole, small.shape[-1]),
            self.damaged(misdrawn(small, generator), generator),
            small,
        )
        x0 = upsampler.to_detail(images, low_res)
        index, noise = (
            index_timesteps(len(x0), self.diffusion, generator),
            noise_like(x0, generator),
        )
        return (
            hole_loss(
                self.diffusion, model, x0, index, noise, hole, low_res=low_res, known=images
            ),
            {},
        )

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures with their holes grey above, painted below, from true small pictures: (GRID,
        3, S, S).
        """
        assert isinstance(model, InpaintUpsampler)
        half, side = tasks.GRID // 2, self.model_config.unet.image_size
        chosen = torch.arange(0, self.size, max(1, self.size // half))[:half]
        device, n = next(model.parameters()).device, len(chosen)
        known = to_float(shrink(self.images[chosen], side)).to(device)
        hole = fixed_holes(n, side, device)
        low_res = upsampler.reduce(known, upsampler.FACTOR)
        drawn = inpaint_detail(
            model,
            upsampler.upsampler_stage(self.model_config),
            low_res,
            known,
            hole,
            Run(list(range(n)), device),
        )
        return torch.cat([torch.where(hole, torch.zeros_like(known), known), drawn]).cpu()


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

    losses = diffusion.training_losses(right_outside, x0, index, noise, **given)
    share = (
        hole.float().mean(dim=(1, 2, 3)).sum()
    )  # a picture's loss is the mean over all of its pixels, (B,)
    return losses["loss"].sum() / share.clamp(
        min=1 / hole[0].numel()
    )  # a batch of crops may have no hole at all


def misdrawn(low_res: Tensor, generator: torch.Generator) -> Tensor:
    """The small picture as a stage below may paint it that did not see the large one: (B, 3, H,
    W), same out.

    Everything is moved by up to about a pixel, not everywhere alike, and the colours are a
    little off; each picture gets its own share of it, from none to all."""
    n, _, height, width = low_res.shape

    def luck(draw: Callable[..., Tensor], *shape: int) -> Tensor:
        return draw(n, *shape, generator=generator, device=generator.device).to(low_res.device)

    share = luck(torch.rand, 1, 1, 1)
    far = F.interpolate(
        luck(torch.randn, 2, 2, 2), (height, width), mode="bilinear", align_corners=True
    )  # in pixels
    grid = F.affine_grid(
        torch.eye(2, 3, device=low_res.device).expand(n, 2, 3), [n, 1, height, width], False
    )
    way = (
        share
        * far
        * MOVED
        * 2
        / torch.tensor([width, height], device=low_res.device)[:, None, None]
    )
    moved = F.grid_sample(
        low_res, grid + way.movedim(1, -1), padding_mode="border", align_corners=False
    )
    return (moved + share * luck(torch.randn, 3, 1, 1) * TINTED).clamp(-1, 1)


def fixed_holes(n: int, side: int, device: torch.device) -> Tensor:
    """The same holes in every grid."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return random_holes(n, side).to(device)


def random_holes(n: int, side: int) -> Tensor:
    """What to erase of n pictures: bool (n, 1, side, side), True where. Luck from torch's
    global generator.
    """
    kind = torch.rand(n, 1, 1)
    holes = torch.where(kind < 0.5, rectangles(n, side), strokes(n, side))
    return (holes | (kind > 1 - EVERYTHING))[:, None]


def rectangles(n: int, side: int) -> Tensor:
    """A rectangle in each of n pictures, wholly inside: bool (n, side, side)."""
    size = side * (1 / 8 + 5 / 8 * torch.rand(n, 2))  # (n, 2): height, width
    first = torch.rand(n, 2) * (side - size)
    centres = torch.arange(side) + 0.5  # of the pixels
    inside = (centres >= first[..., None]) & (
        centres <= (first + size)[..., None]
    )  # (n, 2, side)
    return inside[:, 0, :, None] & inside[:, 1, None, :]  # (n, side, 1) and (n, 1, side)


def strokes(n: int, side: int) -> Tensor:
    """A zigzag of a round brush in each of n pictures: bool (n, side, side)."""
    points, radius = side * torch.rand(n, POINTS, 2), side * (0.03 + 0.09 * torch.rand(n, 1, 1))
    centres = torch.arange(side) + 0.5
    pixels = torch.stack(
        torch.meshgrid(centres, centres, indexing="ij"), dim=-1
    )  # (side, side, 2)
    start, way = (
        points[:, :-1, None, None],
        points.diff(dim=1)[:, :, None, None],
    )  # (n, POINTS - 1, 1, 1, 2)
    off = pixels - start  # (n, POINTS - 1, side, side, 2)
    along = ((off * way).sum(-1) / way.square().sum(-1).clamp(min=1e-6)).clamp(
        0, 1
    )  # the nearest point of each segment
    distance = (off - along[..., None] * way).norm(dim=-1)  # (n, POINTS - 1, side, side)
    return distance.amin(dim=1) <= radius
