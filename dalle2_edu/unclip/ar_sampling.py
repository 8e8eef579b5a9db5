"""Drawing one code from a prediction, with random numbers that belong to one picture.

A language model's sampler usually calls `torch.multinomial`, which takes its random
numbers from one generator for the whole batch: another picture beside it, and every
picture changes. Here each picture brings its own uniform number, and the code is read
off the cumulated probabilities:

    q = the first code with p_0 + ... + p_q > u,    u uniform in [0, 1)

which draws code q with probability p_q. The uniform numbers come from the same seeded
normal noise as everywhere else, through the normal distribution function.

Chapter 15 uses this file.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError


def check_sampling(temperature: float, above: float) -> None:
    """Raise Dalle2EduError for a temperature below 0 or a quantile outside [0, 1)."""
    if not temperature >= 0:  # true for nan as well
        raise Dalle2EduError(f"The temperature must be 0 or more, not {temperature}.")
    if not 0 <= above < 1:
        raise Dalle2EduError(
            f"`above` is a quantile of the dot products, from 0 to below 1, not {above}."
        )


def normal_to_uniform(normal: Tensor) -> Tensor:
    """Standard normal numbers as uniform ones in [0, 1): the normal distribution
    function.
    """
    below = torch.erf(normal / math.sqrt(2))  # from -1 to 1
    uniform = 0.5 * (1 + below)  # Φ(x)
    return uniform.clamp(max=1 - 1e-6)  # rounding may reach 1


def draw_code(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """One code a row from logits (B, K): the first whose cumulated probability is
    above uniform (B,) in [0, 1). Temperature 0 takes the likeliest.
    """
    if temperature == 0:  # the limit of ever smaller temperatures
        return logits.argmax(dim=1)
    scaled = logits.double() / temperature  # float64: a sum of 1024 small numbers
    probabilities = F.softmax(scaled, dim=1)  # p_q, (B, K)
    cumulated = probabilities.cumsum(dim=1)  # (B, K), rising to 1
    passed = cumulated <= uniform[:, None]  # (B, K): p_0 + ... + p_q <= u
    code = passed.sum(dim=1)  # (B,), the first one that is not passed
    return code.clamp(max=logits.shape[1] - 1)  # rounding may end below 1
