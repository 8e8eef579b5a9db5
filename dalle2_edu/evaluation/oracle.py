"""The oracle: a small classifier that looks at a picture of the shapes world and says what is
in it.

The idea: the world's renderer knows the truth about every picture that it draws, so a
classifier can be trained on as many labelled pictures as you like until it hardly errs (>=
99.5% on every attribute). Then it can mark a GENERATED picture against its prompt: is there a
star, is it red, does it stand left of the heart? The paper had to ask people (2204.06125, Table
1), and reports that unCLIP mixes up which object has which attribute (section 7).

    loss = sum over factors of the cross-entropy, averaged over those scenes in which the factor has a meaning

(the second object's colour has none where there is one object). The oracle sees every
composition in training, the held-out ones too: it is the judge, and must not find them strange
itself.

Chapter 20 uses this file; chapter 21 asks it about attribute binding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data.shapes import FACTORS, Scenes, applicable

ALL_RIGHT = "all right"


@dataclass(frozen=True)
class OracleConfig:
    """The size that pictures are brought to, channels at 1/2, 1/4, 1/8, 1/16 of it, last
    layer's width.
    """

    image_size: int = 64
    channels: tuple[int, ...] = (32, 64, 80, 96)
    width: int = 96


class Oracle(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> one set of logits a factor, factor name -> (B, number
    of values).
    """

    def __init__(self, config: OracleConfig = OracleConfig()):
        super().__init__()
        self.config = config
        first, *rest = config.channels
        # Folding 2 x 2 pixels into channels loses nothing and skips the costly full resolution.
        stages: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            _layer(12, first),
            _layer(first, first),
        ]
        for narrow, wide in zip(config.channels, rest, strict=False):
            # Half the size each time, 32x32 => 16x16 => 8x8 => 4x4
            stages += [_layer(narrow, wide, stride=2), _layer(wide, wide)]
        self.features = nn.Sequential(*stages)
        side = config.image_size // 2 ** len(config.channels)
        # Flattened rather than averaged: the answer to "where?" is in the position of a
        # feature.
        flat = config.channels[-1] * side**2
        self.join = nn.Sequential(nn.Flatten(), nn.Linear(flat, config.width), nn.ReLU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.width, len(FACTORS[name])) for name in FACTORS}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = F.interpolate(images, size=self.config.image_size, mode="area")  # any size => 64x64
        x = self.features(x.to(memory_format=torch.channels_last))  # (B, 96, 4, 4)
        x = self.join(x)  # (B, width)
        return {name: head(x) for name, head in self.heads.items()}

    def loss(self, images: Tensor, scenes: Scenes) -> Tensor:
        """`oracle_loss` of images (B, 3, S, S) in [-1, 1] whose truth is `scenes`, a scalar."""
        return oracle_loss(self(images), scenes)

    @torch.no_grad()
    def predict(self, images: Tensor, batch_size: int = 250) -> dict[str, Tensor]:
        """The likeliest value of every factor, factor name -> int64 (B,), an index into
        FACTORS[name].
        """
        parts = [self(part) for part in images.split(batch_size)]
        return {
            name: torch.cat([part[name].argmax(dim=1) for part in parts]) for name in FACTORS
        }


def oracle_loss(logits: dict[str, Tensor], scenes: Scenes) -> Tensor:
    """The masked cross-entropy of this lesson's head, a scalar; logits (B, values) a factor."""
    meaningful = applicable(scenes)
    total = torch.zeros((), device=scenes.device)
    for name, answer in logits.items():
        each = F.cross_entropy(answer, scenes.factors[name], reduction="none")  # (B,)
        mask = meaningful[name].to(each.dtype)
        total = total + (each * mask).sum() / mask.sum().clamp(min=1)
    return total


def _layer(channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    # Group norm, not batch norm: a picture's verdict must not depend on the pictures beside it
    # in training.
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, out_channels),
        nn.ReLU(),
    )


def marks(predicted: dict[str, Tensor], scenes: Scenes) -> dict[str, Tensor]:
    """Which answers are right: factor name -> bool (scenes where it has a meaning,), and
    `ALL_RIGHT` -> (B,).

    A factor without a meaning in a scene counts neither for it nor against it. A factor that
    has a meaning in no scene is left out. `scenes` is what the prompts asked for; `predicted`
    comes from `Oracle.predict`."""
    meaningful = applicable(scenes)
    right = {name: predicted[name] == scenes.factors[name] for name in FACTORS}
    found = {name: right[name][meaningful[name]] for name in FACTORS if meaningful[name].any()}
    fine = torch.stack([right[name] | ~meaningful[name] for name in FACTORS])  # (factors, B)
    return {**found, ALL_RIGHT: fine.all(dim=0)}


def accuracy(predicted: dict[str, Tensor], scenes: Scenes) -> dict[str, float]:
    """Share of right answers of each factor, among the scenes where it has a meaning, and of
    `ALL_RIGHT`.
    """
    return {
        name: float(right.float().mean()) for name, right in marks(predicted, scenes).items()
    }
