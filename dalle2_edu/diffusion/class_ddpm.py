r"""A diffusion model that knows classes, and can be asked to forget them.

The idea: one network learns two jobs. Given a class y it denoises pictures of that
class; given the *null* class it denoises any picture. In training the class is replaced
by the null one now and then, and that is all: the same weights then hold p(x | y) and
p(x), whose difference is what both kinds of guidance are about.

    null      one more row of the class embedding, the last one
    p_uncond  how often training shows it: 10 to 20% (2207.12598, section 4.2)
    guided    null + s (conditional - null)             `guidance.classifier_free`

Chapters 10 (guided by a classifier) and 11 (guided by itself) use this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dalle2_edu.diffusion.classifier_guidance import (
    Classifier,
    class_gradient,
    classifier_guided,
)
from dalle2_edu.diffusion.ddpm import Ddpm, DdpmConfig, small_unet
from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.process import Clip
from dalle2_edu.diffusion.samplers import Denoiser, ddim_sample
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.errors import Dalle2EduError


class ClassDdpm(Ddpm):
    """A Ddpm whose last class is the null one. Raises Dalle2EduError without at least
    one class beside it.
    """

    def __init__(self, config: DdpmConfig):
        super().__init__(config)
        rows = config.unet.num_classes or 0
        if rows < 2:
            raise Dalle2EduError(
                "A class-conditional model needs unet.num_classes of 2 or more: its"
                " classes, and the null class as the last."
            )
        self.classes = rows - 1
        self.null = rows - 1  # the index of the null class

    def denoiser(self, y: Tensor | None = None, scale: float = 1.0) -> Denoiser:
        """model(x_t, t) of the classes y (B,), guided by the scale s without a
        classifier; y None: of all pictures.
        """
        if y is None:
            return self.unconditional
        self.check(y)
        null = torch.full_like(y, self.null)
        return classifier_free(self, scale, {"y": null}, {"y": y})

    def unconditional(self, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network answers of pictures of any class."""
        return self(x_t, t, torch.full_like(t, self.null))

    def pulled(
        self,
        classifier: Classifier,
        y: Tensor,
        scale: float,
        conditional: bool = False,
    ) -> Denoiser:
        """model(x_t, t) pulled towards y by a classifier's gradient. conditional: the
        network is told y, too, as ADM's best models are.
        """
        self.check(y)
        gradient = class_gradient(classifier, y, scale)
        told = self.denoiser(y if conditional else None)
        return classifier_guided(told, gradient, self.diffusion)

    def check(self, y: Tensor) -> None:
        """Raises Dalle2EduError for a label that is no class."""
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.classes:
            raise Dalle2EduError(
                f"The classes are 0 to {self.classes - 1}; the labels reach from"
                f" {int(y.min())} to {int(y.max())}."
            )

    def draw(
        self,
        model: Denoiser,
        seeds: Sequence[int],
        steps: int = 50,
        clip: Clip = 1.0,
        **options: Any,
    ) -> Tensor:
        """One picture a seed by DDIM, (B, 3, S, S), from any denoiser of this file.

        The same seeds give the same noise, whatever guides: pictures can be compared in
        pairs. options are those of `ddim_sample`.
        """
        noise = SeededNoise(seeds, next(self.parameters()).device)
        unet = self.config.unet
        x_T = noise((len(seeds), unet.in_channels, unet.image_size, unet.image_size))
        process = self.diffusion.respace(steps)
        return ddim_sample(model, process, x_T, noise, clip=clip, **options)


def class_config(classes: int) -> DdpmConfig:
    """The miniature's: 16 x 16 pixels, 1.4 million parameters, cosine schedule, v."""
    unet = replace(small_unet(), num_classes=classes + 1)  # and the null class
    return DdpmConfig(schedule="cosine", prediction="v", unet=unet)
