"""BPE dropout against the tokenizer's own library, and at its two ends."""

from __future__ import annotations

import random

import pytest
import torch

from dalle2_edu.data import shapes
from dalle2_edu.data.bpe_dropout import BpeDropout
from dalle2_edu.data.text import default_tokenizer, normalize
from dalle2_edu.errors import Dalle2EduError

TEXTS = ["a red circle", "一个红色的圆形", "Smiling face 😀!", "", "xyzzy 42"]


def test_without_dropout_it_is_the_tokenizer() -> None:
    tokenizer = default_tokenizer()
    captions = [text for four in shapes.pairs(100, 8).captions for text in four]
    texts = [*TEXTS, *captions]
    assert torch.equal(BpeDropout(tokenizer, p=0)(texts), tokenizer(texts))


def test_every_cut_says_the_same() -> None:
    tokenizer = default_tokenizer()
    cut = BpeDropout(tokenizer, p=0.1)
    uniform = random.Random(0).random
    rows = cut(TEXTS * 20, uniform)
    for row, text in zip(rows, TEXTS * 20, strict=True):
        assert tokenizer.decode(row) == normalize(text).strip()
    assert len({tuple(row.tolist()) for row in rows}) > 3 * len(TEXTS)
    again = cut(TEXTS * 20, random.Random(0).random)
    assert torch.equal(rows, again)


def test_if_every_merge_is_skipped_bytes_are_left() -> None:
    cut = BpeDropout(default_tokenizer(), p=1)
    assert len(cut.ids("circle")) == len(b" circle")
    assert len(cut.ids("圆")) == len("圆".encode())
    with pytest.raises(Dalle2EduError, match="0 to 1"):
        BpeDropout(default_tokenizer(), p=1.5)
