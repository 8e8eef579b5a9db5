"""Training the unconditional diffusion models of chapters 08 and 09.

    published    L_simple, and with a learned variance L_simple + 0.001 L_vlb      the recipes ddpm and iddpm
    bound        L_vlb alone: the best likelihoods, the noisiest gradient          what importance sampling is for

Pictures and labels come as tensors: `shapes.single_objects`, or pictures of your own without
labels.

Chapter 08 uses this file; chapter 09 trains on the bound.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dalle2_edu.data.stream import Stream
from dalle2_edu.diffusion.ddpm import Ddpm, DdpmConfig
from dalle2_edu.diffusion.importance import ImportanceSampler
from dalle2_edu.diffusion.process import index_timesteps
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training.loop import TrainConfig
from dalle2_edu.training.tasks import GRID, noise_like, shrink, to_float

Objective = Literal["published", "bound"]


class DdpmTask:
    """Noised pictures -> the noise, and the variance of the step back if the model learns it.

    images: uint8 (N, 3, S, S). labels: int64 (N,), used if the U-Net has classes. With
    `importance` the timesteps are drawn by `ImportanceSampler`, which is then this task's
    `state`."""

    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(
        self,
        name: str,
        images: Tensor | Stream,
        config: TrainConfig,
        model: DdpmConfig,
        labels: Tensor | None = None,
        objective: Objective = "published",
        importance: bool = False,
    ):
        if model.unet.num_classes and labels is None:
            raise Dalle2EduError(
                "A class-conditional model learns from labels: give the task `labels`."
            )
        self.name, self.config, self.model_config = name, config, model
        self.images, self.labels, self.size = images, labels, len(images)
        self.objective, self.importance = objective, importance
        ddpm = Ddpm(model)
        self.model: nn.Module = ddpm
        self.diffusion = ddpm.diffusion
        self.state: nn.Module | None = (
            ImportanceSampler(model.timesteps) if importance else None
        )

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        batch = {"images": shrink(self.images[indices], self.model_config.unet.image_size)}
        if self.model_config.unet.num_classes and self.labels is not None:
            batch["y"] = self.labels[indices]
        return batch

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = to_float(batch.pop("images"))
        index, weights = self.draw_timesteps(len(x0), generator)
        kind = (
            self.diffusion.vlb_losses
            if self.objective == "bound"
            else self.diffusion.training_losses
        )
        losses = kind(model, x0, index, noise_like(x0, generator), **batch)
        if isinstance(self.state, ImportanceSampler):
            self.state.record(index, losses["loss"])
        numbers = {name: values.mean() for name, values in losses.items() if name != "loss"}
        return (losses["loss"] * weights).mean(), numbers

    def draw_timesteps(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n timesteps and the weights of their losses: all alike, or by importance."""
        if isinstance(self.state, ImportanceSampler):
            return self.state.draw(n, generator)
        return index_timesteps(n, self.diffusion, generator), torch.ones(
            n, device=generator.device
        )

    def sample(self, model: nn.Module) -> Tensor | None:
        """A grid in 50 steps, (GRID, 3, S, S)."""
        assert isinstance(model, Ddpm)
        y = None
        if classes := self.model_config.unet.num_classes:
            y = torch.arange(GRID, device=next(model.parameters()).device) % classes
        steps = min(50, self.diffusion.num_timesteps)
        return model.sample(range(GRID), steps, "ddim", y=y).cpu()

    def metadata(self) -> dict[str, Any]:
        how = {"objective": self.objective, "importance": self.importance}
        return {"model": asdict(self.model_config), **how, **self.about}
