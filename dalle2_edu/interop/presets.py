"""The sizes of the released networks: our configs, with which our classes have exactly their parameters.

    network                   parameters      source
    GLIDE base               385,030,726      openai/glide-text2im, model_creation.py
    GLIDE upsampler          398,361,286
    Karlo prior            1,022,028,544      kakaobrain/karlo, configs/*.yaml
    Karlo decoder            893,318,086
    Karlo upsampler          691,579,523      two of them
    ADM 64                   295,904,454      openai/guided-diffusion, README
    ADM 256                  553,838,086
    ADM 64 classifier         65,438,568
    dVAE encoder, decoder     53,786,240 and 43,829,766      openai/DALL-E (`DvaeConfig`'s defaults)

Chapter 24 uses this file.
"""

from __future__ import annotations

from dataclasses import replace

from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.text2image.glide import GlideConfig
from dalle2_edu.unclip.decoder import DecoderConfig
from dalle2_edu.unclip.prior import PriorConfig
from dalle2_edu.unclip.upsampler import UpsamplerConfig

ADM_64 = UNetConfig(
    image_size=64,
    out_channels=6,
    channels=192,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=3,
    attention_levels=(1, 2, 3),
    head_channels=64,
    dropout=0.1,
    num_classes=1000,
)
ADM_256 = replace(
    ADM_64,
    image_size=256,
    channels=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=2,
    attention_levels=(3, 4, 5),
    dropout=0.0,
)
ADM_64_CLASSIFIER = UNetConfig(
    image_size=64,
    out_channels=1000,
    channels=128,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=4,
    attention_levels=(1, 2, 3),
    head_channels=64,
)

GLIDE_TEXT = {"vocab_size": 50257, "context_length": 128, "width": 512, "layers": 16, "heads": 8}
GLIDE = {
    "base": GlideConfig(replace(ADM_64, num_classes=None, context_dim=512), **GLIDE_TEXT),
    "upsample": GlideConfig(
        replace(ADM_256, channels=192, dropout=0.1, num_classes=None, context_dim=512, in_channels=6), **GLIDE_TEXT
    ),
}
for _kind in ("base", "upsample"):  # four more input channels: the known picture and the mask
    _unet = GLIDE[_kind].unet
    GLIDE[f"{_kind}-inpaint"] = replace(GLIDE[_kind], unet=replace(_unet, in_channels=_unet.in_channels + 4))

KARLO_PRIOR = PriorConfig(clip_dim=768, text_width=768, context_length=77, width=2048, layers=20, heads=32)
KARLO_DECODER = DecoderConfig(
    clip_dim=768,
    text_width=768,
    unet=replace(ADM_64, channels=320, num_classes=None, context_dim=1536),
)
KARLO_UPSAMPLER = UpsamplerConfig(
    "cosine",
    UNetConfig(
        image_size=256,
        in_channels=6,
        channels=320,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_levels=(),
        scale_shift_norm=False,
        middle_attention=False,
    ),
)
