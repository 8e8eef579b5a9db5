r"""The autoregressive prior: an image embedding as a sentence, drawn word by word.

The other way to draw z from a caption, unCLIP (arXiv 2204.06125), section 2.2. A transformer
that writes needs a sentence, so the embedding is made one:

    PCA       z ~ mean + sum_(k <= r) c_k e_k      keep so many axes that less than 1% of the variance is lost
    order     c_1, c_2, ... c_r                    falling variance: the rough things are said first
    codes     q_k = the bucket that c_k falls into, 0 ... K - 1

and then it is language modelling. A causal transformer reads

    [caption's tokens, CLIP text embedding, dot product z . z_t as a token, q_1, ..., q_(r-1)]

    L = - mean_k log p(q_k | caption, z_t, dot, q_1 ... q_(k-1))

In training the text is replaced by the empty one 10% of the time, and its dot product by a
token that says "no text". At sampling the dot product is *chosen*: drawn from the top half of
those in the training data, so that the picture fits its caption better than the average pair
does. (The diffusion prior has no such token; it draws two embeddings and keeps the nearer one.)

Buckets. The paper has 1024 a dimension and does not say where their edges lie. Ours lie at
quantiles: every code is equally frequent, none starves, and the top half of the dot products is
simply the upper half of the codes. A code is decoded to the mean of its bucket, since the two
outermost ones have no end to take the middle of. 128 of them lose about 0.2% of a Gaussian's
variance (64: 0.4%, 1024: 0.01%), less than the PCA; and each has eight times as many examples
as one of 1024 would.

Words of a language are strangers to each other; buckets stand in a row. A table that starts at
random has to learn of each one apart that it lies beside the next. So the tables of the codes,
in and out, start as waves over the row, the long ones strongest on the way out: from the first
step on neighbours look alike, and a bump over some of them can be said with few numbers.
(Measured on shapes: loss 4.35 after 200 steps, in place of 4.76.)

Everything that turns codes into an embedding (axes, edges, means) is a buffer: it travels with
the weights.

Chapter 15 uses this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import trange

from dalle2_edu.baselines.transformer import Past, Transformer
from dalle2_edu.diffusion.guidance import guide
from dalle2_edu.diffusion.samplers import Noise
from dalle2_edu.drawing.run import Run
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import TextEncoding
from dalle2_edu.unclip.latents import PCA
from dalle2_edu.unclip.prior import prior_mask

PCA_ERROR = 0.01  # section 2.2: "less than 1% average mean-squared error"
# the paper tried the 50th, 70th, 85th and 95th percentile; the 50th was best everywhere
TOP_HALF = 0.5
PREFIX = 2  # the text embedding's token and the dot product's, between caption and codes


@dataclass(frozen=True)
class ARPriorConfig:
    """Sizes as in `PriorConfig`, and of the sentence: `rank` codes (the axes that PCA keeps),
    each one of `buckets`.

    The dot product has `dot_buckets`.
    """

    clip_dim: int = 128
    text_width: int = 128
    context_length: int = 32
    rank: int = 64
    buckets: int = 128
    dot_buckets: int = 32
    width: int = 160
    layers: int = 5
    heads: int = 5
    emb_scale: float = 1.0

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


# Table 3: 319 codes of 1024 buckets, width 1664, depth 24, 26 heads. The caption is read by a
# text encoder of its own there, 2048 wide, where ours takes CLIP's encoded tokens; of the dot
# product's buckets the paper says nothing.
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

    mean: Tensor
    axes: Tensor
    edges: Tensor
    centres: Tensor
    dot_edges: Tensor

    def __init__(self, config: ARPriorConfig):
        super().__init__()
        self.config = config
        width, rank = config.width, config.rank
        self.text_enc_proj = nn.Linear(config.text_width, width)
        self.text_emb_proj = nn.Linear(config.clip_dim, width)
        self.dot = nn.Embedding(
            config.dot_buckets + 1, width
        )  # the last one says: no text, so no dot product
        self.code = nn.Embedding(
            config.buckets, width
        )  # one table for all axes: the position says which axis it is
        self.position = nn.Parameter(
            torch.randn(1, config.context_length + PREFIX + rank - 1, width) * 0.5
        )
        self.transformer = Transformer(width, config.layers, config.heads)
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.buckets)
        with torch.no_grad():
            self.code.weight.copy_(0.5 * waves(config.buckets, width))
            self.out.weight.copy_(
                0.1 * waves(config.buckets, width) / (1 + torch.arange(width) / 8)
            )
        self.register_buffer("mean", torch.zeros(config.clip_dim))
        self.register_buffer("axes", torch.eye(config.clip_dim)[:rank])
        self.register_buffer("edges", torch.zeros(rank, config.buckets - 1))
        self.register_buffer("centres", torch.zeros(rank, config.buckets))
        self.register_buffer("dot_edges", torch.zeros(1, config.dot_buckets - 1))

    # --- an embedding as a sentence -----------------------------------------------------------

    def fit(self, pca: PCA, image_emb: Tensor, dots: Tensor) -> None:
        """Take the axes, and the buckets of these embeddings (N, D) and of these dot products
        with captions, (M,).
        """
        self.mean.copy_(pca.mean)
        self.axes.copy_(pca.axes[: self.config.rank])
        coordinates = self.project(image_emb)
        self.edges.copy_(quantile_edges(coordinates, self.config.buckets))
        self.centres.copy_(bucket_means(coordinates, self.edges))
        self.dot_edges.copy_(quantile_edges(dots[:, None], self.config.dot_buckets))

    def project(self, z: Tensor) -> Tensor:
        """Embeddings (B, D) as coordinates on the axes, (B, rank)."""
        return (z - self.mean) @ self.axes.T

    def encode(self, z: Tensor) -> Tensor:
        """Embeddings (B, D) -> codes, int64 (B, rank)."""
        return to_buckets(self.project(z), self.edges)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, rank) -> embeddings (B, D): each bucket's mean, along its axis."""
        coordinates = self.centres.gather(1, codes.T).T  # (rank, K) at (rank, B) => (B, rank)
        return self.mean + coordinates @ self.axes

    def encode_dot(self, dots: Tensor) -> Tensor:
        """Dot products z . z_t (B,) -> their tokens, int64 (B,)."""
        return to_buckets(dots[:, None], self.dot_edges)[:, 0]

    @property
    def no_text(self) -> int:
        """The token that stands for the dot product with the empty text."""
        return self.config.dot_buckets

    def top_dot(self, luck: Tensor, above: float = TOP_HALF) -> Tensor:
        """Tokens of dot products from above the quantile `above` of the training data: luck
        (B,) in [0, 1) -> (B,).
        """
        least = round(above * self.config.dot_buckets)
        return least + (luck * (self.config.dot_buckets - least)).long()

    # --- the language model -------------------------------------------------------------------

    def forward(
        self, codes: Tensor, dot: Tensor, text_emb: Tensor, text_enc: Tensor, text_mask: Tensor
    ) -> Tensor:
        """The first n codes (B, n), n < rank, -> logits of codes 1 ... n + 1: (B, n + 1,
        buckets).

        dot (B,) are tokens; text_emb (B, D), text_enc (B, L, text_width), text_mask (B, L) True
        where real."""
        tokens = torch.cat(
            [self.prefix(dot, text_emb, text_enc), self.code(codes)], dim=1
        )  # (B, L + 2 + n, width)
        x = tokens + self.position[:, : tokens.shape[1]]
        x = self.transformer(x, prior_mask(text_mask, PREFIX + codes.shape[1]))
        return self.out(
            self.norm_out(x[:, -1 - codes.shape[1] :])
        )  # the dot product's place answers the first code

    def prefix(self, dot: Tensor, text_emb: Tensor, text_enc: Tensor) -> Tensor:
        """What stands before the codes, (B, L + 2, width)."""
        text = self.text_emb_proj(text_emb * self.config.emb_scale)
        return torch.cat(
            [self.text_enc_proj(text_enc), text[:, None], self.dot(dot)[:, None]], dim=1
        )

    def start(
        self, dot: Tensor, text_emb: Tensor, text_enc: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, list[Past]]:
        """Read the prefix once: the first code's logits (B, buckets), and what `step` needs to
        go on.
        """
        past = [Past() for _ in self.transformer.blocks]
        tokens = self.prefix(dot, text_emb, text_enc)
        x = self.transformer(
            tokens + self.position[:, : tokens.shape[1]], prior_mask(text_mask, PREFIX), past
        )
        return self.out(self.norm_out(x[:, -1])), past

    def step(self, code: Tensor, n: int, past: list[Past], text_mask: Tensor) -> Tensor:
        """The n-th code (B,), n from 1 -> logits of the next one, (B, buckets). past grows by
        one token.
        """
        place = text_mask.shape[1] + PREFIX + n - 1
        x = self.code(code)[:, None] + self.position[:, place : place + 1]  # (B, 1, width)
        seen = F.pad(text_mask, (0, PREFIX + n), value=True)[
            :, None
        ]  # the new token sees all but padding
        return self.out(self.norm_out(self.transformer(x, seen, past)[:, -1]))

    # --- sampling -----------------------------------------------------------------------------

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

        null is the empty text's encoding, of B as well; it is read if guidance_scale is not 1.
        A temperature below 1 makes the likely likelier, 0 takes the likeliest. noise(shape)
        gives all the luck at once, a row a picture."""
        check_sampling(temperature, above)
        luck = normal_to_uniform(
            noise((len(text.text_emb), self.config.rank + 1))
        )  # (B, 1 + rank)
        dot, guided = self.top_dot(luck[:, 0], above), guidance_scale != 1
        read = [(dot, text), (torch.full_like(dot, self.no_text), null)][: 1 + guided]
        given = {
            name: torch.cat([each.as_conditioning()[name] for _, each in read])
            for name in text.as_conditioning()
        }
        logits, past = self.start(torch.cat([each for each, _ in read]), **given)
        codes: list[Tensor] = []
        for n in (
            range(1, self.config.rank + 1)
            if progress is None
            else trange(1, self.config.rank + 1, desc=progress)
        ):
            if guided:
                conditional, empty = logits.chunk(2)
                logits = guide(empty, conditional, guidance_scale, channels=self.config.buckets)
            codes.append(draw_code(logits, luck[:, n], temperature))
            if n < self.config.rank:
                logits = self.step(codes[-1].repeat(1 + guided), n, past, given["text_mask"])
        return torch.stack(codes, dim=1)

    def draw_embeddings(
        self, text: TextEncoding, null: TextEncoding, run: Run, guidance_scale: float = 1.0
    ) -> Tensor:
        """One image embedding for each text, by the run's seeds: (B, 1, D) in CLIP's space."""
        codes = self.sample(
            text,
            null,
            run.noise("ar prior"),
            guidance_scale=guidance_scale,
            progress=run.label("AR prior"),
        )
        return self.decode(codes)[:, None]


def check_sampling(temperature: float, above: float) -> None:
    """Raise Dalle2EduError for a temperature below 0 or a quantile outside [0, 1)."""
    if not temperature >= 0:
        raise Dalle2EduError(f"The temperature must be 0 or more, not {temperature}.")
    if not 0 <= above < 1:
        raise Dalle2EduError(
            f"`above` is a quantile of the dot products, from 0 to below 1, not {above}."
        )


def normal_to_uniform(normal: Tensor) -> Tensor:
    """Standard normal numbers as even ones in [0, 1): the normal distribution function.

    So the luck can come from the same seeded noise as everywhere else, each picture's own.
    """
    return (0.5 * (1 + torch.erf(normal / math.sqrt(2)))).clamp(max=1 - 1e-6)


def draw_code(logits: Tensor, luck: Tensor, temperature: float = 1.0) -> Tensor:
    """One code a row from logits (B, K): the first whose cumulated probability is above luck
    (B,) in [0, 1).
    """
    if temperature == 0:
        return logits.argmax(dim=1)
    cumulated = F.softmax(logits.double() / temperature, dim=1).cumsum(dim=1)  # (B, K)
    return (
        (cumulated <= luck[:, None]).sum(dim=1).clamp(max=logits.shape[1] - 1)
    )  # rounding may end below 1


def waves(n: int, width: int) -> Tensor:
    """Where each of n stands in their row, told by `width` waves, a cosine and a sine of each
    length: (n, width).
    """
    places, wave = (torch.arange(n) + 0.5) / n, torch.arange(width)
    periods = (wave // 2 + 1) / 2  # 0.5, 0.5, 1, 1, 1.5, ...
    return torch.cos(2 * math.pi * (periods * places[:, None] - wave % 2 / 4))


# --- buckets ----------------------------------------------------------------------------------


def quantile_edges(values: Tensor, buckets: int) -> Tensor:
    """The inner edges of buckets that hold equally many of each column's values: (N, r) -> (r,
    buckets - 1), rising.
    """
    places = torch.arange(1, buckets, device=values.device) * len(values) // buckets
    return values.sort(dim=0).values[places].T.contiguous()


def to_buckets(values: Tensor, edges: Tensor) -> Tensor:
    """Which bucket each value falls into: values (B, r), edges (r, K - 1) -> int64 (B, r) in 0
    ... K - 1.

    A value on an edge belongs to the bucket above it.
    """
    return torch.searchsorted(edges, values.T.contiguous(), right=True).T


def bucket_means(values: Tensor, edges: Tensor) -> Tensor:
    """The mean of the values in each bucket: (N, r) and (r, K - 1) -> (r, K). An empty bucket
    has its lower edge.
    """
    codes, rows = to_buckets(values, edges).T, values.T.double()  # (r, N) each
    shape = len(rows), edges.shape[1] + 1
    sums = rows.new_zeros(shape).scatter_add(1, codes, rows)
    counts = rows.new_zeros(shape).scatter_add(1, codes, torch.ones_like(rows))
    lower = torch.cat(
        [edges[:, :1], edges], dim=1
    ).double()  # (r, K); the first bucket has no end below
    return torch.where(counts > 0, sums / counts.clamp(min=1), lower).to(values.dtype)
