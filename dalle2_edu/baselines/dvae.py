"""The discrete autoencoder of DALL·E 1: a picture as a page of words.

The idea: an encoder answers, for every patch of pixels, how likely each visual word is;
a decoder draws a picture back from one word per patch. A picture has become a sequence
of tokens, and a transformer that writes text can write it.

    encoder    picture (B, 3, H, W)  ->  logits (B, K, h, w)        q(z | x), one word per place
    decoder    one-hot words         ->  mu and ln b (B, 6, H, W)   of a logit-Laplace distribution p(x | z)
    x          = sigmoid(mu), after pixels were squeezed into [0.1, 0.9]     DALL·E (arXiv 2102.12092), appendix A.3

                 H      K      h
    RELEASED    256   8,192   32       the networks as OpenAI released them; the released weights fit
    SMALL        32     512    8       the miniature: 64 words a picture

Choosing a word is no smooth step. In training the choice is relaxed (appendix A.2):

    z = softmax((logits + g) / tau),    g = -ln(-ln u) Gumbel noise,    tau 1 -> 1/16

and the loss is the negative bound, per number of the picture:

    L = [ -ln p(x | z) + beta KL(q(z | x) || uniform) ] / (3 H W),      beta 0 -> 6.6

Our miniature does not begin with that: it starts from a VQ-VAE with the same networks
(`VqDvae`, in `vqvae.py`), whose nearest code is this choice at temperature 0.

Both networks are stacks of the same block: three 3 x 3 convolutions and one 1 x 1, each
after a ReLU, added to what came in. The released stacks scale what is added by
1 / (number of blocks)^2, so that a deep stack starts near the identity.

Chapters 05 (VQ-VAE, VQ-VAE-2, dVAE) and 06 (DALL·E 1) use this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.errors import Dalle2EduError

# eps of the logit-Laplace likelihood: a sigmoid never reaches 0 or 1, so pixels stay
# away from both
MARGIN = 0.1


@dataclass(frozen=True)
class DvaeConfig:
    """`hidden` is the width at full resolution; it doubles at each of the `groups`
    resolutions (256, 128, 64, 32). `start` is the decoder's first width. `gain` scales
    what a block adds; None is the released 1 / (number of blocks)^2.

    The defaults are the released networks: 53,786,240 parameters in the encoder,
    43,829,766 in the decoder.
    """

    vocab_size: int = 8192
    hidden: int = 256
    start: int = 128
    blocks: int = 2
    channels: int = 3
    groups: int = 4
    gain: float | None = None

    @property
    def stride(self) -> int:
        """The side of a patch: how many pixels one word stands for, in a row."""
        return 2 ** (self.groups - 1)


RELEASED = DvaeConfig()
# 32 x 32 pixels => 8 x 8 words
SMALL = DvaeConfig(vocab_size=512, hidden=64, start=64, blocks=1, groups=3, gain=1.0)


class DvaeEncoder(nn.Module):
    """Pictures in [0.1, 0.9] (see `squeeze`), (B, 3, H, W) -> logits over the words,
    (B, vocab, h, w), with h = H / stride.
    """

    def __init__(self, config: DvaeConfig):
        super().__init__()
        self.config = config
        widths = [config.hidden * 2**level for level in range(config.groups)]
        self.stem = nn.Conv2d(config.channels, widths[0], 7, padding=3)
        self.groups = build_groups([widths[0], *widths], config, (3, 3, 3, 1))
        self.head = nn.Conv2d(widths[-1], config.vocab_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for level, group in enumerate(self.groups):
            x = group(x)
            if level < len(self.groups) - 1:
                x = F.max_pool2d(
                    x, 2
                )  # beats the average, which would blur the words (appendix A.3)
        return self.head(F.relu(x))

    def words(self, x: Tensor) -> Tensor:
        """The likeliest word of each patch: int64 (B, h, w)."""
        return self.forward(x).argmax(dim=1)


class DvaeDecoder(nn.Module):
    """One-hot words, or a mixture of words, (B, vocab, h, w) -> the distribution's mu
    and ln b, (B, 6, H, W).
    """

    def __init__(self, config: DvaeConfig):
        super().__init__()
        self.config = config
        levels = reversed(range(config.groups))
        widths = [config.hidden * 2**level for level in levels]
        self.stem = nn.Conv2d(config.vocab_size, config.start, 1)
        self.groups = build_groups([config.start, *widths], config, (1, 3, 3, 3))
        self.head = nn.Conv2d(widths[-1], 2 * config.channels, 1)

    def forward(self, words: Tensor) -> Tensor:
        x = self.stem(words)
        for level, group in enumerate(self.groups):
            x = group(x)
            if level < len(self.groups) - 1:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.head(F.relu(x))

    def draw(self, words: Tensor) -> Tensor:
        """The picture that the words int64 (B, h, w) stand for, (B, 3, H, W) in [0, 1]."""
        one_hot = F.one_hot(words, self.config.vocab_size).permute(
            0, 3, 1, 2
        )  # (B, h, w, vocab) => (B, vocab, h, w)
        mu, _ = self.forward(one_hot.to(self.stem.weight.dtype)).chunk(2, dim=1)
        return unsqueeze(torch.sigmoid(mu))


class DvaeBlock(nn.Module):
    """x + gain * (four convolutions, each after a ReLU): (B, C_in, H, W) -> (B, C_out,
    H, W).
    """

    def __init__(self, c_in: int, c_out: int, kernels: tuple[int, ...], gain: float):
        super().__init__()
        narrow = c_out // 4
        widths = [c_in, narrow, narrow, narrow, c_out]
        self.gain = gain
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2)
            for i, kernel in enumerate(kernels)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for conv in self.convs:
            h = conv(F.relu(h))
        return self.skip(x) + self.gain * h


def build_groups(
    widths: list[int], config: DvaeConfig, kernels: tuple[int, ...]
) -> nn.ModuleList:
    """One group of blocks a resolution; its first block changes the width."""
    blocks = config.blocks
    gain = config.gain
    if gain is None:
        gain = 1 / ((len(widths) - 1) * blocks) ** 2
    return nn.ModuleList(
        nn.Sequential(
            *(
                DvaeBlock(c_in if i == 0 else c_out, c_out, kernels, gain)
                for i in range(blocks)
            )
        )
        for c_in, c_out in zip(widths[:-1], widths[1:], strict=True)
    )


def squeeze(pixels: Tensor) -> Tensor:
    """[0, 1] -> [0.1, 0.9], what the encoder reads and the decoder's distribution is
    over.
    """
    return (1 - 2 * MARGIN) * pixels + MARGIN


def unsqueeze(x: Tensor) -> Tensor:
    """The inverse of `squeeze`, cut to [0, 1]."""
    return ((x - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)


# --- the distributions ----------------------------------------------------------------


def logit_laplace_nll(x: Tensor, mu: Tensor, ln_b: Tensor) -> Tensor:
    """-ln p(x) of a logit-Laplace distribution, element by element (appendix A.3).

    It is the distribution of a sigmoid of a Laplace variable, so it lives on (0, 1) as
    pixels do: p(x) = exp(-|logit x - mu| / b) / (2 b x (1 - x)).
    """
    distance = (torch.logit(x) - mu).abs()
    jacobian = (x * (1 - x)).log()  # ln |dx / d logit x|
    return distance * (-ln_b).exp() + math.log(2) + ln_b + jacobian


def kl_to_uniform(logits: Tensor) -> Tensor:
    """KL(q || uniform) in nats at every place: (B, K, h, w) -> (B, h, w). It is
    ln K - H(q): 0 if all words are alike, ln K if one word is certain.
    """
    log_q = logits.log_softmax(dim=1)
    return (log_q.exp() * log_q).sum(dim=1) + math.log(logits.shape[1])


def gumbel_softmax(
    logits: Tensor,
    temperature: float | Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A relaxed draw of one word per place: (B, K, h, w), positive, sum 1 over K.

    The maximum of logits + Gumbel noise is an exact draw from softmax(logits); the
    softmax in place of the maximum lets a gradient through. As the temperature falls
    to 0 the draw becomes one-hot.
    """
    # -ln of a uniform number is an exponential one, and g = -ln of that
    exponential = torch.empty_like(logits).exponential_(generator=generator)
    gumbel = -exponential.clamp_min(1e-20).log()
    return ((logits + gumbel) / temperature).softmax(dim=1)


# --- the two as one model -------------------------------------------------------------


class Dvae(nn.Module):
    """Encoder and decoder, trained together; pictures in [-1, 1] outside.

    `encode` and `decode` are the tokenizer that DALL·E 1 needs, `forward` is what
    training needs.
    """

    def __init__(self, config: DvaeConfig = SMALL):
        super().__init__()
        self.config = config
        self.encoder = DvaeEncoder(config)
        self.decoder = DvaeDecoder(config)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He's initialisation: a ReLU halves the variance, the 2 makes up for it
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                module.bias.data.zero_()  # type: ignore[union-attr]

    def forward(
        self,
        images: Tensor,
        temperature: float | Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1] -> logits (B, K, h, w) of the words, and mu
        and ln b (B, 3, H, W) of what a relaxed draw of words becomes.
        """
        logits = self.encoder(squeeze((images + 1) / 2))
        words = gumbel_softmax(logits.float(), temperature, generator)
        mu, ln_b = self.decoder(words).chunk(2, dim=1)
        return logits, mu, ln_b

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The likeliest word of every patch, row by row: (B, 3, H, W) in [-1, 1] ->
        int64 (B, h * w). Raises Dalle2EduError for sides that are no multiple of the
        stride.
        """
        stride = self.config.stride
        if any(side % stride for side in images.shape[-2:]):
            shape = tuple(images.shape)
            raise Dalle2EduError(
                f"The dVAE takes pictures whose sides are multiples of {stride}, not {shape}."
            )
        return self.encoder.words(squeeze((images + 1) / 2)).flatten(1)

    @torch.no_grad()
    def decode(self, codes: Tensor, width: int | None = None) -> Tensor:
        """The picture of each page of words: int64 (B, h * w) -> (B, 3, H, W) in
        [-1, 1]. width: words in a row; the page is square unless given. Raises
        Dalle2EduError for a word that is not in the vocabulary.
        """
        check_words(codes, self.config.vocab_size)
        width = width or math.isqrt(codes.shape[1])
        page = codes.reshape(len(codes), -1, width)  # (B, h * w) => (B, h, w)
        return 2 * self.decoder.draw(page) - 1


def check_words(codes: Tensor, vocab_size: int) -> None:
    """Raise Dalle2EduError for codes outside of 0..vocab_size-1."""
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < vocab_size:
        raise Dalle2EduError(
            f"Codes are 0 to {vocab_size - 1}; these go from {int(codes.min())} to"
            f" {int(codes.max())}."
        )


# --- schedules ------------------------------------------------------------------------


@dataclass(frozen=True)
class DvaeSchedule:
    """How temperature and KL weight move, as shares of a run. DALL·E's run has 3 million
    updates: temperature 1 -> 1/16 in the first 150,000, beta 0 -> 6.6 in the first 5,000
    (appendix A.2). A linear schedule of the temperature diverged there; a cosine did not.

    Our run starts from a VQ-VAE, so it has words already and may begin colder.
    """

    first_temperature: float = 1 / 4
    last_temperature: float = 1 / 16
    cooled: float = 0.75  # the share of the run after which the temperature stays
    beta: float = 0.5
    risen: float = 0.02  # the share after which beta stays

    def at(self, progress: float) -> tuple[float, float]:
        """The temperature and beta at progress 0..1 of the run."""
        temperature = cosine_ramp(
            self.first_temperature, self.last_temperature, progress / self.cooled
        )
        return temperature, cosine_ramp(0.0, self.beta, progress / self.risen)


def cosine_ramp(first: float, last: float, progress: float) -> float:
    """From first at progress 0 to last at 1, along half a cosine; it stays there."""
    share = 0.5 * (1 - math.cos(math.pi * min(1.0, progress)))
    return first + (last - first) * share


def dvae_loss(
    images: Tensor, logits: Tensor, mu: Tensor, ln_b: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The negative bound per number of a picture, and its two parts: -ln p per number,
    and KL per word.
    """
    x = squeeze((images + 1) / 2)
    nll = logit_laplace_nll(x, mu, ln_b).mean()
    kl = kl_to_uniform(logits.float()).mean()
    # numbers a word stands for: 8 * 8 * 3 = 192 in DALL·E, 4 * 4 * 3 = 48 here
    numbers_a_word = images[0].numel() / logits[0, 0].numel()
    return nll + beta / numbers_a_word * kl, nll, kl
