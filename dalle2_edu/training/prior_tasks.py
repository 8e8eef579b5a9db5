"""What the two rivals of the diffusion prior learn from: the same embeddings and captions, other questions.

    ARPriorTask       captions, an embedding's first codes   -> the next code
    RegressionTask    captions                               -> the mean embedding

Both drop the text as the diffusion prior does (unCLIP, section 2.2).

Chapter 15 uses this file.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.training.loop import TrainConfig
from dalle2_edu.training.tasks import TEXT_DROP_PRIOR, Encoded
from dalle2_edu.unclip.ar_prior import ARPrior, ARPriorConfig
from dalle2_edu.unclip.latents import PCA
from dalle2_edu.unclip.prior import PriorConfig
from dalle2_edu.unclip.regression import RegressionPrior


class ARPriorTask:
    """Captions and codes -> the next code. `pca` is that of the data's image embeddings."""

    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(self, name: str, data: Encoded, config: TrainConfig, model: ARPriorConfig, pca: PCA):
        self.name, self.config, self.model_config = name, config, model
        self.data, self.size, self.pca = data, len(data), pca
        prior = ARPrior(model)
        prior.fit(pca, data.image_emb, dot_products(data))
        self.prior = prior
        self.model: nn.Module = prior
        self.codes = prior.encode(data.image_emb).to(torch.int16)  # (N, rank): a quarter of int64's memory

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        text = self.data.draw_text(indices, TEXT_DROP_PRIOR)
        dots = (self.data.image_emb[indices] * text["text_emb"]).sum(dim=1)  # (B,)
        empty = (text["text_emb"] == self.data.null.text_emb).all(dim=1)
        dot = torch.where(empty, self.prior.no_text, self.prior.encode_dot(dots.to(self.prior.mean.device)).cpu())
        return {"codes": self.codes[indices].long(), "dot": dot, **text}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        codes = batch.pop("codes")
        logits = model(codes[:, :-1], **batch)  # (B, rank, buckets)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())
        return loss, {"right": (logits.argmax(dim=2) == codes).float().mean()}

    def sample(self, model: nn.Module) -> Tensor | None:
        return None  # an embedding is no picture; `dalle2-edu trial` shows what it is worth

    def metadata(self) -> dict[str, Any]:
        kept = {"rank": self.model_config.rank, "error": float(self.pca.error()[self.model_config.rank])}
        return {"model": asdict(self.model_config), "pca": kept, **self.about}


def dot_products(data: Encoded) -> Tensor:
    """z_i . z_t of every picture with each of its captions, (M,)."""
    own = data.image_emb.repeat_interleave(data.captions.counts, dim=0)  # (N, D) => (M, D)
    return (own * data.text.text_emb).sum(dim=1)


class RegressionTask:
    """Captions -> the standardised image embedding, by its squared error."""

    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(self, name: str, data: Encoded, config: TrainConfig, model: PriorConfig):
        self.name, self.config, self.model_config = name, config, model
        self.data, self.size = data, len(data)
        regression = RegressionPrior(model)
        regression.prior.set_stats(data.image_emb)
        self.model: nn.Module = regression
        self.targets = regression.prior.standardise(data.image_emb)  # (N, D)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"z": self.targets[indices], **self.data.draw_text(indices, TEXT_DROP_PRIOR)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z = batch.pop("z")
        return F.mse_loss(model(**batch).float(), z), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        return None  # an embedding is no picture; `dalle2-edu trial` shows what it is worth

    def metadata(self) -> dict[str, Any]:
        return {"model": asdict(self.model_config), **self.about}
