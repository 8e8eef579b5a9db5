"""Our side of the comparison: which networks, what they are given, and one step of
training.

Both sides get the same weights, the same inputs and the same loss, so a network is here
whatever has the right `forward`: (x_t, t, image_emb, text_emb, text_enc, text_mask) for
a decoder, (noised_z, t, text_emb, text_enc, text_mask) for a prior.

The released systems have patch size 1, no positions and a learned variance, and
diffusers' classes can be nothing else. So the small networks that are compared have the
miniature's trunk (16 x 16, 64 channels) without its two tricks, and the miniature
itself is timed beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from timing import DEVICE, ON_GPU, half_precision
from torch import Tensor, nn

from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig
from dalle2_edu.unclip.prior import DiffusionPrior, PriorConfig
from dalle2_edu.unclip.upsampler import UpsamplerConfig

WORDS = 12  # real tokens in a text; the others are padding
RATE = 1e-4


@dataclass(frozen=True)
class Size:
    """Networks of one size, and how many pictures or embeddings a training step has."""

    name: str
    decoder: DecoderConfig
    prior: PriorConfig
    pictures: int
    embeddings: int


TRUNK = UNetConfig(
    image_size=16,
    out_channels=6,
    channels=64,
    channel_mult=(1, 2, 2),
    num_res_blocks=1,
    attention_levels=(1, 2),
    context_dim=128,
)
TINY = Size(  # for the test
    "tiny",
    DecoderConfig(
        16,
        16,
        unet=replace(
            TRUNK, image_size=8, channels=32, channel_mult=(1, 2), attention_levels=(1,)
        ),
    ),
    PriorConfig(16, 16, context_length=20, width=32, layers=2, heads=2),
    pictures=2,
    embeddings=2,
)
SMALL = Size(
    "miniature's size",
    DecoderConfig(unet=TRUNK),
    PriorConfig(),
    pictures=64,
    embeddings=128,
)
LARGE = Size(
    "100M",
    DecoderConfig(
        768,
        768,
        unet=replace(
            TRUNK,
            image_size=32,
            channels=128,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=2,
            attention_levels=(1, 2, 3),
            head_channels=64,
            context_dim=512,
        ),
    ),
    PriorConfig(768, 768, context_length=77, width=768, layers=14, heads=12),
    pictures=64 if ON_GPU else 4,
    embeddings=128 if ON_GPU else 4,
)
MINIATURE = Size(
    "the miniature itself",
    DecoderConfig(),
    PriorConfig(),
    SMALL.pictures,
    SMALL.embeddings,
)


@dataclass(frozen=True)
class Drawing:
    """The networks of one whole drawing, Karlo in small: 32 x 32, then 128 x 128; CLIP
    is `decoder.clip_dim` wide.
    """

    decoder: DecoderConfig
    prior: PriorConfig
    upsampler: UpsamplerConfig
    length: int = 77


UPSAMPLER = UNetConfig(
    image_size=128,
    in_channels=6,
    channels=32,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=2,
    attention_levels=(),
    middle_attention=False,
    scale_shift_norm=False,
)
DRAWING = Drawing(
    DecoderConfig(
        512, 512, unet=replace(LARGE.decoder.unet, channels=96, head_channels=32)
    ),
    PriorConfig(512, 512, context_length=77, width=512, layers=8, heads=8),
    UpsamplerConfig("cosine", UPSAMPLER),
)
TINY_DRAWING = Drawing(
    DecoderConfig(16, 16, unet=TINY.decoder.unet),
    PriorConfig(16, 16, context_length=77, width=32, layers=2, heads=2),
    UpsamplerConfig(
        "cosine",
        replace(UPSAMPLER, image_size=16, channel_mult=(1, 2), num_res_blocks=1),
    ),
)


# --- what the networks are given ------------------------------------------------------


def text_inputs(n: int, dim: int, length: int) -> dict[str, Tensor]:
    """n encoded texts of WORDS tokens."""
    real = (torch.arange(length) < WORDS).expand(n, -1)
    return {
        "text_emb": torch.randn(n, dim),
        "text_enc": torch.randn(n, length, dim),
        "text_mask": real,
    }


def decoder_inputs(
    config: DecoderConfig, n: int, length: int = 77
) -> dict[str, Tensor]:
    """Noisy pictures, their steps, and what is told about them."""
    side = config.unet.image_size
    inputs = {"x_t": torch.randn(n, 3, side, side), "t": torch.randint(1000, (n,))}
    inputs |= {
        "image_emb": torch.randn(n, config.clip_dim),
        **text_inputs(n, config.clip_dim, length),
    }
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


def prior_inputs(config: PriorConfig, n: int) -> dict[str, Tensor]:
    """Noisy embeddings, their steps, and their texts."""
    inputs = {
        "noised_z": torch.randn(n, config.clip_dim),
        "t": torch.randint(1000, (n,)),
    }
    inputs |= text_inputs(n, config.clip_dim, config.context_length)
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


def inputs_of(size: Size, part: str) -> dict[str, Tensor]:
    """The inputs of a training step of the "decoder" or the "prior"."""
    if part == "decoder":
        return decoder_inputs(size.decoder, size.pictures)
    return prior_inputs(size.prior, size.embeddings)


def ours(size: Size, part: str) -> nn.Module:
    """Our network, random."""
    return Decoder(size.decoder) if part == "decoder" else DiffusionPrior(size.prior)


# --- a step of training ---------------------------------------------------------------


@dataclass(frozen=True)
class How:
    """How a step is run; the defaults are what our training loop does, on the GPU with
    all that it has.
    """

    half: bool = ON_GPU
    channels_last: bool = ON_GPU
    compiled: bool = ON_GPU
    fused: bool = True


def set_up(network: nn.Module, how: How) -> nn.Module:
    """The network on its device, laid out and compiled as asked."""
    network = network.to(DEVICE).train()
    if (
        how.channels_last
    ):  # the layout in which convolutions run fastest: a pixel's channels side by side
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if how.compiled:
        network.compile()
    return network


def trainer(
    network: nn.Module, inputs: dict[str, Tensor], how: How
) -> Callable[[], Any]:
    """One step of training as a function without arguments: forward, backward,
    AdamW.
    """
    network = set_up(network, how)
    fused = (
        {"fused": True} if how.fused else {}
    )  # without it: what `torch.optim.AdamW` does by itself
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, **fused)
    given = {name: laid_out(tensor, how) for name, tensor in inputs.items()}
    first = next(iter(given.values()))
    target = torch.randn(len(first), *first.shape[1:], device=DEVICE)

    def step() -> None:
        with half_precision(how.half):
            answer = network(**given)
        loss = F.mse_loss(
            answer[:, : target.shape[1]].float(), target
        )  # the variance's channels go free
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def laid_out(tensor: Tensor, how: How) -> Tensor:
    four = how.channels_last and tensor.dim() == 4
    return tensor.contiguous(memory_format=torch.channels_last) if four else tensor


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
