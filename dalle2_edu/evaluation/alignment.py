"""Alignment: does the picture show what its caption says? Another CLIP is the judge.

The idea: a CLIP gives a picture and a caption one vector of length 1 each; their cosine
is high when they belong together.

    CLIP score = 100 max(cos(image, text), 0)       Hessel et al., 2104.08718 (who scale by 2.5)
    rank       = 1 + #{wrong captions that are at least as near to the picture as the right one}

A score means nothing by itself, since every CLIP has its own typical cosine. A rank
does: among 100 captions, guessing puts the right one first once in a hundred times. Two
traps:

1. The judge must not be the CLIP that the generator was trained with. The prior aims at
   its embeddings, and drawing two and keeping the better one even selects by it: it
   would mark its own homework.
2. The judge errs too. Its rank on the REAL pictures is the ceiling that a perfect
   generator would reach.

Chapter 20 uses this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dalle2_edu.data.text import normalize
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import Clip

DISTRACTORS = 99  # with the right one: 100 captions

Tokenize = Callable[[Sequence[str]], Tensor]  # B texts -> int64 (B, context_length)


@torch.no_grad()
def embed_images(clip: Clip, images: Tensor, batch_size: int = 64) -> Tensor:
    """Image embeddings of length 1, (B, D), of images (B, 3, S, S) in [-1, 1]."""
    parts = [clip.encode_image(part).float() for part in images.split(batch_size)]
    return torch.cat(parts)


@torch.no_grad()
def embed_texts(
    clip: Clip,
    tokenize: Tokenize,
    texts: Sequence[str],
    device: str = "cpu",
    batch_size: int = 64,
) -> Tensor:
    """Text embeddings of length 1, (B, D), of B captions."""
    tokens = tokenize(list(texts)).to(device)  # (B, context_length)
    parts = []
    for part in tokens.split(batch_size):
        parts.append(clip.encode_text(part).text_emb.float())  # (batch, D)
    return torch.cat(parts)


def clip_score(image_emb: Tensor, text_emb: Tensor) -> Tensor:
    """CLIP score of each pair, (B,) in [0, 100]; both embeddings (B, D) have length
    1.
    """
    cosine = (image_emb * text_emb).sum(dim=-1)  # (B,)
    return 100 * cosine.clamp(min=0)  # in per cent; below 0 means no likeness at all


def retrieval_ranks(image_emb: Tensor, right_emb: Tensor, wrong_emb: Tensor) -> Tensor:
    """Rank of the right caption, int64 (B,), 1 is best; a tie counts against it.

    image_emb (B, D) and right_emb (B, D) belong together row by row; wrong_emb (B, K,
    D) holds K wrong captions for each picture.
    """
    right = (image_emb * right_emb).sum(dim=-1)  # cosines, (B,)
    # (B, 1, D) * (B, K, D) -> (B, K)
    wrong = (image_emb[:, None] * wrong_emb).sum(dim=-1)
    at_least_as_near = wrong >= right[:, None]  # (B, K)
    return 1 + at_least_as_near.sum(dim=-1)


def choose_distractors(
    names: Sequence[str],
    captions: Sequence[Sequence[str]],
    chosen: Sequence[int],
    count: int = DISTRACTORS,
    seed: int = 0,
) -> Tensor:
    """Indices of `count` wrong captions for each chosen item, int64 (len(chosen),
    count).

    names[i] is the caption that item i is judged by; captions[i] are all captions of
    item i, in any language. Item j may distract from item i only if the two share no
    caption at all, as the tokenizer spells it: an emoji called "boat" and another with
    the alias "boat" are both right. No two distractors of one item have the same name.
    The choice depends on the seed alone. Raises Dalle2EduError when an item has fewer
    than `count` distractors.
    """
    generator = torch.Generator().manual_seed(seed)
    spelt = []  # everything that may be said of each item
    for name, texts in zip(names, captions, strict=True):
        everything = {normalize(text) for text in (name, *texts)}
        spelt.append(everything)
    rows = []
    for item in chosen:
        order = torch.randperm(len(names), generator=generator).tolist()
        rows.append(_first_wrong(item, order, names, spelt, count))
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), count)


def _first_wrong(
    item: int, order: list[int], names: Sequence[str], spelt: list[set[str]], count: int
) -> list[int]:
    """The first `count` items in `order` whose names are wrong for `item` and differ
    from one another.
    """
    wrong: dict[str, int] = {}  # name -> item
    for other in order:
        # An item shares its captions with itself, so it is left out as well.
        if not spelt[other] & spelt[item]:
            wrong.setdefault(normalize(names[other]), other)
        if len(wrong) == count:
            return list(wrong.values())
    raise Dalle2EduError(
        f"{names[item]!r} needs {count} wrong captions beside it; only {len(wrong)} others"
        " differ from it."
    )
