"""Lesson: what a text-to-image model is trained on, whatever its source.

A pair is a picture and one or more captions of it. The drawn shapes, the packed emoji
and a shard of the web all end as the same `Pairs`, so everything downstream is written
once. Pictures stay 8-bit in memory, four times smaller than floats, and become x =
images / 127.5 - 1 in [-1, 1] when a batch is made. Used in chapter 02.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        return self.images[indices], [
            self.captions[index] for index in indices.tolist()
        ]
