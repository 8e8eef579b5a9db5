"""Part 2 of the book, guidance: a diffusion model that knows classes, and a classifier
that reads noise.

    ClassDdpmTask    noised pictures and their classes, some of them hidden   -> v
    ClassifierTask   noised pictures                                          -> the class

Both learn from single objects; the class is the object's shape. The classifier can be
trained on clean pictures only (`noisy=False`): the one that chapter 10 shows to fail.

Chapters 10 and 11 use this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data import shapes
from dalle2_edu.diffusion.class_ddpm import ClassDdpm, class_config
from dalle2_edu.diffusion.classifier import NoisyClassifier
from dalle2_edu.diffusion.ddpm import DdpmConfig
from dalle2_edu.diffusion.process import GaussianDiffusion, index_timesteps
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes.data import GRID, SCENES, noise_like, to_float
from dalle2_edu.recipes.diffusion import DDPM_ON_GPU, DDPM_TRAINING
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.training.task import Task, TrainConfig

SIDE = 16
P_UNCOND = 0.15  # 2207.12598 found .1 and .2 alike, and .5 worse (section 4.2)


@dataclass(frozen=True)
class Labelled:
    """Pictures, uint8 (N, 3, S, S), and the class of each, int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


def labelled_objects(domain: str, tier: str, size: int) -> Labelled:
    """One large plain object a picture; its class is its shape."""
    return Labelled(*shapes.single_objects(SCENES[tier], size))


def checked(data: Any) -> Labelled:
    """Pictures with classes. Raises Dalle2EduError for pictures without."""
    if not isinstance(data, Labelled):
        raise Dalle2EduError(
            "This model learns from pictures with classes, which folders and shards do"
            " not have: leave --data out."
        )
    return data


class ClassDdpmTask(Task):
    """Noised pictures and their classes -> v. p_uncond: how often the class is
    hidden.
    """

    def __init__(
        self,
        name: str,
        data: Labelled,
        config: TrainConfig,
        model: DdpmConfig,
        about: Any = None,
        p_uncond: float = P_UNCOND,
    ):
        self.data = checked(data)
        self.p_uncond = p_uncond
        self.ddpm = ClassDdpm(model)
        super().__init__(name, config, self.ddpm, len(data), about)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"images": self.data.images[indices], "y": self.data.labels[indices]}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = to_float(batch["images"])
        luck = torch.rand(len(x0), generator=generator, device=x0.device)  # (B,)
        y = torch.where(luck < self.p_uncond, self.ddpm.null, batch["y"])
        diffusion = self.ddpm.diffusion
        index = index_timesteps(len(x0), diffusion, generator)
        noise = noise_like(x0, generator)
        losses = diffusion.training_losses(model, x0, index, noise, y=y)
        return losses["loss"].mean(), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        """A grid, class after class, (GRID, 3, S, S)."""
        assert isinstance(model, ClassDdpm)
        device = next(model.parameters()).device
        y = torch.arange(GRID, device=device) % model.classes
        return model.draw(model.denoiser(y), range(GRID)).cpu()

    def metadata(self) -> dict[str, Any]:
        return {"p_uncond": self.p_uncond, **super().metadata()}


class ClassifierTask(Task):
    """Noised pictures -> their class. noisy=False shows clean pictures only, always as
    step 0.
    """

    def __init__(
        self,
        name: str,
        data: Labelled,
        config: TrainConfig,
        model: UNetConfig,
        about: Any = None,
        noisy: bool = True,
    ):
        self.data = checked(data)
        self.noisy = noisy
        self.diffusion = GaussianDiffusion(cosine_betas(1000))  # the walk's own noise
        super().__init__(name, config, NoisyClassifier(model), len(data), about)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"images": self.data.images[indices], "y": self.data.labels[indices]}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = to_float(batch["images"])
        index = index_timesteps(len(x), self.diffusion, generator)
        if self.noisy:
            x = self.diffusion.q_sample(x, index, noise_like(x, generator))
        else:
            index = torch.zeros_like(index)
        logits = model(x, index)  # (B, classes)
        right = (logits.argmax(dim=1) == batch["y"]).float().mean()
        return F.cross_entropy(logits, batch["y"]), {"right": right}

    def metadata(self) -> dict[str, Any]:
        return {"noisy": self.noisy, **super().metadata()}


# --- recipes --------------------------------------------------------------------------

CLASSES = len(shapes.SHAPES)

CLASSIFIER = UNetConfig(
    image_size=SIDE,
    out_channels=CLASSES,
    channels=32,
    channel_mult=(1, 2, 2),
    num_res_blocks=1,
    attention_levels=(1,),
    norm_groups=8,
)
CLASSIFIER_TRAINING = TrainConfig(
    steps=1200,
    batch_size=128,
    learning_rate=1e-3,
    decay="cosine",
    weight_decay=0.05,  # ADM's classifiers (Appendix I, Table 12)
    ema=0.998,
    mixed_precision="auto",
    save_every=250,
)
CLASSIFIER_ON_GPU = {"steps": 10_000, "batch_size": 512, "save_every": 2500}

RECIPES = (
    Recipe(
        "class-ddpm",
        ClassDdpm,
        ClassDdpmTask,
        domains=("shapes",),
        teaches="one object at 16 pixels, told its class or not",
        cpu=replace(DDPM_TRAINING, steps=4000),
        gpu=DDPM_ON_GPU,
        model_config=class_config(CLASSES),
        data=labelled_objects,
        picture_size=SIDE,
    ),
    Recipe(
        "early-class-ddpm",
        ClassDdpm,
        ClassDdpmTask,
        domains=("shapes",),
        teaches="the same, stopped early: a model that guidance can help",
        cpu=replace(DDPM_TRAINING, steps=500),
        gpu=DDPM_ON_GPU | {"steps": 500},
        model_config=class_config(CLASSES),
        data=labelled_objects,
        picture_size=SIDE,
    ),
    Recipe(
        "noisy-classifier",
        NoisyClassifier,
        ClassifierTask,
        domains=("shapes",),
        teaches="the class of a noisy object",
        cpu=CLASSIFIER_TRAINING,
        gpu=CLASSIFIER_ON_GPU,
        model_config=CLASSIFIER,
        data=labelled_objects,
        picture_size=SIDE,
    ),
    Recipe(
        "clean-classifier",
        NoisyClassifier,
        ClassifierTask,
        domains=("shapes",),
        teaches="the class of a clean object, to show why that is not enough",
        cpu=replace(CLASSIFIER_TRAINING, steps=500),
        gpu=CLASSIFIER_ON_GPU,
        model_config=CLASSIFIER,
        data=labelled_objects,
        picture_size=SIDE,
        options={"noisy": False},
    ),
)
