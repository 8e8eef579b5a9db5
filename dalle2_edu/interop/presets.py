"""The sizes of the released networks, with which our classes have exactly their
parameters; and of the papers'.

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

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from dalle2_edu.diffusion.unet import UNet, UNetConfig
from dalle2_edu.text2image.glide import Glide, GlideConfig
from dalle2_edu.unclip import ar_prior
from dalle2_edu.unclip.ar_prior import ARPrior
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig
from dalle2_edu.unclip.prior import DiffusionPrior, PriorConfig
from dalle2_edu.unclip.upsampler import Upsampler, UpsamplerConfig

ADM_64 = UNetConfig(
    image_size=64,
    out_channels=6,  # noise and variance
    channels=192,
    channel_mult=(1, 2, 3, 4),  # 192, 384, 576, 768
    num_res_blocks=3,
    attention_levels=(1, 2, 3),  # 32, 16 and 8 pixels
    head_channels=64,
    dropout=0.1,  # ADM: at 64 pixels only
    num_classes=1000,
)
ADM_256 = replace(
    ADM_64,
    image_size=256,
    channels=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=2,
    attention_levels=(3, 4, 5),  # 32, 16 and 8 pixels
    dropout=0.0,
)
ADM_64_CLASSIFIER = UNetConfig(
    image_size=64,
    out_channels=1000,  # classes
    channels=128,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=4,
    attention_levels=(1, 2, 3),
    head_channels=64,
)

GLIDE_TEXT = {
    "vocab_size": 50257,  # GPT-2's byte pairs
    "context_length": 128,
    "width": 512,
    "layers": 16,
    "heads": 8,
}
GLIDE = {
    "base": GlideConfig(
        replace(ADM_64, num_classes=None, context_dim=512), **GLIDE_TEXT
    ),
    "upsample": GlideConfig(
        replace(
            ADM_256,
            channels=192,
            dropout=0.1,
            num_classes=None,
            context_dim=512,
            in_channels=6,  # and the small picture
        ),
        **GLIDE_TEXT,
    ),
}
# four more input channels: the known picture and the mask
for _kind in ("base", "upsample"):
    _unet = GLIDE[_kind].unet
    GLIDE[f"{_kind}-inpaint"] = replace(
        GLIDE[_kind], unet=replace(_unet, in_channels=_unet.in_channels + 4)
    )

KARLO_PRIOR = PriorConfig(
    clip_dim=768, text_width=768, context_length=77, width=2048, layers=20, heads=32
)
KARLO_DECODER = DecoderConfig(
    clip_dim=768,
    text_width=768,
    # no text transformer: CLIP's tokens
    unet=replace(ADM_64, channels=320, num_classes=None, context_dim=1536),
)
KARLO_UPSAMPLER = UpsamplerConfig(
    "cosine",
    UNetConfig(
        image_size=256,
        in_channels=6,
        channels=320,  # Table 3's widths for 64 -> 256
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_levels=(),  # runs at any size
        scale_shift_norm=False,
        middle_attention=False,
    ),
)

# --- the sizes that papers give, whose weights nobody released ------------------------
# What a paper leaves open stands in `PAPER`'s notes, which `benchmarks/sizes.py` prints beside the counts.

_WIDE = replace(ADM_64, channels=512, num_classes=None, context_dim=2048)
UNCLIP_PRIOR = PriorConfig(
    clip_dim=1024, text_width=1024, context_length=256, width=2048, layers=24, heads=32
)
UNCLIP_DECODER = DecoderConfig(clip_dim=1024, text_width=2048, unet=_WIDE)
# 320 channels, depth 3, multiples 1, 2, 3, 4: Karlo took them over
UNCLIP_UPSAMPLER_256 = KARLO_UPSAMPLER
UNCLIP_UPSAMPLER_1024 = UpsamplerConfig(
    "linear",
    replace(
        KARLO_UPSAMPLER.unet,
        image_size=1024,
        channels=192,
        num_res_blocks=2,
        channel_mult=(1, 1, 2, 2, 4, 4),
    ),
)
PAPER_TEXT = {
    "vocab_size": 50257,
    "context_length": 128,
    "width": 2048,
    "layers": 24,
    "heads": 32,
}
GLIDE_3B = GlideConfig(_WIDE, **PAPER_TEXT)
GLIDE_3B_UPSAMPLER = GlideConfig(
    replace(ADM_256, channels=384, num_classes=None, context_dim=1024, in_channels=6),
    **{**PAPER_TEXT, "width": 1024, "heads": 16},  # the paper's width
)
IMAGEN_BASE = replace(_WIDE, out_channels=3, context_dim=4096)


@dataclass(frozen=True)
class PaperSize:
    """A network of a paper: what builds ours, the paper's count, its input side, and
    what the paper leaves open.
    """

    name: str
    build: Callable[[], nn.Module]
    parameters: str
    note: str


PAPER = (
    PaperSize(
        "unCLIP, diffusion prior",
        lambda: DiffusionPrior(UNCLIP_PRIOR),
        "1B",
        "24 blocks of width 2048",
    ),
    PaperSize(
        "unCLIP, autoregressive prior",
        lambda: ARPrior(ar_prior.PAPER),
        "1B",
        "the latent decoder alone; Table 3 also lists a text encoder of 24 blocks of width"
        " 2048, which is 1.2B more: both together would be 2B",
    ),
    PaperSize(
        "unCLIP, decoder",
        lambda: Decoder(UNCLIP_DECODER),
        "3.5B",
        "without the text transformer of 24 blocks of width 2048 (1.2B), which ours leaves out"
        " as Karlo does",
    ),
    PaperSize("unCLIP, 64 -> 256", lambda: Upsampler(UNCLIP_UPSAMPLER_256), "700M", ""),
    PaperSize(
        "unCLIP, 256 -> 1024", lambda: Upsampler(UNCLIP_UPSAMPLER_1024), "300M", ""
    ),
    PaperSize(
        "GLIDE, base",
        lambda: Glide(GLIDE_3B),
        "3.5B",
        "about 2.3B of pictures and 1.2B of text",
    ),
    PaperSize(
        "GLIDE, upsampler",
        lambda: Glide(GLIDE_3B_UPSAMPLER),
        "1.5B",
        "the depth of its text transformer is not given; 24 blocks are taken",
    ),
    PaperSize(
        "Imagen, base",
        lambda: UNet(IMAGEN_BASE),
        "2B",
        "its text goes through separate cross-attention and its pooling is not given; ours"
        " adds T5's tokens to the self-attention",
    ),
)
