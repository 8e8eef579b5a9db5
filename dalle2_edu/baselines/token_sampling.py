"""Drawing one token from a prediction, with random numbers that belong to one picture.

    temperature    p = softmax(logits / T): below 1 the likely becomes likelier, 0 takes the likeliest
    top-k          all but the k likeliest tokens get probability 0
    the draw       the first token with p_0 + ... + p_q > u,    u uniform in [0, 1)

The last line draws token q with probability p_q. `torch.multinomial` would take its
random numbers from one generator for the whole batch: another picture beside it, and
every picture changes. Here each picture brings uniform numbers of its own, made from
the same seeded normal noise as everywhere else.

Chapters 05, 06 and 15 use this file.
"""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError


def normal_to_uniform(normal: Tensor) -> Tensor:
    """Standard normal numbers as uniform ones in [0, 1): the normal distribution
    function.
    """
    uniform = 0.5 * (1 + torch.erf(normal / math.sqrt(2)))
    return uniform.clamp(max=1 - 1e-6)  # rounding may reach 1


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits (B, K) in which all but each row's k largest are minus infinity."""
    # the k-th largest of each row, (B, 1)
    least = logits.topk(min(k, logits.shape[1]), dim=1).values[:, -1:]
    return logits.masked_fill(logits < least, -math.inf)


def draw_token(
    logits: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Tensor:
    """One token a row from logits (B, K) and uniform (B,) in [0, 1): int64 (B,)."""
    if temperature == 0:
        return logits.argmax(dim=1)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    # in double precision, as hundreds of small numbers are added up
    probabilities = F.softmax(logits.double() / temperature, dim=1)  # (B, K)
    cumulated = probabilities.cumsum(dim=1)  # (B, K), rising to 1
    # a token of probability 0 is never the first above u: its sum is that before it
    token = (cumulated <= uniform[:, None]).sum(dim=1)  # (B,)
    # rounding may end below 1: then the last token that may be drawn
    places = torch.arange(logits.shape[1], device=logits.device)
    last = places.where(probabilities > 0, 0).amax(dim=1)  # (B,)
    return torch.minimum(token, last)


def check_temperature(temperature: float, top_k: SupportsIndex | None) -> None:
    """Raise Dalle2EduError for a temperature that is no number of 0 or more, and for a
    top_k that is no whole number of 1 or more.
    """
    number = isinstance(temperature, int | float) and math.isfinite(temperature)
    if not (number and temperature >= 0):
        raise Dalle2EduError(
            f"The temperature must be 0 or more, not {temperature!r:.60}."
        )
    if top_k is None:
        return
    whole = isinstance(top_k, SupportsIndex)
    if not whole or operator.index(top_k) < 1:
        raise Dalle2EduError(
            f"top_k must be 1 or more, a whole number, not {top_k!r:.60}."
        )
