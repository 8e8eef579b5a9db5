"""The oracle: a small classifier that looks at a picture of the shapes world and says
what is in it.

The idea: the world's renderer knows the truth about every picture that it draws, so a
classifier can be trained on as many labelled pictures as you like until it hardly errs
(>= 99.5% on every attribute). Then it can mark a GENERATED picture against its prompt:
is there a star, is it red, does it stand left of the heart? The paper had to ask people
(2204.06125, Table 1), and reports that unCLIP mixes up which object has which attribute
(section 7).

    loss = sum over factors of the cross-entropy, averaged over those scenes in which the factor has a meaning

(the second object's colour has none where there is one object). The oracle sees every
composition in training, the held-out ones too: it is the judge, and must not find them
strange itself.

Chapters 06 and 20 use this file; chapter 21 asks it about attribute binding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data.scenes import FACTORS, Scenes, applicable

ALL_RIGHT = "all right"


@dataclass(frozen=True)
class OracleConfig:
    """The size that pictures are brought to, channels at 1/2, 1/4, 1/8, 1/16 of it,
    last layer's width.
    """

    image_size: int = 64
    channels: tuple[int, ...] = (32, 64, 80, 96)
    width: int = 96


class Oracle(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> one set of logits a factor, factor name -> (B,
    number of values).
    """

    def __init__(self, config: OracleConfig = OracleConfig()):
        super().__init__()
        self.config = config
        channels = config.channels
        # Folding 2 x 2 pixels into channels loses nothing and skips the costly full
        # resolution.
        stages: list[nn.Module] = [
            nn.PixelUnshuffle(2),  # (B, 3, 64, 64) => (B, 12, 32, 32)
            _layer(12, channels[0]),
            _layer(channels[0], channels[0]),
        ]
        for narrow, wide in pairwise(channels):
            # 32x32 => 16x16 => 8x8 => 4x4
            stages.append(_layer(narrow, wide, stride=2))
            stages.append(_layer(wide, wide))
        self.features = nn.Sequential(*stages)
        # Flattened rather than averaged: "where?" is answered by the place of a
        # feature.
        side = config.image_size // 2 ** len(channels)
        flat = channels[-1] * side**2
        self.join = nn.Sequential(
            nn.Flatten(), nn.Linear(flat, config.width), nn.ReLU()
        )
        heads = {name: nn.Linear(config.width, len(FACTORS[name])) for name in FACTORS}
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        # any size => 64x64
        x = F.interpolate(images, size=self.config.image_size, mode="area")
        # faster on a CPU; the numbers are the same
        x = x.to(memory_format=torch.channels_last)
        x = self.features(x)  # (B, 96, 4, 4)
        x = self.join(x)  # (B, width)
        return {name: head(x) for name, head in self.heads.items()}

    def loss(self, images: Tensor, scenes: Scenes) -> Tensor:
        """`oracle_loss` of images (B, 3, S, S) in [-1, 1] whose truth is `scenes`, a
        scalar.
        """
        return oracle_loss(self(images), scenes)

    @torch.no_grad()
    def predict(self, images: Tensor, batch_size: int = 250) -> dict[str, Tensor]:
        """The likeliest value of every factor: factor name -> int64 (B,), an index into
        FACTORS.
        """
        parts = [self(part) for part in images.split(batch_size)]
        found = {}
        for name in FACTORS:
            answers = [part[name].argmax(dim=1) for part in parts]  # (batch,) each
            found[name] = torch.cat(answers)
        return found


def oracle_loss(logits: dict[str, Tensor], scenes: Scenes) -> Tensor:
    """The cross-entropy over all factors, a scalar; logits: factor name -> (B, values).

    Where a factor has no meaning, a second shape in a scene of one say, it is not asked
    for.
    """
    meaningful = applicable(scenes)
    total = torch.zeros((), device=scenes.device)
    for name, answer in logits.items():
        losses = F.cross_entropy(answer, scenes.factors[name], reduction="none")  # (B,)
        mask = meaningful[name].to(losses.dtype)  # 1 where the question makes sense
        asked = mask.sum().clamp(min=1)  # a batch may have no scene of the kind
        total = total + (losses * mask).sum() / asked
    return total


def _layer(channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    # Group norm, not batch norm: a picture's verdict must not depend on the pictures
    # beside it in training.
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, out_channels),
        nn.ReLU(),
    )


def marks(predicted: dict[str, Tensor], scenes: Scenes) -> dict[str, Tensor]:
    """Which answers are right: factor name -> bool (scenes where it has a meaning,),
    and `ALL_RIGHT` -> (B,).

    A factor without a meaning in a scene counts neither for it nor against it. A factor
    that has a meaning in no scene is left out. `scenes` is what the prompts asked for;
    `predicted` comes from `Oracle.predict`.
    """
    meaningful = applicable(scenes)
    found = {}
    nothing_wrong = []  # for each factor: right, or not asked for, (B,)
    for name in FACTORS:
        right = predicted[name] == scenes.factors[name]  # (B,)
        asked = meaningful[name]
        if asked.any():
            found[name] = right[asked]
        nothing_wrong.append(right | ~asked)
    found[ALL_RIGHT] = torch.stack(nothing_wrong).all(dim=0)  # (factors, B) -> (B,)
    return found


def accuracy(predicted: dict[str, Tensor], scenes: Scenes) -> dict[str, float]:
    """Share of right answers of each factor, among the scenes where it has a meaning,
    and of `ALL_RIGHT`.
    """
    right = marks(predicted, scenes)
    return {name: float(answers.float().mean()) for name, answers in right.items()}
