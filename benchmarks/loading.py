"""The data pipeline: pictures and captions out of a shard, decoded, resized and
tokenized.

diffusers has none of its own; its training scripts use torchvision's transforms. So the
rival is what most people write: webdataset, Pillow, torchvision's `Resize` and
`CenterCrop`, and open_clip's tokenizer. dalle2-pytorch's loader is the same webdataset
with precomputed embeddings beside JPEGs, which this shard does not have.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import open_clip
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torchvision import transforms

from dalle2_edu.data import emoji, shards
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.text import default_tokenizer

SIDE = 64


def shard() -> str:
    return str(emoji.shipped(emoji.SHARD))


def our_pictures(limit: int) -> Pairs:
    return shards.pairs(shard(), SIDE, limit)


def usual_pictures(limit: int) -> tuple[Tensor, list[list[str]]]:
    """The same pictures the usual way: uint8 (N, 3, SIDE, SIDE), and their captions."""
    shrink = transforms.Compose(
        [
            transforms.Resize(SIDE, transforms.InterpolationMode.LANCZOS),
            transforms.CenterCrop(SIDE),
            transforms.PILToTensor(),
        ]
    )

    def read(sample: dict[str, Any]) -> tuple[Tensor, list[str]]:
        picture = Image.open(io.BytesIO(sample["webp"])).convert("RGB")
        return shrink(picture), json.loads(sample["json"])["captions"]

    samples = webdataset.WebDataset(shard(), shardshuffle=False, empty_check=False)
    pictured = (
        read(sample) for sample in samples if "webp" in sample
    )  # the licence lies in the shard, too
    pictures, captions = zip(
        *(pair for pair, _ in zip(pictured, range(limit), strict=False)), strict=True
    )
    return torch.stack(pictures), list(captions)


def tokenizers() -> tuple[Callable[[list[str]], Tensor], Callable[[list[str]], Tensor]]:
    """Ours, and CLIP's as open_clip has it."""
    return default_tokenizer(), open_clip.get_tokenizer("ViT-L-14")


def check(limit: int) -> None:
    """The same pictures and captions on both sides, or no comparison."""
    own, (pictures, captions) = our_pictures(limit), usual_pictures(limit)
    apart = (own.images.int() - pictures.int()).abs().max().item()
    if own.captions != captions or apart > 1:
        raise SystemExit(
            f"The two data pipelines read different things: pictures differ by {apart} of 255."
        )
