"""The judges: networks that took no part in the training, and what they are asked.

    oracle    a classifier that reads a rendered scene's factors off a picture      (shapes)
    clip      a second CLIP, trained apart: which of 100 captions fits the picture?  (both worlds)

A generator must not be marked by the networks that taught it. The prior aims at the
embeddings of *its* CLIP, and drawing two candidates and keeping the better one even
selects by it.

Chapters 03, 04, 05, 06, 18 and 20 use this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.data import shapes
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.evaluation import alignment, intervals
from dalle2_edu.evaluation.frechet import frechet_distance, frechet_error
from dalle2_edu.evaluation.intervals import Measure
from dalle2_edu.evaluation.oracle import ALL_RIGHT, Oracle, marks
from dalle2_edu.text2image.clip import Clip

FIRST = "right caption first of 100, %"
FRECHET = "Fréchet distance to other real pictures, x 1000"


@dataclass(frozen=True)
class Judges:
    """The second CLIP with its tokenizer, and the oracle, which knows shapes only."""

    clip: Clip
    tokenize: alignment.Tokenize
    oracle: Oracle | None = None
    device: str = "cpu"

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings of length 1, (B, D) on the CPU, of pictures (B, 3, S, S) in [-1,
        1].
        """
        return alignment.embed_images(self.clip, images.to(self.device)).cpu()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of length 1, (B, D) on the CPU, of B texts."""
        return alignment.embed_texts(self.clip, self.tokenize, texts, self.device).cpu()


def load_judges(domain: str, device: str = "cpu") -> Judges:
    """The shipped judges of a domain."""
    oracle = zoo.load("shapes", "oracle", device) if domain == "shapes" else None
    clip = zoo.load("shared", "judge", device)
    return Judges(clip=clip, tokenize=default_tokenizer(), oracle=oracle, device=device)


# --- the oracle's question: is everything that was asked for in the picture? ----------


def attributes_right(
    judges: Judges, images: Tensor, scenes: shapes.Scenes
) -> dict[str, Tensor]:
    """What the oracle finds right: row name -> bool, one for each scene where the row
    counts.

    The rows are the attributes, "all right", and all right by the kind of scene.
    """
    assert judges.oracle is not None
    predicted = judges.oracle.predict(images.to(judges.device))
    on_cpu = {name: values.cpu() for name, values in predicted.items()}
    # each bool, over the scenes where the factor has a meaning
    right = marks(on_cpu, scenes)
    for value, kind in enumerate(shapes.FACTORS["kind"]):
        among = scenes.factors["kind"] == value
        of_kind = right[ALL_RIGHT][among]
        if len(of_kind):  # no sign is ever held out
            right[f"{ALL_RIGHT}, kind {kind}"] = of_kind
    return right


# --- the second CLIP's question: which of 100 captions belongs to the picture? --------


def caption_ranks(
    judges: Judges,
    images: Tensor,
    things: Sequence[Any],
    asked: dict[str, list[int]],
    seed: int,
) -> dict[str, Tensor]:
    """Rank of each picture's own name among 100 names of its language; 1 is best.

    images (n, 3, S, S) stand in the order of `asked`: language -> places in `things`,
    "en" first. A thing has a name in each language and `captions`, as an `emoji.Emoji`
    has. Returns language -> int64 (places,).
    """
    image_emb = judges.embed_images(images)  # (n, D)
    captions = [thing.captions for thing in things]
    counts = [len(places) for places in asked.values()]  # pictures of each language
    found = {}
    by_language = zip(asked.items(), image_emb.split(counts), strict=True)
    for (language, chosen), pictures in by_language:
        names = [getattr(thing, language) for thing in things]
        # (places, 99)
        wrong = alignment.choose_distractors(names, captions, chosen, seed=seed)
        needed = {*chosen, *wrong.flatten().tolist()}  # of thousands of names
        text_emb = embed_needed(judges, names, needed)  # (names, D)
        found[language] = alignment.retrieval_ranks(
            image_emb=pictures,
            right_emb=text_emb[chosen],  # (places, D)
            wrong_emb=text_emb[wrong],  # (places, 99, D)
        )
    return found


def embed_needed(judges: Judges, names: Sequence[str], needed: set[int]) -> Tensor:
    """Embeddings (names, D) of the names at the needed places; zeros elsewhere."""
    places = sorted(needed)
    embedded = judges.embed_texts([names[place] for place in places])
    text_emb = torch.zeros(len(names), embedded.shape[1])
    text_emb[places] = embedded
    return text_emb


# --- a whole set's question: do the pictures, taken together, look like the real ones?


def frechet(features: Tensor, reference: Tensor) -> Measure | None:
    """The Fréchet distance times 1000 with its interval; None for too few pictures.

    Times 1000, since embeddings have length 1 and the distance is small.
    """
    # a covariance of D features needs more than D pictures
    if len(features) <= features.shape[1]:
        return None
    value = 1000 * frechet_distance(reference, features)
    # from the bootstrap's spread
    half = 1000 * intervals.Z_95 * frechet_error(reference, features)
    low = max(0.0, value - half)
    return Measure(value, low=low, high=value + half, n=len(features))
