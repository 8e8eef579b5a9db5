"""Fine-tuning the decoder for inpainting (`unclip/inpaint_decoder.py`): random regions are erased, the rest is shown.

    rectangles   a side from an eighth to three quarters of the picture
    strokes      a brush that goes back and forth between a few random points: edges at every angle, thin and thick
    everything   one picture in ten, so that the network stays a decoder that can draw on an empty sheet

The loss counts every pixel, as GLIDE's does (arXiv 2112.10741, section 3): where the picture is shown the answer is
easy, and the network soon spends nothing on it.

Chapter 19 uses this file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.samplers import SeededNoise
from dalle2_edu.text2image.inpainting import repaint
from dalle2_edu.training import tasks
from dalle2_edu.training.loop import TrainConfig
from dalle2_edu.training.tasks import Data, DecoderTask, index_timesteps, noise_like, to_float
from dalle2_edu.unclip.decoder import Decoder
from dalle2_edu.unclip.inpaint_decoder import InpaintDecoder

EVERYTHING = 0.1  # the share of pictures that are erased altogether
POINTS = 5  # that a stroke goes through


class InpaintTask(DecoderTask):
    """As the decoder's task, with a hole in each picture. It starts from a trained decoder."""

    def __init__(self, name: str, data: Data, config: TrainConfig, decoder: Decoder):
        model = InpaintDecoder.from_decoder(decoder)
        super().__init__(name, data, config, model.config)
        self.model = model

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        side = self.model_config.unet.image_size
        return {**super().batch(indices), "hole": random_holes(len(indices), side)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = to_float(batch.pop("images"))
        index = index_timesteps(len(x0), self.diffusion, generator)
        losses = self.diffusion.training_losses(model, x0, index, noise_like(x0, generator), known=x0, **batch)
        return losses["loss"].mean(), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures with their holes grey above, painted below: (2 * GRID, 3, S, S)."""
        assert isinstance(model, InpaintDecoder)
        chosen = torch.arange(0, self.size, max(1, self.size // tasks.GRID))[: tasks.GRID]
        device, n = model.null_image_emb.device, len(chosen)
        real = self.data.draw(chosen, text_drop=1.0)
        known = to_float(real["images"]).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same holes in every grid
            hole = random_holes(n, known.shape[-1]).to(device)
        text = {
            name: each.to(device).expand(n, *each.shape[1:]) for name, each in self.data.null.as_conditioning().items()
        }
        seen = {"known": known, "hole": hole, **text}
        image_emb = real["image_emb"].to(device)
        keep = torch.ones(n, dtype=torch.bool, device=device)
        empty = {"image_emb": image_emb, "image_keep": ~keep, **seen}
        denoiser = classifier_free(model, 2.0, empty, {"image_emb": image_emb, "image_keep": keep, **seen})
        noise = SeededNoise(range(n), device)
        drawn = repaint(denoiser, self.diffusion.respace(25), known, hole, noise, resamples=1)
        return torch.cat([torch.where(hole, torch.zeros_like(known), known), drawn]).cpu()


def random_holes(n: int, side: int) -> Tensor:
    """What to erase of n pictures: bool (n, 1, side, side), True where. Luck from torch's global generator."""
    kind = torch.rand(n, 1, 1)
    holes = torch.where(kind < 0.5, rectangles(n, side), strokes(n, side))
    return (holes | (kind > 1 - EVERYTHING))[:, None]


def rectangles(n: int, side: int) -> Tensor:
    """A rectangle in each of n pictures, wholly inside: bool (n, side, side)."""
    size = side * (1 / 8 + 5 / 8 * torch.rand(n, 2))  # (n, 2): height, width
    first = torch.rand(n, 2) * (side - size)
    centres = torch.arange(side) + 0.5  # of the pixels
    inside = (centres >= first[..., None]) & (centres <= (first + size)[..., None])  # (n, 2, side)
    return inside[:, 0, :, None] & inside[:, 1, None, :]  # (n, side, 1) and (n, 1, side)


def strokes(n: int, side: int) -> Tensor:
    """A zigzag of a round brush in each of n pictures: bool (n, side, side)."""
    points, radius = side * torch.rand(n, POINTS, 2), side * (0.03 + 0.09 * torch.rand(n, 1, 1))
    centres = torch.arange(side) + 0.5
    pixels = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1)  # (side, side, 2)
    start, way = points[:, :-1, None, None], points.diff(dim=1)[:, :, None, None]  # (n, POINTS - 1, 1, 1, 2)
    off = pixels - start  # (n, POINTS - 1, side, side, 2)
    along = ((off * way).sum(-1) / way.square().sum(-1).clamp(min=1e-6)).clamp(
        0, 1
    )  # the nearest point of each segment
    distance = (off - along[..., None] * way).norm(dim=-1)  # (n, POINTS - 1, side, side)
    return distance.amin(dim=1) <= radius
