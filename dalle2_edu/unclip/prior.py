"""The prior: from a caption to the CLIP embedding of a picture that the caption could
belong to.

The idea in five lines. A caption has many pictures, so "the" image embedding of a
caption does not exist: the prior draws one. It is a diffusion model, but over a single
vector and not over pixels. A causal transformer reads

    [text tokens, CLIP text embedding, timestep, noised image embedding, query]      (the paper's order)

and its output at the last place, the learned query, is the answer. It predicts the
clean embedding z itself, not the noise:

    L = E_{t, z^(t)} || f(z^(t), t, y) - z ||^2       unCLIP (arXiv 2204.06125), eq. 2, section 2.2

In training the text is replaced by the empty text 10% of the time, so that guidance is
possible. At sampling two embeddings are drawn and the one nearer to the text embedding
is kept (section 2.2).

Embeddings are standardised before they are noised, (z - mean) / std in each dimension,
so that a noise schedule made for pictures fits. The paper multiplies by one constant
(17.2 for its 1024 dimensions); Karlo standardises. The miniature goes one step further
and whitens: it standardises along the principal axes. The dimensions of its z vary
together, and what tells a star from a heart lies in directions of small variance. Noise
of the same size in every direction hides those first, and the loss hardly counts them.
Whitened, all directions are equal.

    standardise    (z - mean) / std                  per dimension
    whiten         (z - mean) axes^T / std           per principal axis

Chapter 15 uses this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.baselines.transformer import Transformer
from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.diffusion.unet import timestep_embedding
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.unclip.latents import fit_pca, spreads


@dataclass(frozen=True)
class PriorConfig:
    """`clip_dim` is the embedding's size, `text_width` that of the encoded text tokens,
    `width` the transformer's.

    `emb_scale` multiplies the text embedding, and `whiten` standardises along the
    principal axes, as in `DecoderConfig`."""

    clip_dim: int = 128
    text_width: int = 128
    context_length: int = 32
    width: int = 160
    layers: int = 5
    heads: int = 5
    emb_scale: float = 1.0
    whiten: bool = False


def prior_diffusion() -> GaussianDiffusion:
    """The prior's process: 1000 cosine steps, the clean embedding predicted, fixed
    variance (Table 3, eq. 2).
    """
    return GaussianDiffusion(
        cosine_betas(1000), prediction="x0", variance="fixed_small"
    )


EXTRA_TOKENS = 4  # text embedding, timestep, noised image embedding, query


class DiffusionPrior(nn.Module):
    """Predicts the clean (standardised) image embedding from a noised one and the
    text.
    """

    mean: Tensor
    std: Tensor
    axes: Tensor

    def __init__(self, config: PriorConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.time_mlp = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.text_enc_proj = nn.Linear(config.text_width, width)
        self.text_emb_proj = nn.Linear(config.clip_dim, width)
        self.z_proj = nn.Linear(config.clip_dim, width)
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.01)
        self.position = nn.Parameter(
            torch.randn(1, config.context_length + EXTRA_TOKENS, width) * 0.01
        )
        self.transformer = Transformer(width, config.layers, config.heads)
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.clip_dim)
        self.register_buffer("mean", torch.zeros(config.clip_dim))
        self.register_buffer("std", torch.ones(config.clip_dim))
        if config.whiten:
            self.register_buffer("axes", torch.eye(config.clip_dim))

    def forward(
        self,
        noised_z: Tensor,
        t: Tensor,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """noised_z (B, D), t (B,), text_emb (B, D), text_enc (B, L, text_width),
        text_mask (B, L) True if real -> z (B, D).

        L may be less than the context length: `without_padding`.
        """
        time = self.time_mlp(
            timestep_embedding(t, self.config.width).to(noised_z.dtype)
        )
        singles = [
            self.text_emb_proj(text_emb * self.config.emb_scale),
            time,
            self.z_proj(noised_z),
        ]  # each (B, width)
        tokens = [
            self.text_enc_proj(text_enc),
            *(single[:, None] for single in singles),
        ]
        tokens.append(self.query.expand(len(noised_z), -1, -1))
        # A text that was cut short has its own places, and the others theirs at the
        # end.
        position = torch.cat(
            [self.position[:, : text_enc.shape[1]], self.position[:, -EXTRA_TOKENS:]],
            dim=1,
        )
        x = torch.cat(tokens, dim=1) + position  # (B, L + 4, width)
        x = self.transformer(x, prior_mask(text_mask))
        # the query's place: (B, width) => (B, D)
        return self.out(self.norm_out(x[:, -1]))

    def set_stats(self, image_embs: Tensor) -> None:
        """Take the statistics of image embeddings (N, D), N at least 2: the mean, and
        the spread of each dimension or along each principal axis.
        """
        if len(image_embs) < 2:
            raise Dalle2EduError(
                "The prior needs two pictures or more: one alone has no standard deviation."
            )
        self.mean.copy_(image_embs.mean(dim=0))
        if not self.config.whiten:
            self.std.copy_(image_embs.std(dim=0))
            return
        pca = fit_pca(image_embs)
        self.axes.copy_(pca.axes)
        self.std.copy_(spreads(pca))

    def standardise(self, z: Tensor) -> Tensor:
        """CLIP's space -> the space that is noised: mean 0 and variance 1 in every
        dimension.
        """
        centred = z - self.mean  # (B, D)
        if self.config.whiten:
            centred = centred @ self.axes.T  # on the principal axes
        return centred / self.std

    def unstandardise(self, z: Tensor) -> Tensor:
        """The space that is noised -> CLIP's space."""
        centred = z * self.std
        if self.config.whiten:
            centred = centred @ self.axes
        return centred + self.mean


def prior_mask(text_mask: Tensor, extra: int = EXTRA_TOKENS) -> Tensor:
    """Causal, and padding is never looked at: (B, L) -> (B, L + extra, L + extra), True
    where row may look at column.

    Padding stands at the end of the text, so the rows of padding still see the real
    tokens before them.
    """
    real = F.pad(text_mask, (0, extra), value=True)  # (B, L + extra)
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    return causal[None] & real[:, None]


def nearest_to_text(candidates: Tensor, text_emb: Tensor) -> Tensor:
    """Of n drawn embeddings (B, n, D) keep the one with the largest dot product with
    the text's (B, D) -> (B, D).
    """
    best = torch.einsum("bnd,bd->bn", candidates, text_emb).argmax(dim=1)
    return candidates[torch.arange(len(best), device=best.device), best]
