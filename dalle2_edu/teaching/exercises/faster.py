"""Exercises of chapter 09 (better and faster), and the diagnoses of their usual
mistakes.

Each reference is the shortest right answer; each mistake is an answer that students
(and published code) really give.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dalle2_edu.diffusion.samplers import ddim_move, dpm_move, extrapolate
from dalle2_edu.diffusion.schedules import cosine_betas, half_log_snr, respaced_betas
from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words

ABAR = torch.cumprod(
    1 - cosine_betas(100), dim=0
)  # the schedule of most cases here, float64 (100,)


def _pictures(seed: int) -> Tensor:
    return torch.randn(
        2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


# --- 1. lambda ------------------------------------------------------------------------


log_snr = Exercise(
    reference=half_log_snr,
    cases=lambda: [
        (torch.tensor([0.999, 0.9, 0.5, 0.1, 1e-6], dtype=torch.float64),),
        (ABAR,),
    ],
    mistakes=[
        Mistake(
            lambda abar: torch.log(abar / (1 - abar)),
            Words(
                en=(
                    "Twice too large: this is the logarithm of the signal-to-noise ratio"
                    " itself. lambda compares alpha with sigma, and those are the square roots."
                ),
                zh="正好大了一倍：这是信噪比本身的对数。λ 比较的是 alpha 与 sigma，它们都要开平方根。",
            ),
        ),
        Mistake(
            lambda abar: torch.log10(abar.sqrt() / (1 - abar).sqrt()),
            Words(
                en=(
                    "That is the logarithm to base 10. The exponential in the exact solution"
                    " wants the natural one."
                ),
                zh="这是以 10 为底的对数。精确解里的指数函数要求自然对数。",
            ),
        ),
        Mistake(
            lambda abar: torch.log(abar.sqrt() / (1 - abar)),
            Words(
                en="sigma is the root of 1 - abar, and you divide by the variance.",
                zh="sigma 是 1 - abar 的平方根，而你除的是方差。",
            ),
        ),
    ],
    hint=Words(
        en="alpha = sqrt(abar), sigma = sqrt(1 - abar).",
        zh="先写出 alpha = sqrt(abar) 和 sigma = sqrt(1 - abar)。",
    ),
)


# --- 2. bits per dimension ------------------------------------------------------------


def _bits(nats: float, shape: tuple[int, ...]) -> float:
    """Bits per dimension of a picture of this shape that costs so many nats."""
    return nats / (math.prod(shape) * math.log(2))


bits = Exercise(
    reference=_bits,
    cases=lambda: [
        (1000.0, (3, 16, 16)),
        (math.log(256.0) * 48, (3, 4, 4)),
        (5.0, (1, 2, 2)),
    ],
    mistakes=[
        Mistake(
            lambda nats, shape: nats / math.prod(shape),
            Words(
                en="Those are nats per dimension: a bit is ln 2 nats.",
                zh="这是每维的奈特数：1 比特等于 ln 2 奈特。",
            ),
        ),
        Mistake(
            lambda nats, shape: nats * math.log(2) / math.prod(shape),
            Words(
                en=(
                    "The factor is the wrong way round. A bit is ln 2 = 0.69 nats, so there are"
                    " more bits than nats."
                ),
                zh="换算方向反了。1 比特只有 ln 2 = 0.69 奈特，所以比特数应当比奈特数多。",
            ),
        ),
        Mistake(
            lambda nats, shape: nats / (shape[-1] * shape[-2] * math.log(2)),
            Words(
                en=(
                    "Bits per pixel. A pixel has several colours, and each of them is a"
                    " dimension."
                ),
                zh="这是每像素的比特数。一个像素有几个颜色通道，每个通道都是一维。",
            ),
        ),
    ],
)


# --- 3. strided betas -----------------------------------------------------------------


def _original_betas(abar: Tensor, kept: list[int]) -> Tensor:
    betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
    return betas[kept]


def _ratio_upside_down(abar: Tensor, kept: list[int]) -> Tensor:
    level = abar[kept]
    return 1 - torch.cat([level.new_ones(1), level[:-1]]) / level


def _first_forgotten(abar: Tensor, kept: list[int]) -> Tensor:
    level = abar[kept]
    return 1 - level / torch.cat([level[:1], level[:-1]])


strided_betas = Exercise(
    reference=respaced_betas,
    cases=lambda: [
        (ABAR, [0, 33, 66, 99]),
        (ABAR, [5, 20, 90]),
        (ABAR, list(range(100))),
    ],
    mistakes=[
        Mistake(
            _original_betas,
            Words(
                en=(
                    "You kept the betas of single steps. A stride from one kept step to the"
                    " next has to remove the noise of all the steps between: its beta follows"
                    " from the ratio of the two abars."
                ),
                zh=(
                    "你沿用了单步的 beta。从一个保留步跨到下一个保留步，要去掉中间所有步的噪声："
                    "新的 beta 由两个 abar 之比决定。"
                ),
            ),
        ),
        Mistake(
            _ratio_upside_down,
            Words(
                en=(
                    "The ratio is upside down: these betas are negative. abar falls, so abar_k"
                    " / abar_(k-1) is below 1."
                ),
                zh=(
                    "比值倒过来了，得到的 beta 是负数。abar 递减，所以 abar_k / abar_(k-1)"
                    " 小于 1。"
                ),
            ),
        ),
        Mistake(
            _first_forgotten,
            Words(
                en=(
                    "The first beta is 0 with you. Before the first kept step all of the"
                    " picture is there: abar = 1."
                ),
                zh="你的第一个 beta 等于 0。第一个保留步之前图片完好无损：那里 abar = 1。",
            ),
        ),
    ],
    hint=Words(
        en="1 - beta'_k is the ratio of two kept abars.",
        zh="1 - beta'_k 是相邻两个保留步的 abar 之比。",
    ),
)


# --- 4. the learned variance ----------------------------------------------------------


def _between(raw: Tensor, beta: float, beta_tilde: float) -> Tensor:
    """Improved DDPM's variance between beta~ and beta, from the network's raw answer in
    about [-1, 1].
    """
    v = (raw + 1) / 2
    return torch.exp(v * math.log(beta) + (1 - v) * math.log(beta_tilde))


def _linearly(raw: Tensor, beta: float, beta_tilde: float) -> Tensor:
    v = (raw + 1) / 2
    return v * beta + (1 - v) * beta_tilde


def _raw_as_share(raw: Tensor, beta: float, beta_tilde: float) -> Tensor:
    return torch.exp(raw * math.log(beta) + (1 - raw) * math.log(beta_tilde))


between = Exercise(
    reference=_between,
    cases=lambda: [
        (torch.tensor([-1.0, -0.5, 0.0, 0.7, 1.0]), 0.02, 0.004),
        (torch.linspace(-1.2, 1.2, 7), 4e-4, 1e-4),
    ],
    mistakes=[
        Mistake(
            _linearly,
            Words(
                en=(
                    "The ends are right, but between them you mix the variances themselves. Mix"
                    " their logarithms: on short chains beta is many times beta_tilde at the"
                    " first steps, and the log scale gives every size its share."
                ),
                zh=(
                    "两端是对的，但中间你混合的是方差本身。应当混合它们的对数："
                    "步数少时，最初几步的 beta 是 beta_tilde 的许多倍，取对数才能照顾到各个量级。"
                ),
            ),
        ),
        Mistake(
            lambda raw, beta, beta_tilde: _between(raw.clamp(-1, 1), beta, beta_tilde),
            Words(
                en=(
                    "Right between the bounds, but you cut v off at 0 and 1. Nothing stops the"
                    " network there: v may leave [0, 1]."
                ),
                zh="两界之间是对的，但你把 v 截断在 0 和 1 了。网络并不受此限制：v 可以超出 [0, 1]。",
            ),
        ),
        Mistake(
            _raw_as_share,
            Words(
                en=(
                    "The network answers in about [-1, 1]. Map that to a share v in [0, 1]"
                    " first: v = (raw + 1) / 2."
                ),
                zh="网络的输出大约在 [-1, 1] 内。先把它换算成份额：v = (raw + 1) / 2。",
            ),
        ),
        Mistake(
            lambda raw, beta, beta_tilde: _between(raw, beta_tilde, beta),
            Words(
                en="The ends are swapped: v = 1 means beta, the larger one.",
                zh="两端颠倒了：v = 1 对应较大的 beta。",
            ),
        ),
    ],
)


# --- 5. DDIM's sigma ------------------------------------------------------------------


def _sigma(eta: float, abar: float, abar_prev: float) -> float:
    return (
        eta * math.sqrt((1 - abar_prev) / (1 - abar)) * math.sqrt(1 - abar / abar_prev)
    )


sigma = Exercise(
    reference=_sigma,
    cases=lambda: [(1.0, 0.5, 0.6), (0.3, 0.5, 0.6), (0.0, 0.2, 0.9), (0.5, 0.01, 0.5)],
    mistakes=[
        Mistake(
            lambda eta, abar, abar_prev: (
                eta * (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)
            ),
            Words(
                en=(
                    "With eta = 1 that is the posterior's variance. sigma is a standard"
                    " deviation: take the root."
                ),
                zh="eta = 1 时这是后验的方差。sigma 是标准差：还要开平方根。",
            ),
        ),
        Mistake(
            lambda eta, abar, abar_prev: math.sqrt(eta) * _sigma(1.0, abar, abar_prev),
            Words(
                en=(
                    "eta scales the standard deviation, not the variance: it stands before the"
                    " roots."
                ),
                zh="eta 缩放的是标准差，不是方差：它在根号外面。",
            ),
        ),
        Mistake(
            lambda eta, abar, abar_prev: (
                eta * math.sqrt((1 - abar_prev) / (1 - abar)) * math.sqrt(1 - abar)
            ),
            Words(
                en=(
                    "The second root wants the step's own beta, 1 - abar / abar_prev. 1 - abar"
                    " is the noise of all steps so far."
                ),
                zh=(
                    "第二个根号里应当是这一步自己的 beta，即 1 - abar / abar_prev；"
                    "1 - abar 是至今所有步的噪声。"
                ),
            ),
        ),
        Mistake(
            lambda eta, abar, abar_prev: eta * math.sqrt(1 - abar / abar_prev),
            Words(
                en=(
                    "With eta = 1 that is sqrt(beta), the larger of the two usual choices."
                    " DDIM's is sqrt(beta_tilde): the factor (1 - abar_prev) / (1 - abar) is"
                    " missing."
                ),
                zh=(
                    "eta = 1 时这是 sqrt(beta)，即两种经典取法中较大的一个。DDIM 用的是"
                    " sqrt(beta_tilde)："
                    "缺了因子 (1 - abar_prev) / (1 - abar)。"
                ),
            ),
        ),
    ],
)


# --- 6. one step of DDIM, with clipping -----------------------------------------------


def _ddim(x_t: Tensor, eps: Tensor, abar: float, abar_prev: float) -> Tensor:
    """One step with eta = 0; the guess of x_0 is clipped to [-1, 1], and eps made to
    fit it.
    """
    x0 = ((x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)).clamp(-1, 1)
    eps = (x_t - math.sqrt(abar) * x0) / math.sqrt(1 - abar)
    return ddim_move(x0, eps, abar_prev)


def _stale_eps(x_t: Tensor, eps: Tensor, abar: float, abar_prev: float) -> Tensor:
    x0 = ((x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)).clamp(-1, 1)
    return ddim_move(x0, eps, abar_prev)


def _no_clip(x_t: Tensor, eps: Tensor, abar: float, abar_prev: float) -> Tensor:
    return ddim_move(
        (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar), eps, abar_prev
    )


def _same_level(x_t: Tensor, eps: Tensor, abar: float, abar_prev: float) -> Tensor:
    x0 = ((x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)).clamp(-1, 1)
    return math.sqrt(abar_prev) * x0 + math.sqrt(1 - abar) * (
        x_t - math.sqrt(abar) * x0
    ) / math.sqrt(1 - abar)


ddim_step = Exercise(
    reference=_ddim,
    cases=lambda: [
        (_pictures(0), _pictures(1), 0.5, 0.7),
        (_pictures(2), _pictures(3), 0.05, 0.3),
    ],
    mistakes=[
        Mistake(
            _stale_eps,
            Words(
                en=(
                    "After clipping x_0 you still use the network's eps. The two no longer make"
                    " x_t together: work eps out again from x_t and the clipped x_0."
                ),
                zh=(
                    "x_0 截断之后，你用的还是网络给的 eps。两者合起来已经不再等于 x_t："
                    "要由 x_t 和截断后的 x_0 重新算出 eps。"
                ),
            ),
        ),
        Mistake(
            _no_clip,
            Words(
                en="Right, but for the clipping of x_0 to [-1, 1].",
                zh="除了没有把 x_0 截断到 [-1, 1]，其余都对。",
            ),
        ),
        Mistake(
            _same_level,
            Words(
                en=(
                    "The noise keeps its old level. At the new step it is sqrt(1 - abar_prev)"
                    " strong."
                ),
                zh="噪声还停在原来的强度。到了新的一步，它的系数是 sqrt(1 - abar_prev)。",
            ),
        ),
    ],
)


# --- 7. importance sampling -----------------------------------------------------------


def _importance(history: Tensor) -> tuple[Tensor, Tensor]:
    """From the last losses (T, 10): the probabilities p_t and the weights of the
    losses, both (T,).
    """
    size = history.square().mean(dim=1).sqrt()
    p = size / size.sum()
    return p, 1 / (len(p) * p)


def _by_mean(history: Tensor) -> tuple[Tensor, Tensor]:
    p = history.mean(dim=1) / history.mean(dim=1).sum()
    return p, 1 / (len(p) * p)


def _no_root(history: Tensor) -> tuple[Tensor, Tensor]:
    p = history.square().mean(dim=1) / history.square().mean(dim=1).sum()
    return p, 1 / (len(p) * p)


def _weights_of_the_sum(history: Tensor) -> tuple[Tensor, Tensor]:
    p = _importance(history)[0]
    return p, 1 / p


importance = Exercise(
    reference=_importance,
    cases=lambda: [
        (
            torch.rand(8, 10, generator=torch.Generator().manual_seed(0))
            * torch.logspace(0, -3, 8)[:, None],
        ),
        (torch.tensor([[1.0, 3.0], [2.0, 2.0]]),),
    ],
    mistakes=[
        Mistake(
            _by_mean,
            Words(
                en=(
                    "You weigh by the mean loss. The variance is least for the root of the mean"
                    " SQUARE: a step whose loss jumps about deserves more draws than one that"
                    " costs the same every time."
                ),
                zh="你按平均损失取概率。使方差最小的是均方根：同样的平均损失，忽大忽小的那一步值得多抽几次。",
            ),
        ),
        Mistake(
            _no_root,
            Words(
                en="p_t goes with the root of the mean square.",
                zh="p_t 正比于均方值的平方根。",
            ),
        ),
        Mistake(
            _weights_of_the_sum,
            Words(
                en=(
                    "1 / p_t estimates the sum over the steps. The loop averages, as with"
                    " uniform steps: 1 / (T p_t), so that uniform p_t give weights of 1."
                ),
                zh=(
                    "1 / p_t 估计的是各步之和。训练循环取的是平均，应当用 1 / (T"
                    " p_t)：这样均匀抽样时权重正好是 1。"
                ),
            ),
        ),
    ],
    hint=Words(
        en="Uniform probabilities must give weights of exactly 1.",
        zh="概率均匀时，权重必须恰好等于 1。",
    ),
)


# --- 8. one step of DPM-Solver++ 2M ---------------------------------------------------


def _lambda(abar: float) -> float:
    return 0.5 * math.log(abar / (1 - abar))


def _two_m(
    x: Tensor,
    x0: Tensor,
    before: Tensor,
    abar_before: float,
    abar: float,
    abar_next: float,
) -> Tensor:
    """From x at the level abar to abar_next; x0 is the guess here, before the one at
    abar_before.
    """
    led = extrapolate(
        x0, before, _lambda(abar_before), _lambda(abar), _lambda(abar_next)
    )
    return dpm_move(x, led, abar, abar_next)


def _first_order(
    x: Tensor,
    x0: Tensor,
    before: Tensor,
    abar_before: float,
    abar: float,
    abar_next: float,
) -> Tensor:
    return dpm_move(x, x0, abar, abar_next)


def _r_upside_down(
    x: Tensor,
    x0: Tensor,
    before: Tensor,
    abar_before: float,
    abar: float,
    abar_next: float,
) -> Tensor:
    r = (_lambda(abar_next) - _lambda(abar)) / (_lambda(abar) - _lambda(abar_before))
    return dpm_move(x, (1 + 0.5 / r) * x0 - 0.5 / r * before, abar, abar_next)


def _whole_step(
    x: Tensor,
    x0: Tensor,
    before: Tensor,
    abar_before: float,
    abar: float,
    abar_next: float,
) -> Tensor:
    r = (_lambda(abar) - _lambda(abar_before)) / (_lambda(abar_next) - _lambda(abar))
    return dpm_move(x, (1 + 1 / r) * x0 - 1 / r * before, abar, abar_next)


def _exact_line(
    x: Tensor,
    x0: Tensor,
    before: Tensor,
    abar_before: float,
    abar: float,
    abar_next: float,
) -> Tensor:
    h = _lambda(abar_next) - _lambda(abar)
    slope = (x0 - before) / (_lambda(abar) - _lambda(abar_before))
    # the mean of u over 0 .. h, weighted with e^(u - h): (h - 1 + e^-h) / (1 - e^-h)
    return dpm_move(x, x0 + slope * (h / -math.expm1(-h) - 1), abar, abar_next)


def _backwards(
    x: Tensor,
    x0: Tensor,
    before: Tensor,
    abar_before: float,
    abar: float,
    abar_next: float,
) -> Tensor:
    r = (_lambda(abar) - _lambda(abar_before)) / (_lambda(abar_next) - _lambda(abar))
    return dpm_move(x, (1 - 0.5 / r) * x0 + 0.5 / r * before, abar, abar_next)


two_m = Exercise(
    reference=_two_m,
    cases=lambda: [
        (_pictures(0), _pictures(1), _pictures(2), 0.1, 0.3, 0.7),
        (_pictures(3), _pictures(4), _pictures(5), 0.5, 0.9, 0.95),
    ],
    mistakes=[
        Mistake(
            _first_order,
            Words(
                en="That is DDIM: order 1. The guess before this one isn't used.",
                zh="这是 DDIM，只有一阶：前一步的猜测没有用上。",
            ),
        ),
        Mistake(
            _r_upside_down,
            Words(
                en=(
                    "r is upside down: it is the length of the step behind you over that of the"
                    " step before you."
                ),
                zh="r 写反了：它是刚走完的那一步的长度，除以将要走的这一步的长度。",
            ),
        ),
        Mistake(
            _exact_line,
            Words(
                en=(
                    "You integrate the line exactly, and that is of order 2 as well. But"
                    " DPM-Solver++ (2M) takes the line's value halfway instead: 1 / (2r)."
                ),
                zh=(
                    "你对直线做了精确积分，这同样是二阶方法；不过 DPM-Solver++（2M）"
                    "取的是中点处的值：系数是 1 / (2r)。"
                ),
            ),
        ),
        Mistake(
            _whole_step,
            Words(
                en=(
                    "You lead the line to the END of the step. Its mean over the step is its"
                    " value halfway: 1 / (2r)."
                ),
                zh="你把直线延长到了这一步的终点。它在这一步上的平均值是中点处的值：系数是 1 / (2r)。",
            ),
        ),
        Mistake(
            _backwards,
            Words(
                en="The sign is wrong: you lead the line back towards the past.",
                zh="符号反了：你把直线往过去的方向延长了。",
            ),
        ),
    ],
)


# --- 9. the whole walk of DDIM --------------------------------------------------------

Guess = Callable[[Tensor, int], Tensor]  # guess(x, index): the noise


def _move(x: Tensor, eps: Tensor, abar: float, abar_next: float) -> Tensor:
    """One step with eta = 0, without clipping."""
    x0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    return ddim_move(x0, eps, abar_next)


def _ddim_walk(guess: Guess, x: Tensor, abar: Tensor, kept: list[int]) -> Tensor:
    """From the level of the last kept step to the clean picture."""
    levels = [1.0, *abar[kept].tolist()]  # before the first kept step: all picture
    for k in reversed(range(len(kept))):
        x = _move(x, guess(x, kept[k]), levels[k + 1], levels[k])
    return x


def _told_the_place(guess: Guess, x: Tensor, abar: Tensor, kept: list[int]) -> Tensor:
    return _ddim_walk(lambda x, i: guess(x, kept.index(i)), x, abar, kept)


def _to_the_neighbour(guess: Guess, x: Tensor, abar: Tensor, kept: list[int]) -> Tensor:
    """Each move leads to abar[i - 1] of the whole process, not to the next kept step."""
    levels = [1.0, *abar.tolist()]
    for i in reversed(kept):
        x = _move(x, guess(x, i), levels[i + 1], levels[i])
    return x


def _never_clean(guess: Guess, x: Tensor, abar: Tensor, kept: list[int]) -> Tensor:
    levels = abar[kept].tolist()
    for k in reversed(range(1, len(kept))):
        x = _move(x, guess(x, kept[k]), levels[k], levels[k - 1])
    return x


def _towards_noise(guess: Guess, x: Tensor, abar: Tensor, kept: list[int]) -> Tensor:
    levels = [1.0, *abar[kept].tolist()]
    for k in range(len(kept)):
        x = _move(x, guess(x, kept[k]), levels[k + 1], levels[k])
    return x


def _guess_of_two_points(abar: Tensor) -> Guess:
    """The perfect guess of the noise for data -1 and 1, equally probable."""

    def guess(x: Tensor, index: int) -> Tensor:
        signal = math.sqrt(abar[index])
        noise = 1 - float(abar[index])
        x0 = torch.tanh(signal * x / noise)  # E[x_0 | x]
        return (x - signal * x0) / math.sqrt(noise)

    return guess


ddim_walk = Exercise(
    reference=_ddim_walk,
    cases=lambda: [
        (_guess_of_two_points(ABAR), _pictures(6), ABAR, [0, 33, 66, 98]),
        (_guess_of_two_points(ABAR), _pictures(7), ABAR, [4, 12, 40, 70, 95]),
    ],
    mistakes=[
        Mistake(
            _told_the_place,
            Words(
                en=(
                    "The network is told the place among the kept steps. It must be told the"
                    " original index, kept[k]: that is what it was trained with."
                ),
                zh=(
                    "你告诉网络的是在保留步中的序号。应当告诉它原来的 index，即 kept[k]："
                    "它是这样训练的。"
                ),
            ),
        ),
        Mistake(
            _to_the_neighbour,
            Words(
                en=(
                    "Each move goes only to the neighbouring step of the whole process. It must"
                    " lead to the level of the next kept step."
                ),
                zh="你每次只走到整个过程的相邻一步。应当走到下一个保留步的水平。",
            ),
        ),
        Mistake(
            _never_clean,
            Words(
                en=(
                    "You stop at the first kept step, which is still noisy. One move is left,"
                    " to abar = 1."
                ),
                zh="你停在了第一个保留步，那里还有噪声。还差一步：走到 abar = 1。",
            ),
        ),
        Mistake(
            _towards_noise,
            Words(
                en="The loop runs from clean to noisy. Begin at the last kept step.",
                zh="循环的方向是从干净到有噪声。应当从最后一个保留步开始。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "Put a 1 in front of abar[kept]. Then the move of the place k goes from levels[k +"
            " 1] to levels[k]."
        ),
        zh="在 abar[kept] 前面补一个 1，序号 k 处的一步就是从 levels[k + 1] 走到 levels[k]。",
    ),
)
