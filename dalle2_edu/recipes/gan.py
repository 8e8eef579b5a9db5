"""Chapter 3: the GANs of the book, told nothing and told what to draw.

**Two networks in one loop.** The loop of this package knows one model, one optimizer
and one loss. A GAN has two networks with opposite aims, and needs nothing more all the
same: both live in one module (`Gan`), and `baselines.gan.joined` makes one scalar of
their two losses whose gradient moves each network on its own loss only. Adam treats
each weight alone, so one Adam over both networks is the same as two. They move at the
same time, each against the other's last position, and not in turns: D is judged once a
step for both, which costs a third less.

What this leaves out: several steps of D for each of G, and learning rates of their own.

Chapter 03 uses this file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dalle2_edu.baselines.gan import (
    Gan,
    GanConfig,
    Objective,
    Round,
    TextGan,
    TextGanConfig,
    fitted,
    joined,
    losses,
)
from dalle2_edu.data import shapes
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.stream import Stream
from dalle2_edu.data.text import Tokenizer, default_tokenizer
from dalle2_edu.recipes.data import (
    GRID,
    SCENES,
    domain_pairs,
    draw_captions,
    pictures_of,
    shrink,
    stream_of,
    to_float,
)
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.training.task import Task, TrainConfig

PICTURE_SIZE = 32
R1 = Objective("non_saturating", r1=0.2)


def lone_objects(domain: str, tier: str, size: int) -> Tensor | Pairs:
    """What the GAN without captions learns: one large plain object, or the emoji."""
    if domain == "shapes":
        return shapes.single_objects(SCENES[tier], size)[0]
    return domain_pairs(domain, tier, size)


def outcome(
    seen: Round, real: Tensor, objective: Objective
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scalar of a round for the loop, and what to log of it."""
    of_d, of_g = losses(seen, real, objective)
    numbers = {
        "discriminator": of_d,
        "generator": of_g,
        "on_real": seen.on_real.mean(),
        "on_fake": seen.on_fake.mean(),
    }
    return joined(of_d, of_g, seen), numbers


class GanTask(Task):
    """Pictures -> a generator of such pictures.

    data: uint8 (N, 3, S, S), or pairs, whose captions are not used.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        model: GanConfig,
        objective: Objective = R1,
        about: Any = None,
    ):
        self.images = pictures_of(data)
        self.objective = objective
        self.gan = Gan(model)
        super().__init__(
            name, config, self.gan, len(data), about, stream=stream_of(data)
        )

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images = shrink(self.images[indices], self.gan.config.image_size)
        return {"images": images}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        real = to_float(batch["images"]).requires_grad_()
        z = latents(len(real), self.gan.config, generator)
        share = None
        if self.objective.gp:
            share = torch.rand(
                len(real), 1, 1, 1, generator=generator, device=generator.device
            )
        return outcome(model(real, z, share), real, self.objective)

    def sample(self, model: nn.Module) -> Tensor | None:
        """A grid, (GRID, 3, S, S)."""
        assert isinstance(model, Gan)
        return model.sample(range(GRID)).cpu()

    def metadata(self) -> dict[str, Any]:
        return {"objective": str(self.objective), **super().metadata()}


class TextGanTask(Task):
    """Pictures and captions -> a generator that is told what to draw."""

    def __init__(
        self,
        name: str,
        data: Pairs | Stream,
        config: TrainConfig,
        model: TextGanConfig,
        objective: Objective = R1,
        tokenizer: Tokenizer | None = None,
        about: Any = None,
    ):
        self.pairs = data
        self.objective = objective
        self.tokenizer = tokenizer or default_tokenizer()
        self.gan = TextGan(fitted(model, self.tokenizer))
        super().__init__(
            name, config, self.gan, len(data), about, stream=stream_of(data)
        )

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images, captions = self.pairs.take(indices)
        images = shrink(images, self.gan.config.gan.image_size)
        return {"images": images, "tokens": self.tokenizer(draw_captions(captions))}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        real = to_float(batch["images"]).requires_grad_()
        z = latents(len(real), self.gan.config.gan, generator)
        seen = model(real, z, batch["tokens"])
        return outcome(seen, real, self.objective)

    def sample(self, model: nn.Module) -> Tensor | None:
        """As many real pictures as drawings from their captions, (GRID, 3, S, S)."""
        assert isinstance(model, TextGan)
        images, captions = self.pairs.take(torch.arange(GRID // 2))
        real = to_float(shrink(images, model.config.gan.image_size))
        tokens = self.tokenizer([several[0] for several in captions])
        drawn = model.draw(tokens, range(GRID // 2)).cpu()
        return torch.cat([real, drawn])

    def metadata(self) -> dict[str, Any]:
        return {"objective": str(self.objective), **super().metadata()}


def latents(count: int, config: GanConfig, generator: torch.Generator) -> Tensor:
    """Noise for `count` pictures, (B, latent)."""
    shape = (count, config.latent)
    return torch.randn(shape, generator=generator, device=generator.device)


# --- recipes --------------------------------------------------------------------------

# Adam without momentum: the other network moves, and yesterday's direction is stale
# (1801.04406, Section 6, takes beta_1 = 0). No clipping: Adam scales each weight anyway.
GAN_TRAINING = TrainConfig(
    steps=5000,
    batch_size=32,
    learning_rate=1e-3,
    warmup=100,
    decay="cosine",
    betas=(0.0, 0.99),
    ema=0.998,
    clip_norm=0.0,
    mixed_precision="auto",
    save_every=250,
    sample_every=500,
)
GAN_ON_GPU = {
    "steps": 40_000,
    "batch_size": 256,
    "ema": 0.9995,
    "save_every": 5000,
    "sample_every": 5000,
}

RECIPES = (
    Recipe(
        "shapes-gan",
        Gan,
        GanTask,
        domains=("shapes",),
        part="gan",
        teaches="one object at 32 pixels: a GAN",
        cpu=GAN_TRAINING,
        gpu=GAN_ON_GPU,
        model_config=GanConfig(),
        data=lone_objects,
        picture_size=PICTURE_SIZE,
    ),
    Recipe(
        "shapes-text-gan",
        TextGan,
        TextGanTask,
        domains=("shapes",),
        part="text_gan",
        teaches="caption -> picture at 32 pixels: a GAN",
        cpu=GAN_TRAINING,
        gpu=GAN_ON_GPU,
        model_config=TextGanConfig(),
        picture_size=PICTURE_SIZE,
    ),
)
