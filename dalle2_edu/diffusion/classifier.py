"""A classifier that reads noisy pictures: the compass of classifier guidance.

The idea: the U-Net's way down, its middle, and one answer at the end instead of the way
up. It is trained on x_t at every t, so that the gradient of log p(y | x_t) can steer
the sampling towards class y at any noise level.

    mean + s * variance * grad_{x_t} log p(y | x_t)          ADM (arXiv 2105.05233), algorithm 1

The answer is read by attention pooling, as in CLIP: the mean of all positions asks, the
positions answer.

Chapter 10 (ADM and classifier guidance) uses this file.
"""

from __future__ import annotations

from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.diffusion.unet import (
    TIME_EMB_MULT,
    Middle,
    UNetConfig,
    build_down,
    conv3x3,
    split_heads,
    timestep_embedding,
)


class NoisyClassifier(nn.Module):
    """Class logits of a noisy picture: x (B, 3, H, W), t (B,) -> (B,
    config.out_channels).
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        emb_dim = config.channels * TIME_EMB_MULT  # 4 * channels
        widths = [config.channels * mult for mult in config.channel_mult]
        side = config.image_size // 2 ** (len(widths) - 1)  # of the lowest resolution
        self.time_mlp = nn.Sequential(
            nn.Linear(config.channels, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim)
        )
        self.stem = conv3x3(config.in_channels, widths[0], config)
        # nothing goes up, so the skips are not needed
        self.down, _ = build_down(config, widths, emb_dim)
        self.middle = Middle(widths[-1], emb_dim, config)
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[-1])
        self.pool = AttentionPool(
            positions=side * side,
            channels=widths[-1],
            out=config.out_channels,  # classes
            head_channels=config.head_channels,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = timestep_embedding(t, self.config.channels)  # (B, channels)
        emb = self.time_mlp(time.to(x.dtype))  # (B, 4 * channels)
        h = self.stem(x)  # (B, channels, H, W)
        no_text = repeat(None)  # the blocks ask for text
        for block in self.down:
            h = block(h, emb, no_text, None)
        h = self.middle(h, emb, no_text, None)  # (B, C, H', W')
        features = F.silu(self.norm_out(h))
        return self.pool(features)  # (B, classes)


class AttentionPool(nn.Module):
    """CLIP's attention pooling: (B, C, H, W) -> (B, out). The mean token asks, all
    tokens answer.
    """

    def __init__(self, positions: int, channels: int, out: int, head_channels: int):
        super().__init__()
        self.heads = channels // head_channels
        start = torch.randn(positions + 1, channels)  # the mean's place comes first
        self.positional = nn.Parameter(start / channels**0.5)  # rows of length about 1
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (B, H*W, C)
        mean = tokens.mean(dim=1, keepdim=True)  # (B, 1, C)
        tokens = torch.cat([mean, tokens], dim=1)  # (B, 1 + H*W, C)
        tokens = tokens + self.positional
        qkv = self.qkv(tokens)
        parts = qkv.chunk(3, dim=-1)  # 3 x (B, 1 + H*W, C)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        query = q[:, :, :1]  # only the mean's answer is needed
        h = F.scaled_dot_product_attention(query, k, v)  # (B, heads, 1, C/heads)
        pooled = h.transpose(1, 2).flatten(1)  # (B, C)
        return self.proj(pooled)  # (B, out)
