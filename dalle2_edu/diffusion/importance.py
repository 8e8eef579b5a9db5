r"""Which timesteps to train on: more often where the loss is large.

The bound L_vlb is a sum of T terms, and a training step sees one of them for each
picture. Drawn uniformly they make a noisy gradient, because the terms differ by orders
of magnitude: the last steps before the clean picture cost most of the bits. The trick
is as old as Monte Carlo: draw step t with probability p_t, and divide its loss by T
p_t. The mean stays what it was, whatever the p_t,

    E_{t ~ p}[ L_t / (T p_t) ] = sum_t p_t L_t / (T p_t) = (1/T) sum_t L_t,

and the variance is least when p_t is proportional to sqrt(E[L_t^2]):

    L_vlb = E_{t ~ p}[ L_t / p_t ],   p_t ~ sqrt(E[L_t^2]),   sum_t p_t = 1     improved DDPM (2102.09672), Section 3.3

E[L_t^2] isn't known and changes while the network learns, so the last 10 losses of each
step are remembered, and steps are drawn uniformly until each has 10. The paper uses
this for L_vlb alone: the hybrid loss is dominated by L_simple, whose terms are all of
one size, and has little to gain.

Chapter 09 (better and faster) plots the p_t.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

HISTORY = 10  # losses remembered of each step
# share of uniform draws: no step is forgotten, and no weight is infinite
UNIFORM_SHARE = 0.001


class ImportanceSampler(nn.Module):
    """Draws timesteps by the losses that were recorded.

    A module without parameters: what it remembers are buffers, so it is saved and
    loaded as every model is.
    """

    history: Tensor  # (T, HISTORY), float64: the newest losses of each step, in a ring
    counts: Tensor  # (T,), int64: how many losses were seen of each step

    def __init__(self, num_timesteps: int):
        super().__init__()
        self.register_buffer(
            "history", torch.zeros(num_timesteps, HISTORY, dtype=torch.float64)
        )
        self.register_buffer("counts", torch.zeros(num_timesteps, dtype=torch.int64))

    def is_warm(self) -> bool:
        """Whether every step has its 10 losses."""
        return bool((self.counts >= HISTORY).all())

    def probabilities(self) -> Tensor:
        """p_t, float64 (T,): uniform until warm."""
        uniform = torch.full_like(self.history[:, 0], 1 / len(self.counts))  # 1/T, (T,)
        if not self.is_warm():
            return uniform
        size = self.history.square().mean(dim=1).sqrt()  # sqrt(E[L_t^2]), (T,)
        # p_t, a little of it uniform
        return torch.lerp(size / size.sum(), uniform, UNIFORM_SHARE)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n steps, int64 (n,), and the weights 1 / (T p_t) of their losses, float32
        (n,), on the generator's device.
        """
        p = self.probabilities().to(generator.device)  # p_t, (T,)
        weights = 1 / (len(p) * p)  # 1 / (T p_t), (T,)
        index = torch.multinomial(p, n, replacement=True, generator=generator)  # (n,)
        return index, weights[index].float()

    @torch.no_grad()
    def record(self, index: Tensor, losses: Tensor) -> None:
        """Remember the unweighted losses (B,) of the steps index (B,), of all
        processes if there are several.
        """
        steps = _of_all_processes(index).tolist()  # (processes * B,)
        values = _of_all_processes(losses.detach()).tolist()
        # one after the other: a step may come twice in a batch
        for t, loss in zip(steps, values, strict=True):
            place = self.counts[t] % HISTORY  # the ring's oldest entry
            self.history[t, place] = loss
            self.counts[t] += 1


def _of_all_processes(x: Tensor) -> Tensor:
    """x (B,) of all processes end to end, (processes * B,): they must remember the
    same, to draw by the same p_t.
    """
    if not distributed.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)
