"""Randomness as a function: which examples each step sees, whatever happened before it.

A usual loop pulls random numbers from one long stream, so step 1000 depends on all that
was drawn before it. Here every random number of a step is a function of the run's seed,
the step and the rank (the number of the process) alone:

    picture order of epoch e      permutation seeded by (seed, e)
    pictures of step s            places s B ... (s + 1) B - 1 of the permutations laid end to end
    noise, timesteps, dropout     generators seeded by (seed, s, rank), anew at each step

Data that do not fit in memory can't be permuted as a whole: then `ShardOrder` mixes a
few shards at a time (see `data/stream.py`).

Chapters 08 (`Order`) and 24 (`ShardOrder`) use this file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dalle2_edu.data.stream import MIXED
from dalle2_edu.training.task import Task, TrainConfig


def seed_for(*parts: object) -> int:
    """A 32-bit seed that depends on all the parts, and looks unrelated for parts that
    differ in one bit.
    """
    name = repr(parts).encode()
    digest = hashlib.blake2b(name, digest_size=4).digest()  # a hash: no two look alike
    return int.from_bytes(digest, "big")


class Order:
    """Which examples each step sees: every one once per epoch, in a new order each
    time.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size = size  # N
        self.batch_size = batch_size  # B
        self.seed = seed
        self._epoch = -1  # none yet
        self._permutation = torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int) -> Tensor:
        """The indices of step `step`'s global batch, int64 (batch_size,); may reach
        into the next epoch.
        """
        first = step * self.batch_size  # s B
        places = torch.arange(first, first + self.batch_size)  # (B,)
        epochs = places // self.size  # which pass over the data, (B,)
        parts = []
        for epoch in epochs.unique().tolist():  # a batch may reach into the next one
            here = places[epochs == epoch] % self.size  # places within the epoch
            parts.append(self._of_epoch(epoch)[here])
        return torch.cat(parts)  # (B,)

    def _of_epoch(self, epoch: int) -> Tensor:
        if epoch != self._epoch:  # the last one is kept: an epoch has many steps
            seed = seed_for("order", self.seed, epoch)
            generator = torch.Generator().manual_seed(seed)
            self._permutation = torch.randperm(self.size, generator=generator)
            self._epoch = epoch
        return self._permutation


class ShardOrder:
    """Which samples each step sees: every one once per epoch, a window of shards at a
    time.

    counts: how many samples each shard has. `seeded(*parts)` is a generator that is a
    function of the parts.
    """

    def __init__(
        self,
        counts: Sequence[int],
        batch_size: int,
        seeded: Callable[..., torch.Generator],
    ):
        self.counts = torch.tensor(counts)  # (shards,)
        # (shards,): the index of each shard's first sample
        self.firsts = self.counts.cumsum(0) - self.counts
        self.size = int(self.counts.sum())
        self.batch_size = batch_size
        self.seeded = seeded
        # (epoch, window) and its samples: none yet
        self._window: tuple[tuple[int, int], Tensor] = ((-1, -1), torch.empty(0))

    def __call__(self, step: int) -> Tensor:
        """The indices of step `step`'s global batch, int64 (batch_size,); may reach
        into the next window or epoch.
        """
        place = step * self.batch_size
        wanted = self.batch_size
        parts = []
        while wanted:  # once, unless a window or an epoch ends within the batch
            epoch, within = divmod(place, self.size)
            rest_of_window = self._from(epoch, within)
            part = rest_of_window[:wanted]  # no more than is left there
            parts.append(part)
            place += len(part)
            wanted -= len(part)
        return torch.cat(parts)

    def _shards_of(self, epoch: int) -> tuple[Tensor, Tensor]:
        """An epoch's shards in their order, and at which place of the epoch each window
        ends.
        """
        generator = self.seeded("shards", epoch)
        shards = torch.randperm(len(self.counts), generator=generator)
        ends = self.counts[shards].cumsum(0)  # (shards,), in this epoch's order
        numbers = torch.arange(1, len(shards) + 1)
        last_of_window = numbers % MIXED == 0  # every sixteenth shard ends a window
        last_of_window[-1] = True  # the last window may be shorter
        return shards, ends[last_of_window]

    def _from(self, epoch: int, place: int) -> Tensor:
        """What is left of the window in which a place of the epoch lies, from that
        place on.
        """
        _, ends = self._shards_of(epoch)
        # the first that ends beyond
        window = int(torch.searchsorted(ends, place, right=True))
        start = int(ends[window - 1]) if window else 0  # where it begins
        return self._samples(epoch, window)[place - start :]

    def _samples(self, epoch: int, window: int) -> Tensor:
        """The samples of one window in their order; the last one is kept, since a
        window has many steps.
        """
        if self._window[0] != (epoch, window):
            shards, _ = self._shards_of(epoch)
            mixed = shards[window * MIXED : (window + 1) * MIXED].tolist()  # its shards
            parts = [self.firsts[i] + torch.arange(int(self.counts[i])) for i in mixed]
            samples = torch.cat(parts)  # in the order of the files
            generator = self.seeded("window", epoch, window)
            # shuffled over all shards of the window
            order = torch.randperm(len(samples), generator=generator)
            self._window = (epoch, window), samples[order]
        return self._window[1]


def make_order(task: Task, config: TrainConfig) -> Order | ShardOrder:
    """Which examples each step sees, as a function of the step and the seed."""
    if task.stream is None:
        return Order(task.size, config.batch_size, config.seed)

    def seeded(*parts: object) -> torch.Generator:
        return torch.Generator().manual_seed(seed_for("order", config.seed, *parts))

    return ShardOrder(task.stream.counts, config.batch_size, seeded)
