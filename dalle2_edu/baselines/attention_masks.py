"""Who may look at whom: the sparse attention masks of DALL·E 1.

The idea: a page of n x n visual words is read in rows, and each word may look at all
that stand before it. For n = 32 that is up to 1,023 words a word. Most of what a word
needs is close by, so each layer shows it a part only, and different layers different
parts (arXiv 2102.12092, appendix B.1 and figure 11). With d = i - j, how far back word j
is from word i in reading order:

    row       0 <= d <= n                 the last n words, and the one right above
    column    d = 0, n, 2n, ...           all words above it
    conv      d = r n + c,  |c| <= k/2    the k x k neighbourhood, upper half

    layers    row, column, row, row, row, column, ...  the last one conv

Row and conv run on over the margins (wraparound), as in the paper. Every image token
sees the whole caption in every layer; the caption itself is read causally.

Chapter 06 uses this file.
"""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("row", "column", "conv")
EVERY = 4  # of four layers one looks along columns, the second


def layer_kinds(layers: int) -> list[str]:
    """Which mask each layer has: column for layers 2, 6, 10, ..., conv for the last."""
    kinds = [
        "column" if place % EVERY == 1 else "row" for place in range(layers)
    ]  # counted from 0
    return [*kinds[:-1], "conv"]


def image_mask(kind: str, side: int, kernel: int = 3) -> Tensor:
    """True where image token i (row) may look at image token j (column): bool (side^2,
    side^2). kernel is odd, and only conv has one.
    """
    place = torch.arange(side**2)  # reading order
    back = place[:, None] - place  # d, (side^2, side^2)
    if kind == "row":
        return (back >= 0) & (back <= side)
    if kind == "column":
        return (back >= 0) & (back % side == 0)
    assert kind == "conv", kind
    half = kernel // 2
    # the kernel's rows upward, and its columns to both sides
    rows = torch.arange(half + 1)[:, None]  # r
    columns = torch.arange(-half, half + 1)  # c
    near = (rows * side + columns).flatten()  # every d of the neighbourhood
    return (back >= 0) & torch.isin(back, near)


def whole_mask(kind: str, text: int, side: int, kernel: int = 3) -> Tensor:
    """The mask over `text` caption tokens and side x side image tokens behind them:
    bool (L, L), L = text + side^2.
    """
    length = text + side**2
    mask = torch.ones(length, length, dtype=torch.bool).tril()  # causal
    # the caption's columns stay: all image tokens see all of it
    mask[text:, text:] = image_mask(kind, side, kernel)
    return mask
