"""Part 4 of the book: what DALL·E 2's networks learn from, and what each calls a loss.

    PriorTask        captions, noised embeddings            -> the clean image embedding
    ARPriorTask      captions, an embedding's first codes   -> the next code
    RegressionTask   captions                               -> the mean embedding
    DecoderTask      image embeddings, captions             -> the picture at 32 x 32
    UpsamplerTask    damaged small pictures                 -> crops of the picture at twice the size

CLIP is frozen meanwhile (unCLIP, section 2): the first four learn from what it says of
pictures and captions (`encoded.py`). All priors drop the text alike (section 2.2).

Chapters 15, 16 and 17 use this file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.stream import Stream
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.process import index_timesteps
from dalle2_edu.diffusion.samplers import ddim_sample
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.recipes.data import (
    GRID,
    LARGE_SIZE,
    SMALL_SIZE,
    domain_pairs,
    noise_like,
    pictures_of,
    shrink,
    stream_of,
    to_float,
)
from dalle2_edu.recipes.encoded import Data
from dalle2_edu.recipes.fresh import FreshScenes
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.training.task import Task, TrainConfig
from dalle2_edu.unclip import upsampler
from dalle2_edu.unclip.ar_prior import PCA_ERROR, ARPrior, ARPriorConfig
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig, decoder_diffusion
from dalle2_edu.unclip.latents import PCA, fit_pca
from dalle2_edu.unclip.prior import DiffusionPrior, PriorConfig, prior_diffusion
from dalle2_edu.unclip.regression import RegressionPrior
from dalle2_edu.unclip.upsampler import Upsampler, UpsamplerConfig, upsampler_diffusion

TEXT_DROP_PRIOR = 0.1  # unCLIP, section 2.2
# Section 2.1 drops the caption 50% of the time and the embedding 10%. Then text without
# an embedding is 5% of the training, and the text is never learned well: what z_i does
# not hold, such as compositions that CLIP has not seen, is lost. Ours has it in a third
# of the steps.
TEXT_DROP_DECODER = 0.15
IMAGE_DROP_DECODER = 0.35

Numbers = dict[str, Tensor]

# --- priors ---------------------------------------------------------------------------


def widths(data: Data) -> tuple[int, int, int]:
    """What CLIP says of the data is how wide: its embedding, its tokens, its
    context.
    """
    clip_dim = data.null.text_emb.shape[1]
    _, context, text_width = data.null.text_enc.shape  # (1, L, W)
    return clip_dim, text_width, context


def prior_config(data: Data) -> PriorConfig:
    """A prior that fits what CLIP says of the data."""
    clip_dim, text_width, context = widths(data)
    return PriorConfig(
        clip_dim, text_width, context, emb_scale=clip_dim**0.5, whiten=True
    )


def drawn_for_prior(data: Data, indices: Tensor) -> dict[str, Tensor]:
    """Image embeddings, and captions as CLIP encodes them: a prior reads no pictures
    and no token ids.
    """
    drawn = data.draw(indices, TEXT_DROP_PRIOR)
    del drawn["images"]
    del drawn["text_tokens"]
    return drawn


class PriorTask(Task):
    """Noised image embeddings and their captions -> the clean embeddings."""

    def __init__(
        self,
        name: str,
        data: Data,
        config: TrainConfig,
        model: PriorConfig | None = None,
        about: Any = None,
    ):
        self.data = data
        self.diffusion = prior_diffusion()
        self.prior = DiffusionPrior(model or prior_config(data))
        super().__init__(name, config, self.prior, len(data), about, stream_of(data))
        self.measure_data()

    def measure_data(self) -> None:
        image_emb, _ = self.data.measured()
        self.prior.set_stats(image_emb)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return drawn_for_prior(self.data, indices)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Numbers]:
        z0 = self.prior.standardise(batch.pop("image_emb"))  # (B, D)
        index = index_timesteps(len(z0), self.diffusion, generator)
        noise = noise_like(z0, generator)
        losses = self.diffusion.training_losses(model, z0, index, noise, **batch)
        return losses["loss"].mean(), {}


class ARPriorTask(Task):
    """Captions and codes -> the next code.

    pca: that of the data's image embeddings; measured if it is left out. The model's
    rank is then what the data need.
    """

    def __init__(
        self,
        name: str,
        data: Data,
        config: TrainConfig,
        model: ARPriorConfig | None = None,
        pca: PCA | None = None,
        about: Any = None,
    ):
        self.data = data
        self.pca = pca or fit_pca(data.measured()[0])
        self.prior = ARPrior(model or ar_prior_config(data, self.pca))
        super().__init__(name, config, self.prior, len(data), about, stream_of(data))
        self.measure_data()

    def measure_data(self) -> None:
        self.prior.fit(self.pca, *self.data.measured())

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        drawn = drawn_for_prior(self.data, indices)
        empty = (drawn["text_emb"] == self.data.null.text_emb).all(dim=1)  # (B,)
        return {**drawn, "empty": empty}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Numbers]:
        z = batch.pop("image_emb")  # (B, D)
        empty = batch.pop("empty")  # (B,)
        codes = self.prior.encode(z)  # (B, rank)
        dot = self.prior.encode_dot((z * batch["text_emb"]).sum(dim=1))  # (B,)
        dot = torch.where(empty, self.prior.no_text, dot)
        logits = model(codes[:, :-1], dot=dot, **batch)  # (B, rank, buckets)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())
        return loss, {"right": (logits.argmax(dim=2) == codes).float().mean()}

    def metadata(self) -> dict[str, Any]:
        rank = self.prior.config.rank
        kept = {"rank": rank, "error": float(self.pca.error()[rank])}
        return {"pca": kept, **super().metadata()}


def ar_prior_config(data: Data, pca: PCA) -> ARPriorConfig:
    """An autoregressive prior as wide and deep as the diffusion prior; its rank is what
    the data need.
    """
    clip_dim, text_width, context = widths(data)
    rank = pca.rank_for(PCA_ERROR)
    lost = float(pca.error()[rank])
    print(
        f"PCA: {rank} of {clip_dim} dimensions keep all but {lost:.2%} of the variance."
    )
    return ARPriorConfig(clip_dim, text_width, context, rank, emb_scale=clip_dim**0.5)


class RegressionTask(Task):
    """Captions -> the standardised image embedding, by its squared error."""

    def __init__(
        self,
        name: str,
        data: Data,
        config: TrainConfig,
        model: PriorConfig | None = None,
        about: Any = None,
    ):
        self.data = data
        self.regression = RegressionPrior(model or prior_config(data))
        super().__init__(
            name, config, self.regression, len(data), about, stream_of(data)
        )
        self.measure_data()

    def measure_data(self) -> None:
        image_emb, _ = self.data.measured()
        self.regression.prior.set_stats(image_emb)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return drawn_for_prior(self.data, indices)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Numbers]:
        z = self.regression.prior.standardise(batch.pop("image_emb"))  # (B, D)
        return F.mse_loss(model(**batch).float(), z), {}


# --- decoder --------------------------------------------------------------------------


def decoder_config(data: Data) -> DecoderConfig:
    """A decoder that fits what CLIP says of the data, with a text transformer of its
    own.
    """
    clip_dim, text_width, context = widths(data)
    unet = replace(DecoderConfig().unet, channel_mult=(1, 2), attention_levels=(0, 1))
    return DecoderConfig(
        clip_dim,
        text_width,
        whiten=True,
        text_layers=4,
        vocab_size=default_tokenizer().vocab_size,
        context_length=context,
        unet=unet,
    )


class DecoderTask(Task):
    """Noised pictures, their image embeddings and captions -> v."""

    def __init__(
        self,
        name: str,
        data: Data,
        config: TrainConfig,
        model: Any = None,
        about: Any = None,
    ):
        self.data = data
        self.diffusion = decoder_diffusion()
        network = self.network(model)
        super().__init__(name, config, network, len(data), about, stream_of(data))
        self.measure_data()

    def measure_data(self) -> None:
        decoder: Any = self.model
        decoder.set_stats(self.data.measured()[0])

    def network(self, model: Any) -> nn.Module:
        """The network that learns. model: its `DecoderConfig`, or None for one that
        fits the data.
        """
        return Decoder(model or decoder_config(self.data))

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        keep = torch.rand(len(indices)) >= IMAGE_DROP_DECODER  # (B,)
        return {**self.data.draw(indices, TEXT_DROP_DECODER), "image_keep": keep}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Numbers]:
        x0 = to_float(batch.pop("images"))  # (B, 3, S, S)
        index = index_timesteps(len(x0), self.diffusion, generator)
        noise = noise_like(x0, generator)
        losses = self.diffusion.training_losses(model, x0, index, noise, **batch)
        return losses["loss"].mean(), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        """Real pictures above, what the decoder makes of their embeddings below: (2 *
        GRID, 3, S, S).
        """
        device = next(model.parameters()).device
        real, conditional, empty = self.chosen(device)
        noise = SeededNoise(range(len(real)), device)
        denoiser = classifier_free(model, 2.0, empty, conditional)
        drawn = ddim_sample(
            denoiser, self.diffusion.respace(25), noise(real.shape), noise
        )
        return torch.cat([real.cpu(), drawn.cpu()])

    def chosen(self, device: torch.device) -> tuple[Tensor, Numbers, Numbers]:
        """Pictures at even distances, (GRID, 3, S, S), and their conditioning without a
        caption: with the image embedding, and without.
        """
        places = torch.arange(0, self.size, max(1, self.size // GRID))[:GRID]
        n = len(places)
        drawn = self.data.draw(places, text_drop=1.0)
        texts = self.data.null.for_decoder()
        given = {name: tensor.to(device) for name, tensor in texts.items()}
        given = {
            name: tensor.expand(n, *tensor.shape[1:]) for name, tensor in given.items()
        }
        given["image_emb"] = drawn["image_emb"].to(device)
        keep = torch.ones(n, dtype=torch.bool, device=device)
        real = to_float(drawn["images"].to(device))
        return real, {**given, "image_keep": keep}, {**given, "image_keep": ~keep}


# --- upsamplers -----------------------------------------------------------------------


class UpsamplerTask(Task):
    """Crops of the target and their damaged halves -> v. `damage` is "blur" (first
    upsampler) or "bsr" (second).
    """

    def __init__(
        self,
        name: str,
        data: Tensor | Pairs | Stream,
        config: TrainConfig,
        model: Any,
        damage: str,
        about: Any = None,
    ):
        self.images = pictures_of(data)
        self.damage = damage
        network = self.network(model)
        super().__init__(name, config, network, len(data), about, stream_of(data))
        shape: Any = network.config
        self.stage = upsampler.upsampler_stage(shape)
        self.diffusion = upsampler_diffusion(shape)
        self.side = shape.unet.image_size
        self.crop = self.side // 4  # a quarter of the target's width, Table 3

    def network(self, model: Any) -> nn.Module:
        """The network that learns. model: its `UpsamplerConfig`."""
        return Upsampler(model)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images = shrink(self.images[indices], self.side)
        return {"images": random_crops(images, self.crop, step=upsampler.FACTOR)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Numbers]:
        images = to_float(batch["images"])  # (B, 3, S/4, S/4)
        small = upsampler.reduce(images, upsampler.FACTOR)  # (B, 3, S/8, S/8)
        low_res = self.damaged(small, generator)
        x0 = upsampler.to_detail(images, low_res)  # what the small picture lacks
        index = index_timesteps(len(x0), self.diffusion, generator)
        noise = noise_like(x0, generator)
        losses = self.diffusion.training_losses(
            model, x0, index, noise, low_res=low_res
        )
        return losses["loss"].mean(), {}

    def damaged(self, low_res: Tensor, generator: torch.Generator) -> Tensor:
        """The small picture as the stage below might have drawn it."""
        if self.damage == "blur":
            return upsampler.blur_condition(low_res, generator)
        return upsampler.bsr_condition(low_res, generator)

    def sample(self, model: nn.Module) -> Tensor | None:
        """Enlarged small pictures above, the upsampler's full-size work below: (GRID,
        3, S, S).
        """
        images = self.chosen(next(model.parameters()).device)
        low_res = upsampler.reduce(images, upsampler.FACTOR)
        noise = SeededNoise(range(len(images)), images.device)
        drawn = upsampler.upsample(model, self.stage, low_res, noise)
        enlarged = F.interpolate(
            low_res, scale_factor=float(upsampler.FACTOR), mode="nearest"
        )
        return torch.cat([enlarged, drawn]).cpu()

    def chosen(self, device: torch.device) -> Tensor:
        """Pictures at even distances: (GRID / 2, 3, S, S) in [-1, 1]."""
        half = GRID // 2
        places = torch.arange(0, self.size, max(1, self.size // half))[:half]
        return to_float(shrink(self.images[places], self.side)).to(device)

    def metadata(self) -> dict[str, Any]:
        return {"damage": self.damage, **super().metadata()}


def random_crops(images: Tensor, side: int, step: int) -> Tensor:
    """One random side x side crop of each picture, corners on multiples of `step`: (B,
    3, S, S)
    -> (B, 3, side, side).
    """
    places = (images.shape[-1] - side) // step + 1
    corners = (torch.rand(len(images), 2) * places).long() * step  # (B, 2): top, left
    crops = [
        image[:, top : top + side, left : left + side]
        for image, (top, left) in zip(images, corners.tolist(), strict=True)
    ]
    return torch.stack(crops)


# --- recipes --------------------------------------------------------------------------

# Adam's second beta and the weight decay are those of the paper's Table 3.
PRIOR_TRAINING = TrainConfig(
    steps=2000,
    batch_size=128,
    learning_rate=1e-3,
    decay="cosine",
    weight_decay=0.06,
    betas=(0.9, 0.96),
    adam_eps=1e-6,
    ema=0.998,
    mixed_precision="auto",
    save_every=200,
)
PRIOR_ON_GPU = {"steps": 10_000, "batch_size": 1024, "ema": 0.9995, "save_every": 2000}

# A batch has fewer pictures than the diffusion prior's: a picture is a sentence here,
# and every code of it is an example. The rest is Table 3's.
AR_PRIOR_TRAINING = TrainConfig(
    steps=3000,
    batch_size=64,
    learning_rate=1e-3,
    decay="cosine",
    weight_decay=0.04,
    betas=(0.9, 0.91),
    adam_eps=1e-10,
    ema=0.998,
    mixed_precision="auto",
    save_every=200,
)
AR_PRIOR_ON_GPU = {
    "steps": 15_000,
    "batch_size": 512,
    "ema": 0.9995,
    "save_every": 3000,
}

# A small batch makes more steps a minute; Muon reaches AdamW's loss in two thirds of
# the steps.
DECODER_TRAINING = TrainConfig(
    steps=24_000,
    batch_size=32,
    learning_rate=2e-3,
    warmup=200,
    optimizer="muon",
    weight_decay=0.01,
    betas=(0.9, 0.99),
    decay="cooldown",
    ema=0.998,
    mixed_precision="auto",
    save_every=250,
    sample_every=1000,
)
DECODER_ON_GPU = {
    "steps": 15_000,
    "batch_size": 512,
    "ema": 0.9995,
    "save_every": 3000,
    "sample_every": 3000,
}

UPSAMPLER_TRAINING = TrainConfig(
    steps=10_000,
    batch_size=64,
    learning_rate=1e-3,
    decay="cosine",
    ema=0.998,
    mixed_precision="auto",
    save_every=200,
    sample_every=1000,
)
UPSAMPLER_ON_GPU = {
    "steps": 10_000,
    "batch_size": 512,
    "ema": 0.9995,
    "save_every": 2500,
    "sample_every": 5000,
}


def upsampler_config(size: int) -> UpsamplerConfig:
    """The upsampler to `size`: the first has the cosine schedule, the second the linear
    one, as in Table 3.
    """
    unet = replace(UpsamplerConfig().unet, image_size=size)
    return UpsamplerConfig("cosine" if size == 64 else "linear", unet)


def fresh_or_pairs(domain: str, tier: str, size: int) -> FreshScenes | Pairs:
    """What priors and decoders learn from: scenes that are drawn when they are needed,
    or the domain's pictures.
    """
    return (
        FreshScenes(SMALL_SIZE)
        if domain == "shapes"
        else domain_pairs(domain, tier, size)
    )


RECIPES = (
    Recipe(
        "prior",
        DiffusionPrior,
        PriorTask,
        domains=("shapes", "emoji"),
        teaches="caption -> image embedding",
        reads_clip=True,
        cpu=PRIOR_TRAINING,
        gpu=PRIOR_ON_GPU,
        data=fresh_or_pairs,
    ),
    Recipe(
        "decoder",
        Decoder,
        DecoderTask,
        domains=("shapes", "emoji"),
        teaches="image embedding -> 32 pixels",
        reads_clip=True,
        cpu=DECODER_TRAINING,
        gpu=DECODER_ON_GPU,
        data=fresh_or_pairs,
    ),
    Recipe(
        "upsampler-64",
        Upsampler,
        UpsamplerTask,
        domains=("shared",),
        teaches="32 -> 64 pixels",
        cpu=UPSAMPLER_TRAINING,
        gpu=UPSAMPLER_ON_GPU,
        model_config=upsampler_config(64),
        picture_size=LARGE_SIZE,
        options={"damage": "blur"},
    ),
    Recipe(
        "upsampler-128",
        Upsampler,
        UpsamplerTask,
        domains=("shared",),
        teaches="64 -> 128 pixels",
        cpu=replace(UPSAMPLER_TRAINING, steps=5000),
        gpu=UPSAMPLER_ON_GPU,
        model_config=upsampler_config(128),
        picture_size=LARGE_SIZE,
        options={"damage": "bsr"},
    ),
    Recipe(
        "ar-prior",
        ARPrior,
        ARPriorTask,
        domains=("shapes", "emoji"),
        teaches="caption -> image embedding, code by code",
        reads_clip=True,
        cpu=AR_PRIOR_TRAINING,
        gpu=AR_PRIOR_ON_GPU,
        data=fresh_or_pairs,
    ),
    Recipe(
        "regression",
        RegressionPrior,
        RegressionTask,
        domains=("shapes", "emoji"),
        teaches="caption -> mean embedding",
        reads_clip=True,
        cpu=PRIOR_TRAINING,
        gpu=PRIOR_ON_GPU,
        data=fresh_or_pairs,
    ),
)
