"""Exercises of chapter 07 (the mathematics of DDPM), and the diagnoses of their usual
mistakes.

Steps count from 1, as in the paper: beta_t is `betas[t - 1]`. Everything is float64, so
that a right formula is right to ten digits and a wrong one can't hide behind
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dalle2_edu.diffusion.schedules import cosine_betas, linear_betas
from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words

TIGHT = 1e-6


def _random(seed: int, *shape: int) -> Tensor:
    """Standard normal noise of this shape, always the same."""
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def _triples() -> list[tuple[Tensor, Tensor, Tensor]]:
    """(picture, abar, noise), also with one abar for each picture of a batch."""
    levels = torch.tensor([0.95, 0.3], dtype=torch.float64)[:, None]  # (2,) => (2, 1)
    return [
        (_random(1, 4), torch.tensor(0.64, dtype=torch.float64), _random(2, 4)),
        (_random(3, 2, 5), levels, _random(4, 2, 5)),
    ]


def _schedules() -> list[tuple[Tensor]]:
    return [(linear_betas(30),), (cosine_betas(10),)]


def _abars(betas: Tensor) -> tuple[Tensor, Tensor]:
    """abar_t and abar_(t-1) of all steps, (T,) each."""
    abar = torch.cumprod(1 - betas, dim=0)
    return abar, torch.cat([abar.new_ones(1), abar[:-1]])  # (1,) + (T - 1,) => (T,)


# --- 1. the jump ----------------------------------------------------------------------


q_sample = Exercise(
    reference=lambda x0, abar, eps: abar.sqrt() * x0 + (1 - abar).sqrt() * eps,
    cases=_triples,
    mistakes=[
        Mistake(
            lambda x0, abar, eps: abar * x0 + (1 - abar) * eps,
            Words(
                en=(
                    "Both roots are missing: abar and 1 - abar are variances, and they enter"
                    " x_t by their roots."
                ),
                zh="两个根号都漏了：abar 与 1 - abar 是方差，乘到图片和噪声上的应当是它们的平方根。",
            ),
        ),
        Mistake(
            lambda x0, abar, eps: abar.sqrt() * x0 + (1 - abar.sqrt()) * eps,
            Words(
                en=(
                    "The root of the noise is in the wrong place: sqrt(1 - abar), not 1 -"
                    " sqrt(abar)."
                ),
                zh="噪声那一项的根号放错了位置：应为 sqrt(1 - abar)，不是 1 - sqrt(abar)。",
            ),
        ),
        Mistake(
            lambda x0, abar, eps: (1 - abar).sqrt() * x0 + abar.sqrt() * eps,
            Words(
                en=(
                    "Picture and noise are swapped: abar is what is left of the picture, so it"
                    " must go from 1 to 0."
                ),
                zh="图片与噪声弄反了：abar 是图片还剩下的份额，应当从 1 降到 0。",
            ),
        ),
        Mistake(
            lambda x0, abar, eps: abar.sqrt() * x0 + (1 - abar) * eps,
            Words(
                en="The noise lacks its root: its variance would be (1 - abar) squared.",
                zh="噪声那一项漏了根号：这样它的方差成了 (1 - abar) 的平方。",
            ),
        ),
    ],
    hint=Words(
        en="two terms, each multiplied by the root of its share of the variance.",
        zh="两项相加，各自乘以所占方差份额的平方根。",
    ),
    tolerance=TIGHT,
)


# --- 2. the signal-to-noise ratio -----------------------------------------------------


def _snr(betas: Tensor) -> Tensor:
    abar, _ = _abars(betas)
    return abar / (1 - abar)


snr = Exercise(
    reference=_snr,
    cases=_schedules,
    mistakes=[
        Mistake(
            lambda betas: (1 - betas) / betas,
            Words(
                en=(
                    "This is the ratio of a single step. x_t has gone through all steps up to"
                    " t: multiply the alphas."
                ),
                zh="这是单独一步的比值。x_t 经过了直到 t 的每一步：要把各步的 alpha 连乘起来。",
            ),
        ),
        Mistake(
            lambda betas: _snr(betas).sqrt(),
            Words(
                en=(
                    "This is the ratio of the factors in x_t. The signal-to-noise ratio"
                    " compares variances: square it."
                ),
                zh="这是 x_t 中两个系数之比。信噪比比较的是方差：要取平方。",
            ),
        ),
        Mistake(
            lambda betas: 1 / _snr(betas),
            Words(
                en="This is noise to signal: turn it over.",
                zh="这是噪声比信号，倒过来才对。",
            ),
        ),
        Mistake(
            lambda betas: torch.cumsum(1 - betas, 0) / (1 - torch.cumsum(1 - betas, 0)),
            Words(
                en=(
                    "You added the alphas up. What is left after two steps is a share of a"
                    " share: a product."
                ),
                zh="你把各步的 alpha 加了起来。走两步之后剩下的，是份额的份额：应当相乘。",
            ),
        ),
    ],
    hint=Words(
        en="torch.cumprod of 1 - betas is abar.",
        zh="对 1 - betas 用 torch.cumprod，就得到 abar。",
    ),
    tolerance=TIGHT,
)


# --- 3. the picture from the noise ----------------------------------------------------


x0_from_eps = Exercise(
    reference=lambda x_t, abar, eps: (x_t - (1 - abar).sqrt() * eps) / abar.sqrt(),
    cases=_triples,
    mistakes=[
        Mistake(
            lambda x_t, abar, eps: x_t - (1 - abar).sqrt() * eps,
            Words(
                en=(
                    "What you have is sqrt(abar) x_0: the picture is still faded by that"
                    " factor."
                ),
                zh="这样得到的是 sqrt(abar) x_0：图片还带着这个变淡的系数。",
            ),
        ),
        Mistake(
            lambda x_t, abar, eps: (x_t - (1 - abar).sqrt() * eps) / abar,
            Words(
                en="All values are too large by 1/sqrt(abar): divide by the root of abar.",
                zh="所有值都大了 1/sqrt(abar) 倍：应当除以 abar 的平方根。",
            ),
        ),
        Mistake(
            lambda x_t, abar, eps: x_t - eps,
            Words(
                en=(
                    "The noise in x_t is not eps but sqrt(1 - abar) eps, and the picture is"
                    " faded as well."
                ),
                zh="x_t 里的噪声不是 eps，而是 sqrt(1 - abar) eps；图片也带着系数。",
            ),
        ),
        Mistake(
            lambda x_t, abar, eps: (x_t + (1 - abar).sqrt() * eps) / abar.sqrt(),
            Words(
                en="The noise has to be taken away, not added.",
                zh="噪声应当减去，不是加上。",
            ),
        ),
    ],
    hint=Words(en="solve (7.2) for x_0.", zh="从 (7.2) 解出 x_0。"),
    tolerance=TIGHT,
)


# --- 4. the noise from v --------------------------------------------------------------


eps_from_v = Exercise(
    reference=lambda x_t, abar, v: (1 - abar).sqrt() * x_t + abar.sqrt() * v,
    cases=_triples,
    mistakes=[
        Mistake(
            lambda x_t, abar, v: abar.sqrt() * x_t - (1 - abar).sqrt() * v,
            Words(en="That is x_0, not the noise.", zh="这是 x_0，不是噪声。"),
        ),
        Mistake(
            lambda x_t, abar, v: abar.sqrt() * x_t + (1 - abar).sqrt() * v,
            Words(
                en=(
                    "Sine and cosine are swapped: where all is noise (abar = 0), eps is x_t"
                    " itself."
                ),
                zh="正弦与余弦弄反了：全是噪声时（abar = 0），eps 就是 x_t 本身。",
            ),
        ),
        Mistake(
            lambda x_t, abar, v: (1 - abar).sqrt() * x_t - abar.sqrt() * v,
            Words(
                en=(
                    "The sign of v is wrong: at abar = 1, where the walk begins, v points"
                    " straight at eps."
                ),
                zh="v 的正负号错了：在 abar = 1，也就是出发处，v 正指向 eps。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "multiply x_t by sin(phi) and v by cos(phi), and add: one of the two unknowns"
            " cancels."
        ),
        zh="用 sin(phi) 乘 x_t，用 cos(phi) 乘 v，相加：两个未知量消去一个。",
    ),
    tolerance=TIGHT,
)


# --- 5. KL of two Gaussians -----------------------------------------------------------


def _kl(mean1: Tensor, var1: Tensor, mean2: Tensor, var2: Tensor) -> Tensor:
    return 0.5 * ((var2 / var1).log() + (var1 + (mean1 - mean2) ** 2) / var2 - 1)


def _gaussian_pairs() -> list[tuple[Tensor, ...]]:
    def numbers(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return [
        (numbers(0.0, 1.0), numbers(1.0, 0.5), numbers(0.0, -0.5), numbers(2.0, 0.7)),
        (numbers(0.3), numbers(0.04), numbers(0.1), numbers(0.09)),
    ]


kl = Exercise(
    reference=_kl,
    cases=_gaussian_pairs,
    mistakes=[
        Mistake(
            lambda mean1, var1, mean2, var2: _kl(mean2, var2, mean1, var1),
            Words(
                en=(
                    "This is KL(2 || 1). KL is not symmetric: the average is taken under the"
                    " first."
                ),
                zh="这是 KL(2 || 1)。KL 散度不对称：求平均用的是第一个分布。",
            ),
        ),
        Mistake(
            lambda mean1, var1, mean2, var2: _kl(mean1, var1**2, mean2, var2**2),
            Words(
                en="You squared the variances: var1 is sigma_1^2 already.",
                zh="你把方差又平方了一次：var1 已经是 sigma_1^2。",
            ),
        ),
        Mistake(
            lambda mean1, var1, mean2, var2: 2 * _kl(mean1, var1, mean2, var2),
            Words(
                en="Twice too large: where is the one half?",
                zh="大了一倍：二分之一到哪里去了？",
            ),
        ),
        Mistake(
            lambda mean1, var1, mean2, var2: (
                (var2 / var1).log() + 0.5 * ((var1 + (mean1 - mean2) ** 2) / var2 - 1)
            ),
            Words(
                en="log(sigma_2 / sigma_1) is half of log(var2 / var1).",
                zh="log(sigma_2 / sigma_1) 只是 log(var2 / var1) 的一半。",
            ),
        ),
        Mistake(
            lambda mean1, var1, mean2, var2: (
                0.5 * ((var2 / var1).log() + (mean1 - mean2) ** 2 / var2)
            ),
            Words(
                en=(
                    "Part of it is missing: with equal means it should still punish a wrong"
                    " width. E (x - mean2)^2 holds var1 too."
                ),
                zh="漏了一部分：均值相同而宽度不对，也应当受罚。(x - mean2)^2 的期望里还有 var1。",
            ),
        ),
    ],
    hint=Words(en="(7.9), with sigma^2 = var.", zh="用 (7.9)，其中 sigma^2 = var。"),
    tolerance=TIGHT,
)


# --- 6. the posterior's variance ------------------------------------------------------


def _posterior_variance(betas: Tensor) -> Tensor:
    abar, before = _abars(betas)
    return betas * (1 - before) / (1 - abar)


def _unshifted(betas: Tensor) -> Tensor:
    """abar_(t+1) in place of abar_(t-1): the table was moved the wrong way."""
    abar, _ = _abars(betas)
    after = torch.cat([abar[1:], abar.new_zeros(1)])  # (T - 1,) + (1,) => (T,)
    return betas * (1 - after) / (1 - abar)


posterior_variance = Exercise(
    reference=_posterior_variance,
    cases=_schedules,
    mistakes=[
        Mistake(
            lambda betas: betas.clone(),
            Words(
                en=(
                    "This is beta_t: right if x_0 is unknown unit noise. If x_0 is known, less"
                    " is open."
                ),
                zh="这是 beta_t：x_0 未知、且为单位噪声时才对。已知 x_0，不确定的就更少。",
            ),
        ),
        Mistake(
            lambda betas: (
                1 / (1 / betas + 1 / (1 - _abars(betas)[1]).clamp(min=1e-300))
            ),
            Words(
                en=(
                    "Nearly: as a function of x_(t-1), the step's bell has variance beta_t /"
                    " alpha_t, not beta_t: the precision is alpha_t / beta_t."
                ),
                zh=(
                    "差一点：看作 x_(t-1) 的函数时，那一步的钟形方差是 beta_t / alpha_t，不是"
                    " beta_t；精度是 "
                    "alpha_t / beta_t。"
                ),
            ),
        ),
        Mistake(
            _unshifted,
            Words(
                en=(
                    "You took abar of the next step in place of the one before: at t = 1 the"
                    " variance must be 0."
                ),
                zh="你用了后一步的 abar，应当用前一步的：t = 1 时方差必须是 0。",
            ),
        ),
        Mistake(
            lambda betas: _posterior_variance(betas).sqrt(),
            Words(
                en="This is the standard deviation: no root here.",
                zh="这是标准差：此处不用开方。",
            ),
        ),
    ],
    hint=Words(
        en="abar_(t-1) is abar moved one place to the right, with a 1 in front.",
        zh="abar_(t-1) 就是把 abar 右移一位，前面补 1。",
    ),
    tolerance=TIGHT,
)


# --- 7. the posterior's mean ----------------------------------------------------------


def _mean_at(x0: Tensor, x_t: Tensor, betas: Tensor, i: int) -> Tensor:
    """mu~ at the table's place i."""
    abar, before = _abars(betas)
    share = before[i].sqrt() * betas[i] / (1 - abar[i])
    return share * x0 + (1 - betas[i]).sqrt() * (1 - before[i]) / (1 - abar[i]) * x_t


def _posterior_mean(x0: Tensor, x_t: Tensor, betas: Tensor, t: int) -> Tensor:
    return _mean_at(x0, x_t, betas, t - 1)


def _no_root_of_alpha(x0: Tensor, x_t: Tensor, betas: Tensor, t: int) -> Tensor:
    abar, before = _abars(betas)
    i = t - 1
    share = before[i].sqrt() * betas[i] / (1 - abar[i])
    return share * x0 + (1 - betas[i]) * (1 - before[i]) / (1 - abar[i]) * x_t


def _swapped_mean(x0: Tensor, x_t: Tensor, betas: Tensor, t: int) -> Tensor:
    return _posterior_mean(x_t, x0, betas, t)


def _jump_mean(x0: Tensor, x_t: Tensor, betas: Tensor, t: int) -> Tensor:
    return _abars(betas)[1][t - 1].sqrt() * x0


posterior_mean = Exercise(
    reference=_posterior_mean,
    cases=lambda: [
        (_random(5, 4), _random(6, 4), linear_betas(30), 12),
        (_random(7, 3), _random(8, 3), cosine_betas(10), 4),
        (_random(9, 3), _random(10, 3), linear_betas(30), 1),
    ],
    mistakes=[
        Mistake(
            lambda x0, x_t, betas, t: _mean_at(x0, x_t, betas, min(t, len(betas) - 1)),
            Words(
                en="This is the mean one step further on: beta_t is betas[t - 1].",
                zh="这是再往后一步的均值：beta_t 在 betas[t - 1]。",
            ),
        ),
        Mistake(
            _no_root_of_alpha,
            Words(
                en="The factor of x_t holds sqrt(alpha_t), not alpha_t.",
                zh="x_t 的系数里是 sqrt(alpha_t)，不是 alpha_t。",
            ),
        ),
        Mistake(
            _swapped_mean,
            Words(
                en=(
                    "x_0 and x_t are swapped: for small beta_t, the mean must stay close to"
                    " x_t."
                ),
                zh="x_0 与 x_t 弄反了：beta_t 很小时，均值应当离 x_t 很近。",
            ),
        ),
        Mistake(
            _jump_mean,
            Words(
                en="This is the mean of q(x_(t-1) | x_0): it has forgotten where x_t is.",
                zh="这是 q(x_(t-1) | x_0) 的均值：它忘了 x_t 在哪里。",
            ),
        ),
    ],
    hint=Words(en="(7.6), with abar_0 = 1.", zh="用 (7.6)，其中 abar_0 = 1。"),
    tolerance=TIGHT,
)


# --- 8. one step of ancestral sampling ------------------------------------------------


def _step_with(
    spread: Tensor, x_t: Tensor, eps: Tensor, betas: Tensor, t: int, z: Tensor
) -> Tensor:
    abar, beta = _abars(betas)[0][t - 1], betas[t - 1]
    return (x_t - beta / (1 - abar).sqrt() * eps) / (1 - beta).sqrt() + spread * z


def _ancestral_step(
    x_t: Tensor, eps: Tensor, betas: Tensor, t: int, z: Tensor
) -> Tensor:
    return _step_with(
        betas[t - 1].sqrt() if t > 1 else betas.new_zeros(()), x_t, eps, betas, t, z
    )


def _noise_at_the_end(
    x_t: Tensor, eps: Tensor, betas: Tensor, t: int, z: Tensor
) -> Tensor:
    return _step_with(betas[t - 1].sqrt(), x_t, eps, betas, t, z)


def _variance_for_deviation(
    x_t: Tensor, eps: Tensor, betas: Tensor, t: int, z: Tensor
) -> Tensor:
    return _step_with(
        betas[t - 1] if t > 1 else betas.new_zeros(()), x_t, eps, betas, t, z
    )


def _small_variance(
    x_t: Tensor, eps: Tensor, betas: Tensor, t: int, z: Tensor
) -> Tensor:
    abar, abar_before = _abars(betas)[0], _abars(betas)[1]
    tilde = betas * (1 - abar_before) / (1 - abar)
    return _step_with(tilde[t - 1].sqrt(), x_t, eps, betas, t, z)


def _all_noise_away(
    x_t: Tensor, eps: Tensor, betas: Tensor, t: int, z: Tensor
) -> Tensor:
    abar, beta = _abars(betas)[0][t - 1], betas[t - 1]
    return (x_t - (1 - abar).sqrt() * eps) / (1 - beta).sqrt() + (
        beta.sqrt() if t > 1 else 0
    ) * z


def _not_scaled_up(
    x_t: Tensor, eps: Tensor, betas: Tensor, t: int, z: Tensor
) -> Tensor:
    abar, beta = _abars(betas)[0][t - 1], betas[t - 1]
    return x_t - beta / (1 - abar).sqrt() * eps + (beta.sqrt() if t > 1 else 0) * z


ancestral_step = Exercise(
    reference=_ancestral_step,
    cases=lambda: [
        (_random(11, 2, 4), _random(12, 2, 4), linear_betas(30), 20, _random(13, 2, 4)),
        (_random(14, 5), _random(15, 5), cosine_betas(10), 1, _random(16, 5)),
    ],
    mistakes=[
        Mistake(
            _noise_at_the_end,
            Words(
                en=(
                    "Right, except at t = 1: the last step returns the mean. Noise there would"
                    " only be seen as grain."
                ),
                zh="除了 t = 1 都对：最后一步直接返回均值，那里再加噪声，只会变成颗粒。",
            ),
        ),
        Mistake(
            _variance_for_deviation,
            Words(
                en=(
                    "z is multiplied by the variance. It wants the standard deviation: patient"
                    " B of the clinic."
                ),
                zh="z 乘上了方差，应当乘标准差：这正是诊室里的病人 B。",
            ),
        ),
        Mistake(
            _small_variance,
            Words(
                en=(
                    "That is sigma_t^2 = beta_tilde_t, the other of the two usual choices. This"
                    " exercise asks for beta_t."
                ),
                zh="这是 sigma_t^2 = beta_tilde_t，两种常用取法中的另一种。本题要的是 beta_t。",
            ),
        ),
        Mistake(
            _all_noise_away,
            Words(
                en=(
                    "You take all the noise away at once. One step removes only the share"
                    " beta_t / sqrt(1 - abar_t)."
                ),
                zh="你一次把噪声全减掉了。一步只减去 beta_t / sqrt(1 - abar_t) 这么多。",
            ),
        ),
        Mistake(
            _not_scaled_up,
            Words(
                en=(
                    "The factor 1 / sqrt(alpha_t) in front of the bracket is missing: the"
                    " pictures would fade."
                ),
                zh="括号前面漏了 1 / sqrt(alpha_t)：图片会越来越淡。",
            ),
        ),
    ],
    hint=Words(
        en="(7.18) with sigma_t^2 = beta_t.", zh="用 (7.18)，其中 sigma_t^2 = beta_t。"
    ),
    tolerance=TIGHT,
)


# --- 9. the bound's weight, told for x_0 ----------------------------------------------


def _x0_weight(betas: Tensor) -> Tensor:
    ratio = _snr(betas)
    return 0.5 * (ratio[:-1] - ratio[1:])


def _eps_weight(betas: Tensor) -> Tensor:
    abar, _ = _abars(betas)
    return (betas**2 / (2 * _posterior_variance(betas) * (1 - betas) * (1 - abar)))[1:]


def _x0_weight_large(betas: Tensor) -> Tensor:
    """With sigma^2 = beta in place of beta~."""
    abar, _ = _abars(betas)
    return (betas / (2 * (1 - betas) * (1 - abar)) * _snr(betas))[1:]


x0_weight = Exercise(
    reference=_x0_weight,
    cases=_schedules,
    mistakes=[
        Mistake(
            lambda betas: 2 * _x0_weight(betas),
            Words(
                en="Twice too large: the KL brings a factor of one half.",
                zh="大了一倍：KL 散度带来一个二分之一。",
            ),
        ),
        Mistake(
            lambda betas: -_x0_weight(betas),
            Words(
                en=(
                    "The sign is the wrong way round: the ratio falls with t, and a weight is"
                    " positive."
                ),
                zh="正负号反了：信噪比随 t 下降，而权重是正的。",
            ),
        ),
        Mistake(
            _eps_weight,
            Words(
                en=(
                    "This is w_t, the weight of the noise's error. An error of x_0 counts"
                    " SNR(t) times as much."
                ),
                zh="这是 w_t，即噪声误差的权重。换成 x_0 的误差，还要乘以 SNR(t)。",
            ),
        ),
        Mistake(
            _x0_weight_large,
            Words(
                en=(
                    "This is right for sigma_t^2 = beta_t. Here it is the posterior's variance,"
                    " beta~_t."
                ),
                zh="这是 sigma_t^2 = beta_t 时的权重。此处方差取后验的 beta~_t。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "multiply w_t of (7.11), with sigma_t^2 = beta~_t, by SNR(t), and simplify: a"
            " difference of SNRs is left."
        ),
        zh="把 (7.11) 的 w_t（取 sigma_t^2 = beta~_t）乘以 SNR(t) 再化简：最后剩下两个信噪比之差。",
    ),
    tolerance=TIGHT,
)


# --- 10. the perfect denoiser of a data set -------------------------------------------


def _weighted(x_t: Tensor, abar: Tensor, data: Tensor, exponent: Tensor) -> Tensor:
    return exponent.softmax(1) @ data  # (B, N) @ (N, D) => (B, D)


def _distance2(x_t: Tensor, centres: Tensor) -> Tensor:
    return ((x_t[:, None] - centres) ** 2).sum(-1)  # (B, 1, D) - (N, D) => (B, N)


def _optimal_x0(x_t: Tensor, abar: Tensor, data: Tensor) -> Tensor:
    return _weighted(
        x_t, abar, data, -_distance2(x_t, abar.sqrt() * data) / (2 * (1 - abar))
    )


def _unfaded(x_t: Tensor, abar: Tensor, data: Tensor) -> Tensor:
    return _weighted(x_t, abar, data, -_distance2(x_t, data) / (2 * (1 - abar)))


def _without_two(x_t: Tensor, abar: Tensor, data: Tensor) -> Tensor:
    return _weighted(x_t, abar, data, -_distance2(x_t, abar.sqrt() * data) / (1 - abar))


def _nearest(x_t: Tensor, abar: Tensor, data: Tensor) -> Tensor:
    return data[_distance2(x_t, abar.sqrt() * data).argmin(1)]


def _faded_answer(x_t: Tensor, abar: Tensor, data: Tensor) -> Tensor:
    return abar.sqrt() * _optimal_x0(x_t, abar, data)


optimal_x0 = Exercise(
    reference=_optimal_x0,
    cases=lambda: [
        (_random(17, 4, 3), torch.tensor(0.2, dtype=torch.float64), _random(18, 6, 3)),
        (_random(19, 2, 5), torch.tensor(0.6, dtype=torch.float64), _random(20, 9, 5)),
    ],
    mistakes=[
        Mistake(
            _unfaded,
            Words(
                en=(
                    "You compare x_t with clean pictures. At this step they have faded: compare"
                    " with sqrt(abar) x_0."
                ),
                zh=(
                    "你拿 x_t 与干净的图片比较。到了这一步它们已经变淡：要与 sqrt(abar) x_0 比较。"
                ),
            ),
        ),
        Mistake(
            _without_two,
            Words(
                en="The 2 in the Gaussian's exponent is missing: the weights are too sharp.",
                zh="高斯分布指数上的 2 漏了：权重过于集中。",
            ),
        ),
        Mistake(
            _nearest,
            Words(
                en=(
                    "This is the most probable picture. The squared error is smallest for the"
                    " average of all of them."
                ),
                zh="这是概率最大的那张图。让平方误差最小的是平均，要对所有图求。",
            ),
        ),
        Mistake(
            _faded_answer,
            Words(
                en=(
                    "You average the faded pictures. The guess is one of x_0: average the clean"
                    " ones."
                ),
                zh="你平均的是变淡以后的图。要猜的是 x_0：应当平均干净的图。",
            ),
        ),
    ],
    hint=Words(
        en="the weights are a softmax of -|x_t - sqrt(abar) x_0|^2 / (2 (1 - abar)).",
        zh="权重是 -|x_t - sqrt(abar) x_0|^2 / (2 (1 - abar)) 的 softmax。",
    ),
    tolerance=TIGHT,
)


# --- 11. the whole walk back ----------------------------------------------------------

Guess = Callable[[Tensor, int], Tensor]  # guess(x_t, t): the noise, with t from T to 1


def _walk(
    guess: Guess,
    x_T: Tensor,
    betas: Tensor,
    z: Tensor,
    steps: Iterable[int],
    told: int = 0,
) -> Tensor:
    """Algorithm 2 over these steps; the guess is told t + `told`. z: (T, *shape)."""
    x = x_T
    for t in steps:
        x = _ancestral_step(x, guess(x, t + told), betas, t, z[t - 1])
    return x


def _sample(guess: Guess, x_T: Tensor, betas: Tensor, z: Tensor) -> Tensor:
    return _walk(guess, x_T, betas, z, range(len(betas), 0, -1))


def _forward_order(guess: Guess, x_T: Tensor, betas: Tensor, z: Tensor) -> Tensor:
    return _walk(guess, x_T, betas, z, range(1, len(betas) + 1))


def _index_told(guess: Guess, x_T: Tensor, betas: Tensor, z: Tensor) -> Tensor:
    return _walk(guess, x_T, betas, z, range(len(betas), 0, -1), told=-1)


def _last_step_missing(guess: Guess, x_T: Tensor, betas: Tensor, z: Tensor) -> Tensor:
    return _walk(guess, x_T, betas, z, range(len(betas), 1, -1))


def _noise_in_the_last_step(
    guess: Guess,
    x_T: Tensor,
    betas: Tensor,
    z: Tensor,
) -> Tensor:
    return _sample(guess, x_T, betas, z) + betas[0].sqrt() * z[0]


def _guessed_once(guess: Guess, x_T: Tensor, betas: Tensor, z: Tensor) -> Tensor:
    eps = guess(x_T, len(betas))
    return _sample(lambda x, t: eps, x_T, betas, z)


def _guess_of_normal_data(variance: float, betas: Tensor) -> Guess:
    """The perfect guess of the noise for data N(0, variance)."""
    abars = torch.cumprod(1 - betas, dim=0)

    def guess(x_t: Tensor, t: int) -> Tensor:
        abar = abars[t - 1]
        return (1 - abar).sqrt() * x_t / (abar * variance + 1 - abar)

    return guess


def _walk_case(seed: int, betas: Tensor) -> tuple[Guess, Tensor, Tensor, Tensor]:
    return (
        _guess_of_normal_data(0.25, betas),
        _random(seed, 2, 3),
        betas,
        _random(seed + 1, len(betas), 2, 3),
    )


sample = Exercise(
    reference=_sample,
    cases=lambda: [_walk_case(21, linear_betas(25)), _walk_case(23, cosine_betas(10))],
    mistakes=[
        Mistake(
            _forward_order,
            Words(
                en=(
                    "The loop runs from 1 to T. The walk back begins in the noise: t = T, T -"
                    " 1, ..., 1."
                ),
                zh="循环从 1 走到了 T。往回走要从噪声出发：t = T、T - 1、……、1。",
            ),
        ),
        Mistake(
            _index_told,
            Words(
                en="The guess is told t - 1. Here it counts as the formulas do: from T to 1.",
                zh="你告诉 guess 的是 t - 1。本题中它与公式一样计数：从 T 到 1。",
            ),
        ),
        Mistake(
            _last_step_missing,
            Words(
                en="You stop at x_1. One step is left: t = 1, from x_1 to x_0.",
                zh="你停在了 x_1。还差一步：t = 1，从 x_1 到 x_0。",
            ),
        ),
        Mistake(
            _noise_in_the_last_step,
            Words(
                en="Right, except for the noise of the last step: none is added at t = 1.",
                zh="除了最后一步都对：t = 1 时不再加噪声。",
            ),
        ),
        Mistake(
            _guessed_once,
            Words(
                en=(
                    "You ask for the guess once, at x_T. It has to be asked again at each"
                    " step, for the x_t of that step."
                ),
                zh="你只在 x_T 处问了一次。每一步都要用当时的 x_t 重新猜。",
            ),
        ),
    ],
    hint=Words(
        en="for t in range(T, 0, -1): one step of exercise 8, with z[t - 1].",
        zh="for t in range(T, 0, -1)：每一步就是练习 8，噪声取 z[t - 1]。",
    ),
    tolerance=TIGHT,
)


# --- 12. a batch in which each picture has its own step -------------------------------


def _batch_jump(x0: Tensor, t: Tensor, betas: Tensor, eps: Tensor) -> Tensor:
    abar = torch.cumprod(1 - betas, dim=0)[t - 1]  # (B,)
    abar = abar.reshape(-1, *[1] * (x0.ndim - 1))  # (B,) => (B, 1, 1, 1)
    return abar.sqrt() * x0 + (1 - abar).sqrt() * eps


def _not_broadcast(x0: Tensor, t: Tensor, betas: Tensor, eps: Tensor) -> Tensor:
    """The code as printed: abar is laid along the last axis, and t is off by one."""
    abar = torch.cumprod(1 - betas, dim=0)[t]
    return abar.sqrt() * x0 + (1 - abar).sqrt() * eps


def _along_the_columns(x0: Tensor, t: Tensor, betas: Tensor, eps: Tensor) -> Tensor:
    return _not_broadcast(x0, t - 1, betas, eps)


def _one_step_late(x0: Tensor, t: Tensor, betas: Tensor, eps: Tensor) -> Tensor:
    return _batch_jump(x0, t + 1, betas, eps)


def _first_step_for_all(x0: Tensor, t: Tensor, betas: Tensor, eps: Tensor) -> Tensor:
    return _batch_jump(x0, t[:1].expand(len(t)), betas, eps)


def _square_batch(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As many pictures as a picture has columns: a wrong broadcast raises no error."""
    t = torch.tensor([1, 7, 15, 29])
    pictures = _random(seed, 4, 3, 4, 4), _random(seed + 1, 4, 3, 4, 4)
    return pictures[0], t, linear_betas(30), pictures[1]


batch_jump = Exercise(
    reference=_batch_jump,
    cases=lambda: [_square_batch(25), _square_batch(27)],
    mistakes=[
        Mistake(
            _not_broadcast,
            Words(
                en=(
                    "Both mistakes are still in it: abar (B,) is laid along the columns of the"
                    " pictures, and abar_t is at index t - 1."
                ),
                zh="两个错误都还在：形状为 (B,) 的 abar 被沿着图片的列铺开了；abar_t 的下标是 t - 1。",
            ),
        ),
        Mistake(
            _along_the_columns,
            Words(
                en=(
                    "The index is mended. But abar has the shape (B,), and PyTorch lines it up"
                    " with the last axis, the columns. Give it the shape (B, 1, 1, 1)."
                ),
                zh=(
                    "下标改好了。但 abar 的形状是 (B,)，PyTorch 会把它与最后一维（列）对齐。"
                    "要把它变成 (B, 1, 1, 1)。"
                ),
            ),
        ),
        Mistake(
            _one_step_late,
            Words(
                en="The shape is mended. But abar_t is at index t - 1.",
                zh="形状改好了。但 abar_t 的下标是 t - 1。",
            ),
        ),
        Mistake(
            _first_step_for_all,
            Words(
                en="All pictures get the step of the first one. Each has its own.",
                zh="所有图片都用了第一张图的时间步。每张图应当用自己的。",
            ),
        ),
    ],
    hint=Words(
        en="which axis of x0 does abar, of shape (B,), line up with?",
        zh="形状为 (B,) 的 abar 与 x0 的哪一维对齐了？",
    ),
    tolerance=TIGHT,
)
