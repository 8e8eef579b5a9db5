"""Exercises of chapter 04 (autoencoders), and the diagnoses of their usual mistakes.

Everything is float64, so that a right formula is right to ten digits and a wrong one
can't hide behind rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words

TIGHT = 1e-6


def _random(seed: int, *shape: int) -> Tensor:
    """Standard normal noise of this shape, always the same."""
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def _numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- 1. a latent that gradients can pass ----------------------------------------------


def _reparameterise(mean: Tensor, log_variance: Tensor, eps: Tensor) -> Tensor:
    return mean + (0.5 * log_variance).exp() * eps


reparameterise = Exercise(
    reference=_reparameterise,
    cases=lambda: [
        (_random(1, 3), _random(2, 3), _random(3, 3)),
        (_random(4, 2, 5), _random(5, 2, 5), _random(6, 2, 5)),
    ],
    mistakes=[
        Mistake(
            lambda mean, log_variance, eps: mean + log_variance.exp() * eps,
            Words(
                en=(
                    "You multiplied eps by the variance. Its root is wanted: half of the"
                    " logarithm."
                ),
                zh="你用方差去乘 eps 了。应当乘它的平方根，也就是先把对数除以 2。",
            ),
        ),
        Mistake(
            lambda mean, log_variance, eps: mean + log_variance * eps,
            Words(
                en="log_variance is a logarithm: it needs exp before it can scale anything.",
                zh="log_variance 是对数：要先取 exp，才能当尺度用。",
            ),
        ),
        Mistake(
            lambda mean, log_variance, eps: (0.5 * log_variance).exp() * (mean + eps),
            Words(
                en="sigma multiplies the noise alone, not the mean.",
                zh="sigma 只乘噪声，不乘均值。",
            ),
        ),
    ],
    hint=Words(
        en="sigma is the root of the variance: halve the logarithm.",
        zh="sigma 是方差的平方根：对数减半。",
    ),
    tolerance=TIGHT,
)


# --- 2. the rate ----------------------------------------------------------------------


def _kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    each = mean**2 + log_variance.exp() - log_variance - 1
    return 0.5 * each.sum(dim=1)


def _posteriors() -> list[tuple[Tensor, Tensor]]:
    return [(_random(7, 4, 3), _random(8, 4, 3)), (_random(9, 2, 6), _random(10, 2, 6))]


kl_to_prior = Exercise(
    reference=_kl,
    cases=_posteriors,
    mistakes=[
        Mistake(
            lambda mean, log_variance: 2 * _kl(mean, log_variance),
            Words(
                en="Twice too large: where is the one half?",
                zh="大了一倍：二分之一到哪里去了？",
            ),
        ),
        Mistake(
            lambda mean, log_variance: _kl(mean, log_variance) / mean.shape[1],
            Words(
                en=(
                    "You averaged over the latent numbers. Independent numbers each cost their"
                    " own bits: add them up."
                ),
                zh="你对各个隐变量取了平均。它们相互独立，各花各的比特：应当相加。",
            ),
        ),
        Mistake(
            lambda mean, log_variance: (
                0.5 * (mean**2 + (2 * log_variance).exp() - 2 * log_variance - 1).sum(1)
            ),
            Words(
                en=(
                    "You squared the variance: exp(log_variance) is sigma squared already."
                ),
                zh="你把方差又平方了一次：exp(log_variance) 已经是 sigma 的平方。",
            ),
        ),
        Mistake(
            lambda mean, log_variance: (
                0.5 * (-(mean**2) - log_variance.exp() + log_variance + 1).sum(1)
            ),
            Words(
                en=(
                    "The sign is the wrong way round: a divergence is never negative. (Many"
                    " programs write -0.5 in front, and mean this sum.)"
                ),
                zh="正负号反了：KL 散度从不为负。（许多程序在前面写 -0.5，括号里就是你这个和。）",
            ),
        ),
    ],
    hint=Words(
        en="(4.5): four terms in the bracket, summed over the latent numbers.",
        zh="用 (4.5)：括号里有四项，再对各个隐变量求和。",
    ),
    tolerance=TIGHT,
)


# --- 3. the best width of the decoder -------------------------------------------------


best_scale = Exercise(
    reference=lambda x, drawn: (x - drawn).square().mean().sqrt(),
    cases=lambda: [
        (_random(11, 2, 3, 4, 4), _random(12, 2, 3, 4, 4)),
        (_numbers(1.0, -1.0, 0.0), _numbers(0.5, -0.5, 0.1)),
    ],
    mistakes=[
        Mistake(
            lambda x, drawn: (x - drawn).square().mean(),
            Words(
                en="This is the best variance, s squared. The width s is its root.",
                zh="这是最好的方差 s²。宽度 s 是它的平方根。",
            ),
        ),
        Mistake(
            lambda x, drawn: (x - drawn).abs().mean(),
            Words(
                en=(
                    "The mean absolute error is the best width of a Laplace distribution. A"
                    " Gaussian wants the root of the mean square."
                ),
                zh="平均绝对误差是拉普拉斯分布的最佳宽度。高斯分布要的是均方误差的平方根。",
            ),
        ),
        Mistake(
            lambda x, drawn: (x - drawn).std(),
            Words(
                en=(
                    "The standard deviation takes away the mean of the errors first. An error"
                    " that is the same everywhere is an error too."
                ),
                zh="标准差先减去了误差的平均。处处相同的误差也是误差，不能减掉。",
            ),
        ),
    ],
    hint=Words(
        en="Set the derivative of error / (2 s^2) + d log s with respect to s to zero.",
        zh="把 误差 / (2 s²) + d log s 对 s 求导，令导数为 0。",
    ),
    tolerance=TIGHT,
)


# --- 4. free bits ---------------------------------------------------------------------


free_bits = Exercise(
    reference=lambda rate, free: rate.mean(dim=0).clamp(min=free).sum(),
    cases=lambda: [
        (torch.tensor([[0.0, 2.0], [0.2, 4.0]], dtype=torch.float64), 0.5),
        (_random(13, 8, 5).square(), 1.0),
    ],
    mistakes=[
        Mistake(
            lambda rate, free: rate.clamp(min=free).sum(dim=1).mean(),
            Words(
                en=(
                    "You compared each picture's rate with the allowance. Average over the"
                    " batch first: a number may be silent for one picture."
                ),
                zh="你逐张图与免费额度比较了。应先对一批取平均：某个数对某一张图沉默是允许的。",
            ),
        ),
        Mistake(
            lambda rate, free: rate.sum(dim=1).mean().clamp(min=free),
            Words(
                en=(
                    "One allowance for the whole latent: a single number could use it all."
                    " Each number has its own."
                ),
                zh="你让整个隐变量共用一份额度：一个数就能把它用光。应当每个数各有一份。",
            ),
        ),
        Mistake(
            lambda rate, free: (rate.mean(dim=0) - free).clamp(min=0).sum(),
            Words(
                en=(
                    "The gradient is right, the value is not: a number below the allowance"
                    " counts with the allowance, so that the sum stays a rate."
                ),
                zh="梯度是对的，数值不对：低于额度时按额度计，这样总和仍然是一个码率。",
            ),
        ),
    ],
    hint=Words(
        en="mean over the batch, then max with `free`, then the sum.",
        zh="先对一批取平均，再与 free 取较大者，最后求和。",
    ),
    tolerance=TIGHT,
)


# --- 5. which numbers fall silent -----------------------------------------------------


def _silent(variances: Tensor, beta: float, s: float) -> int:
    return int((variances <= beta * s**2).sum())


silent_axes = Exercise(
    reference=_silent,
    cases=lambda: [
        (_numbers(9, 4, 1, 0.5, 0.2), 1.0, 0.9),
        (_numbers(9, 4, 1, 0.5, 0.2), 5.0, 1.0),
        (_numbers(9, 4, 1, 0.5, 0.2), 0.1, 3.0),
        (_numbers(9, 4, 1, 0.5, 0.2), 20.0, 2.0),
    ],
    mistakes=[
        Mistake(
            lambda variances, beta, s: int((variances <= s**2).sum()),
            Words(
                en="beta is missing: a dearer rate raises the water.",
                zh="漏了 beta：码率越贵，水位越高。",
            ),
        ),
        Mistake(
            lambda variances, beta, s: int((variances <= beta * s).sum()),
            Words(
                en="s is a width. It is compared with variances by its square.",
                zh="s 是宽度。要与方差比较，得取它的平方。",
            ),
        ),
        Mistake(
            lambda variances, beta, s: int((variances > beta * s**2).sum()),
            Words(
                en="These are the axes that speak. The others were asked for.",
                zh="这是仍在说话的轴数。题目问的是沉默的。",
            ),
        ),
    ],
    hint=Words(
        en="the water level is theta = beta s^2; an axis below it is silent.",
        zh="水位是 theta = beta s²；低于水位的轴是沉默的。",
    ),
)


# --- 6. water filling -----------------------------------------------------------------


def _filled(variances: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    bits = 0.5 * (variances / theta).clamp(min=1).log2()
    return bits.sum(), variances.clamp(max=theta).sum()


def _levels() -> list[tuple[Tensor, float]]:
    variances = _numbers(9, 4, 1, 0.5, 0.2)
    return [(variances, 0.1), (variances, 0.7), (variances, 5.0)]


water_filling = Exercise(
    reference=_filled,
    cases=_levels,
    mistakes=[
        Mistake(
            lambda variances, theta: (
                0.5 * (variances / theta).log2().sum(),
                variances.clamp(max=theta).sum(),
            ),
            Words(
                en=(
                    "An axis below the water gets a negative rate from you. It is not written"
                    " at all: 0 bits."
                ),
                zh="低于水位的轴，你给了负的码率。它根本不写：0 比特。",
            ),
        ),
        Mistake(
            lambda variances, theta: (
                0.5 * (variances / theta).clamp(min=1).log().sum(),
                variances.clamp(max=theta).sum(),
            ),
            Words(
                en="The rate is in nats; bits take the logarithm to base 2.",
                zh="你的码率以奈特计；以比特计要取以 2 为底的对数。",
            ),
        ),
        Mistake(
            lambda variances, theta: (
                0.5 * (variances / theta).clamp(min=1).log2().sum(),
                theta * (variances > theta).sum().double(),
            ),
            Words(
                en=(
                    "An axis that isn't written is lost with its whole variance: it belongs to"
                    " the error."
                ),
                zh="没有写下的轴，整份方差都丢了：它也要算进误差。",
            ),
        ),
        Mistake(
            lambda variances, theta: (
                (variances / theta).clamp(min=1).log2().sum(),
                variances.clamp(max=theta).sum(),
            ),
            Words(
                en="Twice the rate: the logarithm of a *width* is half of a variance's.",
                zh="码率大了一倍：*宽度*的对数只是方差对数的一半。",
            ),
        ),
    ],
    hint=Words(
        en="(4.9): rate max(0, log2(lambda / theta) / 2), error min(lambda, theta).",
        zh="用 (4.9)：码率 max(0, log2(lambda / theta) / 2)，误差 min(lambda, theta)。",
    ),
    tolerance=TIGHT,
)


# --- 7. the score ---------------------------------------------------------------------


score_from_residual = Exercise(
    reference=lambda denoised, noisy, sigma: (denoised - noisy) / sigma**2,
    cases=lambda: [
        (_random(14, 3, 2), _random(15, 3, 2), 0.5),
        (_random(16, 4), _random(17, 4), 2.0),
    ],
    mistakes=[
        Mistake(
            lambda denoised, noisy, sigma: (noisy - denoised) / sigma**2,
            Words(
                en=(
                    "This points away from the data. The score points to where the density"
                    " grows: from the noisy point to the denoised one."
                ),
                zh="这样就背离数据了。得分指向密度增大的方向：从带噪的点指向去噪后的点。",
            ),
        ),
        Mistake(
            lambda denoised, noisy, sigma: (denoised - noisy) / sigma,
            Words(
                en=(
                    "Divided by sigma once, this is minus the guessed noise eps. The score"
                    " needs the variance."
                ),
                zh="只除一次 sigma，得到的是负的噪声猜测 eps。得分要除以方差。",
            ),
        ),
        Mistake(
            lambda denoised, noisy, sigma: denoised - noisy,
            Words(
                en="The direction is right; the length lacks 1 / sigma^2.",
                zh="方向对了；长度还差一个 1 / sigma²。",
            ),
        ),
    ],
    hint=Words(en="(4.2).", zh="用 (4.2)。"),
    tolerance=TIGHT,
)


# --- 8. the noise level of a diffusion step -------------------------------------------


noise_level = Exercise(
    reference=lambda abar: ((1 - abar) / abar).sqrt(),
    cases=lambda: [(_numbers(0.9999, 0.8, 0.5, 0.01),), (_numbers(0.36),)],
    mistakes=[
        Mistake(
            lambda abar: (1 - abar).sqrt(),
            Words(
                en=(
                    "This is the noise in x_t, whose picture has faded. Divide x_t by"
                    " sqrt(abar), and the noise with it."
                ),
                zh="这是 x_t 里的噪声，而 x_t 里的图已经变淡。要把 x_t 除以 sqrt(abar)，噪声也随之放大。",
            ),
        ),
        Mistake(
            lambda abar: (1 - abar) / abar,
            Words(
                en="This is a ratio of variances. A standard deviation is its root.",
                zh="这是方差之比。标准差是它的平方根。",
            ),
        ),
        Mistake(
            lambda abar: (abar / (1 - abar)).sqrt(),
            Words(
                en="Upside down: at abar near 1 there is hardly any noise.",
                zh="上下颠倒了：abar 接近 1 时，几乎没有噪声。",
            ),
        ),
    ],
    hint=Words(
        en="x_t / sqrt(abar) = x_0 + sigma eps. What is sigma?",
        zh="x_t / sqrt(abar) = x_0 + sigma eps。sigma 是多少？",
    ),
    tolerance=TIGHT,
)


# --- 9. a tighter bound ---------------------------------------------------------------


importance_bound = Exercise(
    reference=lambda log_weights: (
        log_weights.logsumexp(dim=0) - math.log(len(log_weights))
    ),
    cases=lambda: [
        (_random(18, 5, 3),),
        (_random(19, 7, 2) - 2000,),
    ],
    mistakes=[
        Mistake(
            lambda log_weights: log_weights.mean(dim=0),
            Words(
                en=(
                    "The mean of the logarithms is the ordinary bound. The logarithm of the"
                    " mean is wanted."
                ),
                zh="对数的平均就是普通的证据下界。这里要的是平均的对数。",
            ),
        ),
        Mistake(
            lambda log_weights: log_weights.logsumexp(dim=0),
            Words(
                en="This is the logarithm of the sum: divide by K, that is, subtract log K.",
                zh="这是和的对数：还要除以 K，也就是减去 log K。",
            ),
        ),
        Mistake(
            lambda log_weights: log_weights.exp().mean(dim=0).log(),
            Words(
                en=(
                    "Right on paper. But exp(-2000) is 0 for a computer, and log 0 is -inf: use"
                    " logsumexp."
                ),
                zh="纸面上是对的。但在计算机里 exp(-2000) 等于 0，log 0 是 -inf：请用 logsumexp。",
            ),
        ),
    ],
    hint=Words(
        en="logsumexp over the draws, less log K.",
        zh="对各次抽样取 logsumexp，再减去 log K。",
    ),
    tolerance=TIGHT,
)
