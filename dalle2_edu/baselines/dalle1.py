r"""DALL·E 1: a caption and a picture are one text, and a transformer writes it on.

The idea: after the dVAE (chapter 05) a picture is a page of words. So put the words of
the picture behind those of its caption, and do what language models do: learn to guess
the next token (arXiv 2102.12092, section 2).

    x = [t_1 ... t_T,  c_1 ... c_N]      T text tokens, N = side x side codes, row by row
    p(x) = prod_i p(x_i | x_1 ... x_(i-1))
    L = 1/8 mean_i -log p(t_i | ...)  +  7/8 mean_j -log p(c_j | ...)         section 2.2

To draw, the caption is given and the codes are drawn one after the other; the dVAE turns
them into pixels. To complete, the first codes are given as well.

                  T     text tokens     N           codes    width   layers
    DALL·E        256   16,384          32 x 32     8,192    3,968   64         12 billion
    ours          32    4,096           8 x 8       512      128     5          1.7 million

Three details are the paper's:

- Captions differ in length. What comes after a caption's end is no padding that is masked
  out but a token of its own for each position, which is learned (section 2.2).
- A layer sees a part of the page: `attention_masks`.
- A text position is one vector, an image position the sum of a row's and a column's.

Keys and values of tokens that were read stay as they are, so they are kept (`Past`), and
a step costs one token in place of all.

Chapter 06 uses this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from dalle2_edu import zoo
from dalle2_edu.baselines.attention_masks import layer_kinds, whole_mask
from dalle2_edu.baselines.dvae import Dvae, check_words
from dalle2_edu.baselines.token_sampling import (
    check_temperature,
    draw_token,
    normal_to_uniform,
)
from dalle2_edu.baselines.transformer import Past, Transformer
from dalle2_edu.data.text import Tokenizer, default_tokenizer
from dalle2_edu.diffusion.samplers import Noise
from dalle2_edu.drawing.pictures import Picture, as_pictures
from dalle2_edu.drawing.run import (
    Run,
    checked_count,
    checked_device,
    checked_prompts,
    checked_seeds,
)
from dalle2_edu.errors import Dalle2EduError

PAD = Tokenizer.pad_id
TEXT_WEIGHT = 1 / 8  # section 2.2: what matters most is the picture
IMAGE_WEIGHT = 7 / 8


@dataclass(frozen=True)
class Dalle1Config:
    """Sizes: of the text (`vocab_size` tokens, `context_length` places), of the page
    (`words` codes, `side` x `side` places) and of the transformer. `kernel` is the last
    layer's neighbourhood. `dvae` is the hash of the weights that made the codes.
    """

    vocab_size: int = 4096
    context_length: int = 32
    words: int = 512
    side: int = 8
    width: int = 128
    layers: int = 5
    heads: int = 4
    kernel: int = 3
    dvae: str = ""

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0 or self.layers < 1:
            raise Dalle2EduError(
                f"The kernel must be odd and there must be a layer, not kernel"
                f" {self.kernel} and {self.layers} layers."
            )

    @property
    def page(self) -> int:
        """N: how many codes a picture has."""
        return self.side**2


# Sections 2.2 and 2.3; 62 heads of 64
PAPER = Dalle1Config(
    vocab_size=16384,
    context_length=256,
    words=8192,
    side=32,
    width=3968,
    layers=64,
    heads=62,
    kernel=11,
)


# --- the transformer ------------------------------------------------------------------


class Dalle1Transformer(nn.Module):
    """Text tokens and the codes so far -> logits of every next token."""

    masks: Tensor

    def __init__(self, config: Dalle1Config):
        super().__init__()
        self.config = config
        width, length = config.width, config.context_length
        # behind the vocabulary, a padding token for each place
        self.text = nn.Embedding(config.vocab_size + length, width)
        self.text_position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.code = nn.Embedding(config.words, width)
        self.row = nn.Parameter(torch.randn(config.side, width) * 0.02)
        self.column = nn.Parameter(torch.randn(config.side, width) * 0.02)
        self.transformer = Transformer(width, config.layers, config.heads)
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.words)
        nn.init.normal_(self.text.weight, std=0.02)
        nn.init.normal_(self.code.weight, std=0.02)
        # no weights: not stored
        self.register_buffer("masks", all_masks(config), persistent=False)

    # --- tokens to vectors ------------------------------------------------------------

    def embed(self, tokens: Tensor, codes: Tensor) -> Tensor:
        """Tokens (B, T) as the tokenizer gives them and n codes (B, n) -> vectors (B, T +
        n, width).
        """
        text = self.text(self.fill_padding(tokens)) + self.text_position
        image = self.code(codes) + self.places()[: codes.shape[1]]
        return torch.cat([text, image], dim=1)  # (B, T + n, width)

    def fill_padding(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) in which the padding at place i is token vocab_size + i."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        return torch.where(tokens == PAD, self.config.vocab_size + place, tokens)

    def places(self) -> Tensor:
        """Where each code stands on the page, its row plus its column: (N, width)."""
        # (side, 1, width) + (1, side, width) => (side, side, width)
        return (self.row[:, None] + self.column).flatten(0, 1)

    # --- training: all tokens at once -------------------------------------------------

    def forward(self, tokens: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) and the first n codes (B, n), n < N -> logits of text tokens 2
        ... T, (B, T - 1, vocab_size), and of codes 1 ... n + 1, (B, n + 1, words).
        """
        x = self.blocks(self.embed(tokens, codes), start=0)  # (B, T + n, width)
        x = self.norm_out(x)
        last = tokens.shape[1] - 1  # the caption's last place answers with code 1
        # the table of the tokens is used in both directions
        table = self.text.weight[: self.config.vocab_size]  # (vocab_size, width)
        return x[:, :last] @ table.T, self.out(x[:, last:])

    def blocks(self, x: Tensor, start: int, past: list[Past] | None = None) -> Tensor:
        """All layers, each with its mask, over the tokens from place `start` on."""
        end = start + x.shape[1]
        for i, block in enumerate(self.transformer.blocks):
            # the rows of the new tokens, the columns of all so far
            mask = self.masks[i, start:end, :end]
            x = block(x, mask, None if past is None else past[i])
        return x

    # --- drawing: one token at a time -------------------------------------------------

    def start(self, tokens: Tensor, codes: Tensor) -> tuple[Tensor, list[Past]]:
        """Read the captions (B, T) and n given codes (B, n) once: logits of code n + 1,
        (B, words), and what `step` needs to go on.
        """
        past = [Past() for _ in self.transformer.blocks]
        x = self.blocks(self.embed(tokens, codes), start=0, past=past)
        return self.out(self.norm_out(x[:, -1])), past

    def step(self, code: Tensor, n: int, past: list[Past]) -> Tensor:
        """The n-th code (B,), n from 1 -> logits of the next, (B, words). past grows by
        one token.
        """
        x = self.code(code) + self.places()[n - 1]  # (B, width)
        place = self.config.context_length + n - 1
        x = self.blocks(x[:, None], start=place, past=past)  # (B, 1, width)
        return self.out(self.norm_out(x[:, -1]))

    @torch.no_grad()
    def sample(
        self,
        tokens: Tensor,
        noise: Noise,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        given: Tensor | None = None,
        progress: str | None = None,
    ) -> Tensor:
        """Draw the codes of B captions (B, T): int64 (B, N). given (B, n) are the first
        ones. noise(shape) gives all random numbers at once, one row per picture.
        """
        page = self.config.page
        uniform = normal_to_uniform(noise((len(tokens), page)))  # (B, N)
        if given is None:
            given = tokens.new_zeros(len(tokens), 0)
        codes = list(given.unbind(1))  # n x (B,)
        if len(codes) >= page:
            return given
        logits, past = self.start(tokens, given)
        places = range(len(codes), page)
        for n in places if progress is None else tqdm(places, desc=progress):
            if n > given.shape[1]:
                logits = self.step(codes[-1], n, past)
            codes.append(draw_token(logits, uniform[:, n], temperature, top_k))
        return torch.stack(codes, dim=1)  # N x (B,) => (B, N)


def all_masks(config: Dalle1Config) -> Tensor:
    """Each layer's mask over text and page: bool (layers, T + N, T + N)."""
    text, side = config.context_length, config.side
    kinds = layer_kinds(config.layers)
    return torch.stack([whole_mask(kind, text, side, config.kernel) for kind in kinds])


def dalle1_loss(
    text_logits: Tensor, image_logits: Tensor, tokens: Tensor, codes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of section 2.2, and its two parts: cross-entropies of text and codes, in
    nats a token. Padding is no text: nothing is asked of it.

    text_logits (B, T - 1, vocab), image_logits (B, N, words), tokens (B, T), codes
    (B, N).
    """
    # the first token, "start", is given
    after = tokens[:, 1:].flatten()
    text = F.cross_entropy(
        text_logits.float().flatten(0, 1), after, ignore_index=PAD
    )  # (B (T - 1), vocab)
    image = F.cross_entropy(image_logits.float().flatten(0, 1), codes.flatten())
    return TEXT_WEIGHT * text + IMAGE_WEIGHT * image, text, image


# --- prompts to pictures --------------------------------------------------------------


class Dalle1:
    """The transformer, the dVAE and the tokenizer, put together. CLIP, which ranks what
    was drawn, may be missing.
    """

    def __init__(
        self,
        transformer: Dalle1Transformer,
        dvae: Dvae,
        tokenizer: Tokenizer,
        clip: Any = None,
    ):
        self.transformer = transformer
        self.dvae = dvae
        self.tokenizer = tokenizer
        self.clip = clip
        self.device = next(transformer.parameters()).device

    @classmethod
    def from_zoo(cls, domain: str, device: str | torch.device = "cpu") -> Dalle1:
        """The zoo's miniature of this domain.

        Raises Dalle2EduError for a domain that has none, a device that PyTorch can't
        use, a missing part, and a dVAE other than that which the transformer reads.
        """
        drawn = drawn_domains()
        if drawn and domain not in drawn:
            raise Dalle2EduError(
                f"No miniature DALL·E 1 draws {domain!r}; known: {', '.join(drawn)}."
            )
        device = checked_device(device)
        transformer = zoo.load(domain, "dalle1", device)
        check_dvae(domain, transformer.config)
        return cls(
            transformer=transformer,
            dvae=zoo.load("shared", "dvae", device),
            tokenizer=default_tokenizer(),
            clip=zoo.load("shared", "clip", device) if has_clip() else None,
        )

    def text_to_image(
        self,
        prompts: Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        best_of: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        progress: bool = True,
    ) -> Tensor:
        """Prompts, Chinese or English -> pictures (B, 3, S, S) in [-1, 1]; S is 32 for
        the miniature.

        seed is one for all pictures, or a list with one each. best_of draws so many
        pictures for each prompt, with the seeds seed, seed + 1, ..., and keeps the one
        that CLIP finds nearest to the prompt. temperature below 1 makes the likely
        likelier, 0 takes the likeliest code each time; top_k draws from the k likeliest.

        Raises Dalle2EduError for an empty prompt, a wrong number of seeds, a temperature
        below 0, and top_k or best_of below 1; warns when a prompt is too long for the
        context, saying what was cut.
        """
        tries = checked_count("best_of", best_of)
        check_temperature(temperature, top_k)
        prompts = checked_prompts(prompts, self.tokenizer)
        seeds = checked_seeds(seed, len(prompts))
        # all tries of a prompt beside each other
        every = [prompt for prompt in prompts for _ in range(tries)]
        seeds = [first + i for first in seeds for i in range(tries)]
        run = Run(seeds, self.device, progress)
        codes = self.draw_codes(every, run, temperature=temperature, top_k=top_k)
        pictures = self.dvae.decode(codes)
        if tries == 1:
            return pictures
        scores = self.clip_scores(pictures, every).reshape(-1, tries)
        first = torch.arange(len(prompts), device=self.device) * tries
        return pictures[first + scores.argmax(dim=1)]

    def draw_codes(
        self,
        prompts: Sequence[str],
        run: Run,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """The codes of B prompts by the run's B seeds: int64 (B, N)."""
        return self.transformer.sample(
            self.tokenizer(prompts).to(self.device),
            run.noise("dalle1"),
            temperature=temperature,
            top_k=top_k,
            given=given,
            progress=run.label("DALL·E 1"),
        )

    def complete(
        self,
        prompts: Sequence[str],
        picture: Picture,
        *,
        keep: float = 0.5,
        seed: int | Sequence[int] = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        progress: bool = True,
    ) -> Tensor:
        """The upper part of a picture is given and the rest drawn, once for each prompt:
        (B, 3, S, S) in [-1, 1]. picture: one for all prompts, or a batch with one each.

        keep is the share of the rows of codes that is given, rounded to whole rows.
        Raises Dalle2EduError as `text_to_image` does, for a share outside of [0, 1], for
        what is no picture, and for another number of pictures than of prompts.
        """
        check_temperature(temperature, top_k)
        rows = self.kept_rows(keep)
        prompts = checked_prompts(prompts, self.tokenizer)
        seeds = checked_seeds(seed, len(prompts))
        codes = self.read(picture)  # (1 or B, N)
        if len(codes) not in (1, len(prompts)):
            raise Dalle2EduError(
                f"Give one picture, or one for each of the {len(prompts)} prompts, not"
                f" {len(codes)}."
            )
        given = codes[:, : rows * self.transformer.config.side]
        drawn = self.draw_codes(
            prompts,
            Run(seeds, self.device, progress),
            temperature=temperature,
            top_k=top_k,
            given=given.expand(len(prompts), -1),
        )
        return self.dvae.decode(drawn)

    def kept_rows(self, keep: float) -> int:
        """How many rows of codes a share stands for."""
        number = isinstance(keep, int | float) and math.isfinite(keep)
        if not (number and 0 <= keep <= 1):
            raise Dalle2EduError(
                f"`keep` is a share of the picture, 0 to 1, not {keep!r:.60}."
            )
        return round(keep * self.transformer.config.side)

    def read(self, picture: Picture) -> Tensor:
        """A picture's codes, or a batch's: int64 (B, N)."""
        size = self.transformer.config.side * self.dvae.config.stride  # in pixels
        codes = self.dvae.encode(as_pictures(picture, size).to(self.device))
        check_words(codes, self.transformer.config.words)
        return codes

    @torch.no_grad()
    def clip_scores(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """How near CLIP finds each picture (B, 3, S, S) to its prompt: cosines (B,)."""
        if self.clip is None:
            raise Dalle2EduError(
                "Ranking needs a CLIP, and this zoo has none: train clip, or draw without"
                " best_of."
            )
        tokens = self.tokenizer(prompts).to(self.device)
        text_emb = self.clip.encode_text(tokens).text_emb  # (B, D)
        return (self.clip.encode_image(pictures) * text_emb).sum(dim=1)


def drawn_domains() -> list[str]:
    """The domains that have a DALL·E 1 in the zoo."""
    return [domain for domain, parts in zoo.known().items() if "dalle1" in parts]


def has_clip() -> bool:
    """Whether the zoo has a CLIP to rank with."""
    return "clip" in zoo.known().get("shared", ())


def check_dvae(domain: str, config: Dalle1Config) -> None:
    """Raise unless the zoo's dVAE is the one whose codes the transformer learned."""
    here = zoo.card("shared", "dvae").sha256
    if config.dvae != here:
        raise Dalle2EduError(
            f"The zoo's {domain} dalle1 learned the codes of another dVAE"
            f" ({config.dvae[:12]}) than the zoo's ({here[:12]}): train and publish it again."
        )
