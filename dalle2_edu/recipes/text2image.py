"""Part 3 of the book: CLIP learns from pictures and captions, by the contrastive loss.

Chapter 12 uses this file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.stream import Stream
from dalle2_edu.data.text import Tokenizer, default_tokenizer
from dalle2_edu.recipes.data import draw_captions, stream_of, to_float
from dalle2_edu.recipes.fresh import FreshScenes
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.text2image.clip import Clip, ClipConfig, contrastive_loss
from dalle2_edu.training.task import Task, TrainConfig

# makes the thumbnail's error count about as much as the contrastive loss once both are
# small
THUMBNAIL_WEIGHT = 2.0
PICTURE_WEIGHT = 10.0  # the same for a whole picture, read by convolutions
TURN = 0.1  # radians, about 6 degrees
SCALE = 0.1
SHIFT = 0.12  # the picture is 2 units wide


class ClipTask(Task):
    """Pairs, lightly turned and shifted so that no pixel can be learnt by heart.

    augment=False leaves them as they are: fresh scenes are never seen twice."""

    def __init__(
        self,
        name: str,
        data: Pairs | Stream | FreshScenes,
        config: TrainConfig,
        model: ClipConfig,
        tokenizer: Tokenizer | None = None,
        about: Any = None,
        augment: bool = True,
    ):
        self.pairs = data
        self.augment = augment
        linear = model.reader == "linear"
        self.thumbnail_weight = THUMBNAIL_WEIGHT if linear else PICTURE_WEIGHT
        self.tokenizer = tokenizer or default_tokenizer()
        model = replace(
            model,
            vocab_size=self.tokenizer.vocab_size,
            context_length=self.tokenizer.context_length,
        )
        super().__init__(name, config, Clip(model), len(data), about, stream_of(data))

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images, captions = self.pairs.take(indices)
        return {"images": images, "tokens": self.tokenizer(draw_captions(captions))}

    def loss(
        self,
        model: torch.nn.Module,
        batch: dict[str, Tensor],
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])  # (B, 3, S, S)
        images = jitter(images, generator) if self.augment else images
        u, v, scale, thumbnails = model(images, batch["tokens"])
        same = torch.arange(len(u), device=u.device)  # caption i is picture i's
        right = ((u @ v.T).argmax(dim=1) == same).float().mean()
        loss = contrastive_loss(u, v, scale)
        numbers = {"right": right, "scale": scale}
        if thumbnails is None:
            return loss, numbers
        error = F.mse_loss(thumbnails.float(), reduced(images, thumbnails.shape[-1]))
        numbers |= {"contrastive": loss, "thumbnail": error}
        return loss + self.thumbnail_weight * error, numbers


def reduced(images: Tensor, side: int) -> Tensor:
    """The pictures as thumbnails: (B, 3, 64, 64) => (B, 3, 16, 16)."""
    return F.avg_pool2d(images, images.shape[-1] // side)


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 6 degrees, scale by up to 10%, shift by up to 6%, each picture its
    own way. (B, 3, H, W), same out.
    """
    n = len(images)
    random = torch.rand(n, 4, generator=generator, device=generator.device)
    random = random.to(images.device) * 2 - 1  # (B, 4) in [-1, 1]
    angle = random[:, 0] * TURN
    scale = 1 + random[:, 1] * SCALE
    cos = scale * angle.cos()
    sin = scale * angle.sin()
    shift = random[:, 2:] * SHIFT  # (B, 2)
    rows = [cos, -sin, shift[:, 0], sin, cos, shift[:, 1]]
    matrix = torch.stack(rows, dim=1).reshape(n, 2, 3)  # (B, 6) => (B, 2, 3)
    # (B, H, W, 2)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


# --- recipes --------------------------------------------------------------------------

# Adam's second beta and the strong weight decay are CLIP's own (arXiv 2103.00020).
CLIP_TRAINING = TrainConfig(
    steps=2400,
    batch_size=256,
    learning_rate=1e-3,
    warmup=100,
    decay="cosine",
    weight_decay=0.1,
    betas=(0.9, 0.98),
    mixed_precision="auto",
    save_every=100,
    log_every=20,
)
CLIP_ON_GPU = {"steps": 4000, "batch_size": 1024, "save_every": 1000}

# The shapes' own CLIP. A batch is 32 families of four scenes (`data/families.py`), 32
# pixels show all there is, and the picture must be readable off the embedding.
SHAPES_CLIP_TRAINING = replace(
    CLIP_TRAINING, steps=3500, batch_size=128, weight_decay=0.05, save_every=250
)
SHAPES_CLIP = ClipConfig(
    embed_dim=256, image_size=32, thumbnail=32, reader="convolutions", text_layers=4
)


def scene_families(domain: str, tier: str, size: int) -> FreshScenes:
    """What the shapes' CLIP learns from: mostly captions that name every factor."""
    return FreshScenes(size, family=4, full_share=0.7)


RECIPES = (
    Recipe(
        "clip",
        Clip,
        ClipTask,
        domains=("shared",),
        teaches="CLIP on both worlds",
        cpu=CLIP_TRAINING,
        gpu=CLIP_ON_GPU,
        model_config=ClipConfig(embed_dim=256, thumbnail=16),
    ),
    Recipe(
        "shapes-clip",
        Clip,
        ClipTask,
        domains=("shapes",),
        part="clip",
        teaches="CLIP on families of scenes",
        cpu=SHAPES_CLIP_TRAINING,
        gpu=CLIP_ON_GPU,
        model_config=SHAPES_CLIP,
        data=scene_families,
        picture_size=32,
        options={"augment": False},
    ),
    Recipe(
        "emoji-clip",
        Clip,
        ClipTask,
        domains=("emoji",),
        part="clip",
        teaches="CLIP on emoji in several styles",
        cpu=CLIP_TRAINING,
        gpu=CLIP_ON_GPU,
        model_config=ClipConfig(embed_dim=256, thumbnail=16),
    ),
)
