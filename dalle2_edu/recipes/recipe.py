"""A recipe: which model learns from what, with which numbers. It is data, written once
for all the domains of its model.

    Recipe(
        "prior", DiffusionPrior, PriorTask,
        domains=("shapes", "emoji"),                 two trainings: shapes-prior and emoji-prior
        teaches="caption -> image embedding",
        reads_clip=True,
        cpu=TrainConfig(steps=2000, batch_size=128),
        gpu={"steps": 10_000, "batch_size": 1024},   what differs from cpu
    )

So a new model costs one file with the model, one task with its recipe, and one test.
The zoo needs no entry: the card of the weights names the model's class.

    smoke  seconds; shows that the code runs, not what it can do
    cpu    two cores; what the shipped zoo was trained with unless a card says otherwise
    gpu    one GPU, from nothing, longer and on more pictures

Chapters 08, 12, 15, 16 and 17 train with recipes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dalle2_edu import zoo
from dalle2_edu.data.stream import Stream
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes.data import CLIP_SIZE, Own, domain_pairs
from dalle2_edu.recipes.embedded import Embedded, Streamed
from dalle2_edu.recipes.encoded import Data, encode
from dalle2_edu.training.task import Task, TrainConfig

TIERS = ("smoke", "cpu", "gpu")
# of a reader's own domain; a folder in the zoo
DOMAIN_NAME = re.compile(r"[a-z][a-z0-9_]*")

# the smoke tier is the cpu tier, three steps long
SMOKE = {
    "steps": 3,
    "batch_size": 4,
    "warmup": 1,
    "log_every": 1,
    "save_every": 2,
    "sample_every": 3,
}


@dataclass(frozen=True)
class Recipe:
    """How one kind of model is trained.

    task: makes the task from (name, data, config, model, about=...); `model` is a
    trained module if the recipe starts from one, otherwise `model_config`. reads_clip:
    the data are what the zoo's CLIP says of pictures (`encoded.Data`), not the pictures
    themselves. data: what a domain's data are, from (domain, tier, size); None for a
    model that takes none of the reader's pictures.
    """

    name: str  # on the command line; "shapes-prior" where there are several domains
    model: type[nn.Module]
    task: Callable[..., Task]
    domains: tuple[str, ...]
    teaches: str  # one line of help
    cpu: TrainConfig
    gpu: Mapping[str, Any]  # the numbers that differ from `cpu`
    part: str = ""  # its name in the zoo, if it is another than `name`
    model_config: Any = None  # None: one that fits the data
    reads_clip: bool = False
    starts_from: str = ""  # the zoo's part that it continues from
    # other parts of the zoo that its task reads: (domain, part)
    reads: tuple[tuple[str, str], ...] = ()
    data: Callable[[str, str, int], Any] | None = domain_pairs
    picture_size: int = CLIP_SIZE
    small_size: int = 32  # of the copies beside CLIP's embeddings
    # the task's other arguments
    options: Mapping[str, Any] = field(default_factory=dict)

    def trainings(self, tier: str = "cpu") -> list[Training]:
        """The recipe on each of its domains."""
        return [Training(self, domain, tier) for domain in self.domains]


@dataclass(frozen=True)
class Training:
    """One recipe on one domain at one tier."""

    recipe: Recipe
    domain: str
    tier: str = "cpu"

    @property
    def name(self) -> str:
        """As the command line knows it: "shapes-prior", "clip"."""
        own_domain = self.domain not in self.recipe.domains
        several = len(self.recipe.domains) > 1 or own_domain
        return f"{self.domain}-{self.recipe.name}" if several else self.recipe.name

    @property
    def part(self) -> str:
        """Its name in the zoo."""
        return self.recipe.part or self.recipe.name.replace("-", "_")

    @property
    def needs(self) -> list[tuple[str, str]]:
        """The parts of the zoo that must be there before: (domain, part)."""
        clip = [("shared", "clip")] if self.recipe.reads_clip else []
        start = (
            [(self.domain, self.recipe.starts_from)] if self.recipe.starts_from else []
        )
        return [*clip, *start, *self.recipe.reads]

    @property
    def config(self) -> TrainConfig:
        """The numbers of the tier."""
        changes = {"smoke": SMOKE, "cpu": {}, "gpu": self.recipe.gpu}[self.tier]
        return replace(self.recipe.cpu, **changes)

    def task(self, config: TrainConfig, own: Own = None, about: Any = None) -> Task:
        """What the loop trains. own: the reader's data in place of the domain's. about:
        what else makes the run this run.
        """
        model = self.recipe.model_config
        if self.recipe.starts_from:
            model = self.trained()
        data = self.data(own, model)
        options = self.recipe.options
        return self.recipe.task(self.name, data, config, model, about=about, **options)

    def trained(self) -> nn.Module:
        """The part of the zoo that the recipe starts from."""
        part = self.recipe.starts_from
        if self.recipe.reads_clip:
            zoo.check_same_clip(self.domain, (part,))
        return zoo.load(self.domain, part)

    def data(self, own: Own, model: Any) -> Any:
        """What the task learns from."""
        recipe = self.recipe
        if isinstance(own, Path) and not recipe.reads_clip:
            raise Dalle2EduError(
                f"{own} holds embeddings, and {self.name} learns from pictures: give the shards."
            )
        if recipe.data is None:
            return own  # the task refuses what it can't use
        if own is None and self.domain not in recipe.domains:
            raise Dalle2EduError(f"{self.domain} is a domain of yours: say --data.")
        if own is None:
            own = recipe.data(self.domain, self.tier, recipe.picture_size)
        if not recipe.reads_clip:
            return own
        starts = isinstance(model, nn.Module)
        config: Any = model.config if starts else None
        return as_clip_sees(
            own, config.unet.image_size if starts else recipe.small_size
        )


def as_clip_sees(own: Any, small_size: int) -> Data:
    """Pictures and captions as the zoo's CLIP reads them; their copies at
    `small_size`.
    """
    clip = zoo.load("shared", "clip", this_device())
    tokenizer = default_tokenizer()
    if isinstance(own, Stream):
        return Streamed(own, small_size, clip, tokenizer)
    if isinstance(own, Path):
        clip_hash = zoo.cards()["shared", "clip"].sha256
        return Embedded(own, small_size, clip, clip_hash, tokenizer)
    return encode(own, small_size, clip, tokenizer)


def this_device() -> str:
    """Where this process computes: its own GPU, if there are any."""
    return (
        f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        if torch.cuda.is_available()
        else "cpu"
    )
