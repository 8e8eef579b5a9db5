"""One call of the pipeline: its seeds, who is watching, and a stream of noise for each
stage.

Every picture has its seed, and every stage draws from a separate stream, made from that
seed. So the same prompt and seed give the same picture alone, in a batch, or beside
other prompts.

Chapters 06, 10, 18 and 19 use this file.
"""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import SupportsIndex

import torch
from torch import Tensor

from dalle2_edu.data.prompts import never_read, required_prompt, shorten
from dalle2_edu.data.text import Tokenizer, default_tokenizer
from dalle2_edu.errors import Dalle2EduError

# What a caller may watch: (stage, step, the predicted clean result). Stages: prior,
# decoder, upsampler_64, ...
Watcher = Callable[[str, int, Tensor], object]


class SeededNoise:
    """Standard normal noise in which each picture has its own seed.

    One generator for the whole batch would hand picture 3 other numbers when picture 2
    is left out. Here each picture draws from its own generator, so it comes out the
    same alone or in any batch; and always on the CPU, since a GPU's generator gives
    other numbers for the same seed.
    """

    def __init__(
        self, seeds: Sequence[int], device: str | torch.device = "cpu"
    ) -> None:
        self.device = torch.device(device)
        # one per picture
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """The next noise, float32 of this shape. Raises Dalle2EduError unless shape[0]
        counts the seeds.
        """
        if shape[0] != len(self.generators):
            raise Dalle2EduError(
                f"{len(self.generators)} seeds can't make noise for a batch of {shape[0]}."
            )
        # B x (...) => (B, ...)
        draws = torch.stack(
            [
                torch.randn(*shape[1:], generator=generator)
                for generator in self.generators
            ]
        )
        if self.device.type == "cuda":
            # only pinned memory is copied while both sides keep working
            draws = draws.pin_memory()
        return draws.to(self.device, non_blocking=True)


def mixed_seed(stream: str, seed: int) -> int:
    """A seed for one stream of noise: streams of one picture have nothing in common."""
    # a hash: with seed + number of the stage, two pictures would share a stream
    digest = blake2b(f"{stream} {seed}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")  # 56 bits: any generator takes it


@dataclass(frozen=True)
class Run:
    """One call's seeds, and who is watching."""

    seeds: list[int]  # one per picture
    device: torch.device
    progress: bool = False
    callback: Watcher | None = None  # after each step of each stage

    def noise(self, stream: str) -> SeededNoise:
        """A stage's stream of noise: drawing more in one stage changes nothing in the
        next.
        """
        seeds = [mixed_seed(stream, seed) for seed in self.seeds]
        return SeededNoise(seeds, self.device)

    def watch(
        self, stage: str, finish: Callable[[Tensor], Tensor] = lambda pred_x0: pred_x0
    ) -> Callable[[int, Tensor, Tensor], object] | None:
        """The caller's callback, which is given the stage as well; `finish` makes the
        prediction a picture. None if there is no callback.
        """
        callback = self.callback  # so that the function below closes over it alone
        if callback is None:
            return None
        return lambda step, x_t, pred_x0: callback(stage, step, finish(pred_x0))

    def label(self, stage: str) -> str | None:
        """The progress bar's label, None for no bar."""
        return stage if self.progress else None


def checked_prompts(prompts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The prompts, each as `data.prompts.read_prompt` reads it.

    Raises Dalle2EduError for none, a bare string and an empty one. Warns about what
    does not fit into the context, and about a prompt of which the shipped models know
    no word.
    """
    if isinstance(prompts, str):
        raise Dalle2EduError(
            f"Give a list of prompts, [{prompts!r:.60}], not a single string."
        )
    read = [required_prompt(prompt) for prompt in prompts]
    if not read:
        raise Dalle2EduError(
            "The list of prompts is empty: give at least one, ['rocket']."
        )
    for prompt in dict.fromkeys(read):  # once for each, in their order
        if cut := tokenizer.cut(prompt):
            message = (
                f"The prompt is too long for {tokenizer.context_length} tokens; cut off:"
                f" {shorten(cut)!r}"
            )
            warnings.warn(message, stacklevel=frames_inside())
        if tokenizer is default_tokenizer() and never_read(prompt):
            message = (
                f"No word of {shorten(prompt)!r} is in the captions that the models learned from"
                " (emoji and shapes, in English and Chinese): the picture will not show it."
            )
            warnings.warn(message, stacklevel=frames_inside())
    return read


def checked_negative(prompt: str, guidance_scale: float, tokenizer: Tokenizer) -> str:
    """What guidance leads away from: "" for nothing in particular, otherwise read as a
    prompt is. Raises Dalle2EduError where guidance is off, as it would do nothing.
    """
    if prompt == "":
        return prompt
    if guidance_scale == 1:
        raise Dalle2EduError(
            "A negative prompt works through guidance, and a guidance scale of 1 is none:"
            " give a larger one, such as 3."
        )
    return checked_prompts([prompt], tokenizer)[0]


def checked_seeds(
    seed: SupportsIndex | Sequence[int], n: int, of: str = "prompts"
) -> list[int]:
    """One seed a picture; `of` is what an error calls the n."""
    try:
        several = [seed] * n if isinstance(seed, SupportsIndex) else list(seed)
        seeds = [operator.index(one) for one in several]  # NumPy's integers, too
    except TypeError:
        raise Dalle2EduError(
            f"A seed is a whole number, or a list with one for each picture; not {seed!r:.60}."
        ) from None
    if len(seeds) != n:
        raise Dalle2EduError(f"{n} {of} need one seed, or {n}; there are {len(seeds)}.")
    return seeds


def checked_count(name: str, value: SupportsIndex, least: int = 1) -> int:
    """A whole number of at least `least`; raises Dalle2EduError for anything else."""
    if not isinstance(value, SupportsIndex) or operator.index(value) < least:
        raise Dalle2EduError(
            f"{name} must be {least} or more, a whole number, not {value!r:.60}."
        )
    return operator.index(value)


def following_seeds(
    seed: SupportsIndex | Sequence[int], n: int, of: str = "pictures"
) -> list[int]:
    """As `checked_seeds`, but one number stands for seed, seed + 1, ...: n pictures of
    one thing should differ.
    """
    seeds = checked_seeds(seed, n, of)
    if isinstance(seed, SupportsIndex):
        return [first + i for i, first in enumerate(seeds)]  # seed, seed + 1, ...
    return seeds


def checked_device(device: str | torch.device) -> torch.device:
    """The device, if PyTorch can compute on it here; raises Dalle2EduError if not."""
    try:
        return torch.empty(0, device=device).device  # fails at once if it can't
    # AssertionError: a PyTorch built without CUDA
    except (RuntimeError, AssertionError):
        raise Dalle2EduError(
            f"PyTorch can't use the device {str(device)!r} here; take 'cpu'."
        ) from None


def frames_inside() -> int:
    """The stacklevel with which a warning points at the line that called this package:
    how many frames, from the caller of this function up, are the package's own or
    torch's.
    """
    inside = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))
    frame = sys._getframe(1)  # of the function that calls this one
    count = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame = frame.f_back
        count += 1
    return count
