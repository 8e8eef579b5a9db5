"""Exercises of chapter 10 (ADM and classifier guidance), and the diagnoses of their
usual mistakes.

Each reference is the shortest right answer; each mistake is an answer that students
(and published code) really give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words


def _normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# --- 1. adaptive group normalisation --------------------------------------------------


def _adagn(h: Tensor, scale: Tensor, shift: Tensor, groups: int) -> Tensor:
    normed = F.group_norm(h, groups)
    return normed * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


adagn = Exercise(
    reference=_adagn,
    cases=lambda: [
        (3 * _normal(0, 2, 4, 5, 5) + 1, _normal(1, 2, 4), _normal(2, 2, 4), 2),
        (_normal(3, 1, 6, 3, 3), _normal(4, 1, 6), _normal(5, 1, 6), 3),
    ],
    mistakes=[
        Mistake(
            lambda h, scale, shift, groups: (
                F.group_norm(h, groups) * scale[:, :, None, None]
                + shift[:, :, None, None]
            ),
            Words(
                en=(
                    "Multiply by 1 + scale: a layer that answers 0 must change nothing, or the"
                    " block starts as zero."
                ),
                zh="要乘 1 + scale：那一层输出 0 时应当什么都不改变，否则这个块一开始就输出零。",
            ),
        ),
        Mistake(
            lambda h, scale, shift, groups: F.group_norm(
                h * (1 + scale[:, :, None, None]) + shift[:, :, None, None], groups
            ),
            Words(
                en=(
                    "The order: normalise first. Normalising afterwards takes back what scale and"
                    " shift have done."
                ),
                zh="顺序反了：先归一化。最后再归一化，会把缩放和平移的作用抹掉。",
            ),
        ),
        Mistake(
            lambda h, scale, shift, groups: (
                F.group_norm(h, h.shape[1]) * (1 + scale[:, :, None, None])
                + shift[:, :, None, None]
            ),
            Words(
                en="Every channel is normalised by itself here; the groups are larger.",
                zh="你把每个通道各自归一化了；这里一组有好几个通道。",
            ),
        ),
    ],
    hint=Words(
        en="F.group_norm(h, groups), then 1 + scale and shift, each (B, C, 1, 1).",
        zh="先 F.group_norm(h, groups)，再乘 1 + scale、加 shift，形状各为 (B, C, 1, 1)。",
    ),
)


# --- 2. the gradient ------------------------------------------------------------------

Logits = Callable[[Tensor], Tensor]


def _linear(seed: int) -> Logits:
    """A classifier of three classes whose logits are bent a little."""
    weight = _normal(seed, 4, 3)
    return lambda x: torch.tanh(x @ weight) + 0.5 * x @ weight


def _gradient(logits: Logits, x: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        picked = F.log_softmax(logits(x), dim=1).gather(1, y[:, None]).sum()
        return torch.autograd.grad(picked, x)[0]


def _gradient_of_logits(logits: Logits, x: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        picked = logits(x).gather(1, y[:, None]).sum()
        return torch.autograd.grad(picked, x)[0]


def _gradient_of_mean(logits: Logits, x: Tensor, y: Tensor) -> Tensor:
    return _gradient(logits, x, y) / len(x)


gradient = Exercise(
    reference=_gradient,
    cases=lambda: [
        (_linear(6), _normal(7, 5, 4), torch.tensor([0, 1, 2, 1, 0])),
        (_linear(8), _normal(9, 2, 4), torch.tensor([2, 0])),
    ],
    mistakes=[
        Mistake(
            _gradient_of_logits,
            Words(
                en=(
                    "That is the gradient of the logit. log p(y|x) also falls when the other"
                    " classes rise: take log_softmax."
                ),
                zh="这是 logit 的梯度。别的类别上升时 log p(y|x) 也会下降：要用 log_softmax。",
            ),
        ),
        Mistake(
            _gradient_of_mean,
            Words(
                en=(
                    "Divided by the batch: a picture would be pulled less when more are drawn at"
                    " once. Sum, do not average."
                ),
                zh="被批大小除过了：同时画得越多，每张图受的拉力越小。应当求和，而不是求平均。",
            ),
        ),
        Mistake(
            lambda logits, x, y: -_gradient(logits, x, y),
            Words(
                en="The sign: this is the loss's gradient, which leads away from y.",
                zh="符号反了：这是损失的梯度，会背离 y。",
            ),
        ),
    ],
    hint=Words(
        en="log_softmax, gather the entry of y, sum over the batch, torch.autograd.grad.",
        zh="log_softmax，用 gather 取出 y 那一项，对整批求和，再 torch.autograd.grad。",
    ),
)


# --- 3. the shifted mean --------------------------------------------------------------

shifted_mean = Exercise(
    reference=lambda mean, variance, grad, s: mean + s * variance * grad,
    cases=lambda: [
        (_normal(10, 2, 3), _normal(11, 2, 3).abs(), _normal(12, 2, 3), 1.0),
        (_normal(13, 2, 3), _normal(14, 2, 3).abs(), _normal(15, 2, 3), 4.0),
    ],
    mistakes=[
        Mistake(
            lambda mean, variance, grad, s: mean + s * variance.sqrt() * grad,
            Words(
                en="The variance, not the standard deviation: (10.3) completes a square.",
                zh="要乘方差，不是标准差：(10.3) 是配方得来的。",
            ),
        ),
        Mistake(
            lambda mean, variance, grad, s: mean + s * grad,
            Words(
                en="A step that is sure of itself must hardly move: multiply by its variance.",
                zh="越确定的一步应当移动得越少：还要乘上它的方差。",
            ),
        ),
        Mistake(
            lambda mean, variance, grad, s: mean - s * variance * grad,
            Words(
                en="The gradient of log p(y|x) points to where y is likelier: add it.",
                zh="log p(y|x) 的梯度指向 y 更可能的地方：应当相加。",
            ),
        ),
    ],
    hint=Words(en="(10.3).", zh="(10.3)。"),
)


# --- 4. the shifted noise -------------------------------------------------------------

shifted_eps = Exercise(
    reference=lambda eps, grad, abar, s: eps - s * math.sqrt(1 - abar) * grad,
    cases=lambda: [
        (_normal(16, 2, 3), _normal(17, 2, 3), 0.3, 1.0),
        (_normal(18, 2, 3), _normal(19, 2, 3), 0.9, 5.0),
    ],
    mistakes=[
        Mistake(
            lambda eps, grad, abar, s: eps + s * math.sqrt(1 - abar) * grad,
            Words(
                en="The noise points away from the class: subtract.",
                zh="噪声指向远离该类的方向：应当减去。",
            ),
        ),
        Mistake(
            lambda eps, grad, abar, s: eps - s * math.sqrt(abar) * grad,
            Words(
                en="eps = -sqrt(1 - abar) score: the factor is the noise's size.",
                zh="eps = -sqrt(1 - abar) × 得分：系数是噪声的大小。",
            ),
        ),
        Mistake(
            lambda eps, grad, abar, s: eps - s * (1 - abar) * grad,
            Words(
                en="The standard deviation of the noise, not its variance.",
                zh="是噪声的标准差，不是方差。",
            ),
        ),
    ],
    hint=Words(
        en="Add s times the gradient to the score, and turn the score into eps again.",
        zh="把得分加上 s 倍梯度，再换回 eps。",
    ),
)


# --- 5. what that does to x_0 ---------------------------------------------------------

shifted_start = Exercise(
    reference=lambda x0, grad, abar, s: x0 + s * (1 - abar) / math.sqrt(abar) * grad,
    cases=lambda: [
        (_normal(20, 2, 3), _normal(21, 2, 3), 0.25, 1.0),
        (_normal(22, 2, 3), _normal(23, 2, 3), 0.81, 3.0),
    ],
    mistakes=[
        Mistake(
            lambda x0, grad, abar, s: x0 + s * math.sqrt(1 - abar) * grad,
            Words(
                en="That is what happens to -eps. x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar).",
                zh="这是 -eps 的变化。x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar)。",
            ),
        ),
        Mistake(
            lambda x0, grad, abar, s: x0 + s * (1 - abar) * grad,
            Words(
                en="One factor is missing: x_0 is x_t's picture part divided by sqrt(abar).",
                zh="少了一个因子：x_0 还要除以 sqrt(abar)。",
            ),
        ),
        Mistake(
            lambda x0, grad, abar, s: x0 - s * (1 - abar) / math.sqrt(abar) * grad,
            Words(
                en="The sign: x_0 moves with the gradient.",
                zh="符号：x_0 顺着梯度移动。",
            ),
        ),
    ],
    hint=Words(
        en="Put the shifted eps into x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar).",
        zh="把移动后的 eps 代入 x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar)。",
    ),
)


# --- 6. a whole walk, with a classifier -----------------------------------------------


def _walk(
    eps_of: Callable[[Tensor, float], Tensor],
    gradient_of: Callable[[Tensor, float], Tensor],
    x: Tensor,
    abars: Sequence[float],
    s: float,
) -> Tensor:
    for abar, abar_prev in zip(abars, [*abars[1:], 1.0], strict=True):
        eps = eps_of(x, abar) - s * math.sqrt(1 - abar) * gradient_of(x, abar)
        x0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        x = math.sqrt(abar_prev) * x0 + math.sqrt(1 - abar_prev) * eps
    return x


def _walk_stale(
    eps_of: Callable[[Tensor, float], Tensor],
    gradient_of: Callable[[Tensor, float], Tensor],
    x: Tensor,
    abars: Sequence[float],
    s: float,
) -> Tensor:
    first = gradient_of(x, abars[0])
    return _walk(eps_of, lambda x, abar: first, x, abars, s)


def _walk_only_x0(
    eps_of: Callable[[Tensor, float], Tensor],
    gradient_of: Callable[[Tensor, float], Tensor],
    x: Tensor,
    abars: Sequence[float],
    s: float,
) -> Tensor:
    for abar, abar_prev in zip(abars, [*abars[1:], 1.0], strict=True):
        plain = eps_of(x, abar)
        eps = plain - s * math.sqrt(1 - abar) * gradient_of(x, abar)
        x0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        x = math.sqrt(abar_prev) * x0 + math.sqrt(1 - abar_prev) * plain
    return x


def _gaussian_eps(x: Tensor, abar: float) -> Tensor:
    """The perfect eps of N(0, 1)."""
    return math.sqrt(1 - abar) * x


def _pull_to(centre: float) -> Callable[[Tensor, float], Tensor]:
    """The gradient of a logarithm that is largest at the centre."""
    return lambda x, abar: math.sqrt(abar) * (math.sqrt(abar) * centre - x)


walk = Exercise(
    reference=_walk,
    cases=lambda: [
        (_gaussian_eps, _pull_to(1.0), _normal(24, 4), [0.02, 0.3, 0.7, 0.98], 1.0),
        (_gaussian_eps, _pull_to(-2.0), _normal(25, 4), [0.05, 0.5, 0.9], 3.0),
    ],
    mistakes=[
        Mistake(
            _walk_stale,
            Words(
                en="The gradient is asked once only; it must be asked at every step, at x_t.",
                zh="梯度只求了一次；每一步都要在当前的 x_t 处重新求。",
            ),
        ),
        Mistake(
            _walk_only_x0,
            Words(
                en=(
                    "x_0 is moved, the noise beside it is not: together they no longer make x_t."
                    " Use the shifted eps in both places."
                ),
                zh="x_0 移动了，旁边的噪声却没有：两者合起来不再是 x_t。两处都要用移动后的 eps。",
            ),
        ),
    ],
    hint=Words(
        en="At each level: eps by (10.4), then x_0, then DDIM's step to the next level.",
        zh="在每一级：用 (10.4) 求 eps，再求 x_0，再走一步 DDIM 到下一级。",
    ),
)
