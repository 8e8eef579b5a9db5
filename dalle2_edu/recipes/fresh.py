"""Scenes that are drawn when they are needed: an endless world repeats nothing.

A set of 60,000 rendered scenes is seen again and again in a long training. Drawing a
fresh batch takes three hundredths of a second, so there is no need to. The scenes of a
batch are a function of its indices, so a run that resumes sees what it would have seen.

    take(indices)  -> the pictures and their captions, as `Pairs.take` and `Stream.take` give them

Chapters 12, 15 and 16 train with this file."""

from __future__ import annotations

import torch
from torch import Tensor

from dalle2_edu.data.families import families
from dalle2_edu.data.shapes import Scenes, captions, render, sample_scenes
from dalle2_edu.training.order import seed_for

ENDLESS = (
    1_000_000  # what an epoch is called; a step's scenes are drawn from its indices
)
FULL_SHARE = 0.5  # of the captions name every factor, the others leave some out


class FreshScenes:
    """An endless supply of captioned scenes at `size` pixels; `family` relatives stand
    together, 1 for none. full_share of the captions name every factor.
    """

    def __init__(self, size: int, family: int = 1, full_share: float = FULL_SHARE):
        self.size = size
        self.family = family
        self.full_share = full_share

    def __len__(self) -> int:
        return ENDLESS

    def take(self, indices: Tensor) -> tuple[Tensor, list[list[str]]]:
        """B scenes as 8-bit pictures, uint8 (B, 3, S, S), with one caption each."""
        generator = torch.Generator().manual_seed(seed_for("scenes", *indices.tolist()))
        scenes = self.scenes(len(indices), generator)
        images = (render(scenes, self.size) + 1) * 127.5
        texts = mixed_captions(scenes, self.full_share, generator)
        return images.round().to(torch.uint8), [[text] for text in texts]

    def scenes(self, n: int, generator: torch.Generator) -> Scenes:
        """n scenes, in families where n can be divided among them."""
        if self.family > 1 and n % self.family == 0:
            return families(n, self.family, generator)
        return sample_scenes(n, generator)


def mixed_captions(
    scenes: Scenes, full_share: float, generator: torch.Generator
) -> list[str]:
    """One caption a scene, its language and its detail drawn at random."""
    n = len(scenes)
    english = torch.rand(n, generator=generator) < 0.5
    full = torch.rand(n, generator=generator) < full_share
    texts = [""] * n
    for language, spoken in (("en", english), ("zh", ~english)):
        for detail, wanted in (("full", full), ("mixed", ~full)):
            places = (spoken & wanted).nonzero()[:, 0]
            some = captions(scenes[places], language, generator, detail)
            for place, text in zip(places.tolist(), some, strict=True):
                texts[place] = text
    return texts
