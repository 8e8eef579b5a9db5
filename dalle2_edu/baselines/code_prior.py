"""A prior over codes: the network that turns a VQ-VAE into something that draws.

The idea: a trained VQ-VAE says how to draw a page of codes, and nothing about which pages
there are. Pages drawn at random give noise. So a second network learns the codes of the
training pictures as a language model learns text: one code after the other, each from all
before it.

    p(c) = prod_i p(c_i | c_1 ... c_(i-1))        a causal transformer over the codes
    L    = -ln p(c) / number of codes             cross-entropy, in nats a code

VQ-VAE-2 reads its two grids as one line, the top first: [c^top_1 ... c^top_16, c^bottom_1 ...
c^bottom_64]. The paper has a PixelCNN with attention for each grid (arXiv 1906.00446,
section 3.2); a transformer is plainer, and is what DALL·E 1 took.

    from dalle2_edu import zoo
    codes = zoo.load("shapes", "code_prior").sample(seeds=range(8))          # (8, 80)

Chapter 05 uses this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.baselines.dvae import check_words
from dalle2_edu.baselines.token_sampling import (
    check_temperature,
    draw_token,
    normal_to_uniform,
)
from dalle2_edu.baselines.transformer import Past, Transformer
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.errors import Dalle2EduError


@dataclass(frozen=True)
class CodePriorConfig:
    """`places` codes a picture, each one of `codes`. The default: VQ-VAE-2's 16 and 64."""

    codes: int = 256
    places: int = 16 + 64
    width: int = 128
    layers: int = 4
    heads: int = 4


class CodePrior(nn.Module):
    """A causal transformer: the codes so far -> logits of the next one."""

    def __init__(self, config: CodePriorConfig):
        super().__init__()
        self.config = config
        width = config.width
        # one more code: the begin of a page
        self.embedding = nn.Embedding(config.codes + 1, width)
        self.position = nn.Parameter(torch.zeros(config.places, width))
        self.transformer = Transformer(width, config.layers, config.heads)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.codes)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, codes: Tensor) -> Tensor:
        """All next codes at once: int64 (B, L) -> logits (B, L, codes). Logits i see
        codes 0..i-1 alone.
        """
        begun = self.begun(codes)[:, :-1]  # (B, L): begin, c_1 ... c_(L-1)
        return self.read(begun)

    def read(
        self, tokens: Tensor, past: list[Past] | None = None, at: int = 0
    ) -> Tensor:
        """Tokens (B, n), the first of them at place `at` -> logits (B, n, codes)."""
        n = tokens.shape[1]
        x = self.embedding(tokens) + self.position[at : at + n]
        # row i may look at columns 0..i
        mask = torch.ones(n, at + n, dtype=torch.bool, device=x.device).tril(at)
        return self.head(self.norm(self.transformer(x, mask[None], past)))

    def begun(self, codes: Tensor) -> Tensor:
        """A begin in front of the codes: (B, L) -> (B, 1 + L)."""
        return F.pad(codes, (1, 0), value=self.config.codes)

    def nll(self, codes: Tensor) -> Tensor:
        """-ln p(c_i | before) of every code: (B, L) -> (B, L)."""
        logits = self(codes).transpose(1, 2).float()  # (B, codes, L), as the loss wants
        return F.cross_entropy(logits, codes, reduction="none")

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        temperature: float = 1.0,
        top_k: int | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """One page of codes a seed: int64 (B, places).

        temperature divides the logits, 0 takes the likeliest; top_k leaves only the likeliest codes. given: the
        first codes of every page, int64 (B, n) or (1, n). Raises Dalle2EduError for a
        temperature or top_k that can't be, and for given codes that are no codes.
        """
        check_temperature(temperature, top_k)
        codes = self.first(seeds, given)
        luck = SeededNoise(seeds, codes.device)
        past = [Past() for _ in self.transformer.blocks]
        at = 0
        while codes.shape[1] <= self.config.places:
            # all that is new: the begin and what is given at first, then one code
            logits = self.read(codes[:, at:], past, at)[:, -1]
            at = codes.shape[1]
            uniform = normal_to_uniform(luck((len(codes), 1)))[:, 0]  # (B,)
            code = draw_token(logits, uniform, temperature, top_k)  # (B,)
            codes = torch.cat([codes, code[:, None]], dim=1)
        return codes[:, 1:]

    def first(self, seeds: Sequence[int], given: Tensor | None) -> Tensor:
        """What every page begins with: the begin, and the codes that are given."""
        device = self.position.device
        if given is None:
            given = torch.zeros(1, 0, dtype=torch.long, device=device)
        check_words(given, self.config.codes)
        n = given.shape[1]
        if len(given) not in (1, len(seeds)) or n > self.config.places:
            raise Dalle2EduError(
                f"Given codes are (1 or {len(seeds)}, at most {self.config.places}), not"
                f" {tuple(given.shape)}."
            )
        return self.begun(given.expand(len(seeds), n))
