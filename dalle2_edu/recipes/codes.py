"""Part 1 of the book: networks that turn a picture into a page of discrete codes.

    dvae    pictures of both worlds -> 64 of 512 words a picture; DALL·E 1's tokenizer

Chapters 05 and 06 use this file.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from dalle2_edu.baselines.dvae import (
    SMALL,
    Dvae,
    DvaeConfig,
    DvaeSchedule,
    dvae_loss,
)
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.stream import Stream
from dalle2_edu.recipes.data import (
    GRID,
    domain_pairs,
    pictures_of,
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
        schedule: DvaeSchedule = DvaeSchedule(),  # noqa: B008 - it is frozen
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
        numbers = {"nll": nll, "kl": kl}
        return loss, numbers | words_used(logits)

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


def words_used(logits: Tensor) -> dict[str, Tensor]:
    """Perplexity of the batch's likeliest words: how many words it uses, in effect."""
    counts = logits.argmax(dim=1).flatten().bincount(minlength=logits.shape[1])
    share = counts / counts.sum()
    return {"perplexity": torch.special.entr(share).sum().exp()}


# --- recipes --------------------------------------------------------------------------


def both_worlds(domain: str, tier: str, size: int) -> Pairs:
    """Shapes and emoji, as many of the one as of the other."""
    return domain_pairs(domain, tier, size)


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
        picture_size=SIZE,
    ),
)
