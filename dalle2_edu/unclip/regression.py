r"""A regression baseline for the prior: text in, the mean of all its image embeddings
out.

The idea: why *draw* an embedding? Let the same transformer answer at once, without
noise, and be corrected by the squared error. The output with the least error is the
mean over all pictures of the caption,

    f(y) = E[z | y]

and the mean of many pictures' embeddings is no picture's embedding: it is shorter, and
where the caption leaves things open it lies between all of them. The prior on trial
(`evaluation/trial.py`) shows what that costs.

The network is the diffusion prior at a single step: t = T, where the noised embedding
is nothing but noise, with that noise left out. There the best output of the diffusion
prior itself is the same mean.

Chapter 15 uses this file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dalle2_edu.drawing.run import Run
from dalle2_edu.text2image.clip import TextEncoding
from dalle2_edu.unclip.prior import DiffusionPrior, PriorConfig

LAST = 999  # the last of the prior's 1000 steps


class RegressionPrior(nn.Module):
    """The text -> the (standardised) image embedding, at once."""

    def __init__(self, config: PriorConfig):
        super().__init__()
        # the same class: what differs on trial is the training alone
        self.config = config
        self.prior = DiffusionPrior(config)

    def forward(self, text_emb: Tensor, text_enc: Tensor, text_mask: Tensor) -> Tensor:
        """text_emb (B, D), text_enc (B, L, text_width), text_mask (B, L) -> (B, D)."""
        t = torch.full((len(text_emb),), LAST, device=text_emb.device)  # t = T
        no_noise = torch.zeros_like(text_emb)  # (B, D), in the noised embedding's place
        return self.prior(no_noise, t, text_emb, text_enc, text_mask)

    @torch.no_grad()
    def draw_embeddings(
        self,
        text: TextEncoding,
        null: TextEncoding,
        run: Run,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """One embedding per text, (B, 1, D) in CLIP's space; deterministic: the
        run's seeds are ignored. Guidance as elsewhere.
        """
        z = self(**text.as_conditioning())  # E[z | y], (B, D)
        if guidance_scale != 1:  # 1 is off
            null_z = self(**null.as_conditioning())  # E[z]
            z = null_z + guidance_scale * (z - null_z)
        embeddings = self.prior.unstandardise(z)  # (B, D)
        return embeddings[:, None]  # one candidate: (B, 1, D)
