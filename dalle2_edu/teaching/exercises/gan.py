"""Exercises of chapter 03 (generative adversarial networks), and the diagnoses of their
usual mistakes.

Logits are written s: D(x) = sigmoid(s(x)). Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.baselines import gan, gan_worlds
from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words


def _random(seed: int, *shape: int) -> Tensor:
    """Standard normal noise of this shape, always the same."""
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def _plane(*places: list[float]) -> Tensor:
    """Points of the plane, (N, 2)."""
    return torch.tensor(places, dtype=torch.float64)


def _logits() -> list[tuple[Tensor, Tensor]]:
    """Logits on real and generated pictures."""
    return [
        (2 * _random(1, 6) + 1, 2 * _random(2, 6) - 1),
        (_random(3, 1), _random(4, 1)),
    ]


# --- 1. the best discriminator --------------------------------------------------------


def _best(p: Tensor, q: Tensor) -> Tensor:
    return p / (p + q)


def _best_for_generated(p: Tensor, q: Tensor) -> Tensor:
    return q / (p + q)


def _ratio(p: Tensor, q: Tensor) -> Tensor:
    return p / q


optimal_discriminator = Exercise(
    reference=_best,
    cases=lambda: [
        (_random(5, 7).exp(), _random(6, 7).exp()),
        (torch.tensor([0.3]).double(), torch.tensor([0.1]).double()),
    ],
    mistakes=[
        Mistake(
            _best_for_generated,
            Words(
                en="That is the probability of `generated`. D answers how probable `real` is.",
                zh="这是“生成的”概率。D 回答的是“真实的”概率。",
            ),
        ),
        Mistake(
            _ratio,
            Words(
                en=(
                    "That is the ratio of the densities, between 0 and infinity. The best"
                    " logit is its logarithm; D itself is a probability."
                ),
                zh="这是两个密度之比，取值从 0 到无穷大。它的对数才是最优 logit；D 本身是概率。",
            ),
        ),
    ],
    hint=Words(
        en="Differentiate p log D + q log(1 - D) by D and set it to 0.",
        zh="把 p log D + q log(1 - D) 对 D 求导，令导数为 0。",
    ),
)

# --- 2. the discriminator's loss ------------------------------------------------------


def _d_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return gan.discriminator_loss("minimax", on_real, on_fake)


def _d_loss_swapped(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return gan.discriminator_loss("minimax", on_fake, on_real)


def _d_value(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return -_d_loss(on_real, on_fake)


def _d_loss_halved(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return _d_loss(on_real, on_fake) / 2


discriminator_loss = Exercise(
    reference=_d_loss,
    cases=_logits,
    mistakes=[
        Mistake(
            _d_loss_swapped,
            Words(
                en="Real and generated are swapped: this D learns to call generated pictures real.",
                zh="真实与生成弄反了：这样的 D 会学着把生成的图说成真的。",
            ),
        ),
        Mistake(
            _d_value,
            Words(
                en="That is V, which D maximises. A loss is minimised: change the sign.",
                zh="这是 D 要最大化的 V。损失是要最小化的：改一下符号。",
            ),
        ),
        Mistake(
            _d_loss_halved,
            Words(
                en=(
                    "Half of it: the mean over all 2B pictures. (3.1) adds two means, one for"
                    " real pictures and one for generated ones."
                ),
                zh="只有一半：你对全部 2B 张图取了平均。(3.1) 是两个平均值之和，真图一个，生成图一个。",
            ),
        ),
    ],
    hint=Words(
        en="log sigmoid(s) = -softplus(-s), and log(1 - sigmoid(s)) = -softplus(s).",
        zh="利用 log sigmoid(s) = -softplus(-s)，log(1 - sigmoid(s)) = -softplus(s)。",
    ),
)

# --- 3. the gradient that reaches the generator ---------------------------------------


def _gradients(on_fake: Tensor) -> tuple[Tensor, Tensor]:
    d = torch.sigmoid(on_fake)
    return -d, d - 1


def _gradients_swapped(on_fake: Tensor) -> tuple[Tensor, Tensor]:
    minimax, non_saturating = _gradients(on_fake)
    return non_saturating, minimax


def _gradients_by_d(on_fake: Tensor) -> tuple[Tensor, Tensor]:
    d = torch.sigmoid(on_fake)
    return -1 / (1 - d), -1 / d


generator_gradients = Exercise(
    reference=_gradients,
    cases=lambda: [(_random(7, 5) * 3,), (torch.tensor([-6.0, 0.0, 6.0]).double(),)],
    mistakes=[
        Mistake(
            _gradients_swapped,
            Words(
                en=(
                    "The two are swapped. Minimax is the one that vanishes where D is sure,"
                    " s << 0."
                ),
                zh="两个弄反了。在 D 很有把握的地方（s << 0）消失的，是 minimax 损失的梯度。",
            ),
        ),
        Mistake(
            _gradients_by_d,
            Words(
                en=(
                    "You differentiate by D. By the logit s there is one more factor,"
                    " dD/ds = D (1 - D)."
                ),
                zh="你是对 D 求导。对 logit s 求导还要乘一个因子 dD/ds = D (1 - D)。",
            ),
        ),
    ],
    hint=Words(
        en="The derivative of softplus is sigmoid.",
        zh="softplus 的导数是 sigmoid。",
    ),
)

# --- 4. hinge -------------------------------------------------------------------------


def _hinge(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return gan.discriminator_loss("hinge", on_real, on_fake)


def _hinge_swapped(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return F.relu(1 + on_real).mean() + F.relu(1 - on_fake).mean()


def _no_hinge(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return (1 - on_real).mean() + (1 + on_fake).mean()


def _no_margin(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return F.relu(-on_real).mean() + F.relu(on_fake).mean()


hinge = Exercise(
    reference=_hinge,
    cases=_logits,
    mistakes=[
        Mistake(
            _hinge_swapped,
            Words(
                en="The signs are swapped: real pictures must be pushed above +1.",
                zh="符号弄反了：真图的 logit 应当被推到 +1 以上。",
            ),
        ),
        Mistake(
            _no_hinge,
            Words(
                en=(
                    "Without the relu D is rewarded for ever larger logits. The hinge stops"
                    " caring beyond the margin."
                ),
                zh="没有 relu，logit 越大 D 得到的奖励越多，没有尽头。越过间隔之后，合页损失就不再计较了。",
            ),
        ),
        Mistake(
            _no_margin,
            Words(
                en="There is no margin: with it, a logit of 0.5 on a real picture still costs 0.5.",
                zh="缺了间隔 1：真图的 logit 为 0.5 时，损失仍应是 0.5。",
            ),
        ),
    ],
    hint=Words(
        en="Two relus, one for each kind of picture; each is 0 beyond its margin of 1.",
        zh="两个 relu，真图和生成图各一个；越过间隔 1 之后都为 0。",
    ),
)

# --- 5. R1 ----------------------------------------------------------------------------

Judge = Callable[[Tensor], Tensor]


def _squared_slope(judge: Judge, real: Tensor) -> Tensor:
    points = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(points).sum(), points, create_graph=True)
    return gradient.flatten(1).square()  # (B, D)


def _r1(judge: Judge, real: Tensor) -> Tensor:
    return _squared_slope(judge, real).sum(dim=1).mean() / 2


def _r1_not_halved(judge: Judge, real: Tensor) -> Tensor:
    return _squared_slope(judge, real).sum(dim=1).mean()


def _r1_over_pixels(judge: Judge, real: Tensor) -> Tensor:
    return _squared_slope(judge, real).mean() / 2


def _r1_root(judge: Judge, real: Tensor) -> Tensor:
    return _squared_slope(judge, real).sum(dim=1).sqrt().mean() / 2


def _r1_of_mean(judge: Judge, real: Tensor) -> Tensor:
    """The gradient of the mean logit: smaller by the batch size."""
    return _squared_slope(judge, real).sum(dim=1).mean() / 2 / len(real) ** 2


def _r1_without_graph(judge: Judge, real: Tensor) -> Tensor:
    points = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(points).sum(), points)
    return gradient.flatten(1).square().sum(dim=1).mean() / 2


def _kept(gradient: Tensor) -> Tensor:
    """The gradient if its graph is kept, otherwise 0."""
    # gradients are switched on inside a backward pass only under create_graph=True
    return gradient if torch.is_grad_enabled() else torch.zeros_like(gradient)


def _watched(x: Tensor) -> Tensor:
    """A copy of x whose gradient is 0 for whoever does not keep the graph: the number
    would be right, and D could not learn from it.
    """
    copied = x.clone()
    if copied.requires_grad:
        copied.register_hook(_kept)
    return copied


def _bowl(x: Tensor) -> Tensor:
    x = _watched(x)
    return (x.flatten(1) ** 2).sum(dim=1) * torch.tensor(0.7).double()


def _wave(x: Tensor) -> Tensor:
    x = _watched(x)
    return (x.flatten(1) @ torch.tensor([1.0, -2.0, 0.5, 3.0]).double()).sin()


r1 = Exercise(
    reference=_r1,
    cases=lambda: [(_bowl, _random(8, 5, 3)), (_wave, _random(9, 6, 1, 2, 2))],
    mistakes=[
        Mistake(
            _r1_without_graph,
            Words(
                en=(
                    "The slope is a plain number for you: D can't learn to make it smaller."
                    " (The check sets such a slope to 0.) Keep the graph: create_graph=True."
                ),
                zh=(
                    "你得到的斜率只是一个数，没有计算图，D 没法学着把它变小。"
                    "（检查程序把这样的斜率当作 0。）请保留计算图：create_graph=True。"
                ),
            ),
        ),
        Mistake(
            _r1_not_halved,
            Words(
                en="Twice too much: R1 is defined with gamma / 2.",
                zh="多了一倍：R1 的系数是 gamma / 2。",
            ),
        ),
        Mistake(
            _r1_over_pixels,
            Words(
                en=(
                    "You take the mean over pixels. The squared length of a gradient is the"
                    " sum over its entries; the mean is over pictures only."
                ),
                zh="你对像素取了平均。梯度长度的平方是各分量平方之和；只对图像取平均。",
            ),
        ),
        Mistake(
            _r1_root,
            Words(
                en="That is the length of the gradient, not its square.",
                zh="这是梯度的长度，不是长度的平方。",
            ),
        ),
        Mistake(
            _r1_of_mean,
            Words(
                en=(
                    "You differentiate the mean logit: each picture's gradient is too small by"
                    " the batch size. Differentiate the sum."
                ),
                zh="你对 logit 的平均值求了导：每张图的梯度小了，差的倍数就是批大小。应当对总和求导。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "torch.autograd.grad(judge(points).sum(), points, create_graph=True): pictures do"
            " not mix, so the gradient of the sum holds each picture's own gradient."
        ),
        zh=(
            "torch.autograd.grad(judge(points).sum(), points, create_graph=True)："
            "图与图互不相干，所以总和的梯度里装着每张图自己的梯度。"
        ),
    ),
)

# --- 6. one step of the Dirac-GAN -----------------------------------------------------


def _growth(rate: float, gamma: float) -> float:
    """By how much one step near the goal multiplies the distance, at worst."""
    return float((1 + rate * gan_worlds.dirac_eigenvalues(0.5, gamma)).abs().max())


def _growth_of_flow(rate: float, gamma: float) -> float:
    return float((rate * gan_worlds.dirac_eigenvalues(0.5, gamma)).exp().abs().max())


def _growth_of_real_part(rate: float, gamma: float) -> float:
    return float((1 + rate * gan_worlds.dirac_eigenvalues(0.5, gamma).real).abs().max())


def _growth_at_best(rate: float, gamma: float) -> float:
    return float((1 + rate * gan_worlds.dirac_eigenvalues(0.5, gamma)).abs().min())


dirac_growth = Exercise(
    reference=_growth,
    cases=lambda: [(0.2, 0.0), (0.2, 0.3), (0.5, 1.5), (1.0, 0.1)],
    mistakes=[
        Mistake(
            _growth_of_flow,
            Words(
                en=(
                    "That is the flow, infinitely small steps. A step of size h multiplies by"
                    " 1 + h lambda; that is why the circle becomes a spiral."
                ),
                zh="这是无穷小步长的流。步长 h 的一步乘的是 1 + h lambda，圆正因此变成了螺线。",
            ),
        ),
        Mistake(
            _growth_of_real_part,
            Words(
                en="You drop the imaginary part. The length of a complex number has both.",
                zh="你丢掉了虚部。复数的模由实部和虚部共同决定。",
            ),
        ),
        Mistake(
            _growth_at_best,
            Words(
                en="In the end the slower of two decays is left: take the larger factor.",
                zh="到最后剩下的是衰减较慢的那个分量：取较大的因子。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "(3.7) gives two numbers lambda, complex ones for gamma < 1; the answer is the"
            " larger |1 + h lambda|."
        ),
        zh="(3.7) 给出两个特征值 lambda（gamma < 1 时是复数）；答案是较大的 |1 + h lambda|。",
    ),
)

# --- 7. counting modes ----------------------------------------------------------------


def _modes(points: Tensor, centres: Tensor, near: float) -> int:
    distance, nearest = torch.cdist(points, centres).min(dim=1)
    return len(nearest[distance < near].unique())


def _modes_without_near(points: Tensor, centres: Tensor, near: float) -> int:
    return len(torch.cdist(points, centres).argmin(dim=1).unique())


def _points_on_modes(points: Tensor, centres: Tensor, near: float) -> int:
    return int((torch.cdist(points, centres).min(dim=1).values < near).sum())


def _modes_of_all_near(points: Tensor, centres: Tensor, near: float) -> int:
    return int((torch.cdist(points, centres) < near).any(dim=0).sum())


def _square() -> Tensor:
    return _plane([1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0])


modes = Exercise(
    reference=_modes,
    cases=lambda: [
        (_square()[[0, 0, 1]] + 0.05 * _random(10, 3, 2), _square(), 0.3),
        (torch.cat([_square(), _square()[:2] * 3]), _square()[:3], 0.3),
        (0.1 * _random(11, 20, 2), _square(), 0.3),
        # two centres so close together that the first point is near both
        (_plane([0.15, 0.0], [-0.1, 0.0]), _plane([0.0, 0.0], [0.4, 0.0]), 0.3),
    ],
    mistakes=[
        Mistake(
            _modes_of_all_near,
            Words(
                en=(
                    "A point that is near two centres counts for both with you. It belongs to"
                    " its nearest centre only."
                ),
                zh="一个点离两个中心都近时，你给两个都计了数。它只能算给离它最近的那个。",
            ),
        ),
        Mistake(
            _modes_without_near,
            Words(
                en=(
                    "You count the nearest mode of every point, however far away it is. Points"
                    " between the modes must not count."
                ),
                zh="你把每个点都算给了最近的模式，不管隔得多远。落在模式之间的点不应计入。",
            ),
        ),
        Mistake(
            _points_on_modes,
            Words(
                en="That counts points. How many *different* modes do they lie on?",
                zh="这是点的个数。它们落在多少个*不同的*模式上？",
            ),
        ),
    ],
    hint=Words(
        en="torch.cdist, then .min(dim=1) for distance and place; unique().",
        zh="先用 torch.cdist，再用 .min(dim=1) 得到距离和位置，最后用 unique()。",
    ),
)

# --- 8. precision ---------------------------------------------------------------------


def _precision(real: Tensor, generated: Tensor, k: int, itself: int = 1) -> float:
    reach = torch.cdist(real, real).kthvalue(k + itself, dim=1).values  # (N,)
    distance = torch.cdist(generated, real)  # (M, N)
    return float((distance <= reach).any(dim=1).double().mean())


def _precision_counts_itself(real: Tensor, generated: Tensor, k: int) -> float:
    return _precision(real, generated, k, itself=0)


def _recall(real: Tensor, generated: Tensor, k: int) -> float:
    return _precision(generated, real, k)


def _all_balls(real: Tensor, generated: Tensor, k: int) -> float:
    reach = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    return float((torch.cdist(generated, real) <= reach).double().mean())


precision = Exercise(
    reference=_precision,
    cases=lambda: [
        (_random(12, 30, 2), 1.5 * _random(13, 20, 2), 3),
        (_random(14, 25, 3), 0.3 * _random(15, 40, 3) + 1, 2),
    ],
    mistakes=[
        Mistake(
            _precision_counts_itself,
            Words(
                en=(
                    "A point's nearest neighbour in its own set is itself, at distance 0: you"
                    " took the (k - 1)-th. Take the (k + 1)-th smallest distance."
                ),
                zh=(
                    "在自己的集合里，一个点的最近邻是它自己，距离为 0：你取的其实是第 k - 1 个近邻。"
                    "应取第 k + 1 小的距离。"
                ),
            ),
        ),
        Mistake(
            _recall,
            Words(
                en="That is recall: the balls are to be those of the real pictures.",
                zh="这是召回率：球应当属于真实图像。",
            ),
        ),
        Mistake(
            _all_balls,
            Words(
                en="That is the share of balls that hold a picture. One ball is enough: any().",
                zh="你算的是命中的球占多少。只要落进一个球就够了：用 any()。",
            ),
        ),
    ],
    hint=Words(
        en="torch.cdist(real, real).kthvalue(k + 1, dim=1).values is each ball's radius.",
        zh="torch.cdist(real, real).kthvalue(k + 1, dim=1).values 就是每个球的半径。",
    ),
)
