"""Part 1 of the book: DALL·E 1 learns to write a picture's codes behind its caption.

    shapes-dalle1    captions with BPE dropout, codes of the zoo's dVAE -> the next token

The dVAE is frozen, so every picture is turned into codes once, before the first step.

Chapter 06 uses this file.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dalle2_edu import zoo
from dalle2_edu.baselines.dalle1 import (
    Dalle1,
    Dalle1Config,
    Dalle1Transformer,
    dalle1_loss,
)
from dalle2_edu.baselines.dvae import Dvae
from dalle2_edu.data.bpe_dropout import BpeDropout
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.stream import Stream
from dalle2_edu.data.text import Tokenizer, default_tokenizer
from dalle2_edu.drawing.run import Run
from dalle2_edu.recipes.data import (
    GRID,
    draw_captions,
    shrink,
    stream_of,
    to_float,
)
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.training.task import Task, TrainConfig

CHUNK = 250  # pictures that are turned into codes at a time


class Dalle1Task(Task):
    """Captions and codes -> the next token.

    dvae: what makes the codes; the zoo's if it is left out. Its hash goes into the
    model's config: with the codes of another dVAE the weights mean nothing.
    """

    def __init__(
        self,
        name: str,
        data: Pairs | Stream,
        config: TrainConfig,
        model: Dalle1Config,
        dvae: Dvae | None = None,
        tokenizer: Tokenizer | None = None,
        about: Any = None,
    ):
        self.pairs = data
        self.tokenizer = tokenizer or default_tokenizer()
        self.cut = BpeDropout(self.tokenizer)
        self.dvae = dvae or zoo.load_or_shipped("shared", "dvae")
        shape = self.dvae.config
        self.size_of_picture = model.side * shape.stride
        # a stream's pictures are encoded as they come
        self.codes = self.encode(data.images) if isinstance(data, Pairs) else None
        model = replace(
            model,
            vocab_size=self.tokenizer.vocab_size,
            context_length=self.tokenizer.context_length,
            words=shape.vocab_size,
            dvae="" if dvae else zoo.hash_or_shipped("shared", "dvae"),
        )
        network = Dalle1Transformer(model)
        super().__init__(name, config, network, len(data), about, stream_of(data))

    def encode(self, images: Tensor) -> Tensor:
        """uint8 pictures (N, 3, S, S) -> codes, int16 (N, page)."""
        parts = []
        for chunk in images.split(CHUNK):
            small = to_float(shrink(chunk, self.size_of_picture))
            parts.append(self.dvae.encode(small).to(torch.int16))
        return torch.cat(parts)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images, captions = self.pairs.take(indices)
        codes = self.encode(images) if self.codes is None else self.codes[indices]
        # Python's generator, which the loop seeds for each step
        tokens = self.cut(draw_captions(captions), random.random)
        return {"tokens": tokens, "codes": codes.long()}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, codes = batch["tokens"], batch["codes"]
        # the last code is never read
        text_logits, image_logits = model(tokens, codes[:, :-1])
        loss, text, image = dalle1_loss(text_logits, image_logits, tokens, codes)
        return loss, {"text": text, "image": image}

    def sample(self, model: nn.Module) -> Tensor | None:
        """What it draws for some captions of the data, (GRID, 3, S, S)."""
        assert isinstance(model, Dalle1Transformer)
        device = next(model.parameters()).device
        places = torch.arange(0, self.size, max(1, self.size // GRID))[:GRID]
        _, captions = self.pairs.take(places)
        prompts = [several[i % len(several)] for i, several in enumerate(captions)]
        pipeline = Dalle1(model, self.dvae.to(device), self.tokenizer)
        run = Run(list(range(len(prompts))), device)
        return self.dvae.decode(pipeline.draw_codes(prompts, run)).cpu()


# --- recipes --------------------------------------------------------------------------

# Adam's second beta and the weight decay are the paper's (section 2.3).
DALLE1_TRAINING = TrainConfig(
    steps=4000,
    batch_size=32,
    learning_rate=1.5e-3,
    warmup=100,
    decay="cosine",
    weight_decay=0.045,
    betas=(0.9, 0.96),
    ema=0.99,
    save_every=100,
    sample_every=500,
)

RECIPES = (
    Recipe(
        "shapes-dalle1",
        Dalle1Transformer,
        Dalle1Task,
        domains=("shapes",),
        part="dalle1",
        teaches="caption -> a picture's codes: DALL·E 1",
        cpu=DALLE1_TRAINING,
        gpu={"steps": 30_000, "batch_size": 256, "ema": 0.999, "save_every": 5000},
        model_config=Dalle1Config(),
        reads=(("shared", "dvae"),),
        picture_size=32,
    ),
)
