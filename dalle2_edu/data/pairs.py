"""Lesson: what a text-to-image model is trained on, whatever its source.

A pair is a picture and one or more captions of it. The drawn shapes, the packed emoji
and a shard of the web all end as the same `Pairs`, so everything downstream is written
once. Pictures stay 8-bit in memory, four times smaller than floats, and become x =
images / 127.5 - 1 in [-1, 1] when a batch is made. `mix` puts several sets together,
`subset` takes a part of one. Used in chapter 02.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """N pictures with their captions.

    `images`: uint8 (N, 3, S, S). `captions`: N lists of at least one caption, in any
    language. `skipped`: how many pictures could not be read and were left out.
    """

    images: Tensor
    captions: list[list[str]]
    skipped: int = 0

    def __post_init__(self) -> None:
        if len(self.images) != len(self.captions):
            raise ValueError(
                f"{len(self.images)} pictures but {len(self.captions)} lists of captions"
            )

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, indices: Tensor) -> tuple[Tensor, list[list[str]]]:
        """The pictures with these indices, int64 (B,) -> uint8 (B, 3, S, S), and their
        captions.
        """
        captions = [self.captions[index] for index in indices.tolist()]
        return self.images[indices], captions


def subset(pairs: Pairs, chosen: Tensor) -> Pairs:
    """The pairs where `chosen`, bool (N,), is True."""
    places = chosen.nonzero()[:, 0].tolist()
    return Pairs(pairs.images[chosen], [pairs.captions[i] for i in places])


def mix(parts: Sequence[tuple[Pairs, int]]) -> Pairs:
    """Several data sets as one, each repeated so many times, so that a small one is not
    drowned by a large one.
    """
    repeated = [pairs for pairs, times in parts for _ in range(times)]
    images = torch.cat([pairs.images for pairs in repeated])  # (N, 3, S, S)
    captions = [texts for pairs in repeated for texts in pairs.captions]
    skipped = sum(pairs.skipped for pairs, _ in parts)  # a repeat skips nothing anew
    return Pairs(images, captions, skipped)


def repeats(small: int, large: int) -> int:
    """How often to repeat a set of `small` so that it weighs about as much as one of
    `large`.
    """
    return max(1, math.ceil(large / small))
