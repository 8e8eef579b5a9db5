"""DALL·E 2's five networks at a size that a test can afford, with random weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.text2image.clip import Clip, ClipConfig
from dalle2_edu.unclip.ar_prior import ARPrior, ARPriorConfig
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig
from dalle2_edu.unclip.inpaint_networks import InpaintDecoder, InpaintUpsampler
from dalle2_edu.unclip.latents import fit_pca
from dalle2_edu.unclip.pipeline import UnCLIP
from dalle2_edu.unclip.prior import DiffusionPrior, PriorConfig
from dalle2_edu.unclip.upsampler import Upsampler, UpsamplerConfig

Module = TypeVar("Module", bound=nn.Module)

# CLIP's embedding and tokens, and the tokenizer's context
DIM, WIDTH, LENGTH = 16, 32, 32
CLIP = ClipConfig(
    embed_dim=DIM,
    image_size=16,
    patch_size=8,
    vision_width=WIDTH,
    vision_layers=1,
    vision_head_width=16,
    vocab_size=default_tokenizer().vocab_size,
    context_length=LENGTH,
    text_width=WIDTH,
    text_layers=2,
    head_width=16,
)
PRIOR = PriorConfig(
    clip_dim=DIM, text_width=WIDTH, context_length=LENGTH, width=32, layers=2, heads=2
)
AR_PRIOR = ARPriorConfig(
    clip_dim=DIM,
    text_width=WIDTH,
    context_length=LENGTH,
    rank=6,
    buckets=8,
    dot_buckets=4,
    width=32,
    layers=2,
    heads=2,
)
DECODER = DecoderConfig(
    clip_dim=DIM,
    text_width=WIDTH,
    unet=UNetConfig(
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_levels=(1,),
        context_dim=32,
        patch_size=2,
    ),
)


def upsampler_config(size: int) -> UpsamplerConfig:
    """The upsampler to `size`, one level deep."""
    unet = UNetConfig(
        image_size=size,
        in_channels=6,
        channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention_levels=(),
        middle_attention=False,
        patch_size=2,
    )
    return UpsamplerConfig(schedule="cosine" if size == 64 else "linear", unet=unet)


def awake(module: Module) -> Module:
    """The module in evaluation mode with noise in place of every zero, so that no
    branch stays silent.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return module.eval()


def ar_prior() -> ARPrior:
    """An autoregressive prior that knows some axes and buckets, and has something to
    say.
    """
    prior, z = ARPrior(AR_PRIOR), torch.randn(60, DIM) * 0.1 + 0.2
    with torch.no_grad():
        prior.position.normal_(std=0.5)
        for layer in (prior.text_enc_proj, prior.text_emb_proj, prior.out):
            layer.weight.mul_(5)
    prior.fit(fit_pca(z), z, torch.rand(60))
    return awake(prior)


def pipeline() -> UnCLIP:
    """A whole unCLIP that draws noise, but by every stage."""
    prior = awake(DiffusionPrior(PRIOR))
    prior.set_stats(torch.randn(9, DIM) * 0.1 + 0.2)
    upsamplers = [awake(Upsampler(upsampler_config(size))) for size in (64, 128)]
    return UnCLIP(
        awake(Clip(CLIP)),
        prior,
        awake(Decoder(DECODER)),
        upsamplers,
        default_tokenizer(),
    )


def conditioning(n: int, real: int = 5) -> dict[str, Tensor]:
    """Random text conditioning for n pictures, of which the first `real` tokens are no
    padding.
    """
    mask = (torch.arange(LENGTH) < real).expand(n, LENGTH)
    return {
        "text_emb": torch.randn(n, DIM),
        "text_enc": torch.randn(n, LENGTH, WIDTH),
        "text_mask": mask,
    }


def inpaint_upsamplers() -> list[InpaintUpsampler]:
    """The tiny upsamplers with eyes for what is known."""
    models = [
        InpaintUpsampler.from_upsampler(awake(Upsampler(upsampler_config(size))))
        for size in (64, 128)
    ]
    with torch.no_grad():
        for model in models:
            model.upsampler.unet.stem.weight.normal_(std=0.1)
    return [model.eval() for model in models]


def inpaint_decoder() -> InpaintDecoder:
    """The tiny decoder with eyes for what is known."""
    model = InpaintDecoder.from_decoder(awake(Decoder(DECODER)))
    with torch.no_grad():
        model.decoder.unet.stem.weight.normal_(std=0.1)
    return model.eval()
