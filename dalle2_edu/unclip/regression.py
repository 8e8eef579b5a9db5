r"""A regression baseline for the prior: text in, the mean of all its image embeddings
out.

The idea: why *draw* an embedding? Let the same transformer answer at once, without
noise, and be corrected by the squared error. The answer with the least error is the
mean over all pictures of the caption,

    f(y) = E[z | y]

and the mean of many pictures' embeddings is no picture's embedding: it is shorter, and
where the caption leaves things open it lies between all of them. The prior on trial
(`evaluation/trial.py`) shows what that costs.

The network is the diffusion prior asked a single question: t = T, where the noised
embedding is nothing but noise, with that noise left out. There the best answer of the
diffusion prior itself is the same mean.

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
        self.config = config
        self.prior = DiffusionPrior(config)

    def forward(self, text_emb: Tensor, text_enc: Tensor, text_mask: Tensor) -> Tensor:
        """text_emb (B, D), text_enc (B, L, text_width), text_mask (B, L) -> (B, D)."""
        t = torch.full((len(text_emb),), LAST, device=text_emb.device)
        return self.prior(torch.zeros_like(text_emb), t, text_emb, text_enc, text_mask)

    @torch.no_grad()
    def draw_embeddings(
        self,
        text: TextEncoding,
        null: TextEncoding,
        run: Run,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """The one answer for each text, (B, 1, D) in CLIP's space; deterministic: the
        run's seeds are ignored. Guidance as elsewhere.
        """
        answer = self(**text.as_conditioning())  # (B, D)
        if guidance_scale != 1:
            unconditional = self(**null.as_conditioning())
            answer = unconditional + guidance_scale * (answer - unconditional)
        return self.prior.unstandardise(answer)[:, None]  # (B, D) => (B, 1, D)
