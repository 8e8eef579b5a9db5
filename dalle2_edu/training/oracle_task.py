"""Training the oracle, the classifier that marks generated shapes (`evaluation/oracle.py`).

The world is endless, so no scene is ever met twice and nothing can be learnt by heart: a batch
is drawn anew from a generator that its indices seed. All compositions are in it
(`split="all"`), the held-out ones too.

A generated picture is never quite a rendered one: its edges are a little soft, its flats a
little uneven, its colours a little off. `disturb` does as much to the rendered pictures, so
that the oracle answers what is in the picture and does not stumble over how it was made. No
more than that: an oracle that reads a hopeless smear as a star would flatter the generator.

Chapter 20 uses this file.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data.shapes import FACTORS, Scenes, render, sample_scenes
from dalle2_edu.evaluation.oracle import Oracle, OracleConfig, oracle_loss
from dalle2_edu.training.loop import TrainConfig, seed_for

ENDLESS = 1_000_000
NOISE = 0.08  # the largest standard deviation, in units where black is -1 and white 1
TINT = 0.06  # the largest shift of a colour channel; the nearest two backgrounds are 0.2 apart


class OracleTask:
    """Fresh renders and their truth, as the training loop wants them."""

    name = "oracle"
    size = ENDLESS
    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(self, config: TrainConfig, model: OracleConfig = OracleConfig()):
        self.config = config
        self.model: nn.Module = Oracle(model)
        self.model_config = model

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Renders of B fresh scenes under "images", (B, 3, 64, 64), and their factors by name,
        int64 (B,).
        """
        generator = torch.Generator().manual_seed(seed_for(self.name, *indices.tolist()))
        scenes = sample_scenes(len(indices), generator, split="all")
        return {"images": render(scenes, self.model_config.image_size), **scenes.factors}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scenes = Scenes({name: batch[name] for name in FACTORS})
        return oracle_loss(model(disturb(batch["images"], generator)), scenes), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        return None  # it reads pictures and draws none

    def metadata(self) -> dict[str, Any]:
        return {"model": asdict(self.model_config), **self.about}


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, S, S) made a little softer, tinted and noisy, each by its own random
    amount.
    """
    B, device = len(images), images.device
    softness, noise = torch.rand(
        2, B, 1, 1, 1, generator=generator, device=device
    )  # each (B, 1, 1, 1)
    tint = torch.rand(B, 3, 1, 1, generator=generator, device=device) * 2 - 1
    grain = torch.randn(images.shape, generator=generator, device=device)
    soft = images + softness * (_blur(images) - images)  # between the picture and its blur
    return soft + TINT * tint + NOISE * noise * grain


def _blur(images: Tensor) -> Tensor:
    """Each pixel averaged with its neighbours by 1-2-1 in both directions, about a Gaussian of
    0.7 pixels.
    """
    row = torch.tensor([0.25, 0.5, 0.25], device=images.device, dtype=images.dtype)
    kernel = torch.outer(row, row).expand(
        images.shape[1], 1, 3, 3
    )  # one kernel a channel: (3, 1, 3, 3)
    return F.conv2d(
        F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1]
    )
