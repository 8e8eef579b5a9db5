"""One call of the pipeline: its seeds, who is watching, and a stream of noise for each stage.

Every picture has a seed of its own, and every stage draws from a stream of its own, made from that seed. So the same
prompt and seed give the same picture alone, in a batch, or beside other prompts.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import SupportsIndex

import torch
from torch import Tensor

from dalle2_edu.data.text import Tokenizer
from dalle2_edu.diffusion.samplers import SeededNoise
from dalle2_edu.errors import Dalle2EduError

# What a caller may watch: (stage, step, guess of the stage's clean result). Stages: prior, decoder, upsampler_64, ...
Watcher = Callable[[str, int, Tensor], object]


@dataclass(frozen=True)
class Run:
    """One call's seeds, and who is watching."""

    seeds: list[int]
    device: torch.device
    progress: bool = False
    callback: Watcher | None = None

    def noise(self, stream: str) -> SeededNoise:
        """A stage's own stream of noise: drawing more in one stage changes nothing in the next."""
        own = [blake2b(f"{stream} {seed}".encode(), digest_size=7).digest() for seed in self.seeds]
        return SeededNoise([int.from_bytes(digest, "big") for digest in own], self.device)

    def watch(
        self, stage: str, finish: Callable[[Tensor], Tensor] = lambda guess: guess
    ) -> Callable[[int, Tensor, Tensor], object] | None:
        """The caller's callback, told which stage it watches; `finish` makes the guess a picture. None if nobody
        does.
        """
        callback = self.callback
        return None if callback is None else lambda step, x_t, guess: callback(stage, step, finish(guess))

    def label(self, stage: str) -> str | None:
        """The progress bar's label, None for no bar."""
        return stage if self.progress else None


def checked_prompts(prompts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The prompts as a list; raises for none, a bare string or an empty one, warns about what does not fit."""
    if isinstance(prompts, str):
        raise Dalle2EduError(f"Give a list of prompts, [{prompts!r}], not a single string.")
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise Dalle2EduError("The prompt is empty: say what to draw, for example rocket or 火箭.")
    for prompt in prompts:
        if cut := tokenizer.cut(prompt):
            message = f"The prompt is too long for {tokenizer.context_length} tokens; cut off: {cut!r}"
            warnings.warn(message, stacklevel=4)  # the caller's line: above are text_to_image and its no_grad
    return list(prompts)


def checked_seeds(seed: SupportsIndex | Sequence[int], n: int, of: str = "prompts") -> list[int]:
    """One seed a picture; `of` is what an error calls the n."""
    seeds = [operator.index(each) for each in ([seed] * n if isinstance(seed, SupportsIndex) else seed)]
    if len(seeds) != n:
        raise Dalle2EduError(f"{n} {of} need one seed, or {n}; there are {len(seeds)}.")
    return seeds


def checked_count(name: str, value: SupportsIndex, least: int = 1) -> int:
    """A whole number of at least `least`; raises Dalle2EduError for less."""
    if operator.index(value) < least:
        raise Dalle2EduError(f"{name} must be {least} or more, not {operator.index(value)}.")
    return operator.index(value)
