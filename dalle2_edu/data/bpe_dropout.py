"""BPE dropout: the same sentence in other tokens each time.

Read in chapter 06 (DALL·E 1).

A tokenizer always cuts a word the same way, so a model never learns that "circle" and
"c irc le" are the same letters. BPE dropout (arXiv 1910.13267, algorithm 1) is a cheap
cure, at training time only: while the pieces of a word are being merged, each merge
that is possible is skipped with probability p,

    repeat: list the neighbours that could be merged; strike each out with probability p;
            merge the pair of the lowest rank among the rest; stop if none is left

so now and then a word falls into smaller pieces. p = 0 is the tokenizer itself, p = 1
gives bytes. DALL·E 1 takes p = 0.1 (arXiv 2102.12092).

The tokenizer's own library can do this too, but draws random numbers that no seed
reaches; a training run here must be a function of its seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from dalle2_edu.data.text import MARK, Tokenizer, normalize
from dalle2_edu.errors import Dalle2EduError

DROPOUT = 0.1  # arXiv 2102.12092

Uniform = Callable[[], float]  # the next random number in [0, 1)


class BpeDropout:
    """A tokenizer whose merges are skipped at random."""

    def __init__(self, tokenizer: Tokenizer, p: float = DROPOUT) -> None:
        """Raises Dalle2EduError for a p outside of [0, 1]."""
        if not 0 <= p <= 1:
            raise Dalle2EduError(f"BPE dropout is a probability, 0 to 1, not {p}.")
        self.tokenizer = tokenizer
        self.p = p

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        """Each pair of symbols that may be merged -> its rank; the lowest goes first."""
        merges = json.loads(self.tokenizer.bpe.to_str())["model"]["merges"]
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
        return {(left, right): rank for rank, (left, right) in enumerate(pairs)}

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Each symbol's number, before pad, start and end."""
        return self.tokenizer.bpe.get_vocab()

    def __call__(
        self, texts: Sequence[str], uniform: Uniform = random.random
    ) -> Tensor:
        """As the tokenizer: int64 (B, context_length); what does not fit is cut off."""
        tokenizer = self.tokenizer
        shape = (len(texts), tokenizer.context_length)
        rows = torch.full(shape, tokenizer.pad_id, dtype=torch.int64)  # (B, L)
        for row, text in zip(rows, texts, strict=True):
            ids = self.ids(text, uniform)[: tokenizer.context_length - 2]
            whole = [tokenizer.start_id, *ids, tokenizer.end_id]
            row[: len(whole)] = torch.tensor(whole)
        return rows

    def ids(self, text: str, uniform: Uniform = random.random) -> list[int]:
        """The tokens of one text, without start and end."""
        cut = self.tokenizer.bpe.pre_tokenizer.pre_tokenize_str(normalize(text))
        symbols = [symbol for piece, _ in cut for symbol in self.merged(piece, uniform)]
        return [MARK + self.vocabulary[symbol] for symbol in symbols]

    def merged(self, piece: str, uniform: Uniform = random.random) -> list[str]:
        """One piece, letter by letter, merged until nothing is left to merge."""
        symbols = list(piece)
        while candidates := self.candidates(symbols, uniform):
            _, place = min(candidates)  # the lowest rank; the leftmost of equals
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        return symbols

    def candidates(self, symbols: list[str], uniform: Uniform) -> list[tuple[int, int]]:
        """The merges that are possible and not struck out: (rank, place)."""
        found = []
        for place, pair in enumerate(zip(symbols, symbols[1:], strict=False)):
            rank = self.ranks.get(pair)
            if rank is not None and not uniform() < self.p:
                found.append((rank, place))
        return found
