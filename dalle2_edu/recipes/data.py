"""What the recipes learn from: the domains' pictures and captions, or the reader's own.

    domain_pairs   the pictures of a domain, as many as the tier keeps in memory
    read_own       a folder of pictures, shards, or embeddings that were computed before

Every task takes its batches apart in the same few ways; those stand here too: 8-bit
pictures to floats, one caption of several, a step of the process, noise.

Chapters 08, 12, 15, 16 and 17 train with these data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.data import emoji, shapes, shards
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.sources import is_shards, tar_files
from dalle2_edu.data.stream import Stream
from dalle2_edu.data.text import Tokenizer
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training.processes import processes

CLIP_SIZE = 64  # pictures for CLIP, and for what learns from CLIP's embeddings
SMALL_SIZE = 32  # the decoder draws
LARGE_SIZE = 128  # pictures for the upsamplers
GRID = 16  # pictures in a sample grid

# rendered scenes that a recipe keeps in memory; fewer where they are large
SCENES = {"smoke": 64, "cpu": 60_000, "gpu": 200_000}
LARGE_SCENES = {"smoke": 16, "cpu": 6_000, "gpu": 30_000}

RENDERED = "rendered by this package, MIT"
ARTISTS = "; ".join(f"{each.artist}, {each.licence}" for each in emoji.STYLES.values())
DRAWN = f"{ARTISTS} (dalle2_edu/data/artwork/*.LICENSE.txt)"
LICENCES = {"emoji": DRAWN, "shapes": RENDERED, "shared": f"{RENDERED}; {DRAWN}"}

Own = Pairs | Stream | Path | None  # the reader's data; a path: a folder of embeddings


# --- a domain's pictures --------------------------------------------------------------


def domain_pairs(domain: str, tier: str, size: int) -> Pairs:
    """The pictures and captions of a domain at `size`, as many as the tier keeps.
    "shared" is both domains together.
    """
    scenes = (SCENES if size <= CLIP_SIZE else LARGE_SCENES)[tier]
    if domain == "shapes":
        return shapes.pairs(scenes, size)
    few = scenes // len(emoji.STYLES) if tier == "smoke" else None
    drawn = emoji.pairs(size, limit=few)  # no held-out drawing is among them
    if domain == "emoji":
        return drawn
    rendered = shapes.pairs(scenes, size)
    # as many of the one as of the other
    return mix([(rendered, 1), (drawn, repeats(len(drawn), len(rendered)))])


def single_objects(domain: str, tier: str, size: int) -> Tensor:
    """The pictures of the unconditional models: one large plain object at 16 pixels,
    uint8 (N, 3, 16, 16).
    """
    images, _ = shapes.single_objects(SCENES[tier], 16)
    return images


def mix(parts: Sequence[tuple[Pairs, int]]) -> Pairs:
    """Several data sets as one, each repeated so many times, so that a small one is not
    drowned by a large one.
    """
    repeated = [pairs for pairs, times in parts for _ in range(times)]
    images = torch.cat([pairs.images for pairs in repeated])
    captions = [caption for pairs in repeated for caption in pairs.captions]
    return Pairs(images, captions, sum(pairs.skipped for pairs, _ in parts))


def repeats(small: int, large: int) -> int:
    """How often to repeat a set of `small` so that it weighs about as much as one of
    `large`.
    """
    return max(1, math.ceil(large / small))


# --- the reader's own -----------------------------------------------------------------


def read_own(source: str, size: int, out: Path) -> Own:
    """The reader's data, pictures at `size`. Several tar shards are streamed; one, or a
    folder of pictures, is read into memory; a folder that `dalle2-edu data embed` wrote
    holds embeddings, and its path is given back.
    """
    if source and any(Path(source).glob("*.safetensors")):
        return Path(source)
    if is_shards(source) and len(tar_files(source)) > 1:
        state = processes()
        with state.main_process_first():  # it counts, the others read what it wrote
            return Stream(
                source, size, out / "shards.json", progress=state.is_main_process
            )
    pairs = shards.pairs(source, size)
    if pairs.skipped:
        every = pairs.skipped + len(pairs)
        print(
            f"Left out, as they could not be read: {pairs.skipped} of {every} pictures."
        )
    return pairs


def pictures_of(data: Pairs | Stream | Tensor) -> Tensor | Stream:
    """The pictures alone, to be indexed by a tensor of places."""
    return data.images if isinstance(data, Pairs) else data


def stream_of(data: Any) -> Any:
    """Where data come from that are read from shards, None for what is in memory."""
    return data if isinstance(data, Stream) else getattr(data, "stream", None)


# --- captions -------------------------------------------------------------------------


def draw_one(counts: Tensor) -> Tensor:
    """Which of its captions each picture is shown with, drawn from torch's global
    generator: counts (B,) -> (B,).
    """
    return (torch.rand(len(counts)) * counts).long()


def draw_captions(captions: Sequence[Sequence[str]]) -> list[str]:
    """One of each picture's captions."""
    chosen = draw_one(torch.tensor([len(several) for several in captions])).tolist()
    return [several[i] for several, i in zip(captions, chosen, strict=True)]


class Captions:
    """All captions of a data set as token ids, end to end, and where each picture's
    begin.
    """

    def __init__(self, pairs: Pairs, tokenizer: Tokenizer):
        # (N,)
        self.counts = torch.tensor([len(captions) for captions in pairs.captions])
        self.starts = self.counts.cumsum(0) - self.counts  # (N,)
        every = [caption for captions in pairs.captions for caption in captions]
        self.tokens = tokenizer(every)  # (M, L)

    def draw(self, indices: Tensor) -> Tensor:
        """One caption of each picture: places in `tokens`, (B,)."""
        return self.starts[indices] + draw_one(self.counts[indices])


# --- pictures, steps and noise --------------------------------------------------------


def to_float(images: Tensor) -> Tensor:
    """Stored pictures, uint8 0..255, as the models read them: float in [-1, 1]."""
    return images.float() / 127.5 - 1


def shrink(images: Tensor, size: int) -> Tensor:
    """uint8 pictures (N, 3, S, S) box-averaged to (N, 3, size, size)."""
    side = images.shape[-1]
    if side % size:
        raise Dalle2EduError(
            f"Pictures of {side} pixels can't be box-averaged to {size}."
        )
    return F.avg_pool2d(images.float(), side // size).round().to(torch.uint8)


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of x's shape from this step's generator."""
    return torch.randn(x.shape, generator=generator, device=x.device)
