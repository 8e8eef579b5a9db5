"""The exponential moving average (EMA) of the weights: the model that you sample from.

Adam never stands still: with a constant learning rate the weights jitter around a good
place. Averaging the last few hundred or thousand of them cancels the jitter, for the
price of a second copy of the weights. Every model of DALL·E 2 is such an average: decay
0.9999, and 0.999 for the autoregressive prior (arXiv 2204.06125, table 3). Our runs are
shorter, so our memory is shorter too: 0.999.

With theta_s the weights after step s and d the decay,

    ema_s = d_s * ema_{s-1} + (1 - d_s) * theta_s,        d_s = min(d, (1 + s) / (10 + s)),   s = 0, 1, 2, ...

A constant d remembers the random weights of the start for about 1 / (1 - d) steps: a
thousand steps at 0.999, a large part of a short run. The warm-up d_s starts at 0.1 and
forgets them at once.

Chapter 08 trains its first model with this file.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


def ema_decay(step: int, decay: float) -> float:
    """The decay d_s of step `step` (0 for the first update): `decay`, warmed up from
    0.1.
    """
    return min(decay, (1 + step) / (10 + step))  # d_s


class EMA:
    """A second copy of a model whose weights trail behind the trained ones.

    `ema.module` is an ordinary module in evaluation mode without gradients: sample from
    it, or save it.

    Make it *before* `accelerator.prepare`: with mixed precision that call replaces
    `model.forward` by a wrapper, and a deep copy of the wrapper would still run the
    original's weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay  # d
        # a copy, so that the buffers come along
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    def copy_from(self, model: nn.Module) -> None:
        """Forget the past: the average becomes `model`'s weights."""
        self.module.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after update number `step` (0 for the first).

        Buffers (batch-norm statistics, say) are averages already or constants, so they
        are copied.
        """
        both = zip(self.module.parameters(), model.parameters(), strict=True)
        # frozen weights are equal, and stay so
        trained = [pair for pair in both if pair[1].requires_grad]
        averages, weights = zip(*trained, strict=True)
        # lerp(a, b, w) = a + w (b - a). One call for all: one per tensor would leave a
        # GPU waiting for Python.
        share = 1 - ema_decay(step, self.decay)  # 1 - d_s
        torch._foreach_lerp_(averages, weights, share)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
