"""One whole drawing, text to picture, on both sides: the same weights, the same noise,
Karlo's steps and guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import DEVICE, ON_GPU
from torch import Tensor

from dalle2_edu import UnCLIP, load_karlo
from dalle2_edu.interop.karlo import ClipTokenizer, Karlo

PROMPT = "a rocket over the sea"
SEED = 7
DTYPE = torch.bfloat16 if ON_GPU else torch.float32


def our_karlo(folder: Path, dtype: torch.dtype = DTYPE) -> Karlo:
    """Our pipeline; in half precision with what pays on a GPU: channels-last
    convolutions and compiled networks.
    """
    karlo = load_karlo(folder, dtype=dtype, device=DEVICE, progress=False)
    if dtype == torch.bfloat16:
        for network in (karlo.decoder.unet, karlo.upsamplers[0].unet, karlo.last.unet):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            network.compile()
        karlo.prior.compile()  # type: ignore[union-attr]
    return karlo


def our_work(folder: Path, dtype: torch.dtype = DTYPE) -> Callable[[], Tensor]:
    karlo = our_karlo(folder, dtype)
    return lambda: draw(karlo)


def draw(karlo: UnCLIP) -> Tensor:
    """(1, 3, S, S) in [-1, 1]."""
    return karlo.text_to_image([PROMPT], seed=SEED, progress=False)


def their_work(theirs: Any) -> Callable[[], Tensor]:
    """The same by `rivals.TheirKarlo`, with the tokens that its own tokenizer would
    make.
    """
    tokenizer = ClipTokenizer(
        theirs.parts["text_encoder"].config.max_position_embeddings
    )
    tokens, null = tokenizer([PROMPT]), tokenizer([""])
    return lambda: theirs(tokens, null, [SEED])


def differences(folder: Path) -> tuple[float, float]:
    """How far apart the two sides' pictures are in single precision: with diffusers'
    schedule as it is, and in double precision.
    """
    # only here: our side's process does not hold diffusers
    from rivals import TheirKarlo

    theirs = TheirKarlo(folder)
    with torch.backends.cudnn.flags(allow_tf32=False):
        ours, work = our_work(folder, torch.float32)(), their_work(theirs)
        stock = difference(ours, work())
        theirs.sharpen()
        return stock, difference(ours, work())


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two pictures in [-1, 1]."""
    return (a.float() - b.float()).abs().max().item()
