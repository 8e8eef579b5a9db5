"""Exercises of chapter 11 (classifier-free guidance), and the diagnoses of their usual
mistakes.

Each reference is the shortest right answer; each mistake is an answer that students
(and published code) really give.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dalle2_edu.diffusion.guidance import dynamic_threshold as package_threshold
from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words


def _normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# --- 1. two conventions ---------------------------------------------------------------


def _ho_salimans(null: Tensor, conditional: Tensor, w: float) -> Tensor:
    return (1 + w) * conditional - w * null


ho_salimans = Exercise(
    reference=_ho_salimans,
    cases=lambda: [
        (_normal(0, 2, 3), _normal(1, 2, 3), 0.0),
        (_normal(2, 2, 3), _normal(3, 2, 3), 2.0),
    ],
    mistakes=[
        Mistake(
            lambda null, conditional, w: null + w * (conditional - null),
            Words(
                en=(
                    "That is the scale s of (11.3). In this convention w = 0 is the plain"
                    " conditional network: s = 1 + w."
                ),
                zh="这是 (11.3) 的尺度 s。按这里的写法，w = 0 就是普通的条件网络：s = 1 + w。",
            ),
        ),
        Mistake(
            lambda null, conditional, w: (1 + w) * null - w * conditional,
            Words(
                en="The two are exchanged: this leads away from the condition.",
                zh="两项写反了：这样会背离条件。",
            ),
        ),
    ],
    hint=Words(
        en="Put s = 1 + w into (11.3), and collect what belongs to each of the two.",
        zh="把 s = 1 + w 代入 (11.3)，再按两项合并同类项。",
    ),
)


# --- 2. hiding the class --------------------------------------------------------------


def _hidden(y: Tensor, luck: Tensor, p_uncond: float, null: int) -> Tensor:
    return torch.where(luck < p_uncond, null, y)


def _uniform(seed: int, n: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


hidden = Exercise(
    reference=_hidden,
    cases=lambda: [
        (torch.arange(40) % 8, _uniform(0, 40), 0.15, 8),
        (torch.arange(40) % 3, _uniform(1, 40), 0.5, 3),
    ],
    mistakes=[
        Mistake(
            lambda y, luck, p_uncond, null: torch.where(luck < p_uncond, y, null),
            Words(
                en="The other way round: you hide all but a share p_uncond of the classes.",
                zh="反了：你藏掉的是 p_uncond 以外的那些类别。",
            ),
        ),
        Mistake(
            lambda y, luck, p_uncond, null: torch.where(luck < p_uncond, 0, y),
            Words(
                en=(
                    "0 is a class, circles. The network must be able to tell 'a circle' from"
                    " 'not told': take the null class."
                ),
                zh="0 是一个真实类别（圆形）。网络必须能区分“是圆形”和“没有说”：请用空类别。",
            ),
        ),
        Mistake(
            lambda y, luck, p_uncond, null: (
                torch.full_like(y, null) if luck[0] < p_uncond else y
            ),
            Words(
                en=(
                    "One throw for the whole batch. Each picture has its own, or whole batches"
                    " learn no class at all."
                ),
                zh="整批只掷了一次骰子。每张图要各掷一次，否则有的批完全学不到类别。",
            ),
        ),
    ],
    hint=Words(
        en="torch.where chooses element by element. luck is uniform in [0, 1).",
        zh="torch.where 逐个元素选择。luck 在 [0, 1) 上均匀分布。",
    ),
)


# --- 3. the classifier that nobody trained --------------------------------------------


def _implicit(null_eps: Tensor, eps: Tensor, abar: float) -> Tensor:
    return -(eps - null_eps) / math.sqrt(1 - abar)


implicit = Exercise(
    reference=_implicit,
    cases=lambda: [
        (_normal(4, 2, 3), _normal(5, 2, 3), 0.5),
        (_normal(6, 2, 3), _normal(7, 2, 3), 0.04),
    ],
    mistakes=[
        Mistake(
            lambda null_eps, eps, abar: (eps - null_eps) / math.sqrt(1 - abar),
            Words(
                en="The sign: noise points away from the data, the score towards them.",
                zh="符号错了：噪声指向远离数据的方向，得分函数指向数据。",
            ),
        ),
        Mistake(
            lambda null_eps, eps, abar: -(eps - null_eps) / (1 - abar),
            Words(
                en="The score is -eps divided by the noise's standard deviation, not variance.",
                zh="得分函数是 -eps 除以噪声的标准差，不是方差。",
            ),
        ),
        Mistake(
            lambda null_eps, eps, abar: -(eps - null_eps),
            Words(
                en="eps has unit size; the score grows as the noise shrinks: divide.",
                zh="eps 的大小约为 1；噪声越小，得分越大：还要除以一个数。",
            ),
        ),
    ],
    hint=Words(
        en="(11.2), and the score as (11.1) has it from eps.",
        zh="用 (11.2)，再按 (11.1) 由 eps 写出得分函数。",
    ),
)


# --- 4. one Gaussian inside another ---------------------------------------------------


def _variance(inside: float, outside: float, s: float) -> float:
    return inside**s * outside ** (1 - s)


variance = Exercise(
    reference=_variance,
    cases=lambda: [(1.0, 2.0, 3.0), (0.5, 4.0, 1.5), (1.0, 3.0, 0.5)],
    mistakes=[
        Mistake(
            lambda inside, outside, s: 1 / (s / inside + (1 - s) / outside),
            Words(
                en=(
                    "That is the variance of the tilted density p(x) p(y|x)^s. The walk ends in a"
                    " narrower one: integrate (11.6)."
                ),
                zh="这是倾斜密度 p(x) p(y|x)^s 的方差。实际走到的更窄：请对 (11.6) 积分。",
            ),
        ),
        Mistake(
            lambda inside, outside, s: math.sqrt(inside**s * outside ** (1 - s)),
            Words(en="That is the standard deviation.", zh="这是标准差。"),
        ),
        Mistake(
            lambda inside, outside, s: s * inside + (1 - s) * outside,
            Words(
                en="Logarithms of variances mix in the walk, not variances.",
                zh="沿途线性混合的是方差的对数，而不是方差本身。",
            ),
        ),
    ],
    hint=Words(
        en="The integral of 1/(v + u) du is a logarithm. Let the largest u go to infinity last.",
        zh="1/(v + u) 对 u 的积分是对数。最后再让 u 的上限趋于无穷。",
    ),
)


# --- 5. dynamic thresholding ----------------------------------------------------------


def _wide(seed: int, *scales: float) -> Tensor:
    """Pictures (B, 3, 4, 4), each as wide as its scale."""
    pictures = _normal(seed, len(scales), 3, 4, 4)
    return pictures * torch.tensor(scales, dtype=torch.float64)[:, None, None, None]


def _threshold_of_the_batch(x0: Tensor, quantile: float) -> Tensor:
    c = torch.quantile(x0.abs().flatten(), quantile).clamp(min=1)
    return x0.clamp(-c, c) / c


def _threshold_without_floor(x0: Tensor, quantile: float) -> Tensor:
    c = torch.quantile(x0.abs().flatten(1), quantile, dim=1)[:, None, None, None]
    return torch.minimum(torch.maximum(x0, -c), c) / c


def _threshold_without_division(x0: Tensor, quantile: float) -> Tensor:
    c = torch.quantile(x0.abs().flatten(1), quantile, dim=1).clamp(min=1)
    c = c[:, None, None, None]
    return torch.minimum(torch.maximum(x0, -c), c)


threshold = Exercise(
    reference=package_threshold,
    cases=lambda: [(_wide(8, 0.2, 3.0), 0.9), (_wide(9, 1.5, 6.0, 0.3), 0.99)],
    mistakes=[
        Mistake(
            _threshold_of_the_batch,
            Words(
                en=(
                    "One threshold for the whole batch: a picture would depend on its neighbours."
                    " Take the quantile of each picture."
                ),
                zh="整批用了同一个阈值：一张图会受旁边的图影响。请对每张图各取分位数。",
            ),
        ),
        Mistake(
            _threshold_without_floor,
            Words(
                en=(
                    "A pale picture, whose quantile is below 1, is stretched to full contrast."
                    " The threshold is at least 1."
                ),
                zh="分位数不到 1 的浅色图被拉满了对比度。阈值至少为 1。",
            ),
        ),
        Mistake(
            _threshold_without_division,
            Words(
                en="Cut, but not brought back into [-1, 1]: divide by the threshold.",
                zh="只截断了，没有收回到 [-1, 1]：还要除以阈值。",
            ),
        ),
    ],
    hint=Words(
        en="torch.quantile(..., dim=1) of the flattened |x0|, at least 1; clip to it; divide.",
        zh="把 |x0| 展平后用 torch.quantile(..., dim=1) 取分位数，下限为 1；截断；再除。",
    ),
)


# --- 6. a whole walk ------------------------------------------------------------------

Model = Callable[[Tensor, float, bool], Tensor]


def _model(mean: float, told: float) -> Model:
    """The perfect eps of N(mean, 1), or of N(told, 0.25) if it may see the class."""

    def eps(x: Tensor, abar: float, conditional: bool) -> Tensor:
        centre, spread = (told, 0.25) if conditional else (mean, 1.0)
        variance = abar * spread + 1 - abar
        return math.sqrt(1 - abar) * (x - math.sqrt(abar) * centre) / variance

    return eps


def _walk(model: Model, x: Tensor, abars: list[float], s: float) -> Tensor:
    for abar, abar_prev in zip(abars, [*abars[1:], 1.0], strict=True):
        null, conditional = model(x, abar, False), model(x, abar, True)
        eps = null + s * (conditional - null)
        x0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        x = math.sqrt(abar_prev) * x0 + math.sqrt(1 - abar_prev) * eps
    return x


def _walk_half_guided(model: Model, x: Tensor, abars: list[float], s: float) -> Tensor:
    for abar, abar_prev in zip(abars, [*abars[1:], 1.0], strict=True):
        null, conditional = model(x, abar, False), model(x, abar, True)
        eps = null + s * (conditional - null)
        x0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        x = math.sqrt(abar_prev) * x0 + math.sqrt(1 - abar_prev) * conditional
    return x


def _walk_cut_short(model: Model, x: Tensor, abars: list[float], s: float) -> Tensor:
    for abar, abar_prev in zip(abars[:-1], abars[1:], strict=True):
        null, conditional = model(x, abar, False), model(x, abar, True)
        eps = null + s * (conditional - null)
        x0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        x = math.sqrt(abar_prev) * x0 + math.sqrt(1 - abar_prev) * eps
    return x


walk = Exercise(
    reference=_walk,
    cases=lambda: [
        (_model(0.0, 2.0), _normal(10, 5), [0.01, 0.3, 0.8, 0.99], 1.0),
        (_model(1.0, -1.0), _normal(11, 5), [0.02, 0.2, 0.5, 0.9], 3.0),
    ],
    mistakes=[
        Mistake(
            _walk_half_guided,
            Words(
                en=(
                    "x_0 is guided, the noise beside it is not: together they no longer make x_t."
                    " Both come from the guided eps."
                ),
                zh="x_0 引导了，旁边的噪声却没有：两者合起来不再是 x_t。两处都要用引导后的 eps。",
            ),
        ),
        Mistake(
            _walk_cut_short,
            Words(
                en="One step is missing: the last one goes from the last abar to abar = 1.",
                zh="少走了一步：最后一步要从最后一个 abar 走到 abar = 1。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "For each abar: two calls of the model, the guided eps by (11.3), x_0, and DDIM's"
            " step to the next abar; after the last one comes 1."
        ),
        zh=(
            "对每个 abar：调用模型两次，用 (11.3) 得到引导后的 eps，求 x_0，"
            "再走一步 DDIM 到下一个 abar；最后一个之后是 1。"
        ),
    ),
)
