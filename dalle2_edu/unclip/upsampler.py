"""The upsamplers: a small picture in, one twice (in the paper four times) as large
out.

The idea: a diffusion model at the larger size that sees the small picture, enlarged, as
three more input channels. No text, no guidance, no attention: what to draw is decided,
only detail is missing. Without attention every layer runs at any size, so the network
is trained on crops a quarter as wide as the target and run on the whole picture.

    unCLIP (arXiv 2204.06125), section 2.1; crops from latent diffusion (arXiv 2112.10752)

One thing the miniature does otherwise: it diffuses not the picture but its *detail*,
what the enlarged small picture lacks (as SRDiff, arXiv 2104.14951):

    detail = DETAIL_SCALE (picture - enlarged)

Why: a group norm averages over the whole map, so a network trained on small crops meets
other averages on the whole picture. At our sizes (crops of 16 pixels) that shifted flat
colours visibly. Where nothing is missing the detail is zero, and zero stays zero.

Between stages the small picture is the decoder's work and not a perfectly reduced
photograph. So in training it is damaged a little: the first upsampler's by a Gaussian
blur (kernel 3, sigma 0.6), the second's by a mix of blur, resizing and noise in random
order ("BSR-style", after BSRGAN, arXiv 2103.14006). Otherwise every flaw of the stage
below would be taken for detail and sharpened.

Chapter 17 uses this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.samplers import Callback, Noise, ddim_sample
from dalle2_edu.diffusion.schedules import cosine_betas, linear_betas
from dalle2_edu.diffusion.unet import UNet, UNetConfig
from dalle2_edu.unclip.stage import Stage

# the schedules were made for pictures: the scaled detail has about their standard
# deviation
DETAIL_SCALE = 4.0
DETAIL_CLIP = 4.0  # so much scaled detail is a jump from mid-grey to white
FACTOR = 2  # how many times wider the picture gets; the paper's is 4


@dataclass(frozen=True)
class UpsamplerConfig:
    """The U-Net at the target size (its six input channels are x_t and the enlarged
    small picture) and the schedule.

    Table 3: "cosine" for the first upsampler, "linear" for the second.
    """

    schedule: Literal["cosine", "linear"] = "cosine"
    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            image_size=64,  # the size that it draws
            in_channels=6,  # x_t and the enlarged picture
            channels=32,  # Table 3: 320 and 192
            channel_mult=(1, 2, 3),
            num_res_blocks=1,
            attention_levels=(),  # none, as in Table 3: it runs at any size
            middle_attention=False,
            patch_size=2,  # 64 x 64 is folded to 32 x 32: a quarter of the positions
            padding="replicate",
            # with 32 groups each of the first level's 32 channels would lose its mean
            norm_groups=8,
        )
    )


def upsampler_diffusion(config: UpsamplerConfig) -> GaussianDiffusion:
    """The miniature upsampler's process: 1000 steps of the config's schedule, v
    predicted.
    """
    cosine = config.schedule == "cosine"
    betas = cosine_betas(1000) if cosine else linear_betas(1000)  # Table 3: T = 1000
    return GaussianDiffusion(betas, prediction="v", variance="fixed_small")


class Upsampler(nn.Module):
    """Denoises x_t (B, 3, H, W), the noisy detail (or in the released systems the
    picture), given the small picture low_res (B, 3, h, w) of any size.
    """

    def __init__(self, config: UpsamplerConfig):
        super().__init__()
        self.config = config
        self.unet = UNet(config.unet)

    def forward(self, x_t: Tensor, t: Tensor, low_res: Tensor) -> Tensor:
        enlarged = enlarge(low_res, side=x_t.shape[-1])  # (B, 3, H, W)
        x = torch.cat([x_t, enlarged], dim=1)  # (B, 6, H, W)
        return self.unet(x, t)


def enlarge(low_res: Tensor, side: int) -> Tensor:
    """The small picture at the large size, bicubic: (B, 3, h, w) -> (B, 3, side,
    side).
    """
    return F.interpolate(low_res, (side, side), mode="bicubic", antialias=True)


def to_detail(images: Tensor, low_res: Tensor) -> Tensor:
    """What the enlarged small picture lacks, scaled up: (B, 3, H, W)."""
    enlarged = enlarge(low_res, side=images.shape[-1])  # (B, 3, H, W)
    return DETAIL_SCALE * (images - enlarged)


def from_detail(detail: Tensor, low_res: Tensor) -> Tensor:
    """The inverse: put the detail onto the enlarged small picture, (B, 3, H, W) in
    [-1, 1].
    """
    enlarged = enlarge(low_res, side=detail.shape[-1])
    picture = enlarged + detail / DETAIL_SCALE
    return picture.clamp(-1, 1)


def upsampler_stage(config: UpsamplerConfig) -> Stage:
    """How a miniature upsampler is sampled: 10 steps of DDIM over the detail (Table 3:
    DDIM).
    """
    return Stage(upsampler_diffusion(config), ddim_sample, steps=10, clip=DETAIL_CLIP)


def upsample(
    upsampler: Callable[[Tensor, Tensor, Tensor], Tensor],
    stage: Stage,
    low_res: Tensor,
    noise: Noise,
    *,
    callback: Callback | None = None,
    progress: str | None = None,
) -> Tensor:
    """One stage of the cascade: (B, 3, S, S) -> (B, 3, FACTOR S, FACTOR S) in [-1, 1].

    stage says how to sample: `upsampler_stage`. noise(shape), callback(step, detail,
    predicted detail) and progress are those of the samplers.
    """
    batch, channels, side = low_res.shape[:3]
    shape = (batch, channels, FACTOR * side, FACTOR * side)
    detail = stage.sample(
        lambda x_t, t: upsampler(x_t, t, low_res),  # low_res is the same in every step
        noise(shape).to(low_res.dtype),  # x_T of the detail
        noise,
        callback=callback,
        progress=progress,
    )
    return from_detail(detail, low_res)


def reduce(images: Tensor, factor: int) -> Tensor:
    """The clean small picture: box average over factor x factor pixels, (B, 3, H, W)
    -> (B, 3, H/f, W/f).
    """
    return F.avg_pool2d(images, factor)


def blur_condition(low_res: Tensor, generator: torch.Generator) -> Tensor:
    """The first upsampler's damage: Gaussian blur, kernel 3, sigma 0.6 (the paper's
    values), on half of the pictures.

    On half only: at sampling nobody blurs the condition, so the network must know both.
    """
    blurred = blur(low_res, kernel=3, sigma=0.6)  # the paper's values
    chosen = _uniform_each(low_res, generator) < 0.5  # (B, 1, 1, 1)
    return torch.where(chosen, blurred, low_res)


def bsr_condition(low_res: Tensor, generator: torch.Generator) -> Tensor:
    """The second upsampler's damage, BSR-style: blur, down-and-up resizing and noise,
    in an order drawn anew each time.

    The share of the damage differs from picture to picture, from none to all of it.
    """
    damages = [_random_blur, _random_resize, _random_noise]
    # one order for the whole batch
    order = torch.randperm(len(damages), generator=generator, device=generator.device)
    damaged = low_res
    for i in order.tolist():
        damaged = damages[i](damaged, generator)
    share = _uniform_each(low_res, generator)  # (B, 1, 1, 1)
    return torch.lerp(low_res, damaged, share).clamp(-1, 1)


def blur(x: Tensor, kernel: int, sigma: float) -> Tensor:
    """A Gaussian blur of pictures (B, C, H, W); the kernel is so many pixels wide."""
    # imported here: torchvision takes seconds, and only training blurs
    from torchvision.transforms.v2.functional import gaussian_blur

    return gaussian_blur(x, [kernel, kernel], [sigma, sigma])


def _uniform_each(x: Tensor, generator: torch.Generator) -> Tensor:
    """A number from [0, 1) for each picture of a batch, (B, 1, 1, 1)."""
    return torch.rand(len(x), 1, 1, 1, generator=generator, device=generator.device)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number from [low, high) for the whole batch."""
    share = torch.rand((), generator=generator, device=generator.device).item()
    return low + (high - low) * share


def _random_blur(x: Tensor, generator: torch.Generator) -> Tensor:
    sigma = _uniform(0.2, 1.2, generator)  # in pixels
    return blur(x, kernel=5, sigma=sigma)


def _random_resize(x: Tensor, generator: torch.Generator) -> Tensor:
    side = x.shape[-1]
    scale = _uniform(0.6, 1.0, generator)
    smaller = max(2, round(side * scale))
    smaller = max(2, round(side * _uniform(0.6, 1.0, generator)))
    # down: detail is lost
    small = F.interpolate(x, (smaller, smaller), mode="bilinear", antialias=True)
    # up again; bicubic overshoots at edges
    restored = F.interpolate(small, (side, side), mode="bicubic")
    return restored.clamp(-1, 1)


def _random_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    sigma = _uniform(0.0, 0.06, generator)  # up to 8 grey levels of 255
    noise = torch.randn(x.shape, generator=generator, device=generator.device)
    return x + sigma * noise
