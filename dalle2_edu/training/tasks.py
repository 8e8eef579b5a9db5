"""What each of DALL·E 2's five networks learns from, and what it calls a loss.

    ClipTask       pictures and captions           -> the contrastive loss
    PriorTask      captions, noised embeddings     -> the clean image embedding
    DecoderTask    image embeddings, captions      -> the picture at 32 x 32
    UpsamplerTask  damaged small pictures          -> crops of the picture at twice the size

CLIP is frozen while the prior and the decoder learn (unCLIP, section 2), so each picture and
each caption is encoded once, before the first step, and never again: `Encoded` holds the
results.

Chapters 12, 15, 16 and 17 use this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.stream import Stream
from dalle2_edu.data.text import Tokenizer
from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.process import index_timesteps
from dalle2_edu.diffusion.samplers import ddim_sample
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.text2image.clip import Clip, ClipConfig, TextEncoding, contrastive_loss
from dalle2_edu.training.loop import TrainConfig
from dalle2_edu.unclip import upsampler
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig, decoder_diffusion
from dalle2_edu.unclip.prior import DiffusionPrior, PriorConfig, prior_diffusion
from dalle2_edu.unclip.upsampler import Upsampler, UpsamplerConfig, upsampler_diffusion

TEXT_DROP_PRIOR = 0.1  # unCLIP, section 2.2
TEXT_DROP_DECODER = 0.5  # section 2.1
IMAGE_DROP_DECODER = 0.1  # section 2.1
GRID = 16  # pictures in a sample grid


def to_float(images: Tensor) -> Tensor:
    """Stored pictures, uint8 0..255, as the models read them: float in [-1, 1]."""
    return images.float() / 127.5 - 1


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of x's shape from this step's generator."""
    return torch.randn(x.shape, generator=generator, device=x.device)


# --- captions ---------------------------------------------------------------------------------


def draw_one(counts: Tensor) -> Tensor:
    """Which of its captions each picture is shown with, drawn from torch's global generator:
    counts (B,) -> (B,).
    """
    return (torch.rand(len(counts)) * counts).long()


def draw_captions(captions: Sequence[Sequence[str]]) -> list[str]:
    """One of each picture's captions."""
    lucky = draw_one(torch.tensor([len(several) for several in captions])).tolist()
    return [several[i] for several, i in zip(captions, lucky, strict=True)]


class Captions:
    """All captions of a data set as token ids, end to end, and where each picture's begin."""

    def __init__(self, pairs: Pairs, tokenizer: Tokenizer):
        self.counts = torch.tensor([len(captions) for captions in pairs.captions])  # (N,)
        self.starts = self.counts.cumsum(0) - self.counts  # (N,)
        self.tokens = tokenizer(
            [caption for captions in pairs.captions for caption in captions]
        )  # (M, L)

    def draw(self, indices: Tensor) -> Tensor:
        """One caption of each picture: places in `tokens`, (B,)."""
        return self.starts[indices] + draw_one(self.counts[indices])


# --- CLIP -------------------------------------------------------------------------------------


# makes the thumbnail's error count about as much as the contrastive loss once both are small
THUMBNAIL_WEIGHT = 2.0


class ClipTask:
    """Pairs, lightly turned and shifted so that no pixel can be learnt by heart."""

    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(
        self,
        name: str,
        pairs: Pairs | Stream,
        tokenizer: Tokenizer,
        config: TrainConfig,
        model: ClipConfig,
    ):
        self.name, self.config, self.model_config = name, config, model
        self.pairs, self.tokenizer, self.size = pairs, tokenizer, len(pairs)
        self.model: nn.Module = Clip(model)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images, captions = self.pairs.take(indices)
        return {"images": images, "tokens": self.tokenizer(draw_captions(captions))}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = jitter(to_float(batch["images"]), generator)
        u, v, scale, thumbnails = model(images, batch["tokens"])
        own = torch.arange(len(u), device=u.device)
        right = (
            ((u @ v.T).argmax(dim=1) == own).float().mean()
        )  # the share whose own caption is the nearest
        loss, numbers = contrastive_loss(u, v, scale), {"right": right, "scale": scale}
        if thumbnails is None:
            return loss, numbers
        seen = F.avg_pool2d(
            images, images.shape[-1] // thumbnails.shape[-1]
        )  # (B, 3, 64, 64) => (B, 3, 16, 16)
        error = F.mse_loss(thumbnails.float(), seen)
        return loss + THUMBNAIL_WEIGHT * error, {
            **numbers,
            "contrastive": loss,
            "thumbnail": error,
        }

    def sample(self, model: nn.Module) -> Tensor | None:
        return None  # CLIP draws nothing

    def metadata(self) -> dict[str, Any]:
        return {"model": asdict(self.model_config), **self.about}


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 6 degrees, scale by up to 10%, shift by up to 6%, each picture its own way.
    (B, 3, H, W), same out.
    """
    device, n = images.device, len(images)
    luck = (
        torch.rand(n, 4, generator=generator, device=generator.device).to(device) * 2 - 1
    )  # (B, 4) in [-1, 1]
    angle, scale = luck[:, 0] * 0.1, 1 + luck[:, 1] * 0.1
    cos, sin, shift = (
        scale * angle.cos(),
        scale * angle.sin(),
        luck[:, 2:] * 0.12,
    )  # the picture is 2 units wide
    matrix = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).reshape(
        n, 2, 3
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


# --- what CLIP says of a data set, once and for all -------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """A data set as the frozen CLIP sees it.

    images uint8 (N, 3, S, S); image_emb (N, D); captions and their encodings text_emb (M, D),
    text_enc (M, L, W) in half precision, text_mask (M, L); `null` is the encoding of the empty
    text, each tensor with a batch of one."""

    images: Tensor
    image_emb: Tensor
    captions: Captions
    text: TextEncoding
    null: TextEncoding

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, indices: Tensor, text_drop: float) -> dict[str, Tensor]:
        """B pictures and a caption of each, replaced by the empty text with probability
        `text_drop`.
        """
        places = self.captions.draw(indices)
        text = {name: tensor[places] for name, tensor in self.text.as_conditioning().items()}
        seen = {"images": self.images[indices], "image_emb": self.image_emb[indices]}
        return {**seen, **drop_text(text, self.null, text_drop)}

    def measured(self) -> tuple[Tensor, Tensor]:
        """What the priors measure before they learn: image embeddings (N, D), and z_i . z_t of
        every picture with each of its captions, (M,).
        """
        own = self.image_emb.repeat_interleave(self.captions.counts, dim=0)  # (N, D) => (M, D)
        return self.image_emb, (own * self.text.text_emb).sum(dim=1)


def drop_text(text: dict[str, Tensor], null: TextEncoding, drop: float) -> dict[str, Tensor]:
    """The conditioning of B texts, each replaced by the empty text's with probability
    `drop`.
    """
    dropped = torch.rand(len(text["text_mask"])) < drop
    return {
        name: _replace(text[name], empty, dropped.to(empty.device))
        for name, empty in null.as_conditioning().items()
    }


def _replace(values: Tensor, null: Tensor, dropped: Tensor) -> Tensor:
    """Rows of values (B, ...) where dropped (B,) is False, null (1, ...) where it is True. Half
    precision becomes float.
    """
    values = values if values.dtype == torch.bool else values.float()
    return torch.where(dropped.reshape(-1, *[1] * (values.dim() - 1)), null, values)


@torch.inference_mode()
def encode(
    pairs: Pairs, image_size: int, clip: Clip, tokenizer: Tokenizer, batch_size: int = 256
) -> Encoded:
    """Run CLIP once over a data set; keep its pictures at `image_size` (box-reduced)."""
    captions = Captions(pairs, tokenizer)
    device = next(clip.parameters()).device
    embs = [
        clip.encode_image(to_float(chunk.to(device))).cpu()
        for chunk in pairs.images.split(batch_size)
    ]
    texts = [clip.encode_text(chunk.to(device)) for chunk in captions.tokens.split(batch_size)]
    text = TextEncoding(
        torch.cat([text.text_emb.cpu() for text in texts]),
        torch.cat([text.text_enc.half().cpu() for text in texts]),
        torch.cat([text.text_mask.cpu() for text in texts]),
    )
    null = clip.encode_text(tokenizer([""]).to(device))
    null = TextEncoding(null.text_emb.cpu(), null.text_enc.cpu(), null.text_mask.cpu())
    small = torch.cat([shrink(chunk, image_size) for chunk in pairs.images.split(batch_size)])
    return Encoded(small, torch.cat(embs), captions, text, null)


def shrink(images: Tensor, size: int) -> Tensor:
    """uint8 pictures (N, 3, S, S) box-averaged to (N, 3, size, size)."""
    return F.avg_pool2d(images.float(), images.shape[-1] // size).round().to(torch.uint8)


class Data(Protocol):
    """What the priors and decoders learn from: `Encoded` holds it in memory,
    `training/streaming.py` reads it.
    """

    @property
    def null(self) -> TextEncoding: ...

    def __len__(self) -> int: ...

    def draw(self, indices: Tensor, text_drop: float) -> dict[str, Tensor]: ...

    def measured(self) -> tuple[Tensor, Tensor]: ...


# --- prior ------------------------------------------------------------------------------------


class PriorTask:
    """Noised image embeddings and their captions -> the clean embeddings."""

    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(self, name: str, data: Data, config: TrainConfig, model: PriorConfig):
        self.name, self.config, self.model_config = name, config, model
        self.data, self.size, self.diffusion = data, len(data), prior_diffusion()
        self.prior = DiffusionPrior(model)
        self.prior.set_stats(data.measured()[0])
        self.model: nn.Module = self.prior

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        drawn = self.data.draw(indices, TEXT_DROP_PRIOR)
        del drawn["images"]
        return drawn

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z0 = self.prior.standardise(batch.pop("image_emb"))
        index = index_timesteps(len(z0), self.diffusion, generator)
        losses = self.diffusion.training_losses(
            model, z0, index, noise_like(z0, generator), **batch
        )
        return losses["loss"].mean(), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        return None  # an embedding is no picture; `dalle2-edu draw` shows what it is worth

    def metadata(self) -> dict[str, Any]:
        return {"model": asdict(self.model_config), **self.about}


# --- decoder ----------------------------------------------------------------------------------


class DecoderTask:
    """Noised pictures, their image embeddings and captions -> v."""

    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(self, name: str, data: Data, config: TrainConfig, model: DecoderConfig):
        self.name, self.config, self.model_config = name, config, model
        self.data, self.size, self.diffusion = data, len(data), decoder_diffusion()
        self.model: nn.Module = Decoder(model)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        keep = torch.rand(len(indices)) >= IMAGE_DROP_DECODER
        return {**self.data.draw(indices, TEXT_DROP_DECODER), "image_keep": keep}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = to_float(batch.pop("images"))
        index = index_timesteps(len(x0), self.diffusion, generator)
        losses = self.diffusion.training_losses(
            model, x0, index, noise_like(x0, generator), **batch
        )
        return losses["loss"].mean(), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        """Real pictures above, what the decoder makes of their embeddings below: (2 * GRID, 3,
        S, S).
        """
        chosen = torch.arange(0, self.size, max(1, self.size // GRID))[:GRID]
        device = next(model.parameters()).device
        null = {
            name: tensor.to(device) for name, tensor in self.data.null.as_conditioning().items()
        }
        null = {
            name: tensor.expand(len(chosen), *tensor.shape[1:]) for name, tensor in null.items()
        }
        real = self.data.draw(chosen, text_drop=1.0)
        image_emb = real["image_emb"].to(device)
        keep = torch.ones(len(chosen), dtype=torch.bool, device=device)
        given = {"image_emb": image_emb, "image_keep": keep, **null}
        empty = {
            "image_emb": image_emb,
            "image_keep": ~keep,
            **null,
        }  # sharded weights are whole in `forward` only
        noise = SeededNoise(range(len(chosen)), device)
        side = self.model_config.unet.image_size
        denoiser = classifier_free(model, 2.0, empty, given)
        drawn = ddim_sample(
            denoiser, self.diffusion.respace(25), noise((len(chosen), 3, side, side)), noise
        )
        return torch.cat([to_float(real["images"].cpu()), drawn.cpu()])

    def metadata(self) -> dict[str, Any]:
        return {"model": asdict(self.model_config), **self.about}


# --- upsamplers -------------------------------------------------------------------------------


class UpsamplerTask:
    """Crops of the target and their damaged halves -> v. `damage` is "blur" (first upsampler)
    or "bsr" (second).
    """

    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(
        self,
        name: str,
        images: Tensor | Stream,
        config: TrainConfig,
        model: UpsamplerConfig,
        damage: str,
    ):
        self.name, self.config, self.model_config, self.damage = name, config, model, damage
        self.images, self.size = images, len(images)
        self.crop = model.unet.image_size // 4  # a quarter of the target's width, Table 3
        self.diffusion = upsampler_diffusion(model)
        self.model: nn.Module = Upsampler(model)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images = shrink(self.images[indices], self.model_config.unet.image_size)
        return {"images": random_crops(images, self.crop, step=upsampler.FACTOR)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        low_res = self.damaged(upsampler.reduce(images, upsampler.FACTOR), generator)
        x0 = upsampler.to_detail(images, low_res)
        index = index_timesteps(len(x0), self.diffusion, generator)
        noise = noise_like(x0, generator)
        losses = self.diffusion.training_losses(model, x0, index, noise, low_res=low_res)
        return losses["loss"].mean(), {}

    def damaged(self, low_res: Tensor, generator: torch.Generator) -> Tensor:
        """The small picture as the stage below might have drawn it."""
        if self.damage == "blur":
            return upsampler.blur_condition(low_res, generator)
        return upsampler.bsr_condition(low_res, generator)

    def sample(self, model: nn.Module) -> Tensor | None:
        """Enlarged small pictures above, the upsampler's full-size work below: (GRID, 3, S,
        S).
        """
        chosen = torch.arange(0, self.size, max(1, self.size // (GRID // 2)))[: GRID // 2]
        device = next(model.parameters()).device
        images = shrink(self.images[chosen], self.model_config.unet.image_size)
        low_res = upsampler.reduce(to_float(images).to(device), upsampler.FACTOR)
        drawn = upsampler.upsample(
            model,
            upsampler.upsampler_stage(self.model_config),
            low_res,
            SeededNoise(range(len(chosen)), device),
        )
        enlarged = F.interpolate(low_res, scale_factor=float(upsampler.FACTOR), mode="nearest")
        return torch.cat([enlarged, drawn]).cpu()

    def metadata(self) -> dict[str, Any]:
        return {"model": asdict(self.model_config), "damage": self.damage, **self.about}


def random_crops(images: Tensor, side: int, step: int) -> Tensor:
    """One random side x side crop of each picture, corners on multiples of `step`: (B, 3, S, S)
    -> (B, 3, side, side).
    """
    places = (images.shape[-1] - side) // step + 1
    corners = (torch.rand(len(images), 2) * places).long() * step  # (B, 2): top, left
    crops = [
        image[:, top : top + side, left : left + side]
        for image, (top, left) in zip(images, corners.tolist(), strict=True)
    ]
    return torch.stack(crops)


def mix(parts: Sequence[tuple[Pairs, int]]) -> Pairs:
    """Several data sets as one, each repeated so many times, so that a small one is not drowned
    by a large one.
    """
    images = torch.cat([pairs.images for pairs, times in parts for _ in range(times)])
    captions = [
        caption for pairs, times in parts for _ in range(times) for caption in pairs.captions
    ]
    return Pairs(images, captions, sum(pairs.skipped for pairs, _ in parts))


def repeats(small: int, large: int) -> int:
    """How often to repeat a set of `small` so that it weighs about as much as one of
    `large`.
    """
    return max(1, math.ceil(large / small))
