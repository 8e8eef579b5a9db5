r"""A whole diffusion model in one module: a U-Net, the process that it was made for,
and a way to draw.

The idea in five lines. `GaussianDiffusion` is arithmetic without a network, `UNet` is a
network without a process; a trained model is worth something only as the pair of both,
because a network that learned to remove the noise of one schedule is lost in another's.
So the pair is one object here, built from one frozen config, and saved and loaded as
one. Nothing is conditioned on a text yet; a class label may be, if the U-Net has
classes.

    ddpm     linear betas, predicts eps, variance fixed to beta~                 DDPM (arXiv 2006.11239), Section 3
    iddpm    cosine schedule, predicts eps, variance learned in a range          improved DDPM (2102.09672), Section 3

Both draw 16 x 16 pictures of one object: small enough to train while you read a
chapter.

    from dalle2_edu import zoo
    pictures = zoo.load("shapes", "ddpm").sample(seeds=range(8), steps=50)       # (8, 3, 16, 16) in [-1, 1]

Chapters 08 (trains one) and 09 (draws faster, measures likelihoods) use this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from dalle2_edu.diffusion.process import GaussianDiffusion, Prediction, Variance
from dalle2_edu.diffusion.samplers import (
    Callback,
    Denoiser,
    ancestral_sample,
    ddim_sample,
    dpm_solver_sample,
)
from dalle2_edu.diffusion.schedules import named_betas
from dalle2_edu.diffusion.unet import UNet, UNetConfig
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.errors import Dalle2EduError

Sampler = Literal["ancestral", "ddim", "dpm"]


def small_unet(out_channels: int = 3) -> UNetConfig:
    """The miniature's U-Net, 1.4 million parameters: 16 => 8 => 4 pixels, attention at
    half resolution as in DDPM.
    """
    return UNetConfig(
        image_size=16,
        out_channels=out_channels,  # twice that with a learned variance
        channels=32,  # DDPM has 128, for pictures of 32 x 32
        channel_mult=(1, 2, 2),  # 16 => 8 => 4 pixels
        num_res_blocks=1,
        attention_levels=(1,),  # at 8 x 8
        norm_groups=8,  # 32 would leave one channel a group
    )


@dataclass(frozen=True)
class DdpmConfig:
    """The process and the network. As it stands: DDPM as published, but for its size.

    `unet.out_channels` is 3, or 6 with variance "learned_range". `unet.num_classes`
    makes it class-conditional. Raises Dalle2EduError if variance and channels disagree.
    """

    schedule: Literal["linear", "cosine"] = "linear"  # see `schedules.py`
    timesteps: int = 1000  # T
    prediction: Prediction = "eps"  # the network predicts the noise
    variance: Variance = "fixed_small"  # σ_t² = β̃_t
    unet: UNetConfig = field(default_factory=small_unet)

    def __post_init__(self) -> None:
        # a learned variance takes as many channels again as the mean
        halves = 2 if self.variance == "learned_range" else 1
        if self.unet.out_channels != halves * self.unet.in_channels:
            raise Dalle2EduError(
                f"With variance {self.variance} the U-Net must answer"
                f" {halves * self.unet.in_channels} channels, not {self.unet.out_channels}: set"
                " unet.out_channels."
            )


DDPM = DdpmConfig()
IDDPM = DdpmConfig(
    schedule="cosine", variance="learned_range", unet=small_unet(out_channels=6)
)


class Ddpm(nn.Module):
    """A U-Net with its diffusion process: calling it denoises, `sample` draws."""

    def __init__(self, config: DdpmConfig = DDPM):
        super().__init__()
        self.config = config
        betas = named_betas(config.schedule, config.timesteps)  # float64 (T,)
        self.diffusion = GaussianDiffusion(betas, config.prediction, config.variance)
        self.unet = UNet(config.unet)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """What the network answers to x_t (B, 3, H, W) at the steps t (B,): (B, 3 or 6,
        H, W). y (B,) are labels.
        """
        return self.unet(x_t, t, y=y)

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        steps: str | int | None = None,
        sampler: Sampler = "ancestral",
        eta: float = 0.0,
        y: Tensor | None = None,
        callback: Callback | None = None,
        progress: str | None = None,
    ) -> Tensor:
        """One picture a seed, (B, 3, H, W) in about [-1, 1].

        steps: None walks over all of them; otherwise as `GaussianDiffusion.respace`
        takes it. eta is DDIM's. y: int64 (B,), labels if the U-Net has classes.
        callback and progress as in `ancestral_sample`. Raises Dalle2EduError for an
        unknown sampler.
        """
        device = next(self.parameters()).device  # where the weights are
        # one stream of noise per seed: a picture does not depend on its neighbours
        noise = SeededNoise(seeds, device)
        diffusion = self.diffusion if steps is None else self.diffusion.respace(steps)
        unet = self.config.unet
        # (B, C, H, W)
        x_T = noise((len(seeds), unet.in_channels, unet.image_size, unet.image_size))
        # samplers know only model(x_t, t): a label is closed over
        model: Denoiser = self if y is None else lambda x_t, t: self(x_t, t, y)
        if sampler == "ancestral":
            return ancestral_sample(
                model, diffusion, x_T, noise, callback=callback, progress=progress
            )
        if sampler == "ddim":  # eta = 0: no fresh noise
            return ddim_sample(
                model, diffusion, x_T, noise, eta, callback=callback, progress=progress
            )
        if sampler == "dpm":  # second order: no noise at all
            return dpm_solver_sample(
                model, diffusion, x_T, callback=callback, progress=progress
            )
        raise Dalle2EduError(
            f"There is no sampler {sampler!r}: choose ancestral, ddim or dpm."
        )
