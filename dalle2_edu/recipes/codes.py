"""Part 1 of the book: networks that turn a picture into a page of discrete codes, and
one that writes such pages.

    vq-dvae             pictures of both worlds -> 64 of 512 codes a picture
    dvae                the same networks, from there on as a dVAE: DALL·E 1's tokenizer
    vqvae2              pictures of both worlds -> 16 top and 64 bottom codes of 256
    shapes-code-prior   the codes of shapes -> a network that draws new ones

Chapters 05 and 06 use this file.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu import zoo
from dalle2_edu.baselines.code_prior import CodePrior, CodePriorConfig
from dalle2_edu.baselines.dvae import (
    Dvae,
    DvaeSchedule,
    dvae_loss,
    squeeze,
)
from dalle2_edu.baselines.vqvae import (
    MINIATURE,
    VqDvae,
    VqDvaeConfig,
    VqVae2,
    VqVaeConfig,
    perplexity,
)
from dalle2_edu.data import emoji, shapes, shards
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.stream import Stream
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes.data import (
    GRID,
    pictures_of,
    repeats,
    shrink,
    stream_of,
    to_float,
)
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.training.task import Task, TrainConfig

SIZE = 32  # pixels
# how soft the dVAE's choice of a word is at first, see `VqDvae.as_dvae`: neighbouring
# codes lie about 1.6 apart, squared
SOFTNESS = 0.3


class Clock(nn.Module):
    """Counts the steps of a run; a checkpoint keeps it, so schedules go on where they
    were.
    """

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def tick(self) -> int:
        """The number of steps before this one."""
        before = int(self.step)
        self.step += 1
        return before


class PageTask(Task):
    """Pictures -> codes -> the same pictures.

    data: pictures, uint8 (N, 3, S, S), or pairs, whose captions are not used.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        network: nn.Module,
        about: Any = None,
        state: nn.Module | None = None,
    ):
        self.images = pictures_of(data)
        super().__init__(
            name,
            config,
            network,
            size=len(data),
            about=about,
            stream=stream_of(data),
            state=state,
        )

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"images": shrink(self.images[indices], SIZE)}

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures above what their codes give back, (GRID, 3, SIZE, SIZE)."""
        device = next(model.parameters()).device
        images = self.batch(torch.arange(GRID // 2))["images"].to(device)
        pictures = to_float(images)
        return torch.cat([pictures, restored(model, pictures)]).cpu()


def restored(model: nn.Module, pictures: Tensor) -> Tensor:
    """What a network's codes of pictures give back, (B, 3, H, W)."""
    if isinstance(model, VqDvae):
        return model.restore(pictures)
    if isinstance(model, VqVae2):
        return model.decode(*model.encode(pictures))
    assert isinstance(model, Dvae)
    return model.decode(model.encode(pictures))


class VqDvaeTask(PageTask):
    """Pictures -> codes -> the same pictures, by squared error."""

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        model: VqDvaeConfig,
        about: Any = None,
    ):
        super().__init__(name, data, config, VqDvae(model), about)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        drawn, commitment, codes = model(images)
        error = F.mse_loss(drawn, squeeze((images + 1) / 2))
        assert isinstance(self.model, VqDvae)
        used = perplexity(codes, len(self.model.quantizer.codebook))
        numbers = {"error": error, "commitment": commitment, "perplexity": used}
        # pixels from .1 to .9 have small errors; the commitment is in the codes' own scale
        return ERROR_WEIGHT * error + BETA * commitment, numbers


class DvaeTask(PageTask):
    """Pictures -> words -> the same pictures, from the zoo's `VqDvae` on.

    data: pictures, uint8 (N, 3, S, S), or pairs, whose captions are not used. The
    temperature and the weight of the KL follow `schedule`.

    From scratch this loss did not learn in our few thousand steps: beside a wide Laplace
    distribution only the sign of an error counts, and soft words carry little.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        model: VqDvae,
        schedule: DvaeSchedule = DvaeSchedule(),
        about: Any = None,
    ):
        self.schedule = schedule
        self.clock = Clock()
        dvae = model.as_dvae(SOFTNESS)
        super().__init__(name, data, config, dvae, about, state=self.clock)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        progress = self.clock.tick() / self.config.steps
        temperature, beta = self.schedule.at(progress)
        logits, mu, ln_b = model(images, temperature, generator)
        ln_b = ln_b.clamp_min(LEAST_LN_B)
        loss, nll, kl = dvae_loss(images, logits, mu, ln_b, beta)
        # what the VQ-VAE has learned is kept: the likelihood alone lets edges go
        error = F.mse_loss(torch.sigmoid(mu), squeeze((images + 1) / 2))
        used = perplexity(logits.argmax(dim=1), logits.shape[1])
        numbers = {"nll": nll, "kl": kl, "error": error, "perplexity": used}
        return loss + KEPT * error, numbers

    def metadata(self) -> dict[str, Any]:
        return {"schedule": asdict(self.schedule), **super().metadata()}


class VqVae2Task(PageTask):
    """Pictures -> two grids of codes -> the same pictures. Of the codebooks Adam knows
    nothing: they are averages.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        model: VqVaeConfig,
        about: Any = None,
    ):
        super().__init__(name, data, config, VqVae2(model), about)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(self.model, VqVae2)
        x = to_float(batch["images"])
        out = model(x)
        error = F.mse_loss(out.reconstruction, x)
        num_codes = self.model.config.codes
        numbers = {
            "error": error,
            "commitment": out.commitment,
            "perplexity_top": perplexity(out.top, num_codes),
            "perplexity_bottom": perplexity(out.bottom, num_codes),
        }
        return error + BETA * out.commitment, numbers


class CodePriorTask(Task):
    """The codes of pictures, as the zoo's VQ-VAE-2 reads them, -> the next code.

    The pictures are read once, before the first step.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs,
        config: TrainConfig,
        model: CodePriorConfig,
        about: Any = None,
    ):
        pictures = pictures_of(data)
        if not isinstance(pictures, Tensor):
            raise Dalle2EduError(
                "The prior over codes reads its pictures once: give pictures that fit into"
                " memory, not shards."
            )
        self.vqvae = zoo.load("shared", "vqvae2")
        self.codes = codes_of(self.vqvae, shrink(pictures, SIZE))  # (N, 80)
        super().__init__(name, config, CodePrior(model), len(self.codes), about)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"codes": self.codes[indices]}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        codes = batch["codes"]
        logits = model(codes).transpose(1, 2).float()  # (B, codes, L)
        nll = F.cross_entropy(logits, codes, reduction="none")  # (B, L), nats
        top, bottom = nll[:, :TOP].mean(), nll[:, TOP:].mean()
        return nll.mean(), {"nll_top": top, "nll_bottom": bottom}

    def sample(self, model: nn.Module) -> Tensor | None:
        """New pictures, (GRID, 3, SIZE, SIZE)."""
        assert isinstance(model, CodePrior)
        return self.vqvae.decode(*split(model.sample(range(GRID)).cpu()))


TOP = (SIZE // 8) ** 2  # codes of the top grid, 4 x 4
BETA = 0.25  # of the commitment
ERROR_WEIGHT = 10.0  # of the squared error, in VqDvaeTask
# Rendered pictures are flat: where a colour is known exactly, the density grows without
# limit as b falls to 0. A photograph's grain forbids that; here a bound does.
LEAST_LN_B = -2.3  # b = .1, some eight steps of a byte at middle grey
KEPT = 50.0  # of the squared error beside the bound, in DvaeTask


@torch.no_grad()
def codes_of(vqvae: VqVae2, images: Tensor, batch_size: int = 500) -> Tensor:
    """The codes of 8-bit pictures as lines, the top first: (N, 3, S, S) -> int64 (N,
    80).
    """
    pages = []
    for chunk in images.split(batch_size):
        top, bottom = vqvae.encode(to_float(chunk))
        pages.append(torch.cat([top.flatten(1), bottom.flatten(1)], dim=1))
    return torch.cat(pages)


def split(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Lines of codes (B, 80) as the two grids: (B, 4, 4) and (B, 8, 8)."""
    side = SIZE // 8
    top = codes[:, :TOP].reshape(-1, side, side)
    return top, codes[:, TOP:].reshape(-1, 2 * side, 2 * side)


# --- recipes --------------------------------------------------------------------------

# a network that looks at patches has seen enough of them in so many pictures
FEW_SCENES = {"smoke": 64, "cpu": 12_000, "gpu": 60_000}


def few_pictures(domain: str, tier: str, size: int) -> Tensor:
    """Pictures of a domain without their captions, uint8 (N, 3, size, size); "shared"
    is as many shapes as emoji.
    """
    scenes = FEW_SCENES[tier]
    rendered = shapes.pairs(scenes, size).images
    if domain == "shapes":
        return rendered
    limit = scenes if tier == "smoke" else None
    drawn = shards.pairs(emoji.shipped(emoji.SHARD), size, limit=limit).images
    times = repeats(len(drawn), len(rendered))
    return torch.cat([rendered, drawn.repeat(times, 1, 1, 1)])


VQ_DVAE_TRAINING = TrainConfig(
    steps=4000,
    batch_size=16,
    learning_rate=2e-3,
    warmup=50,
    decay="cosine",
    betas=(0.9, 0.99),
    ema=0.99,
    save_every=250,
    sample_every=1000,
)
DVAE_TRAINING = TrainConfig(
    steps=600,
    batch_size=16,
    learning_rate=5e-4,
    warmup=50,
    decay="cosine",
    betas=(0.9, 0.99),
    ema=0.99,
    save_every=200,
    sample_every=200,
)
VQVAE2_TRAINING = TrainConfig(
    steps=2500,
    batch_size=16,
    learning_rate=2e-3,
    warmup=50,
    decay="cosine",
    ema=0.99,
    save_every=250,
    sample_every=1000,
)
CODE_PRIOR_TRAINING = TrainConfig(
    steps=3000,
    batch_size=32,
    learning_rate=1e-3,
    warmup=100,
    decay="cosine",
    weight_decay=0.1,
    betas=(0.9, 0.95),
    ema=0.99,
    save_every=250,
    sample_every=1000,
)

RECIPES = (
    Recipe(
        "vq-dvae",
        VqDvae,
        VqDvaeTask,
        domains=("shared",),
        teaches="pictures of both worlds -> codes, by a dVAE's networks",
        cpu=VQ_DVAE_TRAINING,
        gpu={"steps": 20_000, "batch_size": 128, "save_every": 5000},
        model_config=VqDvaeConfig(),
        data=few_pictures,
        picture_size=SIZE,
    ),
    Recipe(
        "dvae",
        Dvae,
        DvaeTask,
        domains=("shared",),
        teaches="the same networks, trained on as a dVAE",
        cpu=DVAE_TRAINING,
        gpu={"steps": 5000, "batch_size": 128, "save_every": 5000},
        starts_from="vq_dvae",
        data=few_pictures,
        picture_size=SIZE,
    ),
    Recipe(
        "vqvae2",
        VqVae2,
        VqVae2Task,
        domains=("shared",),
        teaches="pictures of both worlds -> two grids of codes",
        cpu=VQVAE2_TRAINING,
        gpu={"steps": 20_000, "batch_size": 128, "save_every": 5000},
        model_config=MINIATURE,
        data=few_pictures,
        picture_size=SIZE,
    ),
    Recipe(
        "shapes-code-prior",
        CodePrior,
        CodePriorTask,
        domains=("shapes",),
        part="code_prior",
        teaches="codes of pictures -> new codes",
        cpu=CODE_PRIOR_TRAINING,
        gpu={"steps": 20_000, "batch_size": 256, "save_every": 5000},
        model_config=CodePriorConfig(),
        reads=(("shared", "vqvae2"),),
        data=few_pictures,
        picture_size=SIZE,
    ),
)
