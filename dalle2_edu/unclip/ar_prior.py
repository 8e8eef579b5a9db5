r"""The autoregressive prior: an image embedding as a sentence, drawn word by word.

The other way to draw z from a caption, unCLIP (arXiv 2204.06125), section 2.2. A
transformer that writes needs a sentence, so the embedding is turned into one:

    PCA       z ~ mean + sum_(k <= r) c_k e_k      keep so many axes that less than 1% of the variance is lost
    order     c_1, c_2, ... c_r                    falling variance: the rough things are said first
    codes     q_k = the bucket that c_k falls into, 0 ... K - 1

and then it is language modelling. A causal transformer reads

    [caption's tokens, CLIP text embedding, dot product z . z_t as a token, q_1, ..., q_(r-1)]

    L = - mean_k log p(q_k | caption, z_t, dot, q_1 ... q_(k-1))

In training the text is replaced by the empty one 10% of the time, and its dot product
by a token that says "no text". At sampling the dot product is *chosen*: drawn from the
top half of those in the training data, so that the picture fits its caption better than
the average pair does. (The diffusion prior has no such token; it draws two embeddings
and keeps the nearer one.)

`buckets` says where the buckets lie, `token_sampling` how one code is drawn.

Word ids have no order; bucket ids do. A table that starts at random has to learn for
each bucket apart which ones lie beside it. So the tables of the codes, in and out,
start as waves over the bucket ids, the long ones strongest on the way out: from the
first step on neighbours look alike, and a peak over some of them takes few numbers to
express. (Measured on shapes: loss 4.35 after 200 steps, in place of 4.76.)

Everything that turns codes into an embedding (axes, edges, means) is a buffer: it
travels with the weights.

Chapter 15 uses this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from dalle2_edu.baselines.token_sampling import (
    check_temperature,
    draw_token,
    normal_to_uniform,
)
from dalle2_edu.baselines.transformer import Past, Transformer
from dalle2_edu.diffusion.guidance import guide
from dalle2_edu.diffusion.samplers import Noise
from dalle2_edu.drawing.run import Run
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import TextEncoding
from dalle2_edu.unclip.buckets import bucket_means, quantile_edges, to_buckets
from dalle2_edu.unclip.latents import PCA
from dalle2_edu.unclip.prior import prior_mask

PCA_ERROR = 0.01  # section 2.2: "less than 1% average mean-squared error"
# the paper tried the 50th, 70th, 85th and 95th percentile; the 50th was best everywhere
TOP_HALF = 0.5
# the text embedding's token and the dot product's, between caption and codes
PREFIX = 2


@dataclass(frozen=True)
class ARPriorConfig:
    """Sizes as in `PriorConfig`, and of the sentence: `rank` codes (the axes that PCA
    keeps), each one of `buckets`.

    The dot product has `dot_buckets`.
    """

    clip_dim: int = 128  # D
    text_width: int = 128  # of CLIP's encoded tokens
    context_length: int = 32  # L
    rank: int = 64  # r; the paper keeps 319
    buckets: int = 128  # K; the paper has 1024
    dot_buckets: int = 32  # of z . z_t
    width: int = 160
    layers: int = 5
    heads: int = 5  # 32 channels a head
    emb_scale: float = 1.0  # scales z_t before its projection

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= self.clip_dim:
            raise Dalle2EduError(
                f"rank {self.rank}: PCA of {self.clip_dim} dimensions keeps 1 to"
                f" {self.clip_dim}."
            )
        if self.buckets < 2 or self.dot_buckets < 2:
            raise Dalle2EduError(
                f"buckets {self.buckets} and dot_buckets {self.dot_buckets} must be 2 or more."
            )


# Table 3: 319 codes of 1024 buckets, width 1664, depth 24, 26 heads. A separate text
# encoder, 2048 wide, reads the caption there, where ours takes CLIP's encoded tokens;
# of the dot product's buckets the paper says nothing.
PAPER = ARPriorConfig(
    clip_dim=1024,
    text_width=2048,
    context_length=256,
    rank=319,
    buckets=1024,
    dot_buckets=1024,
    width=1664,
    layers=24,
    heads=26,
)


class ARPrior(nn.Module):
    """Codes so far and the text -> logits of every code and of the next one."""

    mean: Tensor  # (D,)
    axes: Tensor  # e_k, (r, D)
    edges: Tensor  # between the buckets, (r, K - 1)
    centres: Tensor  # bucket means, (r, K)
    dot_edges: Tensor  # (1, dot_buckets - 1)

    def __init__(self, config: ARPriorConfig):
        super().__init__()
        self.config = config
        width = config.width
        rank = config.rank

        self.text_enc_proj = nn.Linear(config.text_width, width)  # the caption's tokens
        self.text_emb_proj = nn.Linear(config.clip_dim, width)  # z_t
        # the last dot product says: no text, so no dot product
        self.dot = nn.Embedding(config.dot_buckets + 1, width)
        # one table for all axes: the position says which axis it is
        self.code = nn.Embedding(config.buckets, width)
        # the last code is never read
        longest = config.context_length + PREFIX + rank - 1  # L + 2 + r - 1
        start = 0.5 * torch.randn(1, longest, width)
        self.position = nn.Parameter(start)

        self.transformer = Transformer(width, config.layers, config.heads)
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.buckets)  # logits of one code
        wave = waves(config.buckets, width)  # (K, width)
        fading = 1 + torch.arange(width) / 8  # long waves come first and stay strong
        # in place of a random start: neighbouring buckets look alike from the beginning
        with torch.no_grad():
            self.code.weight.copy_(0.5 * wave)
            self.out.weight.copy_(0.1 * wave / fading)
        # buffers: filled by `fit`, saved with the weights, never trained
        self.register_buffer("mean", torch.zeros(config.clip_dim))
        self.register_buffer("axes", torch.eye(config.clip_dim)[:rank])
        self.register_buffer("edges", torch.zeros(rank, config.buckets - 1))
        self.register_buffer("centres", torch.zeros(rank, config.buckets))
        self.register_buffer("dot_edges", torch.zeros(1, config.dot_buckets - 1))

    # --- an embedding as a sentence ---------------------------------------------------

    def fit(self, pca: PCA, image_emb: Tensor, dots: Tensor) -> None:
        """Take the axes, and the buckets of these embeddings (N, D) and of these dot
        products with captions, (M,).
        """
        self.mean.copy_(pca.mean)
        # PCA sorts them: falling variance
        self.axes.copy_(pca.axes[: self.config.rank])
        coordinates = self.project(image_emb)  # c_k, (N, r)
        self.edges.copy_(quantile_edges(coordinates, self.config.buckets))
        self.centres.copy_(bucket_means(coordinates, self.edges))
        dot_column = dots[:, None]  # (M, 1): buckets are made column by column
        self.dot_edges.copy_(quantile_edges(dot_column, self.config.dot_buckets))

    def project(self, z: Tensor) -> Tensor:
        """Embeddings (B, D) as coordinates on the axes, (B, rank)."""
        return (z - self.mean) @ self.axes.T  # c_k = (z - mean) . e_k

    def encode(self, z: Tensor) -> Tensor:
        """Embeddings (B, D) -> codes, int64 (B, rank)."""
        return to_buckets(self.project(z), self.edges)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, rank) -> embeddings (B, D): each bucket's mean, along its axis."""
        columns = self.centres.gather(1, codes.T)  # (r, K) at (r, B) => (r, B)
        coordinates = columns.T  # (B, r)
        return self.mean + coordinates @ self.axes  # mean + sum_k c_k e_k

    def encode_dot(self, dots: Tensor) -> Tensor:
        """Dot products z . z_t (B,) -> their tokens, int64 (B,)."""
        column = dots[:, None]  # (B, 1)
        return to_buckets(column, self.dot_edges)[:, 0]

    @property
    def no_text(self) -> int:
        """The token that stands for the dot product with the empty text."""
        return self.config.dot_buckets  # one above the last real one

    def top_dot(self, uniform: Tensor, above: float = TOP_HALF) -> Tensor:
        """Tokens of dot products from above the quantile `above` of the training data:
        uniform (B,) in [0, 1) -> (B,).
        """
        buckets = self.config.dot_buckets
        least = round(above * buckets)  # the lowest token that may be drawn
        offset = uniform * (buckets - least)  # in [0, number of tokens allowed)
        return least + offset.long()

    # --- the language model -----------------------------------------------------------

    def forward(
        self,
        codes: Tensor,
        dot: Tensor,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """The first n codes (B, n), n < rank, -> logits of codes 1 ... n + 1: (B, n +
        1, buckets).

        dot (B,) are tokens; text_emb (B, D), text_enc (B, L, text_width), text_mask (B,
        L) True where real.
        """
        n = codes.shape[1]
        prefix = self.prefix(dot, text_emb, text_enc)  # (B, L + 2, width)
        code_tokens = self.code(codes)  # (B, n, width)
        tokens = torch.cat([prefix, code_tokens], dim=1)  # (B, L + 2 + n, width)
        x = tokens + self.position[:, : tokens.shape[1]]
        mask = prior_mask(text_mask, PREFIX + n)  # causal; no padding
        x = self.transformer(x, mask)
        # (B, n + 1, width): the dot product's place predicts the first code
        predicting = x[:, -1 - n :]
        return self.out(self.norm_out(predicting))

    def prefix(self, dot: Tensor, text_emb: Tensor, text_enc: Tensor) -> Tensor:
        """What stands before the codes, (B, L + 2, width)."""
        words = self.text_enc_proj(text_enc)  # (B, L, width)
        text = self.text_emb_proj(text_emb * self.config.emb_scale)  # (B, width)
        dot_token = self.dot(dot)  # (B, width)
        return torch.cat([words, text[:, None], dot_token[:, None]], dim=1)

    def start(
        self, dot: Tensor, text_emb: Tensor, text_enc: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, list[Past]]:
        """Read the prefix once: the first code's logits (B, buckets), and what `step`
        needs to go on.
        """
        past = [Past() for _ in self.transformer.blocks]  # of each block
        tokens = self.prefix(dot, text_emb, text_enc)  # (B, L + 2, width)
        x = tokens + self.position[:, : tokens.shape[1]]
        mask = prior_mask(text_mask, PREFIX)
        x = self.transformer(x, mask, past)
        last = self.norm_out(x[:, -1])  # (B, width), of the dot product's place
        return self.out(last), past

    def step(self, code: Tensor, n: int, past: list[Past], text_mask: Tensor) -> Tensor:
        """The n-th code (B,), n from 1 -> logits of the next one, (B, buckets). past
        grows by one token.
        """
        place = text_mask.shape[1] + PREFIX + n - 1  # of this code
        position = self.position[:, place : place + 1]  # (1, 1, width)
        x = self.code(code)[:, None] + position  # (B, 1, width)
        real = F.pad(text_mask, (0, PREFIX + n), value=True)  # (B, L + 2 + n)
        # the new token sees all but padding
        x = self.transformer(x, real[:, None], past)
        last = self.norm_out(x[:, -1])
        return self.out(last)

    # --- sampling ---------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        text: TextEncoding,
        null: TextEncoding,
        noise: Noise,
        temperature: float = 1.0,
        guidance_scale: float = 1.0,
        above: float = TOP_HALF,
        progress: str | None = None,
    ) -> Tensor:
        """Draw the codes of B texts one after the other: int64 (B, rank).

        null is the empty text's encoding, of B as well; it is read if guidance_scale is
        not 1. A temperature below 1 makes the likely likelier, 0 takes the likeliest.
        noise(shape) gives all random numbers at once, one row per picture.
        """
        check_temperature(temperature, None)
        check_quantile(above)
        rank = self.config.rank
        normal = noise((len(text.text_emb), 1 + rank))  # one row per picture
        uniform = normal_to_uniform(normal)  # (B, 1 + rank)
        # chosen, not predicted: the paper's way to ask for a good fit
        dot = self.top_dot(uniform[:, 0], above)  # (B,)
        conditioning = text.as_conditioning()
        guided = guidance_scale != 1
        if guided:  # the null text behind the texts: 2B rows
            empty = null.as_conditioning()
            no_dot = torch.full_like(dot, self.no_text)
            dot = torch.cat([dot, no_dot])  # (2B,)
            conditioning = {
                name: torch.cat([tensor, empty[name]])
                for name, tensor in conditioning.items()
            }
        logits, past = self.start(dot, **conditioning)
        codes: list[Tensor] = []
        places = range(1, rank + 1)
        for n in places if progress is None else tqdm(places, desc=progress):
            if guided:
                logits = self._guided(logits, guidance_scale)  # (2B, K) => (B, K)
            codes.append(draw_token(logits, uniform[:, n], temperature))
            # the last code is never read
            if n < rank:
                code = codes[-1].repeat(2 if guided else 1)  # both halves go on with it
                logits = self.step(code, n, past, conditioning["text_mask"])
        return torch.stack(codes, dim=1)  # rank x (B,) => (B, rank)

    def _guided(self, logits: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance of logits (2B, K), the texts' first: (B, K)."""
        conditional, unconditional = logits.chunk(2)  # (B, K) each
        return guide(unconditional, conditional, scale, channels=self.config.buckets)

    def draw_embeddings(
        self,
        text: TextEncoding,
        null: TextEncoding,
        run: Run,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """One image embedding for each text, by the run's seeds: (B, 1, D) in CLIP's
        space.
        """
        codes = self.sample(
            text,
            null,
            run.noise("ar prior"),
            guidance_scale=guidance_scale,
            progress=run.label("AR prior"),
        )
        embeddings = self.decode(codes)  # (B, D)
        return embeddings[:, None]  # one candidate: (B, 1, D)


def check_quantile(above: float) -> None:
    """Raise Dalle2EduError for a quantile outside [0, 1)."""
    if not 0 <= above < 1:  # true for nan as well
        raise Dalle2EduError(
            f"`above` is a quantile of the dot products, from 0 to below 1, not {above}."
        )


def waves(n: int, width: int) -> Tensor:
    """The places 1 ... n as `width` waves over them, a cosine and a sine of each
    length: (n, width).
    """
    places = (torch.arange(n) + 0.5) / n  # the middles, in (0, 1)
    wave = torch.arange(width)  # 0 ... width - 1
    periods = (wave // 2 + 1) / 2  # 0.5, 0.5, 1, 1, 1.5, ...
    quarter = wave % 2 / 4  # every second wave starts a quarter turn later: a sine
    turns = periods * places[:, None] - quarter  # (n, width)
    return torch.cos(2 * math.pi * turns)
