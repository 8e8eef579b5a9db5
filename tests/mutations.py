"""Damaged copies of a file: a bounded number of them, and the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Iterator

STRANGE = [
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\n",
    b"{",
    b"[" * 2000,
    b"NaN",
    b"-1",
    b"9" * 40,
]


def mutations(data: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """n damaged copies: bytes changed, cut off, left out, doubled, or strange ones put
    in.
    """
    draw = random.Random(seed)
    for _ in range(n):
        changed = bytearray(data)
        for _ in range(draw.randrange(1, 5)):
            place = draw.randrange(len(changed) + 1)
            end = min(place + draw.randrange(1, 40), len(changed))
            kind = draw.choice(
                ("change", "change", "cut", "leave out", "double", "strange")
            )
            if kind == "change" and place < len(changed):
                changed[place] = draw.randrange(256)
            elif kind == "cut":
                del changed[place:]
            elif kind == "leave out":
                del changed[place:end]
            elif kind == "double":
                changed[place:place] = changed[place:end]
            else:
                changed[place:place] = draw.choice(STRANGE)
        yield bytes(changed)
