"""What the two rivals of the diffusion prior learn from: the same embeddings and captions,
other questions.

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
from dalle2_edu.training.tasks import TEXT_DROP_PRIOR, Data
from dalle2_edu.unclip.ar_prior import ARPrior, ARPriorConfig
from dalle2_edu.unclip.latents import PCA
from dalle2_edu.unclip.prior import PriorConfig
from dalle2_edu.unclip.regression import RegressionPrior


class ARPriorTask:
    """Captions and codes -> the next code. `pca` is that of the data's image embeddings."""

    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(
        self, name: str, data: Data, config: TrainConfig, model: ARPriorConfig, pca: PCA
    ):
        self.name, self.config, self.model_config = name, config, model
        self.data, self.size, self.pca = data, len(data), pca
        self.prior = ARPrior(model)
        self.prior.fit(pca, *data.measured())
        self.model: nn.Module = self.prior

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        drawn = self.data.draw(indices, TEXT_DROP_PRIOR)
        del drawn["images"]
        empty = (drawn["text_emb"] == self.data.null.text_emb).all(dim=1)
        return {**drawn, "empty": empty}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z, empty = batch.pop("image_emb"), batch.pop("empty")
        codes, dot = (
            self.prior.encode(z),
            self.prior.encode_dot((z * batch["text_emb"]).sum(dim=1)),
        )
        logits = model(
            codes[:, :-1], dot=torch.where(empty, self.prior.no_text, dot), **batch
        )  # (B, rank, buckets)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())
        return loss, {"right": (logits.argmax(dim=2) == codes).float().mean()}

    def sample(self, model: nn.Module) -> Tensor | None:
        return None  # an embedding is no picture; `dalle2-edu trial` shows what it is worth

    def metadata(self) -> dict[str, Any]:
        kept = {
            "rank": self.model_config.rank,
            "error": float(self.pca.error()[self.model_config.rank]),
        }
        return {"model": asdict(self.model_config), "pca": kept, **self.about}


class RegressionTask:
    """Captions -> the standardised image embedding, by its squared error."""

    about: dict[str, Any] = {}  # what else makes this run this run; `recipes.run` fills it in

    def __init__(self, name: str, data: Data, config: TrainConfig, model: PriorConfig):
        self.name, self.config, self.model_config = name, config, model
        self.data, self.size = data, len(data)
        self.regression = RegressionPrior(model)
        self.regression.prior.set_stats(data.measured()[0])
        self.model: nn.Module = self.regression

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        drawn = self.data.draw(indices, TEXT_DROP_PRIOR)
        del drawn["images"]
        return drawn

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.regression.prior.standardise(batch.pop("image_emb"))
        return F.mse_loss(model(**batch).float(), z), {}

    def sample(self, model: nn.Module) -> Tensor | None:
        return None  # an embedding is no picture; `dalle2-edu trial` shows what it is worth

    def metadata(self) -> dict[str, Any]:
        return {"model": asdict(self.model_config), **self.about}
