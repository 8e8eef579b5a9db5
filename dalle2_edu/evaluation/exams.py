"""Exams: prompts that nobody picked by hand, and what a good answer looks like.

An exam holds the captions, half of them English and half Chinese, real pictures of the
same captions (`twins`: the best answer there is), and further real pictures (`others`),
which stand for the world that the captions come from. One seed decides everything.

Chapters 06, 18 and 20 use this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dalle2_edu.data import emoji, shapes
from dalle2_edu.errors import Dalle2EduError

PICTURE_SIZE = 128
REFERENCE = 1000  # real pictures that stand for "the real distribution"
CHUNK = 100  # scenes rendered at a time: 20 MB
STRANGERS = 150  # scenes that nobody asked for: wrong captions are taken from them


@dataclass(frozen=True)
class Named:
    """A scene's names, in the form that an `emoji.Emoji` has them."""

    en: str
    zh: str

    @property
    def captions(self) -> list[str]:
        return [self.en, self.zh]


@dataclass(frozen=True)
class Exam:
    """Captions to draw, and real pictures to compare with.

    things: all that have a name. asked: language -> which of them are asked for, "en"
    first. twins (n, 3, 128, 128) in [-1, 1] are real pictures of the asked, others are
    further real pictures. scenes: what the oracle should find (shapes only).
    """

    things: list[Any]
    asked: dict[str, list[int]]
    twins: Tensor
    others: Tensor
    scenes: shapes.Scenes | None = None

    @property
    def prompts(self) -> list[str]:
        """The n captions, English first."""
        found = []
        for language, places in self.asked.items():
            found += [getattr(self.things[place], language) for place in places]
        return found


def make_exam(domain: str, n: int, seed: int) -> Exam:
    """An exam of n captions, n even; raises Dalle2EduError for more emoji than there
    are.
    """
    return shapes_exam(n, seed) if domain == "shapes" else emoji_exam(n, seed)


def first_half_in_english(places: list[int]) -> dict[str, list[int]]:
    """The places of what is asked for in each language."""
    half = len(places) // 2
    return {"en": places[:half], "zh": places[half:]}


# --- shapes ---------------------------------------------------------------------------


def shapes_exam(n: int, seed: int) -> Exam:
    """n scenes, compositions seen and never seen in training by turns."""
    splits = [sample_split(split, n // 2, seed) for split in ("seen", "held_out")]
    # seen and held-out by turns, so that each half, a language, has as many of both
    by_turns = torch.arange(n).reshape(2, -1).T.flatten()  # 0, n/2, 1, n/2 + 1, ...
    scenes = join(splits)[by_turns]
    # other scenes: seed + 1
    fresh = sample_split("seen", max(STRANGERS, REFERENCE), seed + 1)

    everyone = join([scenes, fresh[:STRANGERS]])  # all that have a name
    english = shapes.captions(everyone, "en")
    chinese = shapes.captions(everyone, "zh")
    return Exam(
        things=[Named(en, zh) for en, zh in zip(english, chinese, strict=True)],
        asked=first_half_in_english(list(range(n))),
        twins=render_all(scenes),
        others=render_all(fresh[:REFERENCE]),
        scenes=scenes,
    )


def sample_split(split: str, count: int, seed: int) -> shapes.Scenes:
    """Scenes of "seen" or "held_out" compositions, by a seed."""
    generator = torch.Generator().manual_seed(seed)
    return shapes.sample_scenes(count, generator, split)


def join(parts: Sequence[shapes.Scenes]) -> shapes.Scenes:
    """Several batches of scenes as one."""
    factors = {}
    for name in shapes.FACTORS:
        factors[name] = torch.cat([part.factors[name] for part in parts])
    jitter = torch.cat([part.jitter for part in parts])  # (B, 2, 4)
    return shapes.Scenes(factors, jitter)


def bilingual_captions(scenes: shapes.Scenes, seed: int) -> list[str]:
    """Captions that name every attribute: the first half English, the second
    Chinese.
    """
    half = len(scenes) // 2
    generator = torch.Generator().manual_seed(seed)
    english = shapes.captions(scenes[:half], "en", generator)
    # other scenes than the English ones
    chinese = shapes.captions(scenes[half:], "zh", generator)
    return english + chinese


def render_all(scenes: shapes.Scenes) -> Tensor:
    """Real pictures of the scenes, (B, 3, 128, 128) in [-1, 1]."""
    starts = range(0, len(scenes), CHUNK)
    chunks = [scenes[start : start + CHUNK] for start in starts]
    return torch.cat([shapes.render(chunk, PICTURE_SIZE) for chunk in chunks])


# --- emoji ----------------------------------------------------------------------------


def emoji_exam(n: int, seed: int) -> Exam:
    """n emoji, asked for by their names and nothing else.

    Each is asked for in one language only, so that the drawn set is as varied as it can
    be.
    """
    things = emoji.load()
    most = len(things) // 2  # the other half is the reference
    if n > most:
        raise Dalle2EduError(
            f"There are {len(things)} emoji; ask for at most {most} of them."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(things), generator=generator)
    chosen = order[:n]
    rest = order[n:][:REFERENCE]
    real = emoji.pairs(PICTURE_SIZE).images  # uint8 (N, 3, 128, 128)
    return Exam(
        things=things,
        asked=first_half_in_english(chosen.tolist()),
        twins=to_unit(real[chosen]),
        others=to_unit(real[rest]),
    )


def to_unit(images: Tensor) -> Tensor:
    """Bytes 0..255 as numbers in [-1, 1]."""
    return images.float() / 127.5 - 1
