"""Exercises of chapter 19 (variations, blends, text diffs), and the diagnoses of their
usual mistakes.

Each reference is the shortest right answer; each mistake is an answer that students
(and published code) really give.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words


def _numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def _unit(*shape: int, seed: int) -> Tensor:
    """Unit vectors in the last dimension."""
    return torch.nn.functional.normalize(_numbers(*shape, seed=seed), dim=-1)


# --- 1. how short the straight line gets ----------------------------------------------


def _lerp_length(omega: float, share: float) -> float:
    """The length of (1 - share) a + share b, for unit vectors a and b at the angle
    omega.
    """
    return math.sqrt(
        (1 - share) ** 2 + share**2 + 2 * share * (1 - share) * math.cos(omega)
    )


lerp_length = Exercise(
    reference=_lerp_length,
    cases=lambda: [
        (math.pi / 2, 0.5),
        (math.pi / 3, 0.25),
        (2.0, 0.7),
        (0.0, 0.4),
        (1.0, 1.0),
    ],
    mistakes=[
        Mistake(
            lambda omega, share: _lerp_length(omega, share) ** 2,
            Words(
                en="That is the squared length: take the root.",
                zh="这是长度的平方：还要开平方根。",
            ),
        ),
        Mistake(
            lambda omega, share: math.cos(omega / 2),
            Words(
                en="Right in the middle, and only there: at the ends the length is 1.",
                zh="只在正中间是对的：两端的长度应当是 1。",
            ),
        ),
        Mistake(
            lambda omega, share: math.sqrt(
                (1 - share) ** 2 + share**2 + share * (1 - share) * math.cos(omega)
            ),
            Words(
                en="The mixed term comes twice: |u + w|² = |u|² + |w|² + 2 u · w.",
                zh="交叉项要出现两次：|u + w|² = |u|² + |w|² + 2 u · w。",
            ),
        ),
        Mistake(
            lambda omega, share: math.sqrt((1 - share) ** 2 + share**2),
            Words(
                en=(
                    "That holds at a right angle only. The dot product of a and b is"
                    " cos(omega), not 0."
                ),
                zh="这只在直角时成立。a 与 b 的点积是 cos(omega)，不是 0。",
            ),
        ),
    ],
    hint=Words(
        en="Write out the dot product of (1 - share) a + share b with itself.",
        zh="把 (1 - share) a + share b 与自己的点积展开。",
    ),
)


# --- 2. the angle ---------------------------------------------------------------------


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between two vectors of any length, exact near 0 and pi as well."""
    a, b = a / a.norm(), b / b.norm()
    return 2 * torch.atan2((a - b).norm(), (a + b).norm())


def _angle_by_acos(a: Tensor, b: Tensor) -> Tensor:
    return torch.acos(((a * b).sum() / (a.norm() * b.norm())).clamp(-1, 1))


angle = Exercise(
    reference=_angle,
    cases=lambda: [
        (_unit(8, seed=1).float(), _unit(8, seed=2).float()),
        (3 * _unit(8, seed=3).float(), 0.2 * _unit(8, seed=4).float()),
        (
            torch.tensor([1.0, 0.0]),
            torch.tensor([1.0, 1e-4]),
        ),  # acos sees no angle here: cos is 1 - 5e-9
        (torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1e-4])),
    ],
    mistakes=[
        Mistake(
            _angle_by_acos,
            Words(
                en=(
                    "Right on paper. In float32 the cosine of 0.0001 is 1 - 5e-9, and is stored"
                    " as 1: acos gives 0. Take the angle from the lengths of a - b and a + b,"
                    " with atan2."
                ),
                zh=(
                    "纸面上没错。可是在 float32 里，0.0001 的余弦是 1 - 5e-9，存下来就是 1，acos 得到 0。"
                    "改用 a - b 与 a + b 的长度，由 atan2 求角。"
                ),
            ),
        ),
        Mistake(
            lambda a, b: torch.acos(((a / a.norm()) * (b / b.norm())).clamp(-1, 1)),
            Words(
                en=(
                    "That is a number for each coordinate. The dot product is the SUM of the"
                    " products."
                ),
                zh="这样每个坐标各得一个数。点积是各坐标之积的总和。",
            ),
        ),
        Mistake(
            lambda a, b: 2 * torch.atan2((a - b).norm(), (a + b).norm()),
            Words(
                en="Right for unit vectors. These have other lengths: divide by them first.",
                zh="对单位向量是对的。但这些向量长度不一：先各自除以长度。",
            ),
        ),
        Mistake(
            lambda a, b: torch.atan2(
                (a / a.norm() - b / b.norm()).norm(),
                (a / a.norm() + b / b.norm()).norm(),
            ),
            Words(
                en="Half of it: |a - b| is 2 sin(omega / 2).",
                zh="只有一半：|a - b| 等于 2 sin(omega / 2)。",
            ),
        ),
    ],
    hint=Words(
        en="For unit vectors |a - b| = 2 sin(omega/2) and |a + b| = 2 cos(omega/2).",
        zh="对单位向量，|a - b| = 2 sin(omega/2)，|a + b| = 2 cos(omega/2)。",
    ),
    tolerance=1e-6,
)


# --- 3. slerp that survives equal vectors ---------------------------------------------


def _slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The arc between two vectors of any length (D,): the direction turns evenly, the
    length goes evenly.
    """
    length = (1 - share) * a.norm() + share * b.norm()
    a, b = a / a.norm(), b / b.norm()
    omega = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    aside = b - (a @ b) * a
    p = aside / aside.norm().clamp(
        min=1e-12
    )  # nothing where a and b are parallel; sin(0) makes it count for nothing
    return length * (torch.cos(share * omega) * a + torch.sin(share * omega) * p)


def _two_sines(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Shoemake's form, for unit vectors."""
    omega = torch.acos((a @ b).clamp(-1, 1))
    return (
        torch.sin((1 - share) * omega) * a + torch.sin(share * omega) * b
    ) / torch.sin(omega)


def _unit_slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    return _slerp(a / a.norm(), b / b.norm(), share)


def _sines_of_units(a: Tensor, b: Tensor, share: float) -> Tensor:
    length = (1 - share) * a.norm() + share * b.norm()
    return length * _two_sines(a / a.norm(), b / b.norm(), share)


def _elementwise(a: Tensor, b: Tensor, share: float) -> Tensor:
    omega = torch.acos((a / a.norm()) * (b / b.norm()))
    return (
        torch.sin((1 - share) * omega) * a + torch.sin(share * omega) * b
    ) / torch.sin(omega)


slerp = Exercise(
    reference=_slerp,
    cases=lambda: [
        (_unit(8, seed=5), _unit(8, seed=6), 0.25),
        (2 * _unit(8, seed=7), 0.5 * _unit(8, seed=8), 0.6),
        (torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, 0.0]).double(), 0.5),
    ],
    mistakes=[
        Mistake(
            lambda a, b, share: (1 - share) * a + share * b,
            Words(en="This is the straight line, lerp.", zh="这是直线插值（lerp）。"),
        ),
        Mistake(
            _elementwise,
            Words(
                en=(
                    "Your omega is a vector: acos of an elementwise product. The cosine of the"
                    " angle is the SUM of the products. This is the bug of the clinic."
                ),
                zh=(
                    "你的 omega 是一个向量：对逐元素的乘积取了 acos。夹角的余弦是各坐标之积的总和。"
                    "这正是诊室里的那个错误。"
                ),
            ),
        ),
        Mistake(
            _sines_of_units,
            Words(
                en=(
                    "Right, but for the last case: between equal vectors sin(omega) is 0, and"
                    " 0/0 is nan."
                ),
                zh="前两组都对，最后一组不行：两个向量相同时 sin(omega) 等于 0，0/0 得 nan。",
            ),
        ),
        Mistake(
            _two_sines,
            Words(
                en=(
                    "The formula asks for unit vectors. Divide by the lengths first, and give a"
                    " length back at the end."
                ),
                zh="这个公式只适用于单位向量。先除以各自的长度，最后再乘回一个长度。",
            ),
        ),
        Mistake(
            _unit_slerp,
            Words(
                en=(
                    "The direction is right; the length is always 1. It has to go evenly from"
                    " |a| to |b|."
                ),
                zh="方向对了，但长度总是 1。长度要从 |a| 均匀地走到 |b|。",
            ),
        ),
        Mistake(
            lambda a, b, share: _slerp(b, a, share),
            Words(
                en="The ends are swapped: share 0 is a.",
                zh="两端颠倒了：share 为 0 时应是 a。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "Equation (19.8): cos(share omega) a + sin(share omega) p needs no division by"
            " sin(omega)."
        ),
        zh="用式 (19.8)：cos(share omega) a + sin(share omega) p，不必除以 sin(omega)。",
    ),
)


# --- 4. opposite vectors --------------------------------------------------------------


def _half_circle(a: Tensor, share: float) -> Tensor:
    """From the unit vector a to -a, by way of the axis that a has least of."""
    axis = torch.zeros_like(a)
    axis[a.abs().argmin()] = 1
    aside = axis - (a @ axis) * a
    p = aside / aside.norm()
    return math.cos(share * math.pi) * a + math.sin(share * math.pi) * p


def _by_the_bare_axis(a: Tensor, share: float) -> Tensor:
    axis = torch.zeros_like(a)
    axis[a.abs().argmin()] = 1
    return math.cos(share * math.pi) * a + math.sin(share * math.pi) * axis


def _not_normalised(a: Tensor, share: float) -> Tensor:
    axis = torch.zeros_like(a)
    axis[a.abs().argmin()] = 1
    return math.cos(share * math.pi) * a + math.sin(share * math.pi) * (
        axis - (a @ axis) * a
    )


def _by_the_largest(a: Tensor, share: float) -> Tensor:
    axis = torch.zeros_like(a)
    axis[a.abs().argmax()] = 1
    aside = axis - (a @ axis) * a
    return (
        math.cos(share * math.pi) * a + math.sin(share * math.pi) * aside / aside.norm()
    )


half_circle = Exercise(
    reference=_half_circle,
    cases=lambda: [
        (torch.tensor([0.6, 0.8]).double(), 0.5),
        (_unit(8, seed=9), 0.25),
        (_unit(8, seed=10), 1.0),
    ],
    mistakes=[
        Mistake(
            lambda a, share: (1 - 2 * share) * a,
            Words(
                en="The straight line: halfway it is the zero vector. Go round by p.",
                zh="这是直线：走到一半成了零向量。要从 p 那边绕过去。",
            ),
        ),
        Mistake(
            _by_the_bare_axis,
            Words(
                en="The axis isn't at a right angle to a: take away its share along a.",
                zh="坐标轴与 a 并不垂直：要减去它沿 a 的分量。",
            ),
        ),
        Mistake(
            _not_normalised,
            Words(
                en="At a right angle, but shorter than 1: p must be a unit vector.",
                zh="垂直了，但长度不到 1：p 必须是单位向量。",
            ),
        ),
        Mistake(
            _by_the_largest,
            Words(
                en=(
                    "You take the axis that a has MOST of. Then little is left of it off a, in"
                    " the worst case nothing."
                ),
                zh="你取了 a 分量最大的那条轴。减去沿 a 的部分后所剩无几，最坏时什么也不剩。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "axis = the unit vector of coordinate argmin |a|; p = normalise(axis - (a ·"
            " axis) a)."
        ),
        zh="axis 是第 argmin |a| 个坐标轴的单位向量；p = normalise(axis - (a · axis) a)。",
    ),
)


# --- 5. the text direction ------------------------------------------------------------


def _direction(target: Tensor, source: Tensor) -> Tensor:
    """z_d of B pairs of captions, (B, D) and (B, D) -> unit vectors (B, D)."""
    difference = target - source
    return difference / difference.norm(dim=1, keepdim=True)


text_direction = Exercise(
    reference=_direction,
    cases=lambda: [
        (_unit(3, 8, seed=11), _unit(3, 8, seed=12)),
        (_unit(1, 4, seed=13), _unit(1, 4, seed=14)),
    ],
    mistakes=[
        Mistake(
            lambda target, source: target - source,
            Words(
                en=(
                    "The direction is right, the length is not 1: slerp would change the length"
                    " on the way."
                ),
                zh="方向对了，长度却不是 1：球面插值的途中长度会变。",
            ),
        ),
        Mistake(
            lambda target, source: _direction(source, target),
            Words(
                en="You walk from the target back to the source.",
                zh="你从目标走回了原文：方向反了。",
            ),
        ),
        Mistake(
            lambda target, source: (target - source) / (target - source).norm(),
            Words(
                en=(
                    "You divide by the length of the whole batch: each row needs its own,"
                    " dim=1, keepdim=True."
                ),
                zh="你除的是整批的长度：每一行要除以自己的长度，dim=1, keepdim=True。",
            ),
        ),
        Mistake(
            lambda target, source: target,
            Words(
                en="That is the target itself. What source and target share must cancel.",
                zh="这是目标本身。原文与目标共有的部分必须相消。",
            ),
        ),
    ],
    hint=Words(
        en="Subtract, then divide each row by its own length.",
        zh="先相减，再让每一行除以自己的长度。",
    ),
)


# --- 6. a step of the inversion -------------------------------------------------------


def _invert_step(x: Tensor, pred_x0: Tensor, abar: float, abar_next: float) -> Tensor:
    """From x at the level abar to the noisier level abar_next."""
    eps = (x - math.sqrt(abar) * pred_x0) / math.sqrt(1 - abar)
    return math.sqrt(abar_next) * pred_x0 + math.sqrt(1 - abar_next) * eps


def _noise_afresh(x: Tensor, pred_x0: Tensor, abar: float, abar_next: float) -> Tensor:
    return math.sqrt(abar_next) * pred_x0 + math.sqrt(1 - abar_next) * torch.randn_like(
        x
    )


def _forward_process(
    x: Tensor, pred_x0: Tensor, abar: float, abar_next: float
) -> Tensor:
    share = abar_next / abar
    return math.sqrt(share) * x + math.sqrt(1 - share) * torch.randn_like(x)


def _eps_of_the_far_end(
    x: Tensor, pred_x0: Tensor, abar: float, abar_next: float
) -> Tensor:
    eps = (x - math.sqrt(abar_next) * pred_x0) / math.sqrt(1 - abar_next)
    return math.sqrt(abar_next) * pred_x0 + math.sqrt(1 - abar_next) * eps


invert_step = Exercise(
    reference=_invert_step,
    cases=lambda: [
        (_numbers(2, 3, 4, 4, seed=15), _numbers(2, 3, 4, 4, seed=16), 0.9, 0.7),
        (_numbers(2, 3, 4, 4, seed=17), _numbers(2, 3, 4, 4, seed=18), 0.4, 0.1),
    ],
    mistakes=[
        Mistake(
            _noise_afresh,
            Words(
                en=(
                    "You add fresh noise. Then x_T belongs to any picture: the inversion keeps"
                    " the noise that is in x."
                ),
                zh="你加的是新噪声，那样 x_T 与这张图就没有关系了：反演要沿用 x 里已有的噪声。",
            ),
        ),
        Mistake(
            _forward_process,
            Words(
                en=(
                    "That is a step of the forward process q, which rolls dice. The inversion"
                    " is a function of x."
                ),
                zh="这是前向过程 q 的一步，是掷骰子。反演是 x 的确定函数。",
            ),
        ),
        Mistake(
            _eps_of_the_far_end,
            Words(
                en=(
                    "That gives x back: the noise must be worked out at the level where x is,"
                    " abar, not at abar_next."
                ),
                zh="这样又得回了 x：噪声要按 x 所在的强度 abar 来求，而不是 abar_next。",
            ),
        ),
        Mistake(
            lambda x, pred_x0, abar, abar_next: _invert_step(
                x, pred_x0, abar_next, abar
            ),
            Words(
                en="The two levels are swapped: x lies at abar, and you step to abar_next.",
                zh="两个强度颠倒了：x 在 abar 处，要走到 abar_next。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "First the noise in x, from (9.1) solved for eps; then put both together at"
            " abar_next."
        ),
        zh="先由 (9.1) 解出 x 里的噪声 eps，再按 abar_next 把两者合起来。",
    ),
)


# --- 7. how much of x_T survives ------------------------------------------------------


def _kept(abar: Tensor, abar_prev: Tensor, eta: float) -> Tensor:
    """The share of the noise in x_T that is left after the last step but one: abar
    (K,), cleanest step first.
    """
    fresh = (eta**2 * (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))[
        1:
    ]  # sigma² of each step that adds noise
    return (1 - fresh / (1 - abar_prev[1:])).sqrt().prod()


def _levels(count: int, low: float = 0.01) -> tuple[Tensor, Tensor]:
    abar = torch.linspace(0.99, low, count, dtype=torch.float64)
    return abar, torch.cat([abar.new_ones(1), abar[:-1]])


def _kept_variance(abar: Tensor, abar_prev: Tensor, eta: float) -> Tensor:
    return _kept(abar, abar_prev, eta) ** 2


def _eta_outside(abar: Tensor, abar_prev: Tensor, eta: float) -> Tensor:
    fresh = (eta * (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))[1:]
    return (1 - fresh / (1 - abar_prev[1:])).sqrt().prod()


def _not_divided(abar: Tensor, abar_prev: Tensor, eta: float) -> Tensor:
    fresh = (eta**2 * (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))[1:]
    return (1 - fresh).sqrt().prod()


kept_noise = Exercise(
    reference=_kept,
    cases=lambda: [
        (*_levels(6), 1.0),
        (*_levels(10), 0.5),
        (*_levels(4, 0.2), 0.25),
        (*_levels(5), 0.0),
    ],
    mistakes=[
        Mistake(
            _kept_variance,
            Words(
                en=(
                    "That is the share of the variance. The share of the noise itself is its"
                    " root."
                ),
                zh="这是方差的份额。噪声本身的份额还要开平方根。",
            ),
        ),
        Mistake(
            _eta_outside,
            Words(
                en="eta multiplies sigma, so sigma² has eta squared.",
                zh="eta 乘在 sigma 上，所以 sigma² 里是 eta 的平方。",
            ),
        ),
        Mistake(
            _not_divided,
            Words(
                en=(
                    "After the step the noise has the variance 1 - abar_prev, not 1: compare"
                    " sigma² with that."
                ),
                zh="走完这一步，噪声的方差是 1 - abar_prev，不是 1：sigma² 要与它相比。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "Equation (19.5). Leave out index 0: its abar_prev is 1, and there is no noise left"
            " to share."
        ),
        zh="见式 (19.5)。去掉下标 0：那里 abar_prev 等于 1，已经没有噪声可分。",
    ),
)


# --- 8. PSNR of a batch ---------------------------------------------------------------


def _psnr(given: Tensor, wanted: Tensor) -> Tensor:
    """Decibels of each picture of a batch, (B, 3, H, W) in [-1, 1] -> (B,)."""
    error = (given - wanted).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error)


psnr = Exercise(
    reference=_psnr,
    cases=lambda: [
        (
            _numbers(3, 3, 4, 4, seed=19).clamp(-1, 1),
            _numbers(3, 3, 4, 4, seed=20).clamp(-1, 1),
        ),
        (
            torch.tensor([0.5, -0.25]).view(2, 1, 1, 1).expand(2, 3, 4, 4),
            torch.zeros(2, 3, 4, 4),
        ),
    ],
    mistakes=[
        Mistake(
            lambda given, wanted: (
                10 * torch.log10(4 / (given - wanted).square().mean())
            ),
            Words(
                en=(
                    "One number for the whole batch. Average over each picture's own pixels:"
                    " flatten(1), mean(dim=1)."
                ),
                zh="整批只得到一个数。应对每张图自己的像素取平均：flatten(1)，再 mean(dim=1)。",
            ),
        ),
        Mistake(
            lambda given, wanted: (
                10 * torch.log10(1 / (given - wanted).square().flatten(1).mean(dim=1))
            ),
            Words(
                en="Too small by 6.02 dB. From -1 to 1 the peak is 2, and its square 4.",
                zh="小了 6.02 dB。从 -1 到 1，峰值是 2，平方是 4。",
            ),
        ),
        Mistake(
            lambda given, wanted: (
                (10 * torch.log10(4 / (given - wanted).square())).flatten(1).mean(dim=1)
            ),
            Words(
                en=(
                    "You average the pixels' decibels. Average the squared errors first, then"
                    " take one logarithm: a pixel that happens to fit exactly would have"
                    " infinitely many decibels."
                ),
                zh=(
                    "你平均的是每个像素的分贝数。应先平均平方误差，"
                    "再取一次对数：恰好完全相同的像素，分贝数是无穷大。"
                ),
            ),
        ),
    ],
    hint=Words(
        en="4 over the mean squared error of each picture.",
        zh="用 4 除以每张图各自的均方误差。",
    ),
)


# --- 9. PCA ---------------------------------------------------------------------------


def _reconstruct(z: Tensor, mean: Tensor, axes: Tensor, rank: int) -> Tensor:
    """What the first `rank` axes (rows) keep of z (B, D)."""
    kept = axes[:rank]
    return mean + (z - mean) @ kept.T @ kept


def _no_mean(z: Tensor, mean: Tensor, axes: Tensor, rank: int) -> Tensor:
    return z @ axes[:rank].T @ axes[:rank]


def _mean_forgotten(z: Tensor, mean: Tensor, axes: Tensor, rank: int) -> Tensor:
    return (z - mean) @ axes[:rank].T @ axes[:rank]


def _columns(z: Tensor, mean: Tensor, axes: Tensor, rank: int) -> Tensor:
    kept = axes[:, :rank]
    return mean + (z - mean) @ kept @ kept.T


def _last_axes(z: Tensor, mean: Tensor, axes: Tensor, rank: int) -> Tensor:
    return _reconstruct(z, mean, axes.flip(0), rank)


def _pca_case(rank: int) -> tuple[Tensor, Tensor, Tensor, int]:
    axes = torch.linalg.qr(_numbers(6, 6, seed=21))[0]
    return _numbers(4, 6, seed=22), _numbers(6, seed=23), axes, rank


reconstruct = Exercise(
    reference=_reconstruct,
    cases=lambda: [_pca_case(0), _pca_case(2), _pca_case(5)],
    mistakes=[
        Mistake(
            _no_mean,
            Words(
                en=(
                    "The axes start at the mean, not at 0: take it away first, and put it back"
                    " at the end."
                ),
                zh="这些轴以均值为原点，不以 0 为原点：先减去均值，最后再加回来。",
            ),
        ),
        Mistake(
            _mean_forgotten,
            Words(
                en="The mean has to come back at the end.", zh="最后要把均值加回来。"
            ),
        ),
        Mistake(
            _columns,
            Words(
                en="Here each axis is a ROW of axes.", zh="这里每条轴是 axes 的一行。"
            ),
        ),
        Mistake(
            _last_axes,
            Words(
                en=(
                    "Those are the last axes. They are sorted by falling variance: keep the"
                    " first."
                ),
                zh="你留下的是最后几条轴。轴按方差从大到小排列：要留前面的。",
            ),
        ),
    ],
    hint=Words(
        en="Coordinates: (z - mean) @ axes[:rank].T. Back: @ axes[:rank], and + mean.",
        zh="先求坐标：(z - mean) @ axes[:rank].T；再变回来：@ axes[:rank]，然后加 mean。",
    ),
)


# --- 10. what CLIP would bet ----------------------------------------------------------


def _probabilities(image_emb: Tensor, text_emb: Tensor, scale: float) -> Tensor:
    """Which of M captions (M, D) fits each of B pictures (B, D): probabilities (B,
    M).
    """
    return torch.softmax(scale * image_emb @ text_emb.T, dim=1)


probabilities = Exercise(
    reference=_probabilities,
    cases=lambda: [
        (_unit(2, 8, seed=24), _unit(3, 8, seed=25), 10.0),
        (_unit(4, 6, seed=26), _unit(5, 6, seed=27), 50.0),
    ],
    mistakes=[
        Mistake(
            lambda image_emb, text_emb, scale: torch.softmax(
                image_emb @ text_emb.T, dim=1
            ),
            Words(
                en="Without the scale all captions are nearly alike: cosines differ by tenths.",
                zh="没有乘 scale，各条描述文字几乎不分上下：余弦之间只差零点几。",
            ),
        ),
        Mistake(
            lambda image_emb, text_emb, scale: torch.softmax(
                scale * image_emb @ text_emb.T, dim=0
            ),
            Words(
                en=(
                    "Your columns sum to 1: pictures compete for a caption. Captions compete"
                    " for each picture, dim=1."
                ),
                zh="你的每一列之和是 1：成了图片争描述文字。应当是各条描述文字争同一张图，dim=1。",
            ),
        ),
        Mistake(
            lambda image_emb, text_emb, scale: scale * image_emb @ text_emb.T,
            Words(
                en="Those are the logits; the softmax is missing.",
                zh="这是 logits，还差一个 softmax。",
            ),
        ),
    ],
    hint=Words(
        en="softmax over the captions of scale · cosine.",
        zh="对 scale · 余弦 在各条描述文字之间取 softmax。",
    ),
)


# --- 11. the whole inversion ----------------------------------------------------------

NoiseGuess = Callable[[Tensor, int], Tensor]


def _sees_noise(x: Tensor, k: int) -> Tensor:
    """A network of one line: its guess of the noise in x at place k."""
    return torch.tanh(0.6 * x - 0.05 * k)


def _up(x: Tensor, eps: Tensor, abar: float, abar_next: float) -> Tensor:
    """From the level abar to the noisier abar_next, with the noise eps kept."""
    x0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    return math.sqrt(abar_next) * x0 + math.sqrt(1 - abar_next) * eps


def _inversion(guess: NoiseGuess, x: Tensor, abar: list[float]) -> Tensor:
    """From a picture to x_T; abar: ᾱ of each place, the cleanest first."""
    for k in range(len(abar) - 1):
        x = _up(x, guess(x, k), abar[k], abar[k + 1])
    return x


def _inversion_at_the_far_end(
    guess: NoiseGuess, x: Tensor, abar: list[float]
) -> Tensor:
    for k in range(len(abar) - 1):
        x = _up(x, guess(x, k + 1), abar[k], abar[k + 1])
    return x


def _inversion_guessed_once(guess: NoiseGuess, x: Tensor, abar: list[float]) -> Tensor:
    eps = guess(x, 0)
    for k in range(len(abar) - 1):
        x = _up(x, eps, abar[k], abar[k + 1])
    return x


def _inversion_too_short(guess: NoiseGuess, x: Tensor, abar: list[float]) -> Tensor:
    return _inversion(guess, x, abar[:-1])


def _inversion_downwards(guess: NoiseGuess, x: Tensor, abar: list[float]) -> Tensor:
    for k in reversed(range(1, len(abar))):
        x = _up(x, guess(x, k), abar[k], abar[k - 1])
    return x


inversion = Exercise(
    reference=_inversion,
    cases=lambda: [
        (_sees_noise, _numbers(2, 3, 4, 4, seed=40), [0.99, 0.7, 0.3, 0.05]),
        (_sees_noise, _numbers(1, 3, 4, 4, seed=41), [0.95, 0.5, 0.1]),
        (_sees_noise, _numbers(1, 3, 4, 4, seed=42), [0.9, 0.6, 0.4, 0.2, 0.1]),
    ],
    mistakes=[
        Mistake(
            _inversion_at_the_far_end,
            Words(
                en=(
                    "The guess is made at the near end, where x is: place k, not k + 1. (Open"
                    " question (a) tries the far end.)"
                ),
                zh="猜测要在近端做，也就是 x 所在的位置 k，不是 k + 1。（远端留给开放题 (a)。）",
            ),
        ),
        Mistake(
            _inversion_guessed_once,
            Words(
                en="The guess changes along the curve: ask again in each step.",
                zh="猜测沿着曲线在变：每一步都要重新问一次。",
            ),
        ),
        Mistake(
            _inversion_too_short,
            Words(
                en="You stop one place short: the last move reaches the last level.",
                zh="少走了一步：最后一步要走到最后一个 ᾱ。",
            ),
        ),
        Mistake(
            _inversion_downwards,
            Words(
                en="That is sampling. The inversion starts at the cleanest place, k = 0.",
                zh="这是采样。反演从最干净的位置 k = 0 出发。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "K levels, K - 1 moves. In each: the guess at k, from it the clean picture, and"
            " both put together at abar[k + 1]."
        ),
        zh="K 个 ᾱ，走 K - 1 步。每步：在 k 处猜噪声，由它得到干净的图，再按 abar[k + 1] 合起来。",
    ),
)
