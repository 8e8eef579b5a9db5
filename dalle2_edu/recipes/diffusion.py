"""Part 2 of the book: the unconditional diffusion models.

    published    L_simple, and with a learned variance L_simple + 0.001 L_vlb      the recipes ddpm and iddpm
    bound        L_vlb alone: the best likelihoods, the noisiest gradient          what importance sampling is for

Pictures and labels come as tensors (`shapes.single_objects`), or as pictures of your
own without labels.

Chapter 08 uses this file; chapter 09 trains on the bound.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.stream import Stream
from dalle2_edu.diffusion.ddpm import DDPM, IDDPM, Ddpm, DdpmConfig
from dalle2_edu.diffusion.importance import ImportanceSampler
from dalle2_edu.diffusion.process import index_timesteps
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes.data import (
    GRID,
    noise_like,
    pictures_of,
    shrink,
    single_objects,
    stream_of,
    to_float,
)
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.training.task import Task, TrainConfig

Objective = Literal["published", "bound"]


class DdpmTask(Task):
    """Noised pictures -> the noise, and the variance of the step back if the model
    learns it.

    data: pictures, uint8 (N, 3, S, S), or pairs, whose captions are not used. labels:
    int64 (N,), used if the U-Net has classes. With `importance` the timesteps are drawn
    by `ImportanceSampler`, which is then this task's `state`.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        model: DdpmConfig,
        labels: Tensor | None = None,
        objective: Objective = "published",
        importance: bool = False,
        about: Any = None,
    ):
        if model.unet.num_classes and labels is None:
            raise Dalle2EduError(
                "A class-conditional model learns from labels: give the task `labels`."
            )
        self.images = pictures_of(data)  # or a stream, indexed alike
        self.labels = labels
        self.objective = objective
        self.importance = importance
        self.ddpm = Ddpm(model)  # network and process together
        self.diffusion = self.ddpm.diffusion
        super().__init__(
            name,
            config,
            self.ddpm,
            size=len(data),
            about=about,
            stream=stream_of(data),
            state=ImportanceSampler(model.timesteps) if importance else None,
        )

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        unet = self.ddpm.config.unet
        images = shrink(self.images[indices], unet.image_size)  # uint8 (B, 3, S, S)
        batch = {"images": images}
        if unet.num_classes and self.labels is not None:
            batch["y"] = self.labels[indices]  # (B,)
        return batch

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = to_float(batch.pop("images"))  # (B, 3, S, S) in [-1, 1]
        index, weights = self.draw_timesteps(len(x0), generator)  # (B,) each
        losses_of = self.diffusion.training_losses  # L_simple, or the hybrid loss
        if self.objective == "bound":
            losses_of = self.diffusion.vlb_losses  # L_vlb alone
        noise = noise_like(x0, generator)  # ε
        losses = losses_of(model, x0, index, noise, **batch)  # (B,) each
        if isinstance(self.state, ImportanceSampler):
            # unweighted: p_t follows sqrt(E[L_t^2])
            self.state.record(index, losses["loss"])
        # what the log shows beside the loss: "mse", "vb"
        numbers = {
            name: values.mean() for name, values in losses.items() if name != "loss"
        }
        weighted = losses["loss"] * weights  # 1 / (T p_t): the mean stays what it was
        return weighted.mean(), numbers

    def draw_timesteps(
        self, n: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """n timesteps and the weights of their losses: all alike, or by importance."""
        if isinstance(self.state, ImportanceSampler):
            return self.state.draw(n, generator)
        index = index_timesteps(n, self.diffusion, generator)
        weights = torch.ones(n, device=generator.device)
        return index, weights

    def sample(self, model: nn.Module) -> Tensor | None:
        """A grid in 50 steps, (GRID, 3, S, S)."""
        assert isinstance(model, Ddpm)
        y = None
        if classes := model.config.unet.num_classes:
            device = next(model.parameters()).device
            y = torch.arange(GRID, device=device) % classes  # by turns

        steps = min(50, self.diffusion.num_timesteps)
        grid = model.sample(range(GRID), steps, "ddim", y=y)
        return grid.cpu()

    def metadata(self) -> dict[str, Any]:
        # resuming with another objective would be another run
        settings = {"objective": self.objective, "importance": self.importance}
        return {**settings, **super().metadata()}


# --- recipes --------------------------------------------------------------------------

# DDPM's learning rate is constant and its run hundreds of times longer; five thousand
# steps want a high rate that falls.
DDPM_TRAINING = TrainConfig(
    steps=5000,
    batch_size=64,
    learning_rate=1e-3,
    decay="cosine",  # down to 0 at the end
    ema=0.998,  # remembers 500 steps: a tenth of the run
    mixed_precision="auto",
    save_every=250,
    sample_every=1000,
)
DDPM_ON_GPU = {
    "steps": 20_000,
    "batch_size": 256,
    "ema": 0.9995,
    "save_every": 5000,
    "sample_every": 5000,
}

RECIPES = (
    Recipe(
        "ddpm",
        Ddpm,
        DdpmTask,
        domains=("shapes",),
        teaches="one object at 16 pixels: DDPM",
        cpu=DDPM_TRAINING,
        gpu=DDPM_ON_GPU,
        model_config=DDPM,
        data=single_objects,
    ),
    Recipe(
        "iddpm",
        Ddpm,
        DdpmTask,
        domains=("shapes",),
        teaches="the same: improved DDPM",
        cpu=DDPM_TRAINING,
        gpu=DDPM_ON_GPU,
        model_config=IDDPM,
        data=single_objects,
    ),
)
