"""The U-Net that denoises: ADM's, as GLIDE, DALL·E 2 and Karlo use it.

The idea in five lines. A noisy picture goes down a ladder of resolutions, each rung
wider in channels, and comes up again; every rung on the way up also reads what the same
rung saw on the way down (the skip connections), so that fine detail has a short way
through. The timestep enters every residual block as a scale and a shift of its
normalised activations. At low resolutions attention lets far parts of the picture talk
to each other; text joins in there, as extra keys and values in the very same attention.

    AdaGN(h, y) = y_s GroupNorm(h) + y_b                      ADM (arXiv 2105.05233), section 3.1
    h' = h + Attention(q: picture, k and v: text + picture)   GLIDE (arXiv 2112.10741), section 3.1

What can be added from outside: a vector to the timestep embedding (`added_emb`: GLIDE's
pooled text, unCLIP's image embedding), text tokens to the attention, a class label
(`y`), and channels to the picture (a low-resolution picture or a mask, concatenated by
the caller). The text stays the same from step to step, so its keys and values are
computed once per picture: `project_context` makes `context_kv` of the tokens, and every
pass takes that.

Two tricks of the miniature. With `patch_size` 2 the picture is folded (pixel-unshuffle)
from 32 x 32 x 3 to 16 x 16 x 12 before the first convolution and unfolded after the
last one. With `learned_position` every place of the first feature map has a vector of
its own added: a convolution alone learns where it is only from the padding at the
edges, which takes a small network long. The released systems have patch_size 1 and no
positions.

Chapters 08 (the U-Net), 10 (what each change is worth) and 13 (text in attention) use
this file; DALL·E 2's decoder and both upsamplers are made of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.errors import Dalle2EduError


@dataclass(frozen=True)
class UNetConfig:
    """Size and shape of a U-Net.

    `attention_levels` counts from 0, the full resolution: (1, 2, 3) means attention at
    1/2, 1/4 and 1/8 of it. `out_channels` is 3, or 6 when the network also answers the
    variance (learned range, iDDPM section 3.1). `padding` is what a convolution sees
    beyond the picture's edge; the released systems have zeros. `context_dim` is the
    width of the text tokens, None for a network without text. `norm_groups` is the
    released systems' 32; with 32 channels that would leave one a group, and a channel
    normalised by itself forgets its mean: the picture's overall colour is lost, and
    noise that is predicted without it gives garish backgrounds. A narrow network takes
    8. `resblock_updown` False halves and doubles by a plain convolution, as DDPM did;
    chapter 10 compares the two.
    """

    image_size: int = 32  # H = W
    in_channels: int = 3  # more with a mask or a second picture
    out_channels: int = 3  # 6 with a learned variance
    channels: int = 64  # of the highest resolution
    channel_mult: tuple[int, ...] = (1, 2, 3)  # 64, 128, 192 channels
    num_res_blocks: int = 2  # of a level, down; one more up
    attention_levels: tuple[int, ...] = (1, 2)  # at 1/2 and 1/4
    head_channels: int = 32  # wider layers have more heads, not wider ones
    dropout: float = 0.0
    scale_shift_norm: bool = True  # AdaGN; otherwise plain addition
    middle_attention: bool = True
    context_dim: int | None = None
    num_classes: int | None = None  # None: no class labels
    patch_size: int = 1
    padding: Literal["zeros", "replicate"] = "zeros"
    learned_position: bool = False
    norm_groups: int = 32
    resblock_updown: bool = True

    def __post_init__(self) -> None:
        factor = self.patch_size * 2 ** (len(self.channel_mult) - 1)  # p 2^(levels - 1)
        if self.image_size % factor:
            raise Dalle2EduError(
                f"image_size {self.image_size} must be a multiple of {factor}: each level"
                " halves it."
            )
        if self.channels % self.norm_groups:
            raise Dalle2EduError(
                f"channels {self.channels} must be a multiple of {self.norm_groups}, the group"
                " norm's groups."
            )


# the timestep embedding is 4 x channels wide in every ADM-style network
TIME_EMB_MULT = 4


class UNet(nn.Module):
    """ADM's U-Net: eps, v or x0 (and, with twice the channels, the variance) from a
    noisy picture and its timestep.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        folded = config.patch_size**2  # p^2 pixels become channels of one place
        emb_dim = config.channels * TIME_EMB_MULT  # 4 * channels
        # highest resolution first
        widths = [config.channels * mult for mult in config.channel_mult]

        self.time_mlp = nn.Sequential(
            nn.Linear(config.channels, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim)
        )
        # ADM: a label is one more vector beside the timestep's
        self.class_emb = (
            nn.Embedding(config.num_classes, emb_dim) if config.num_classes else None
        )
        self.stem = conv3x3(config.in_channels * folded, widths[0], config)
        side = config.image_size // config.patch_size  # H/p
        self.position = (
            nn.Parameter(place_waves(widths[0], side))
            if config.learned_position
            else None
        )
        self.down, skips = build_down(config, widths, emb_dim)  # skips: their channels
        self.middle = Middle(widths[-1], emb_dim, config)
        self.up = build_up(config, widths, skips, emb_dim)
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[0])
        # zero: an untrained network predicts 0
        self.head = zero_init(conv3x3(widths[0], config.out_channels * folded, config))
        # in the order in which they run: `split_context` deals out the text in it
        self.attentions = [
            module for module in self.modules() if isinstance(module, Attention)
        ]

    def project_context(self, context: Tensor) -> Tensor:
        """Text tokens (B, L, context_dim) -> the keys and values that every attention
        makes of them, side by side: (B, L, 2 * the channels of all attentions).
        """
        # each (B, L, 2C), in the order in which the attentions run
        parts = [attention.project_context(context) for attention in self.attentions]
        return torch.cat(parts, dim=-1)

    def split_context(self, context_kv: Tensor | None) -> Iterator[Tensor | None]:
        """The part of `project_context`'s answer that belongs to each attention, in
        the order in which they run; without a text, None.

        Split once: slicing per layer would allocate a full-size, mostly zero gradient
        each time.
        """
        if context_kv is None:
            return repeat(None)
        # 2C: keys and values
        widths = [2 * attention.norm.num_channels for attention in self.attentions]
        return iter(context_kv.split(widths, dim=-1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        added_emb: Tensor | None = None,
        context_kv: Tensor | None = None,
        context_mask: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """One pass: x (B, C_in, H, W), t (B,) -> (B, C_out, H, W).

        added_emb (B, 4 * channels) is added to the timestep embedding; context_kv is
        what `project_context` made of L text tokens, context_mask (B, L) is True where
        a token is real; y (B,) are class labels.
        """
        time = timestep_embedding(t, self.config.channels).to(x.dtype)  # (B, channels)
        emb = self.time_mlp(time)  # (B, 4 * channels)
        if added_emb is not None:
            emb = emb + added_emb  # GLIDE's pooled text, unCLIP's z_i
        if self.class_emb is not None:
            emb = emb + self.class_emb(y)  # a class label

        patch_size = self.config.patch_size  # p
        h = self.stem(F.pixel_unshuffle(x, patch_size))  # (B, channels, H/p, W/p)
        if self.position is not None:
            h = h + self.position.to(h.dtype)  # broadcasts over B
        skips = [h]  # the stem's output is the first skip
        texts = self.split_context(context_kv)
        for block in self.down:
            h = block(h, emb, texts, context_mask)
            skips.append(h)
        h = self.middle(h, emb, texts, context_mask)
        # last in, first out: the lowest rung's skips come first
        for block in self.up:
            # from below, and from the way down
            both = torch.cat([h, skips.pop()], dim=1)
            h = block(both, emb, texts, context_mask)
        out = self.head(F.silu(self.norm_out(h)))  # (B, C_out * p^2, H/p, W/p)
        return F.pixel_shuffle(out, patch_size)  # (B, C_out, H, W)


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of falling frequency, cosines first: t (B,) -> (B, dim) float32.
    Transformer's positions, applied to time.
    """
    half = dim // 2  # one sine and one cosine each
    place = torch.arange(half, dtype=torch.float32, device=t.device)
    # 1 ... 1 / max_period
    frequencies = torch.exp(-math.log(max_period) * place / half)
    angles = t.float()[:, None] * frequencies[None]  # (B, half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def place_waves(channels: int, side: int) -> Tensor:
    """Where training of the positions starts: waves of x in half of the channels, of y
    in the others.

    Returns (1, channels, side, side) with amplitude 0.3, well below the features that
    they are added to.
    """
    places = torch.arange(side)  # 0 ... side - 1
    waves = timestep_embedding(places, channels // 2, max_period=4.0 * side)
    waves = waves.T  # (side, channels/2) => (channels/2, side)
    across = waves[:, None, :].expand(-1, side, side)  # (channels/2, side, side)
    down = waves[:, :, None].expand(-1, side, side)
    both = torch.cat([across, down])  # (channels, side, side)
    return 0.3 * both[None]  # (1, channels, side, side): the same for all B


class ResBlock(nn.Module):
    """Two convolutions, modulated by the timestep in between, and a skip connection:
    (B, C_in, H, W) -> (B, C_out, H', W').

    `resize` "down" or "up" halves or doubles the picture inside the block (BigGAN's
    way; in ADM's ablation the change that lowered FID most).
    """

    gathered_alone = True  # under FSDP: see `training/sharding.py`

    def __init__(
        self,
        c_in: int,
        c_out: int,
        emb_dim: int,
        config: UNetConfig,
        resize: str = "none",
    ):
        super().__init__()
        self.resize = resize
        self.scale_shift = config.scale_shift_norm
        self.norm1 = nn.GroupNorm(config.norm_groups, c_in)
        self.conv1 = conv3x3(c_in, c_out, config)
        self.emb_proj = nn.Linear(emb_dim, 2 * c_out if self.scale_shift else c_out)
        self.norm2 = nn.GroupNorm(config.norm_groups, c_out)
        self.dropout = nn.Dropout(config.dropout)
        # zero: the block starts as the identity
        self.conv2 = zero_init(conv3x3(c_out, c_out, config))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))  # pre-activation: norm, SiLU, convolution
        h = self.conv1(resized(h, self.resize))  # (B, C, H', W')
        y = self.emb_proj(F.silu(emb))[:, :, None, None]  # (B, C or 2C, 1, 1)
        if self.scale_shift:
            y_s, y_b = y.chunk(2, dim=1)  # scale and shift, (B, C, 1, 1)
            # AdaGN; 1 + y_s, so that a zero weight means no change
            h = self.norm2(h) * (1 + y_s) + y_b
        else:
            h = self.norm2(h + y)
        h = self.conv2(self.dropout(F.silu(h)))  # (B, C_out, H', W')
        # the skip path is resized too, and fitted to C_out by a 1 x 1 convolution
        return self.skip(resized(x, self.resize)) + h


class PlainResize(nn.Module):
    """Half or double the picture by one convolution, which does not see the timestep:
    DDPM's way, before BigGAN's. (B, C, H, W) -> (B, C, H', W').
    """

    def __init__(self, channels: int, config: UNetConfig, resize: str):
        super().__init__()
        self.resize = resize
        self.conv = conv3x3(channels, channels, config)
        if resize == "down":
            self.conv.stride = (2, 2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.resize == "up":
            x = resized(x, "up")  # repeated pixels, which the convolution smooths
        return self.conv(x)


def resizer(
    channels: int, emb_dim: int, config: UNetConfig, resize: str
) -> ResBlock | PlainResize:
    """What stands between two rungs: a residual block that resizes inside, or a plain
    convolution.
    """
    if config.resblock_updown:
        return ResBlock(channels, channels, emb_dim, config, resize=resize)
    return PlainResize(channels, config, resize)


def conv3x3(c_in: int, c_out: int, config: UNetConfig) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the picture's size."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode=config.padding)


def resized(x: Tensor, resize: str) -> Tensor:
    """Halve by averaging 2 x 2 pixels, double by repeating them, or leave alone."""
    if resize == "down":
        return F.avg_pool2d(x, 2)  # 2H x 2W => H x W
    if resize == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return x


class Attention(nn.Module):
    """Self-attention over the picture's positions, in which text tokens stand beside
    as further keys and values.
    """

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        # ADM: 64 channels a head, whatever the width
        self.heads = channels // config.head_channels
        self.norm = nn.GroupNorm(config.norm_groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)  # 1 x 1 convolutions, in effect
        self.context_kv = (
            nn.Linear(config.context_dim, 2 * channels) if config.context_dim else None
        )
        self.proj = zero_init(nn.Linear(channels, channels))

    def project_context(self, context: Tensor) -> Tensor:
        """Text tokens (B, L, context_dim) -> their keys and values here, (B, L, 2 *
        channels).
        """
        assert self.context_kv is not None, (
            "a network without context_dim reads no text"
        )
        return self.context_kv(context)

    def forward(
        self,
        x: Tensor,
        context_kv: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W), context_kv (B, L, 2C) as `project_context` makes it,
        context_mask (B, L) -> (B, C, H, W).
        """
        # (B, C, H, W) => (B, H*W, C)
        positions = self.norm(x).flatten(2).transpose(1, 2)
        parts = self.qkv(positions).chunk(3, dim=-1)  # 3 x (B, H*W, C)
        # (B, heads, H*W, C/heads)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        mask = None
        if context_kv is not None:
            parts = context_kv.chunk(2, dim=-1)  # 2 x (B, L, C)
            text_k, text_v = (split_heads(part, self.heads) for part in parts)
            k = torch.cat([text_k, k], dim=2)  # (B, heads, L + H*W, C/heads)
            v = torch.cat([text_v, v], dim=2)
            # real tokens and all positions may be looked at
            if context_mask is not None:
                real = F.pad(context_mask, (0, positions.shape[1]), value=True)
                mask = real[:, None, None]  # (B, 1, 1, L + H*W)
        # (B, heads, H*W, C/heads)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = self.proj(h.transpose(1, 2).flatten(2))  # => (B, H*W, C)
        h = h.transpose(1, 2).reshape(x.shape)  # => (B, C, H, W)
        return x + h


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """One rung: a residual block, attention if the rung has it, and on the way up a
    doubling at the rung's end.
    """

    def __init__(
        self,
        res: ResBlock | PlainResize,
        attention: Attention | None = None,
        upsample: ResBlock | PlainResize | None = None,
    ):
        super().__init__()
        self.res = res
        self.attention = attention
        self.upsample = upsample

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        texts: Iterator[Tensor | None],
        context_mask: Tensor | None,
    ) -> Tensor:
        x = self.res(x, emb)
        if self.attention is not None:
            x = self.attention(x, next(texts), context_mask)
        if self.upsample is not None:
            x = self.upsample(x, emb)
        return x


class Middle(nn.Module):
    """The lowest resolution: residual block, attention, residual block."""

    def __init__(self, width: int, emb_dim: int, config: UNetConfig):
        super().__init__()
        self.res1 = ResBlock(width, width, emb_dim, config)
        self.attention = Attention(width, config) if config.middle_attention else None
        self.res2 = ResBlock(width, width, emb_dim, config)

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        texts: Iterator[Tensor | None],
        context_mask: Tensor | None,
    ) -> Tensor:
        x = self.res1(x, emb)
        if self.attention is not None:
            x = self.attention(x, next(texts), context_mask)
        return self.res2(x, emb)


def build_down(
    config: UNetConfig, widths: list[int], emb_dim: int
) -> tuple[nn.ModuleList, list[int]]:
    """The way down, 32 => 16 => 8, and the channels of every feature map it leaves for
    the way up (stem first).
    """
    blocks = nn.ModuleList()
    skips = [widths[0]]  # the stem's
    for level, width in enumerate(widths):
        for _ in range(config.num_res_blocks):
            attention = _attention_at(level, config)
            res = ResBlock(skips[-1], width, emb_dim, config)
            blocks.append(Block(res, attention))
            skips.append(width)
        # the lowest level is not halved: the middle follows
        if level < len(widths) - 1:
            halving = ResBlock(width, width, emb_dim, config, resize="down")
            blocks.append(Block(halving))
            skips.append(width)  # a halving block's output is a skip as well
    return blocks, skips


def build_up(
    config: UNetConfig, widths: list[int], skips: list[int], emb_dim: int
) -> nn.ModuleList:
    """The way up, 8 => 16 => 32: one residual block more per rung than on the way
    down, to take the rung's last skip.
    """
    blocks = nn.ModuleList()
    current = widths[-1]  # channels that come from below
    skips = list(skips)  # a copy: it is emptied below
    for level, width in reversed(list(enumerate(widths))):
        for i in range(config.num_res_blocks + 1):
            # input: what comes from below, and the skip beside it
            res = ResBlock(current + skips.pop(), width, emb_dim, config)
            attention = _attention_at(level, config)
            # the rung's last block doubles, save on the top rung
            ends_rung = level > 0 and i == config.num_res_blocks
            upsample = None
            if ends_rung:
                upsample = resizer(width, emb_dim, config, "up")
            blocks.append(Block(res, attention, upsample))
            current = width
    return blocks


def _attention_at(level: int, config: UNetConfig) -> Attention | None:
    """Attention for a block of this level, if the level has any."""
    if level not in config.attention_levels:
        return None
    # all blocks of a level are as wide
    width = config.channels * config.channel_mult[level]
    return Attention(width, config)


def zero_init(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Start a branch's last layer at zero: at first the branch adds nothing, and deep
    networks train from the start.
    """
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
