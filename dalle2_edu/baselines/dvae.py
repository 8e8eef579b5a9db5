"""The discrete autoencoder of DALL·E 1: a picture as a 32 x 32 page of words.

The idea: an encoder answers, for every 8 x 8 patch of pixels, how likely each of 8,192
visual words is; a decoder draws a picture back from one word per patch. A picture has
become a sequence of tokens, and a transformer that writes text can write it.

    encoder    picture (B, 3, 256, 256)            ->  logits (B, 8192, 32, 32)
    decoder    one-hot words (B, 8192, 32, 32)     ->  mu and ln b of a logit-Laplace distribution, 2 x 3 channels
    x          = sigmoid(mu), after pixels were squeezed into [0.1, 0.9]         DALL·E (arXiv 2102.12092), appendix A.3

Choosing a word is no smooth step. In training the choice is relaxed by Gumbel noise
(appendix A.2); here the networks stand as OpenAI released them, so that the released
weights fit.

Both are stacks of the same block: three 3 x 3 convolutions and one 1 x 1, each after a
ReLU, added to what came in and scaled by 1 / (number of blocks)^2, so that a deep stack
starts near the identity.

Chapter 05 (VQ-VAE, VQ-VAE-2, dVAE) uses this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 4  # resolutions: 256, 128, 64, 32
# eps of the logit-Laplace likelihood: a sigmoid never reaches 0 or 1, so pixels stay
# away from both
MARGIN = 0.1


@dataclass(frozen=True)
class DvaeConfig:
    """`hidden` is the width at full resolution; it doubles at each of the four. `start`
    is the decoder's first width.

    The defaults are the released networks: 53,786,240 parameters in the encoder,
    43,829,766 in the decoder.
    """

    vocab_size: int = 8192
    hidden: int = 256
    start: int = 128
    blocks: int = 2
    channels: int = 3


class DvaeEncoder(nn.Module):
    """Pictures in [0.1, 0.9] (see `squeeze`), (B, 3, H, W) -> logits over the words,
    (B, vocab, H/8, W/8).
    """

    def __init__(self, config: DvaeConfig):
        super().__init__()
        self.config = config
        widths = [config.hidden * 2**level for level in range(GROUPS)]
        self.stem = nn.Conv2d(config.channels, widths[0], 7, padding=3)
        self.groups = build_groups(
            [widths[0], *widths], config.blocks, kernels=(3, 3, 3, 1)
        )
        self.head = nn.Conv2d(widths[-1], config.vocab_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for level, group in enumerate(self.groups):
            x = group(x)
            if level < GROUPS - 1:
                x = F.max_pool2d(
                    x, 2
                )  # beats the average, which would blur the words (appendix A.3)
        return self.head(F.relu(x))

    def words(self, x: Tensor) -> Tensor:
        """The likeliest word of each patch: int64 (B, H/8, W/8)."""
        return self.forward(x).argmax(dim=1)


class DvaeDecoder(nn.Module):
    """One-hot words, or a mixture of words, (B, vocab, h, w) -> the distribution's mu
    and ln b, (B, 6, 8h, 8w).
    """

    def __init__(self, config: DvaeConfig):
        super().__init__()
        self.config = config
        widths = [config.hidden * 2**level for level in reversed(range(GROUPS))]
        self.stem = nn.Conv2d(config.vocab_size, config.start, 1)
        self.groups = build_groups(
            [config.start, *widths], config.blocks, kernels=(1, 3, 3, 3)
        )
        self.head = nn.Conv2d(widths[-1], 2 * config.channels, 1)

    def forward(self, words: Tensor) -> Tensor:
        x = self.stem(words)
        for level, group in enumerate(self.groups):
            x = group(x)
            if level < GROUPS - 1:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.head(F.relu(x))

    def draw(self, words: Tensor) -> Tensor:
        """The picture that the words int64 (B, h, w) stand for, (B, 3, 8h, 8w) in [0,
        1].
        """
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
    widths: list[int], blocks: int, kernels: tuple[int, ...]
) -> nn.ModuleList:
    """One group of blocks a resolution; its first block changes the width."""
    gain = 1 / (GROUPS * blocks) ** 2
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
