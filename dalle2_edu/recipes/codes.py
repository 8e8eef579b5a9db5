"""Part 1 of the book: networks that turn a picture into a page of discrete codes, and
one that writes such pages.

    dvae          pictures of both worlds -> 64 of 512 words a picture; DALL·E 1's tokenizer
    vqvae2        pictures of both worlds -> 16 top and 64 bottom codes of 256
    code-prior    the codes of a domain's pictures -> a network that draws new ones

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
    SMALL,
    Dvae,
    DvaeConfig,
    DvaeSchedule,
    dvae_loss,
    kl_of_mean,
)
from dalle2_edu.baselines.vqvae import MINIATURE, VqVae2, VqVaeConfig, perplexity
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
SOME = 256  # pictures that say how words are spread at first


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


class DvaeTask(Task):
    """Pictures -> words -> the same pictures.

    data: pictures, uint8 (N, 3, S, S), or pairs, whose captions are not used. The
    temperature and the weight of the KL follow `schedule`.
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        model: DvaeConfig,
        schedule: DvaeSchedule = DvaeSchedule(),
        about: Any = None,
    ):
        self.images = pictures_of(data)
        self.schedule = schedule
        self.clock = Clock()
        super().__init__(
            name,
            config,
            Dvae(model),
            size=len(data),
            about=about,
            stream=stream_of(data),
            state=self.clock,
        )
        self.spread_words()

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"images": shrink(self.images[indices], SIZE)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        progress = self.clock.tick() / self.config.steps
        temperature, beta = self.schedule.at(progress)
        logits, mu, ln_b = model(images, temperature, generator)
        loss, nll, kl = dvae_loss(images, logits, mu, ln_b, beta)
        numbers_a_word = images[0].numel() / logits[0, 0].numel()
        unused = kl_of_mean(logits.float())
        loss = loss + self.schedule.balance / numbers_a_word * unused
        used = perplexity(logits.argmax(dim=1), logits.shape[1])
        return loss, {"nll": nll, "kl": kl, "unused": unused, "perplexity": used}

    def spread_words(self) -> None:
        """See `Dvae.spread_words`. Not `measure_data`: trained weights, which a run may
        start from, are to stay as they are.
        """
        assert isinstance(self.model, Dvae)
        some = torch.arange(min(SOME, self.size)) * (self.size // min(SOME, self.size))
        self.model.spread_words(to_float(self.batch(some)["images"]))

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures above what their words give back, (GRID, 3, SIZE, SIZE)."""
        assert isinstance(model, Dvae)
        device = next(model.parameters()).device
        images = self.batch(torch.arange(GRID // 2))["images"].to(device)
        pictures = to_float(images)
        back = model.decode(model.encode(pictures))
        return torch.cat([pictures, back]).cpu()

    def metadata(self) -> dict[str, Any]:
        return {"schedule": asdict(self.schedule), **super().metadata()}


class VqVae2Task(Task):
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
        self.images = pictures_of(data)
        stream = stream_of(data)
        super().__init__(name, config, VqVae2(model), len(data), about, stream)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"images": shrink(self.images[indices], SIZE)}

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

    def sample(self, model: nn.Module) -> Tensor | None:
        """Pictures above what their codes give back, (GRID, 3, SIZE, SIZE)."""
        assert isinstance(model, VqVae2)
        device = next(model.parameters()).device
        images = self.batch(torch.arange(GRID // 2))["images"].to(device)
        pictures = to_float(images)
        back = model.decode(*model.encode(pictures))
        return torch.cat([pictures, back]).cpu()


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
    if domain == "emoji":
        return drawn
    times = repeats(len(drawn), len(rendered))
    return torch.cat([rendered, drawn.repeat(times, 1, 1, 1)])


DVAE_TRAINING = TrainConfig(
    steps=4000,
    batch_size=16,
    learning_rate=2e-3,
    warmup=50,
    decay="cosine",
    ema=0.99,
    save_every=250,
    sample_every=1000,
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
        "dvae",
        Dvae,
        DvaeTask,
        domains=("shared",),
        teaches="pictures of both worlds -> words",
        cpu=DVAE_TRAINING,
        gpu={"steps": 20_000, "batch_size": 128, "save_every": 5000},
        model_config=SMALL,
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
        "code-prior",
        CodePrior,
        CodePriorTask,
        domains=("shapes", "emoji"),
        teaches="codes of pictures -> new codes",
        cpu=CODE_PRIOR_TRAINING,
        gpu={"steps": 20_000, "batch_size": 256, "save_every": 5000},
        model_config=CodePriorConfig(),
        reads=(("shared", "vqvae2"),),
        data=few_pictures,
        picture_size=SIZE,
    ),
)
