"""Data that do not fit in memory: shards read sample by sample, in any order.

A billion pairs are a hundred thousand tar files. Reading them in a row is fast and
never shuffled enough; reading them one sample here and one there is shuffled and, over
a network, hopeless. In between: **mix a few shards at a time**. An epoch takes the
shards in a random order, `MIXED` of them make a window, and within the window every
sample comes in a random order. Which sample comes when is then a function of (seed,
epoch, window), as everything in `training/order.py` is a function of the step: a run
that was killed in the middle of an epoch goes on with the very next sample, and neither
repeats nor loses one, on any number of processes.

    counts     how many samples each shard has, read once (`count_samples`) and kept in the run's folder
    index      where each sample of the few open shards lies in its file (`TarShard`)
    read ahead a pool of threads decodes the next batch while this one trains (`Stream.prefetch`)

A tar file can be read at any place once its headers are known, so a local shard is read
where it lies. One behind a URL is fetched whole into a cache folder first and thrown
away a few shards later.

Chapter 24 uses this file.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dalle2_edu.data.layouts import PICTURES
from dalle2_edu.data.samples import TarShard
from dalle2_edu.data.shards import MOST_BAD, usable
from dalle2_edu.data.sources import open_shard, tar_files
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import atomic_write, one_line, parse_json, read_json

# shards that are shuffled together: of the usual 10,000 samples each, 160,000
MIXED = 16
WORKERS = min(8, os.cpu_count() or 1)  # threads that decode: Pillow releases the GIL
FEW = 200  # so many samples must be seen before a share of bad ones says anything


def count_samples(
    urls: Sequence[str], notes: Path | None = None, progress: bool = True
) -> list[int]:
    """How many samples each shard has. With `notes`, a JSON file, what was counted is
    kept there and not counted again.

    img2dataset writes the number beside each shard (`00000_stats.json`); otherwise the
    shard itself is looked through.
    """
    counts = known_counts(notes)
    missing = [url for url in urls if url not in counts]
    quiet = not progress or len(missing) < MIXED  # a few are counted in a moment
    for url in tqdm(missing, desc="counting samples", disable=quiet):
        # 0 or None: count for oneself
        counts[url] = stated_count(url) or len(open_shard(url))
    if notes and missing:
        atomic_write(notes, json.dumps(counts, indent=0))
    return [counts[url] for url in urls]


def known_counts(notes: Path | None) -> dict[str, int]:
    """What was counted before; raises Dalle2EduError, naming the file, for one that was
    altered.
    """
    if notes is None or not notes.is_file():
        return {}
    counts = read_json(notes)
    if not isinstance(counts, dict) or not all(type(n) is int for n in counts.values()):
        raise Dalle2EduError(
            f"{notes} is damaged: remove it, and the shards are counted again."
        )
    return counts


def stated_count(url: str) -> int | None:
    """What img2dataset's statistics beside a local shard say, None where there are
    none.
    """
    stats = Path(f"{url.removesuffix('.tar')}_stats.json")
    try:
        return int(parse_json(stats.read_bytes())["successes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- all of them ----------------------------------------------------------------------


class Stream:
    """Many shards as one long list of pictures with captions, of which only a few
    batches are in memory.

    source: as for `shards.pairs`, but tar files only. size: S in pixels. notes: see
    `count_samples`. A picture that can't be read, or has no caption, is replaced by the
    next one of its shard, named in a warning and counted; more than one in a hundred
    raise Dalle2EduError.
    """

    def __init__(
        self, source: str, size: int, notes: Path | None = None, progress: bool = True
    ):
        self.urls = tar_files(source)
        self.size = size  # S
        # the training loop orders the shards by their counts
        self.counts = count_samples(self.urls, notes, progress)
        if not sum(self.counts):
            raise Dalle2EduError(
                f"{source} holds no pictures: expected {', '.join(PICTURES)} with captions"
                " beside them"
            )
        self.ends = torch.tensor(self.counts).cumsum(0)  # where each shard ends
        # fetching is waiting, not work: one thread for each shard of a window
        self.openers = ThreadPoolExecutor(MIXED, thread_name_prefix="open")
        # Two windows' shards stay open: at a window's edge a batch needs both.
        self.shard = lru_cache(maxsize=2 * MIXED)(self._opening)
        self.readers = ThreadPoolExecutor(WORKERS, thread_name_prefix="decode")
        self.ahead: dict[int, Future[Drawn]] = {}  # begun, by index
        self.seen = 0
        self.bad = 0
        self.last_bad = ""  # the last one that could not be used

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The pictures alone: int64 (B,) -> uint8 (B, 3, S, S), as if all were one
        tensor.
        """
        return self.take(indices)[0]

    def take(self, indices: Tensor) -> tuple[Tensor, list[list[str]]]:
        """The pictures with these indices, uint8 (B, 3, S, S), and their captions."""
        self.prefetch(indices)
        drawn = [self.ahead[index].result() for index in indices.tolist()]
        self.ahead.clear()
        self._count(drawn)
        images = torch.stack([sample.image for sample in drawn])  # (B, 3, S, S)
        return images, [sample.captions for sample in drawn]

    def prefetch(self, indices: Tensor) -> None:
        """Begin to read and decode these in the background: the next `take` wants
        them.
        """
        for index in indices.tolist():
            if index in self.ahead:
                continue
            # the first shard that ends beyond the index
            which = int(torch.searchsorted(self.ends, index, right=True))
            first = int(self.ends[which]) - self.counts[which]
            opened = self.shard(which)
            self.ahead[index] = self.readers.submit(self._read, opened, index - first)

    def _opening(self, which: int) -> Future[TarShard]:
        """A shard that is being opened in the background."""
        return self.openers.submit(self._open, which)

    def _open(self, which: int) -> TarShard:
        shard = open_shard(self.urls[which])
        if len(shard) != self.counts[which]:
            raise Dalle2EduError(
                f"{shard.url} holds {len(shard)} samples, and {self.counts[which]} were"
                " counted: it has changed, or its _stats.json is of another file; start in a"
                " new folder."
            )
        return shard

    def _read(self, opened: Future[TarShard], index: int) -> Drawn:
        shard = opened.result()
        bad: list[str] = []
        for further in range(len(shard)):  # the next one stands in
            sample = shard[(index + further) % len(shard)]
            try:
                return Drawn(usable(sample, self.size), sample.captions, bad)
            except ValueError as error:
                bad.append(f"{sample.name} ({one_line(error)})")
        raise Dalle2EduError(f"no picture in {shard.url} can be used, such as {bad[0]}")

    def _count(self, drawn: Sequence[Drawn]) -> None:
        """Name the bad ones, and stop where there are too many of them."""
        for sample in drawn:
            for name in sample.bad:
                warnings.warn(f"left out {name}", stacklevel=4)
                self.last_bad = name
        self.seen += len(drawn)
        self.bad += sum(bool(sample.bad) for sample in drawn)
        # 1% of the first ten pictures would be one picture: wait for a few hundred
        if self.seen >= FEW and self.bad > MOST_BAD * self.seen:
            raise Dalle2EduError(
                f"{self.bad} of the first {self.seen} pictures can't be used (1% may be bad),"
                f" such as {self.last_bad}"
            )


@dataclass(frozen=True)
class Drawn:
    """One picture, uint8 (3, S, S), its captions, and which ones were tried before it
    in vain.
    """

    image: Tensor
    captions: list[str]
    bad: list[str]
