"""The judges of chapter 20: the oracle, a second CLIP, and the style judge.

**The oracle** is the classifier that marks generated shapes (`evaluation/oracle.py`).
The world is endless, so no scene is ever met twice and nothing can be learnt by heart:
a batch is drawn anew from a generator that its indices seed. All compositions are in it
(`split="all"`), the held-out ones too.

A generated picture is never quite a rendered one: its edges are a little soft, its
flats a little uneven, its colours a little off. `disturb` does as much to the rendered
pictures, so that the oracle answers what is in the picture and does not stumble over
how it was made. No more than that: an oracle that reads a hopeless smear as a star
would flatter the generator.

**The judge** is a CLIP trained apart, so that the CLIP that guided a drawing does not
also mark it. It has a vision transformer where the generator's CLIP has a ResNet: it
should not share that one's blind spots.

**The style judge** says which emoji a picture shows and in whose style. It has at most
four real pictures of each, so `jitter` shows them never twice alike: moved, larger or
smaller, a little turned, and disturbed as the oracle's are. No mirror: an arrow to the
left is another emoji.

Chapter 20 uses this file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data import emoji
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.render import render
from dalle2_edu.data.scenes import FACTORS, Scenes, sample_scenes
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation.oracle import Oracle, OracleConfig, oracle_loss
from dalle2_edu.evaluation.style_judge import (
    StyleJudge,
    StyleJudgeConfig,
    style_places,
    thing_places,
)
from dalle2_edu.recipes.data import to_float
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.recipes.text2image import CLIP_ON_GPU, CLIP_TRAINING, ClipTask
from dalle2_edu.text2image.clip import Clip, ClipConfig
from dalle2_edu.training.order import seed_for
from dalle2_edu.training.task import Task, TrainConfig

ENDLESS = 1_000_000
NOISE = 0.08  # the largest standard deviation, in units where black is -1 and white 1
# the largest shift of a colour channel; the nearest two backgrounds are 0.2 apart
TINT = 0.06


class OracleTask(Task):
    """Fresh renders and their truth, as the training loop wants them; it takes no
    `data`.
    """

    def __init__(
        self,
        name: str,
        data: None,
        config: TrainConfig,
        model: OracleConfig = OracleConfig(),
        about: Any = None,
    ):
        if data is not None:
            raise Dalle2EduError(
                "The oracle learns from the renderer's truth, which pictures of your own do not"
                " have."
            )
        self.image_size = model.image_size
        super().__init__(name, config, Oracle(model), ENDLESS, about)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Renders of B fresh scenes under "images", (B, 3, 64, 64), and their factors
        by name, int64 (B,).
        """
        generator = torch.Generator().manual_seed(seed_for("oracle", *indices.tolist()))
        scenes = sample_scenes(len(indices), generator, split="all")
        return {"images": render(scenes, self.image_size), **scenes.factors}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scenes = Scenes({name: batch[name] for name in FACTORS})
        answers = model(disturb(batch["images"], generator))
        return oracle_loss(answers, scenes), {}


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, S, S) made a little softer, tinted and noisy, each by its own
    random amount.
    """
    B, device = len(images), images.device
    amounts = torch.rand(2, B, 1, 1, 1, generator=generator, device=device)
    softness, noise = amounts  # each (B, 1, 1, 1)
    tint = torch.rand(B, 3, 1, 1, generator=generator, device=device) * 2 - 1
    grain = torch.randn(images.shape, generator=generator, device=device)
    # between the picture and its blur
    soft = images + softness * (_blur(images) - images)
    return soft + TINT * tint + NOISE * noise * grain


def _blur(images: Tensor) -> Tensor:
    """Each pixel averaged with its neighbours by 1-2-1 in both directions, about a
    Gaussian of
    0.7 pixels.
    """
    channels = images.shape[1]
    row = torch.tensor([0.25, 0.5, 0.25], device=images.device, dtype=images.dtype)
    # one a channel: (3, 1, 3, 3)
    kernel = torch.outer(row, row).expand(channels, 1, 3, 3)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel, groups=channels)


# --- the style judge ------------------------------------------------------------------

SHIFT = 0.08  # the largest move, as a share of the picture's side
ZOOM = 0.12  # the strongest enlargement or reduction
TURN = 0.10  # the largest angle in radians, 6 degrees
SMOOTHING = 0.1  # of the target: the same drawing may pass for more than one emoji
STYLE_WEIGHT = 0.5  # of the style's loss beside the thing's


class StyleJudgeTask(Task):
    """The emoji of all artists with their style and their thing; no held-out
    drawing.
    """

    def __init__(
        self,
        name: str,
        data: Pairs | None,
        config: TrainConfig,
        model: StyleJudgeConfig = StyleJudgeConfig(),
        about: Any = None,
    ):
        if data is not None:
            raise Dalle2EduError(
                "The style judge learns who drew what, which pictures of your own do not say."
            )
        drawn = emoji.drawings()
        self.images = emoji.pairs(model.image_size).images
        self.styles = style_places(drawn)
        self.things = thing_places([each.thing for each in drawn])
        super().__init__(name, config, StyleJudge(model), len(self.images), about)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Pictures uint8 (B, 3, S, S), their styles and their things, int64 (B,)."""
        return {
            "images": self.images[indices],
            "styles": self.styles[indices],
            "things": self.things[indices],
        }

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = disturb(jitter(to_float(batch["images"]), generator), generator)
        style_logits, thing_logits = model(images)
        style = F.cross_entropy(style_logits, batch["styles"])
        thing = F.cross_entropy(
            thing_logits, batch["things"], label_smoothing=SMOOTHING
        )
        return thing + STYLE_WEIGHT * style, {
            "style": style.detach(),
            "thing": thing.detach(),
        }


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, S, S) on white, each moved, scaled and turned by its own random
    amounts.
    """
    B, device = len(images), images.device
    luck = torch.rand(4, B, generator=generator, device=device) * 2 - 1  # in [-1, 1]
    move_x, move_y = 2 * SHIFT * luck[:2]  # a grid is 2 wide, from -1 to 1
    scale = 1 + ZOOM * luck[2]
    angle = TURN * luck[3]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [
        torch.stack([cos, -sin, move_x], dim=1),
        torch.stack([sin, cos, move_y], dim=1),
    ]
    grid = F.affine_grid(
        torch.stack(rows, dim=1), list(images.shape), align_corners=False
    )
    # Outside of a picture the sampler reads 0, so white has to be 0 for a moment.
    return F.grid_sample(images - 1, grid, align_corners=False) + 1


# --- recipes --------------------------------------------------------------------------

JUDGE = ClipConfig(
    vision_width=96,
    vision_layers=4,
    vision_head_width=32,
    text_width=96,
    text_layers=3,
    embed_dim=64,
)

RECIPES = (
    Recipe(
        "judge",
        Clip,
        ClipTask,
        domains=("shared",),
        teaches="a second CLIP, to evaluate with",
        cpu=replace(CLIP_TRAINING, steps=700, seed=1),
        gpu=CLIP_ON_GPU,
        model_config=JUDGE,
    ),
    Recipe(
        "oracle",
        Oracle,
        OracleTask,
        domains=("shapes",),
        teaches="reads a scene's factors off a picture",
        cpu=TrainConfig(
            steps=3000,
            batch_size=128,
            learning_rate=2e-3,
            decay="cosine",
            mixed_precision="auto",
            save_every=200,
        ),
        gpu={"steps": 8000, "batch_size": 256},
        model_config=OracleConfig(),
        data=None,
    ),
    Recipe(
        "style-judge",
        StyleJudge,
        StyleJudgeTask,
        domains=("emoji",),
        teaches="says which emoji a picture shows, in whose style",
        cpu=TrainConfig(
            steps=4000,
            batch_size=128,
            learning_rate=2e-3,
            decay="cosine",
            weight_decay=0.05,
            mixed_precision="auto",
            save_every=200,
        ),
        gpu={"steps": 8000, "batch_size": 256},
        model_config=StyleJudgeConfig(),
        data=None,
    ),
)
