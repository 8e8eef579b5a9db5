"""The shapes world: an endless set of pictures whose every caption is true.

`scenes` draws what is in a picture, `render` draws the picture, `grammar` has the
words. Here they come together: `captions` says what is in a scene, `pairs` makes
pictures with captions, and `single_objects` the smallest world worth a diffusion model.

    shapes.pairs(4, 64)      four pictures of 64 x 64 pixels, four captions each

All names of `scenes` and `render` that the chapters use can be had from here.

Chapter 02 uses this file, and wherever a small model is trained from nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dalle2_edu.data import grammar
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.render import (
    DEEP,
    PAINT,
    RADII,
    SDFS,
    SIZE_JITTER,
    circle,
    cross,
    diamond,
    heart,
    paint_objects,
    render,
    ring,
    square,
    star,
    triangle,
)
from dalle2_edu.data.scenes import (
    COLOURS,
    FACTORS,
    HELD_OUT,
    ONE,
    SHAPES,
    SIGN,
    SIZES,
    TEXTURES,
    TWO,
    Scenes,
    applicable,
    is_held_out,
    sample_scenes,
    scenes_from,
)

__all__ = [
    "COLOURS",
    "DEEP",
    "FACTORS",
    "HELD_OUT",
    "ONE",
    "PAINT",
    "RADII",
    "SDFS",
    "SHAPES",
    "SIGN",
    "SIZES",
    "SIZE_JITTER",
    "Scenes",
    "TEXTURES",
    "TWO",
    "applicable",
    "captions",
    "circle",
    "cross",
    "diamond",
    "heart",
    "is_held_out",
    "paint_objects",
    "pairs",
    "render",
    "ring",
    "sample_scenes",
    "scenes_from",
    "single_objects",
    "square",
    "star",
    "triangle",
]

CHUNK_PIXELS = 2**17  # pixels drawn at a time by `pairs`: what stays in a core's cache

# --- captions -------------------------------------------------------------------------


def captions(
    scenes: Scenes,
    language: str = "en",
    generator: torch.Generator | None = None,
    detail: str = "full",
) -> list[str]:
    """One caption per scene, in English ("en") or Chinese ("zh").

    detail "full" names every factor that has a meaning in the scene; "mixed" leaves
    some out, as people do. The generator draws the wording; without one every scene
    gets the first wording of the grammar. Raises Dalle2EduError for an unknown language
    or detail.
    """
    if generator is None:
        draws = [(0.0,) * grammar.DRAWS] * len(scenes)  # 0: the first wording
    else:
        draws = torch.rand(
            len(scenes), grammar.DRAWS, generator=generator, device=generator.device
        ).tolist()
    return grammar.captions(_truths(scenes), draws, language, detail)


def _truths(scenes: Scenes) -> list[grammar.Truth]:
    """What the grammar needs to know of each scene."""
    # indices on the device => names in a list, once for all scenes
    names = {
        factor: [values[i] for i in scenes.factors[factor].tolist()]
        for factor, values in FACTORS.items()
    }
    objects_a = _things(names, "a")
    objects_b = _things(names, "b")
    truths = []
    for i in range(len(scenes)):
        word = "".join(names[f"letter_{place}"][i] for place in (1, 2, 3))
        truths.append(
            grammar.Truth(
                kind=names["kind"][i],
                background=names["background"][i],
                a=objects_a[i],
                b=objects_b[i],
                place=names["place"][i],
                layout=names["layout"][i],
                word=word[: int(names["length"][i])],  # all three letters were drawn
            )
        )
    return truths


def _things(names: dict[str, list[str]], slot: str) -> list[grammar.Thing]:
    """The objects of slot "a" or "b", one per scene."""
    factors = ("shape", "colour", "size", "texture")
    columns = [names[f"{factor}_{slot}"] for factor in factors]  # (4, B)
    return [grammar.Thing(*row) for row in zip(*columns, strict=True)]


# --- pairs ----------------------------------------------------------------------------


def pairs(n: int, size: int, seed: int = 0, split: str = "seen") -> Pairs:
    """n scenes as 8-bit pictures, each with four captions: full and mixed English, full
    and mixed Chinese.

    The same seed gives the same pairs. Raises Dalle2EduError for n <= 0, size < 8 or an
    unknown split.
    """
    generator = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(n, generator, split)
    # (4, n): one generator for all, so that the order of the two loops counts
    wordings = [
        captions(scenes, language, generator, detail)
        for language in ("en", "zh")
        for detail in ("full", "mixed")
    ]
    per_scene = [list(four) for four in zip(*wordings, strict=True)]  # (n, 4)
    return Pairs(_drawn(scenes, size), per_scene)


def single_objects(
    n: int, size: int = 16, seed: int = 0, split: str = "seen"
) -> tuple[Tensor, Tensor]:
    """The smallest world worth a diffusion model: one large plain object, which 16
    pixels can still show.

    Returns 8-bit pictures, uint8 (n, 3, size, size), and each one's shape as an index
    into SHAPES, int64 (n,). Raises as `pairs` does.
    """
    generator = torch.Generator().manual_seed(seed)
    # two scenes in five have a single object: draw more, keep the first n
    enough = 4 * n + 50 if n > 0 else n
    scenes = sample_scenes(enough, generator, split)
    scenes = scenes[scenes.factors["kind"] == ONE][:n]
    # a small object, or a pattern, would be a few pixels of 16
    scenes.factors["size_a"].fill_(SIZES.index("large"))
    scenes.factors["texture_a"].fill_(TEXTURES.index("plain"))
    return _drawn(scenes, size), scenes.factors["shape_a"]


def _drawn(scenes: Scenes, size: int) -> Tensor:
    """The scenes as 8-bit pictures, a chunk at a time: uint8 (B, 3, size, size)."""
    images = torch.empty(len(scenes), 3, size, size, dtype=torch.uint8)
    chunk = max(1, CHUNK_PIXELS // size**2)  # scenes drawn at a time
    for start in range(0, len(scenes), chunk):
        stop = start + chunk
        batch = render(scenes[start:stop], size)
        grey = (batch + 1) * 127.5  # [-1, 1] => 0 ... 255
        images[start:stop] = grey.round().to(torch.uint8)
    return images
