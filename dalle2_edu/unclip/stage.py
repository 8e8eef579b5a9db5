"""A stage: how one network of the pipeline is sampled.

A network alone does not say how to draw with it. It learned to undo the noise of one
process, in so many steps, and sampling it takes more choices: which sampler walks back,
in how many steps, where its predictions are bounded, and how strongly they are guided.
A `Stage` holds these values for one network, so that a pipeline is networks and values,
and another system, Karlo, is other networks and other values:

                 process                     sampler      steps   clip   guidance
    prior        1000 cosine, x_0            ancestral    25      5      1
    decoder      1000 cosine, v              DDIM         25      1      2          the miniature
    upsamplers   1000 cosine or linear, v    DDIM         10      4      -

A stage is frozen. To change one, make another and put it in its place:

    unclip.prior_stage = replace(unclip.prior_stage, guidance_scale=3.0)

Chapter 18 uses this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from dalle2_edu.diffusion.process import Clip, GaussianDiffusion
from dalle2_edu.diffusion.samplers import Callback, Denoiser, Noise
from dalle2_edu.errors import Dalle2EduError


class SampleFunction(Protocol):
    """What `ancestral_sample` and `ddim_sample` have in common."""

    def __call__(
        self,
        model: Denoiser,
        diffusion: GaussianDiffusion,
        x_T: Tensor,
        noise: Noise,
        *,
        clip: Clip,
        callback: Callback | None,
        progress: str | None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Stage:
    """How one network is sampled. Raises Dalle2EduError for numbers that make no
    sense.
    """

    diffusion: GaussianDiffusion  # the process that the network was trained on
    sampler: SampleFunction  # `ancestral_sample`, `ddim_sample`
    # as `respace` takes them: None walks over every step of `diffusion`
    steps: int | str | None = None
    clip: Clip = 1.0  # what bounds predictions of x_0
    guidance_scale: float = 1.0  # 1 is off

    def __post_init__(self) -> None:
        # nan or inf would paint every pixel black, without an error
        if not math.isfinite(self.guidance_scale):
            raise Dalle2EduError(
                f"guidance_scale must be a finite number, not {self.guidance_scale}: 1 is off."
            )

    @property
    def process(self) -> GaussianDiffusion:
        """The process that the sampler walks over: `diffusion` in so many steps."""
        if self.steps is None:
            return self.diffusion
        return self.diffusion.respace(self.steps)  # βs of the shorter process

    def changed(
        self,
        *,
        steps: int | str | None = None,
        guidance_scale: float | None = None,
        name: str = "steps",
    ) -> Stage:
        """The same stage with these values; None keeps the stage's value.

        name is what an error calls the steps. Raises Dalle2EduError for steps that the
        process does not have.
        """
        if steps is not None:
            # checked here, where the argument's name is known
            check_steps(name, steps, self.diffusion.num_timesteps)
        new_steps = self.steps if steps is None else steps
        new_scale = self.guidance_scale if guidance_scale is None else guidance_scale
        return replace(self, steps=new_steps, guidance_scale=new_scale)

    def sample(
        self,
        denoiser: Denoiser,
        x_T: Tensor,
        noise: Noise,
        *,
        callback: Callback | None = None,
        progress: str | None = None,
    ) -> Tensor:
        """Walk from the noise x_T (B, ...) to a clean x_0 of the same shape."""
        return self.sampler(
            denoiser,
            self.process,  # in `steps` steps
            x_T,
            noise,
            clip=self.clip,  # pictures lie in [-1, 1]; embeddings and details do not
            callback=callback,
            progress=progress,
        )


def check_steps(name: str, steps: int | str, most: int) -> None:
    """Raise Dalle2EduError, naming the argument, unless there can be so many steps;
    how a text such as "ddim25" is spelled is for `respace` to check.
    """
    if isinstance(steps, str):
        return
    # True is an int to Python, and a float would be rounded without a word
    whole = hasattr(steps, "__index__") and not isinstance(steps, bool)
    if not whole or not 1 <= steps <= most:
        raise Dalle2EduError(
            f"{name} must be a whole number from 1 to {most}, not {steps!r}."
        )
