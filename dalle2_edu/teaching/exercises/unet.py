"""Exercises of chapter 08 (training a DDPM: the U-Net), and the diagnoses of their
usual mistakes.

Each reference is the shortest right answer; each mistake is an answer that students
(and published code) really give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.diffusion import unet
from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words

# --- 1. receptive field ---------------------------------------------------------------


def _receptive_field(kernels: list[int], strides: list[int]) -> int:
    """How many pixels, along one side, one output of a chain of convolutions can
    see.
    """
    seen = 1
    step = 1  # how many pixels of the picture two neighbours of this layer lie apart
    for kernel, stride in zip(kernels, strides, strict=True):
        seen += (kernel - 1) * step
        step *= stride
    return seen


def _whole_kernels(kernels: list[int], strides: list[int]) -> int:
    return sum(kernels)


def _no_strides(kernels: list[int], strides: list[int]) -> int:
    return 1 + sum(kernel - 1 for kernel in kernels)


def _stride_too_early(kernels: list[int], strides: list[int]) -> int:
    seen, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        step *= stride
        seen += (kernel - 1) * step
    return seen


receptive_field = Exercise(
    reference=_receptive_field,
    cases=lambda: [
        ([3], [1]),
        ([3, 3, 3, 3], [1, 1, 1, 1]),
        ([3, 3, 3], [1, 2, 1]),
        ([3, 3, 2, 3, 3, 2, 3, 3], [1, 1, 2, 1, 1, 2, 1, 1]),
    ],
    mistakes=[
        Mistake(
            _whole_kernels,
            Words(
                en=(
                    "You add whole kernels. Neighbouring windows overlap: a layer adds kernel -"
                    " 1 pixels, and one pixel is there before the first layer."
                ),
                zh=(
                    "你把整个卷积核的宽度都加上了。相邻窗口是重叠的：每一层只增加 kernel - 1 个像素，"
                    "最初已经有 1 个像素。"
                ),
            ),
        ),
        Mistake(
            _no_strides,
            Words(
                en=(
                    "Right as long as no stride exceeds 1. After a stride of 2 the neighbours"
                    " of a layer lie 2 pixels apart in the picture: each later layer counts"
                    " double."
                ),
                zh=(
                    "步幅都是 1 时没错。可是经过步幅 2 之后，这一层相邻的两点在原图上相隔 2"
                    " 个像素，后面每层都要乘 2。"
                ),
            ),
        ),
        Mistake(
            _stride_too_early,
            Words(
                en=(
                    "You let a layer's own stride widen its own kernel. A stride spreads the"
                    " outputs: only later layers feel it. Add first, then multiply the step."
                ),
                zh=(
                    "你让一层自己的步幅放大了它自己的卷积核。步幅拉开的是输出的间距，只影响后面的层：先加，再乘。"
                ),
            ),
        ),
    ],
    hint=Words(
        en=(
            "Carry two numbers along: how many pixels are seen, and how far apart (in pixels of"
            " the picture) two neighbours of the present layer lie. A layer with kernel k adds"
            " (k - 1) of those distances; its stride then multiplies the distance."
        ),
        zh=(
            "一路记两个数：目前看到多少像素，以及这一层相邻两点在原图上相隔几个像素。卷积核 k"
            " 增加 (k - 1) 个间隔，"
            "然后步幅再把间隔放大。"
        ),
    ),
)

# --- 2. pixel-unshuffle ---------------------------------------------------------------


def _pixel_unshuffle(x: Tensor, p: int) -> Tensor:
    """Fold every p x p square of pixels into the channels: (B, C, H, W) -> (B, C p p, H
    / p, W / p).
    """
    b, c, height, width = x.shape
    x = x.reshape(b, c, height // p, p, width // p, p)  # (B, C, H/p, p, W/p, p)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(b, c * p * p, height // p, width // p)


def _only_reshaped(x: Tensor, p: int) -> Tensor:
    b, c, height, width = x.shape
    return x.reshape(b, c * p * p, height // p, width // p)


def _place_before_colour(x: Tensor, p: int) -> Tensor:
    b, c, height, width = x.shape
    x = x.reshape(b, c, height // p, p, width // p, p)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(b, c * p * p, height // p, width // p)


def _column_before_row(x: Tensor, p: int) -> Tensor:
    b, c, height, width = x.shape
    x = x.reshape(b, c, height // p, p, width // p, p)
    return x.permute(0, 1, 5, 3, 2, 4).reshape(b, c * p * p, height // p, width // p)


pixel_unshuffle = Exercise(
    reference=_pixel_unshuffle,
    cases=lambda: [
        (_numbered(1, 1, 4, 4), 2),
        (_numbered(2, 3, 8, 4), 2),
        (_numbered(1, 2, 12, 12), 4),
    ],
    mistakes=[
        Mistake(
            _only_reshaped,
            Words(
                en=(
                    "A reshape alone cuts the picture into long strips: far-apart pixels end up"
                    " in one place. Split H and W first, then permute, then merge."
                ),
                zh=(
                    "只用 reshape 会把图切成长条，相距很远的像素跑到了同一个位置。先拆开 H 和"
                    " W，再 permute，最后合并。"
                ),
            ),
        ),
        Mistake(
            _place_before_colour,
            Words(
                en=(
                    "The right pixels in the wrong channels: PyTorch keeps the p * p places of"
                    " one colour together, channel c * p * p + row * p + column. Trained"
                    " weights would not fit."
                ),
                zh=(
                    "像素对了，通道顺序错了：PyTorch 把同一颜色的 p * p 个位置放在一起，"
                    "通道号是 c * p * p + row * p + column。训练好的权重会对不上。"
                ),
            ),
        ),
        Mistake(
            _column_before_row,
            Words(
                en=(
                    "Rows and columns inside the square are swapped: every square comes out"
                    " transposed."
                ),
                zh="小方块里的行和列颠倒了：每个方块都被转置了。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "Reshape to (B, C, H/p, p, W/p, p): now each pixel has an address inside its"
            " square. Permute so that the two p's stand right behind C, then merge."
        ),
        zh=(
            "先 reshape 成 (B, C, H/p, p, W/p, p)：这样每个像素都有了在小方块里的地址。"
            "用 permute 把两个 p 移到 C 后面，再合并。"
        ),
    ),
)


def _numbered(*shape: int) -> Tensor:
    """A tensor whose every number says where it was: 0, 1, 2, ..."""
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


# --- 3. timestep embedding ------------------------------------------------------------


def _angles(t: Tensor, dim: int, steps: int, base: float = 10_000.0) -> Tensor:
    frequencies = base ** (-torch.arange(dim // 2, dtype=torch.float32) / steps)
    return t.float()[:, None] * frequencies[None]  # (B, dim / 2)


def _sine_first(t: Tensor, dim: int) -> Tensor:
    angles = _angles(t, dim, dim // 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _interleaved(t: Tensor, dim: int) -> Tensor:
    angles = _angles(t, dim, dim // 2)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)


def _divided_by_dim(t: Tensor, dim: int) -> Tensor:
    angles = _angles(t, dim, dim)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _last_frequency_included(t: Tensor, dim: int) -> Tensor:
    angles = _angles(t, dim, dim // 2 - 1)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


timestep_embedding = Exercise(
    reference=unet.timestep_embedding,
    cases=lambda: [
        (torch.tensor([0, 1, 2]), 8),
        (torch.tensor([0, 10, 500, 999]), 32),
        (torch.tensor([7]), 64),
    ],
    mistakes=[
        Mistake(
            _sine_first,
            Words(
                en=(
                    "Sines first, cosines second. DDPM's own code does it so, ADM's the other"
                    " way round, and weights trained with one order do not work with the other."
                    " Here: cosines first."
                ),
                zh=(
                    "你把正弦放在了前面。DDPM 的原始代码确实如此，ADM"
                    " 则相反；按一种顺序训练的权重换一种顺序就失灵。"
                    "这里要余弦在前。"
                ),
            ),
        ),
        Mistake(
            _interleaved,
            Words(
                en="Cosines and sines alternate. Here all cosines come first, then all sines.",
                zh="你让余弦和正弦交替排列了。这里先放全部余弦，再放全部正弦。",
            ),
        ),
        Mistake(
            _divided_by_dim,
            Words(
                en=(
                    "The frequencies stop halfway, at 1/100: divide k by dim / 2 (how many"
                    " frequencies there are), not by dim."
                ),
                zh="频率只降到一半（1/100）就停了：k 应该除以 dim / 2，也就是频率的个数，而不是 dim。",
            ),
        ),
        Mistake(
            _last_frequency_included,
            Words(
                en=(
                    "You divide by dim / 2 - 1, so that the slowest frequency is exactly"
                    " 1/10000. DDPM's own code does that; ADM, and we, divide by dim / 2."
                ),
                zh=(
                    "你除以了 dim / 2 - 1，使最慢的频率恰好是 1/10000。DDPM"
                    " 的原始代码是这样；ADM 和本书除以 dim / 2。"
                ),
            ),
        ),
    ],
    hint=Words(
        en=(
            "Frequencies: 10000 ** (-k / (dim / 2)) for k = 0 ... dim / 2 - 1. Multiply t[:,"
            " None] with frequencies[None] to get the angles (B, dim / 2), then torch.cat the"
            " cosines and the sines."
        ),
        zh=(
            "频率是 10000 ** (-k / (dim / 2))，k = 0 … dim / 2 - 1。"
            "用 t[:, None] 乘 frequencies[None] 得到角度 (B, dim / 2)，再用 torch.cat 拼接余弦和正弦。"
        ),
    ),
)

# --- 4. AdaGN -------------------------------------------------------------------------


def _ada_group_norm(h: Tensor, y: Tensor, groups: int) -> Tensor:
    """AdaGN: h (B, C, H, W) normalised in groups, then scaled by 1 + y_s and shifted by
    y_b; y (B, 2C) = [y_s, y_b].
    """
    y_s, y_b = y[:, :, None, None].chunk(2, dim=1)  # 2 x (B, C, 1, 1)
    return F.group_norm(h, groups, eps=1e-5) * (1 + y_s) + y_b


def _scale_without_one(h: Tensor, y: Tensor, groups: int) -> Tensor:
    y_s, y_b = y[:, :, None, None].chunk(2, dim=1)
    return F.group_norm(h, groups, eps=1e-5) * y_s + y_b


def _shift_first(h: Tensor, y: Tensor, groups: int) -> Tensor:
    y_b, y_s = y[:, :, None, None].chunk(2, dim=1)
    return F.group_norm(h, groups, eps=1e-5) * (1 + y_s) + y_b


def _not_normalised(h: Tensor, y: Tensor, groups: int) -> Tensor:
    y_s, y_b = y[:, :, None, None].chunk(2, dim=1)
    return h * (1 + y_s) + y_b


def _normalised_last(h: Tensor, y: Tensor, groups: int) -> Tensor:
    y_s, y_b = y[:, :, None, None].chunk(2, dim=1)
    return F.group_norm(h * (1 + y_s) + y_b, groups, eps=1e-5)


def _each_channel_alone(h: Tensor, y: Tensor, groups: int) -> Tensor:
    y_s, y_b = y[:, :, None, None].chunk(2, dim=1)
    return F.group_norm(h, h.shape[1], eps=1e-5) * (1 + y_s) + y_b


def _group_norm_case(
    seed: int, channels: int, groups: int
) -> tuple[Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(seed)
    h = 2 * torch.randn(2, channels, 4, 4, generator=generator) + 1
    return h, torch.randn(2, 2 * channels, generator=generator), groups


ada_group_norm = Exercise(
    reference=_ada_group_norm,
    cases=lambda: [_group_norm_case(0, 4, 2), _group_norm_case(1, 64, 32)],
    mistakes=[
        Mistake(
            _scale_without_one,
            Words(
                en=(
                    "The scale is 1 + y_s, not y_s: a projection that still says 0 must change"
                    " nothing, not switch the channel off."
                ),
                zh="缩放系数是 1 + y_s，不是 y_s：投影还是 0 的时候应该什么都不改变，而不是把通道关掉。",
            ),
        ),
        Mistake(
            _shift_first,
            Words(
                en=(
                    "Scale and shift are swapped: the first C numbers of y are y_s, the last C"
                    " are y_b."
                ),
                zh="缩放和平移颠倒了：y 的前 C 个数是 y_s，后 C 个数是 y_b。",
            ),
        ),
        Mistake(
            _not_normalised,
            Words(
                en=(
                    "Scale and shift are right, but h is not normalised: call F.group_norm(h,"
                    " groups) first."
                ),
                zh="缩放和平移都对，但 h 没有归一化：先调用 F.group_norm(h, groups)。",
            ),
        ),
        Mistake(
            _normalised_last,
            Words(
                en=(
                    "You normalise after scaling and shifting, and so wash out much of what the"
                    " timestep said. Normalise first."
                ),
                zh="你在缩放、平移之后才归一化，时间步说的话多半被洗掉了。要先归一化。",
            ),
        ),
        Mistake(
            _each_channel_alone,
            Words(
                en=(
                    "One group per channel is instance normalisation. Group normalisation"
                    " shares mean and variance between the channels of a group: F.group_norm(h,"
                    " groups)."
                ),
                zh=(
                    "每个通道一组，那是实例归一化。"
                    "组归一化让同组的通道共用均值和方差：F.group_norm(h, groups)。"
                ),
            ),
        ),
    ],
    hint=Words(
        en=(
            "y[:, :, None, None].chunk(2, dim=1) gives y_s and y_b, each (B, C, 1, 1)."
            " F.group_norm(h, groups) does the rest."
        ),
        zh=(
            "y[:, :, None, None].chunk(2, dim=1) 给出 y_s 和 y_b，形状都是 (B, C, 1, 1)；"
            "其余交给 F.group_norm(h, groups)。"
        ),
    ),
)

# --- 5. parameters of a residual block ------------------------------------------------


def _resblock_parameters(c_in: int, c_out: int, emb_dim: int) -> int:
    """How many numbers a `ResBlock` with scale and shift learns."""
    norms = 2 * c_in + 2 * c_out
    convolutions = (9 * c_in + 1) * c_out + (9 * c_out + 1) * c_out
    embedding = (emb_dim + 1) * 2 * c_out
    skip = (c_in + 1) * c_out if c_in != c_out else 0
    return norms + convolutions + embedding + skip


def _without_biases(c_in: int, c_out: int, emb_dim: int) -> int:
    skip = c_in * c_out if c_in != c_out else 0
    return (
        2 * c_in
        + 2 * c_out
        + 9 * c_in * c_out
        + 9 * c_out**2
        + emb_dim * 2 * c_out
        + skip
    )


def _always_a_skip(c_in: int, c_out: int, emb_dim: int) -> int:
    return _resblock_parameters(c_in, c_out, emb_dim) + (
        (c_in + 1) * c_out if c_in == c_out else 0
    )


def _no_skip(c_in: int, c_out: int, emb_dim: int) -> int:
    return _resblock_parameters(c_in, c_out, emb_dim) - (
        (c_in + 1) * c_out if c_in != c_out else 0
    )


def _shift_only(c_in: int, c_out: int, emb_dim: int) -> int:
    return _resblock_parameters(c_in, c_out, emb_dim) - (emb_dim + 1) * c_out


def _no_norms(c_in: int, c_out: int, emb_dim: int) -> int:
    return _resblock_parameters(c_in, c_out, emb_dim) - 2 * c_in - 2 * c_out


resblock_parameters = Exercise(
    reference=_resblock_parameters,
    cases=lambda: [(32, 32, 128), (64, 32, 128), (192, 384, 768)],
    mistakes=[
        Mistake(
            _without_biases,
            Words(
                en=(
                    "The biases are missing: every convolution and every linear layer has one"
                    " number more for each output channel."
                ),
                zh="漏了偏置：每个卷积层和线性层的每个输出通道还有一个数。",
            ),
        ),
        Mistake(
            _always_a_skip,
            Words(
                en=(
                    "With c_in equal to c_out the short cut is the identity, which learns"
                    " nothing."
                ),
                zh="c_in 等于 c_out 时，捷径就是恒等映射，没有参数。",
            ),
        ),
        Mistake(
            _no_skip,
            Words(
                en=(
                    "With c_in different from c_out the short cut needs a 1 x 1 convolution of"
                    " its own."
                ),
                zh="c_in 与 c_out 不同时，捷径自己需要一个 1 x 1 卷积。",
            ),
        ),
        Mistake(
            _shift_only,
            Words(
                en=(
                    "The timestep's projection has 2 * c_out outputs: a scale and a shift for"
                    " every channel."
                ),
                zh="时间步的投影有 2 * c_out 个输出：每个通道一个缩放、一个平移。",
            ),
        ),
        Mistake(
            _no_norms,
            Words(
                en=(
                    "The two group norms learn as well: a gain and a bias per channel, 2 * c_in"
                    " and 2 * c_out."
                ),
                zh=(
                    "两个组归一化也有参数：每个通道一个增益、一个偏置，分别是 2 * c_in 和 2 *"
                    " c_out。"
                ),
            ),
        ),
    ],
    hint=Words(
        en=(
            "Six parts: norm1 (on c_in), conv1 3 x 3, emb_proj to 2 * c_out, norm2 (on c_out),"
            " conv2 3 x 3, and a 1 x 1 convolution for the short cut only if the channels"
            " change. Mind the biases."
        ),
        zh=(
            "共六部分：norm1（作用在 c_in 上）、3 x 3 的 conv1、输出 2 * c_out 的 emb_proj、"
            "norm2（作用在 c_out 上）"
            "、3 x 3 的 conv2，以及通道数变化时捷径的 1 x 1 卷积。别忘了偏置。"
        ),
    ),
)

# --- 6. EMA ---------------------------------------------------------------------------


def _ema_update(average: Tensor, weight: Tensor, step: int, decay: float) -> Tensor:
    """The average after update number `step` (0 for the first), with the warm-up (1 +
    step) / (10 + step).
    """
    d = min(decay, (1 + step) / (10 + step))
    return d * average + (1 - d) * weight


def _ema_without_warmup(
    average: Tensor, weight: Tensor, step: int, decay: float
) -> Tensor:
    return decay * average + (1 - decay) * weight


def _ema_the_wrong_way(
    average: Tensor, weight: Tensor, step: int, decay: float
) -> Tensor:
    return _ema_update(weight, average, step, decay)


def _ema_max(average: Tensor, weight: Tensor, step: int, decay: float) -> Tensor:
    d = max(decay, (1 + step) / (10 + step))
    return d * average + (1 - d) * weight


def _ema_off_by_one(average: Tensor, weight: Tensor, step: int, decay: float) -> Tensor:
    return _ema_update(average, weight, step - 1, decay)


ema_update = Exercise(
    reference=_ema_update,
    cases=lambda: [
        (_numbered(4), -_numbered(4) + 7, step, 0.999) for step in (0, 1, 50, 20_000)
    ],
    mistakes=[
        Mistake(
            _ema_without_warmup,
            Words(
                en=(
                    "The warm-up is missing: with a constant decay the random weights of the"
                    " start stay for thousands of steps. Use min(decay, (1 + step) / (10 +"
                    " step))."
                ),
                zh=(
                    "缺少预热：衰减率固定时，最初的随机权重会残留上千步。请用 min(decay, (1 +"
                    " step) / (10 + step))。"
                ),
            ),
        ),
        Mistake(
            _ema_the_wrong_way,
            Words(
                en=(
                    "Average and new weight are swapped: a decay near 1 must keep the average,"
                    " not the new weight."
                ),
                zh="平均值和新权重颠倒了：接近 1 的衰减率应该保留平均值，而不是新权重。",
            ),
        ),
        Mistake(
            _ema_max,
            Words(
                en=(
                    "You take the larger of the two decays: the warm-up never acts. Take the"
                    " smaller."
                ),
                zh="你取了两个衰减率中较大的一个，预热就不起作用了。应取较小的。",
            ),
        ),
        Mistake(
            _ema_off_by_one,
            Words(
                en="Off by one: steps count from 0, so the first update has the decay 1/10.",
                zh="差了一步：step 从 0 数起，第一次更新的衰减率是 1/10。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "First the decay of this step, d = min(decay, (1 + step) / (10 + step)); then d"
            " parts of the old average and 1 - d parts of the new weight."
        ),
        zh=(
            "先算这一步的衰减率 d = min(decay, (1 + step) / (10 + step))；再取 d 份旧平均值加 1"
            " - d 份新权重。"
        ),
    ),
)

# --- 7. attention ---------------------------------------------------------------------


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d_k)) v for q (B, N, d_k), k (B, M, d_k), v (B, M, d_k) ->
    (B, N, d_k).
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, N, M)
    return scores.softmax(dim=-1) @ v


def _unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def _divided_by_d(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / q.shape[-1]).softmax(dim=-1) @ v


def _softmax_over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-2) @ v


def _no_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) @ v


def _attention_case(
    seed: int, queries: int, keys: int, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, queries, dim, generator=generator)
    return (
        q,
        torch.randn(2, keys, dim, generator=generator),
        torch.randn(2, keys, dim, generator=generator),
    )


attention = Exercise(
    reference=_attention,
    cases=lambda: [_attention_case(0, 4, 4, 8), _attention_case(1, 5, 9, 32)],
    mistakes=[
        Mistake(
            _unscaled,
            Words(
                en=(
                    "The scores are not divided by sqrt(d_k): they grow with the width, and the"
                    " softmax picks a single position."
                ),
                zh="分数没有除以 sqrt(d_k)：宽度越大分数越大，softmax 会只盯住一个位置。",
            ),
        ),
        Mistake(
            _divided_by_d,
            Words(
                en=(
                    "Divided by d_k instead of its root: the attention becomes nearly uniform."
                    " A sum of d_k products has standard deviation sqrt(d_k)."
                ),
                zh=(
                    "除以了 d_k 而不是 sqrt(d_k)：注意力几乎变成平均。d_k 个乘积之和的标准差是"
                    " sqrt(d_k)。"
                ),
            ),
        ),
        Mistake(
            _softmax_over_queries,
            Words(
                en=(
                    "The softmax runs over the queries. Each query must share out its attention"
                    " among the keys: dim=-1."
                ),
                zh="softmax 沿着查询的方向做了。每个查询要把注意力分配给各个键：dim=-1。",
            ),
        ),
        Mistake(
            _no_softmax,
            Words(
                en="The softmax is missing: the weights must be positive and add up to 1.",
                zh="缺少 softmax：权重必须为正，且总和为 1。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "q @ k.transpose(-2, -1) gives (B, N, M) scores. Divide by math.sqrt(d_k), softmax"
            " over the last axis, multiply with v."
        ),
        zh=(
            "q @ k.transpose(-2, -1) 得到 (B, N, M) 的分数。除以 math.sqrt(d_k)，沿最后一维做"
            " softmax，再乘 v。"
        ),
    ),
)

# --- 8. the loss by timestep ----------------------------------------------------------


def _loss_by_timestep(
    losses: Tensor, index: Tensor, buckets: int, timesteps: int
) -> Tensor:
    """Mean loss of each of `buckets` equal ranges of timesteps: losses, index (N,) ->
    (buckets,).
    """
    bucket = index * buckets // timesteps  # (N,)
    sums = torch.zeros(buckets).index_add_(0, bucket, losses)
    return sums / torch.bincount(bucket, minlength=buckets)


def _sums_only(losses: Tensor, index: Tensor, buckets: int, timesteps: int) -> Tensor:
    return torch.zeros(buckets).index_add_(0, index * buckets // timesteps, losses)


def _same_divisor(
    losses: Tensor, index: Tensor, buckets: int, timesteps: int
) -> Tensor:
    return _sums_only(losses, index, buckets, timesteps) * buckets / len(losses)


def _overwritten(losses: Tensor, index: Tensor, buckets: int, timesteps: int) -> Tensor:
    last = torch.zeros(buckets)
    for bucket, loss in zip(
        (index * buckets // timesteps).tolist(), losses, strict=True
    ):
        last[bucket] = loss
    return last


def _cyclic(losses: Tensor, index: Tensor, buckets: int, timesteps: int) -> Tensor:
    bucket = index % buckets
    return _sums_only(losses, bucket, buckets, buckets) / torch.bincount(
        bucket, minlength=buckets
    )


def _bucket_case(
    seed: int, n: int, buckets: int, timesteps: int
) -> tuple[Tensor, Tensor, int, int]:
    """Every bucket has at least two losses."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.arange(buckets) * timesteps // buckets
    index = torch.cat(
        [
            edges,
            edges + 1,
            torch.randint(timesteps, (n - 2 * buckets,), generator=generator),
        ]
    )
    return torch.rand(n, generator=generator), index, buckets, timesteps


loss_by_timestep = Exercise(
    reference=_loss_by_timestep,
    cases=lambda: [_bucket_case(0, 50, 5, 100), _bucket_case(1, 400, 10, 1000)],
    mistakes=[
        Mistake(
            _sums_only,
            Words(
                en=(
                    "These are sums. Divide each bucket by the number of losses that fell into"
                    " it (torch.bincount)."
                ),
                zh="这是总和。每个区间还要除以落入其中的损失个数（torch.bincount）。",
            ),
        ),
        Mistake(
            _same_divisor,
            Words(
                en=(
                    "You divide all buckets by the same number. The timesteps are drawn at"
                    " random, so each bucket has its own count."
                ),
                zh="你给所有区间除以了同一个数。时间步是随机抽取的，每个区间的个数不同。",
            ),
        ),
        Mistake(
            _overwritten,
            Words(
                en=(
                    "Each bucket holds only its last loss: sums[bucket] = ... overwrites where"
                    " index_add_ adds."
                ),
                zh="每个区间只留下了最后一个损失：sums[bucket] = … 是覆盖，index_add_ 才是累加。",
            ),
        ),
        Mistake(
            _cyclic,
            Words(
                en=(
                    "index % buckets deals the timesteps out like cards. A bucket is a range of"
                    " neighbours: index * buckets // timesteps."
                ),
                zh=(
                    "index % buckets 像发牌一样把时间步轮流分开了。一个区间应该是相邻的时间步："
                    "index * buckets // timesteps。"
                ),
            ),
        ),
    ],
    hint=Words(
        en=(
            "The bucket of a loss is index * buckets // timesteps. Sum with"
            " torch.zeros(buckets).index_add_(0, bucket, losses), count with"
            " torch.bincount(bucket, minlength=buckets)."
        ),
        zh=(
            "一个损失所属的区间是 index * buckets // timesteps。"
            "用 torch.zeros(buckets).index_add_(0, bucket, losses) 求和，"
            "用 torch.bincount(bucket, minlength=buckets) 计数。"
        ),
    ),
)


# --- 9. a training run by hand --------------------------------------------------------

Gradient = Callable[[Tensor], Tensor]  # weights (D,) -> the loss's gradient (D,)


def _run(
    gradient: Gradient,
    weight: Tensor,
    steps: int,
    rate: float,
    warmup: int,
    decay: float,
    clipped: Callable[[Tensor], Tensor] | None = None,
    first: int = 1,
) -> tuple[Tensor, Tensor]:
    """The weights after `steps` updates, and their average. The first update has the
    share first / warmup of the learning rate.
    """
    clipped = clipped or _norm_at_most_one
    average = weight
    for step in range(steps):
        warm = min(1.0, (step + first) / warmup)
        weight = weight - rate * warm * clipped(gradient(weight))
        average = _ema_update(average, weight, step, decay)
    return weight, average


def _norm_at_most_one(g: Tensor) -> Tensor:
    return g * min(1.0, 1 / float(g.norm()))  # Eq. (8.9)


def _run_averaged_first(
    gradient: Gradient,
    weight: Tensor,
    steps: int,
    rate: float,
    warmup: int,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """Each step averages the weights before the update: it is one step late."""
    average = weight
    for step in range(steps):
        average = _ema_update(average, weight, step, decay)
        warm = min(1.0, (step + 1) / warmup)
        weight = weight - rate * warm * _norm_at_most_one(gradient(weight))
    return weight, average


def _run_at_the_average(
    gradient: Gradient,
    weight: Tensor,
    steps: int,
    rate: float,
    warmup: int,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """The average goes back into the training."""
    average = weight
    for step in range(steps):
        warm = min(1.0, (step + 1) / warmup)
        weight = average - rate * warm * _norm_at_most_one(gradient(average))
        average = _ema_update(average, weight, step, decay)
    return weight, average


def _valley(seed: int) -> Gradient:
    """The gradient of a quadratic loss with its minimum at a random place."""
    generator = torch.Generator().manual_seed(seed)
    lowest = torch.randn(3, generator=generator)
    steep = torch.tensor([0.3, 1.0, 4.0])
    return lambda weight: steep * (weight - lowest)


training_run = Exercise(
    reference=_run,
    cases=lambda: [
        (_valley(0), torch.tensor([2.0, -1.0, 3.0]), 3, 0.1, 10, 0.9),
        (_valley(1), torch.tensor([-1.0, 2.0, 0.5]), 40, 0.2, 5, 0.8),
    ],
    mistakes=[
        Mistake(
            partial(_run, clipped=lambda g: g),
            Words(
                en="The gradient isn't clipped: its norm must not exceed 1, Eq. (8.9).",
                zh="没有裁剪梯度：它的范数不能超过 1，见式 (8.9)。",
            ),
        ),
        Mistake(
            partial(_run, clipped=lambda g: g.clamp(-1, 1)),
            Words(
                en=(
                    "You cut each entry to [-1, 1], which changes the direction. Clip the norm"
                    " of the whole gradient: g * min(1, 1 / norm)."
                ),
                zh=(
                    "你把每个分量截断到了 [-1, 1]，方向就变了。"
                    "要裁剪的是整个梯度的范数：g * min(1, 1 / norm)。"
                ),
            ),
        ),
        Mistake(
            partial(_run, clipped=lambda g: g / g.norm()),
            Words(
                en=(
                    "You give every gradient the norm 1. A short one must stay short, or the"
                    " run never comes to rest: min(1, 1 / norm)."
                ),
                zh=(
                    "你让每个梯度的范数都等于 1。短的梯度应当保持原样，否则训练永远停不下来："
                    "min(1, 1 / norm)。"
                ),
            ),
        ),
        Mistake(
            partial(_run, first=0),
            Words(
                en=(
                    "Your first update has the learning rate 0. With step = 0, 1, ... the"
                    " factor is min(1, (step + 1) / warmup)."
                ),
                zh=(
                    "你的第一次更新学习率是 0。step 从 0 数起时，"
                    "系数是 min(1, (step + 1) / warmup)。"
                ),
            ),
        ),
        Mistake(
            _run_averaged_first,
            Words(
                en="You average before the update: the average must hold the new weights.",
                zh="你在更新之前就求了平均：平均里应当是更新后的权重。",
            ),
        ),
        Mistake(
            _run_at_the_average,
            Words(
                en=(
                    "The average went back into the training. It only watches: the gradient is"
                    " taken at the weights themselves."
                ),
                zh="你把平均值又放回了训练。平均值只是旁观：梯度要在权重本身处求。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "In each step: gradient, clip, learning rate * min(1, (step + 1) / warmup), update,"
            " and last the average of exercise 6."
        ),
        zh=(
            "每一步依次是：求梯度，裁剪，学习率乘 min(1, (step + 1) / warmup)，更新，"
            "最后做练习 6 的平均。"
        ),
    ),
)
