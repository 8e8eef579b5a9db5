"""Chapter 4 of the book: autoencoder, denoising autoencoder and VAE.

    autoencoder    a picture -> its copy; from a noisy picture, if the config has noise
    VAE            a picture -> distortion + beta rate, in nats per dimension

Both have the same layers and see the same pictures, shapes and emoji together, so what
differs between them is the loss. They draw at 32 pixels. A small pair learns the single
objects of chapters 8 and 9, at their 16 pixels.

Chapter 04 uses this file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dalle2_edu.baselines.autoencoders import (
    Autoencoder,
    AutoencoderConfig,
    Vae,
    VaeConfig,
    denoising_loss,
    free_bits,
)
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.stream import Stream
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

SIZE = 32  # pixels


class PictureTask(Task):
    """Pictures alone, box-averaged to the network's size.

    data: pictures, uint8 (N, 3, S, S), or pairs, whose captions are not used.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        network: Autoencoder | Vae,
        about: Any,
    ):
        self.images = pictures_of(data)
        self.image_size = network.config.image_size
        super().__init__(name, config, network, len(data), about, stream_of(data))

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"images": shrink(self.images[indices], self.image_size)}


class AutoencoderTask(PictureTask):
    """A picture -> its copy, made from the picture or, where the config has noise, from
    a noisy one.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        model: AutoencoderConfig,
        about: Any = None,
    ):
        super().__init__(name, data, config, Autoencoder(model), about)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = to_float(batch["images"])
        network: Any = self.model
        noise = noise_like(x, generator)
        return denoising_loss(model, x, network.config.noise, noise), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        """What the network reads above, its copy below: (2 GRID, 3, S, S)."""
        network: Any = self.model
        indices = torch.arange(min(GRID, self.size))
        x = to_float(self.batch(indices)["images"])
        generator = torch.Generator().manual_seed(0)
        read = x + network.config.noise * noise_like(x, generator)
        read = read.to(next(model.parameters()).device)
        return torch.cat([read, model(read)]).clamp(-1, 1).cpu()


class VaeTask(PictureTask):
    """A picture -> distortion + beta rate, per dimension of the picture.

    beta: the price of the rate; 1 is the bound itself. free: nats that each latent
    number has for nothing (`free_bits`). Raises Dalle2EduError if one is below 0.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        model: VaeConfig,
        about: Any = None,
        beta: float = 1.0,
        free: float = 0.0,
    ):
        if beta < 0 or free < 0:
            raise Dalle2EduError(f"beta is {beta}, free is {free}: neither is below 0.")
        self.beta = beta
        self.free = free
        super().__init__(name, data, config, Vae(model), about)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = to_float(batch["images"])
        network: Any = self.model
        shape = (len(x), network.config.latent)
        eps = torch.randn(shape, generator=generator, device=x.device)
        distortion, rate = model(x, eps)  # (B,), (B, latent)
        dimensions = x[0].numel()
        charged = free_bits(rate, self.free) / dimensions
        distortion = distortion.mean() / dimensions
        paid = rate.sum(dim=1).mean() / dimensions
        loss = distortion + self.beta * charged
        return loss, {"distortion": distortion, "rate": paid}

    def sample(self, model: nn.Module) -> Tensor | None:
        """Drawn from the prior: (GRID, 3, S, S)."""
        assert isinstance(model, Vae)
        return model.sample(range(GRID)).clamp(-1, 1).cpu()

    def metadata(self) -> dict[str, Any]:
        return {"beta": self.beta, "free": self.free, **super().metadata()}


# --- recipes --------------------------------------------------------------------------

TRAINING = TrainConfig(
    steps=4000,
    batch_size=32,
    learning_rate=3e-3,
    decay="cosine",
    ema=0.995,
    save_every=250,
    sample_every=2000,
)
ON_GPU = {"steps": 20_000, "batch_size": 256, "save_every": 5000, "sample_every": 5000}

# the pictures of chapters 8 and 9, so that bits per dimension can be compared
# the pair at 16 pixels: the pictures of chapters 8 and 9, so that bits can be compared
SMALL_TRAINING = replace(TRAINING, steps=10_000, batch_size=64, sample_every=5000)

RECIPES = (
    Recipe(
        "autoencoder",
        Autoencoder,
        AutoencoderTask,
        domains=("shared",),
        teaches="a picture through 64 numbers and back",
        cpu=TRAINING,
        gpu=ON_GPU,
        model_config=AutoencoderConfig(image_size=SIZE),
        picture_size=SIZE,
    ),
    Recipe(
        "vae",
        Vae,
        VaeTask,
        domains=("shared",),
        teaches="a picture -> a distribution of 64 numbers, and back",
        cpu=TRAINING,
        gpu=ON_GPU,
        model_config=VaeConfig(image_size=SIZE),
        picture_size=SIZE,
    ),
    Recipe(
        "small-autoencoder",
        Autoencoder,
        AutoencoderTask,
        domains=("shapes",),
        teaches="a 16-pixel picture of one object through 32 numbers and back",
        cpu=SMALL_TRAINING,
        gpu=ON_GPU,
        model_config=AutoencoderConfig(image_size=16, channels=(32, 64), latent=32),
        data=single_objects,
    ),
    Recipe(
        "small-vae",
        Vae,
        VaeTask,
        domains=("shapes",),
        teaches="the same for one object at 16 pixels, the world of `ddpm`",
        cpu=SMALL_TRAINING,
        gpu=ON_GPU,
        model_config=VaeConfig(image_size=16, channels=(32, 64), latent=32),
        data=single_objects,
    ),
)
