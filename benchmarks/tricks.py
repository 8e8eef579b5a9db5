"""What each trick brings, by itself: the same work with and without it, taking
turns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from networks import DecoderConfig, How, Size, decoder_inputs, inputs_of, ours, trainer
from timing import DEVICE, Spread, Work, half_precision, take_turns
from torch import Tensor

from dalle2_edu.diffusion.guidance import classifier_free, guide
from dalle2_edu.unclip.decoder import Decoder

PLAIN = How(half=False, channels_last=False, compiled=False, fused=False)
IN_TRAINING = {
    "fused optimiser": replace(PLAIN, fused=True),
    "channels-last": replace(PLAIN, channels_last=True),
    "bf16": replace(PLAIN, half=True),
    "torch.compile": replace(PLAIN, compiled=True),
}


@dataclass(frozen=True)
class Gain:
    """One trick: what it was tried on, without it and with it."""

    trick: str
    work: str
    without: Spread
    with_it: Spread

    @property
    def times(self) -> float:
        return self.without.median / self.with_it.median


def compared(trick: str, work: str, without: Work, with_it: Work, rounds: int) -> Gain:
    times = take_turns({"without": without, "with": with_it}, rounds)
    return Gain(trick, work, times["without"], times["with"])


def in_training(size: Size, part: str, trick: str, rounds: int) -> Gain:
    """A trick in a training step of the "decoder" or the "prior"."""
    network, inputs = ours(size, part), inputs_of(size, part)
    without = trainer(copy.deepcopy(network), inputs, PLAIN)
    with_it = trainer(network, inputs, IN_TRAINING[trick])
    return compared(
        trick, f"training step, {part}, {size.name}", without, with_it, rounds
    )


def in_drawing(config: DecoderConfig, rounds: int) -> list[Gain]:
    """Tricks in one guided step of the decoder, for one picture."""
    decoder, work = (
        Decoder(config).to(DEVICE).eval(),
        "one guided step of a drawing, decoder",
    )
    flat = copy.deepcopy(decoder).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = guided_steps(decoder, config)
    usual = steps["one pass, text read once"]
    return [
        compared(
            "one batched pass for guidance", work, steps["two passes"], usual, rounds
        ),
        compared(
            "text read once per picture",
            work,
            steps["text read in each step"],
            usual,
            rounds,
        ),
        compared(
            "channels-last",
            work,
            usual,
            guided_steps(flat, config)["one pass, text read once"],
            rounds,
        ),
        compared("bf16", work, usual, in_half(usual), rounds),
    ]


def guided_steps(decoder: Decoder, config: DecoderConfig) -> Mapping[str, Work]:
    """The same guided guess in three ways."""
    inputs = decoder_inputs(config, 1)
    x_t, t = inputs.pop("x_t"), inputs.pop("t")
    null = {
        **inputs,
        "image_emb": decoder.null_image_emb.detach().expand_as(inputs["image_emb"]),
    }
    with torch.no_grad():
        read, null_read = decoder.read(**inputs), decoder.read(**null)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "one pass, text read once": classifier_free(
            decoder.denoise, 8.0, null_read, read
        ),
        "text read in each step": classifier_free(decoder, 8.0, null, inputs),
        "two passes": lambda x, t: guide(
            decoder.denoise(x, t, **null_read), decoder.denoise(x, t, **read), 8.0, 3
        ),
    }
    return {name: without_gradient(way, x_t, t) for name, way in ways.items()}


def without_gradient(
    way: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, t: Tensor
) -> Work:
    @torch.no_grad()
    def work() -> Any:
        return way(x_t, t)

    return work


def in_half(work: Work) -> Work:
    def halved() -> object:
        with half_precision(True):
            return work()

    return halved
