"""Exercises of chapter 5 (VQ-VAE, VQ-VAE-2, dVAE), and the diagnoses of their usual
mistakes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words


def _numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def _codes(n: int, num_codes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_codes, (n,), generator=generator)


# --- 1. bits --------------------------------------------------------------------------


def _compression(side: int, page: int, num_codes: int) -> float:
    """How many times fewer bits a page of codes has than an 8-bit RGB picture."""
    return side * side * 3 * 8 / (page * page * math.log2(num_codes))


compression = Exercise(
    reference=_compression,
    # the first is VQ-VAE's own, the last DALL·E's
    cases=lambda: [(128, 32, 512), (32, 8, 512), (256, 32, 8192)],
    mistakes=[
        Mistake(
            lambda side, page, num_codes: (
                side**2 * 24 / (page**2 * math.log(num_codes))
            ),
            Words(
                en="That counts nats: bits need the logarithm to base 2.",
                zh="这样数的是奈特：比特要用以 2 为底的对数。",
            ),
        ),
        Mistake(
            lambda side, page, num_codes: side**2 * 3 / page**2,
            Words(
                en="That compares how many numbers there are. A colour value has 8 bits, a code log2 K.",
                zh="这只比较了数的个数。一个颜色值占 8 比特，一个码占 log2 K 比特。",
            ),
        ),
        Mistake(
            lambda side, page, num_codes: (
                side**2 * 8 / (page**2 * math.log2(num_codes))
            ),
            Words(
                en="A pixel has three colour values.",
                zh="一个像素有三个颜色值。",
            ),
        ),
    ],
    hint=Words(
        en="Count the bits of each: 8 a colour value, log2 K a code.",
        zh="分别数比特：每个颜色值 8 比特，每个码 log2 K 比特。",
    ),
)


# --- 2. the nearest code --------------------------------------------------------------


def _nearest(z: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(z, codebook).argmin(dim=1)


nearest = Exercise(
    reference=_nearest,
    cases=lambda: [
        (_numbers(9, 2, seed=1), _numbers(5, 2, seed=2)),
        (_numbers(7, 4, seed=3), 3 * _numbers(6, 4, seed=4)),
    ],
    mistakes=[
        Mistake(
            lambda z, codebook: (z @ codebook.T).argmax(dim=1),
            Words(
                en=(
                    "The largest dot product is not the smallest distance: it favours long"
                    " codes. Take |e|² into account."
                ),
                zh="点积最大不等于距离最小：点积偏爱长的码向量。要把 |e|² 也算进去。",
            ),
        ),
        Mistake(
            lambda z, codebook: torch.cdist(z, codebook).argmax(dim=1),
            Words(en="That is the farthest code.", zh="这是最远的码。"),
        ),
        Mistake(
            lambda z, codebook: torch.cdist(z, codebook).argmin(dim=0),
            Words(
                en="That finds a vector for each code; each vector needs a code, (N,).",
                zh="这是给每个码找向量；要的是给每个向量找码，形状 (N,)。",
            ),
        ),
    ],
    hint=Words(
        en="`torch.cdist` gives all distances, (N, K).",
        zh="`torch.cdist` 一次给出所有距离，形状 (N, K)。",
    ),
)


# --- 3. the straight-through gradient -------------------------------------------------


def _st_gradient(z: Tensor, codebook: Tensor, target: Tensor) -> Tensor:
    return 2 * (codebook[_nearest(z, codebook)] - target)


st_gradient = Exercise(
    reference=_st_gradient,
    cases=lambda: [
        (_numbers(6, 2, seed=s), _numbers(4, 2, seed=s + 1), _numbers(6, 2, seed=s + 2))
        for s in (11, 21)
    ],
    mistakes=[
        Mistake(
            lambda z, codebook, target: 2 * (z - target),
            Words(
                en=(
                    "That is the gradient if nothing had been quantised. The decoder saw the"
                    " code, so its gradient is taken there, and then copied to z."
                ),
                zh="这是没有量化时的梯度。解码器看到的是码，所以梯度在码那里求，再原样抄给 z。",
            ),
        ),
        Mistake(
            lambda z, codebook, target: torch.zeros_like(z),
            Words(
                en="That is the true gradient, and useless. Straight-through copies the code's.",
                zh="这是真正的梯度，却毫无用处。直通估计把码处的梯度抄过来。",
            ),
        ),
        Mistake(
            lambda z, codebook, target: 2 * (codebook[_nearest(z, codebook)] - z),
            Words(
                en="The loss compares the code with the target, not with z.",
                zh="损失比较的是码与目标，不是码与 z。",
            ),
        ),
    ],
    hint=Words(
        en="d/dz_q of (z_q - target)², at z_q; then copied.",
        zh="在 z_q 处求 (z_q - target)² 对 z_q 的导数，然后照抄。",
    ),
)


# --- 4. one step of the moving averages -----------------------------------------------


def _ema_step(
    counts: Tensor, sums: Tensor, vectors: Tensor, codes: Tensor, gamma: float
) -> Tensor:
    one_hot = F.one_hot(codes, len(counts)).type_as(vectors)
    counts = gamma * counts + (1 - gamma) * one_hot.sum(dim=0)
    sums = gamma * sums + (1 - gamma) * one_hot.T @ vectors
    return sums / counts[:, None]


def _ema_of_means(
    counts: Tensor, sums: Tensor, vectors: Tensor, codes: Tensor, gamma: float
) -> Tensor:
    one_hot = F.one_hot(codes, len(counts)).type_as(vectors)
    n = one_hot.sum(dim=0)[:, None]
    mean = (one_hot.T @ vectors) / n.clamp(min=1)
    return gamma * sums / counts[:, None] + (1 - gamma) * mean


ema_step = Exercise(
    reference=_ema_step,
    cases=lambda: [
        (
            torch.tensor([2.0, 3.0, 1.0], dtype=torch.float64),
            _numbers(3, 2, seed=31),
            _numbers(8, 2, seed=32),
            torch.tensor([0, 0, 0, 1, 1, 0, 1, 0]),  # nothing chooses code 2
            gamma,
        )
        for gamma in (0.99, 0.6)
    ],
    mistakes=[
        Mistake(
            _ema_of_means,
            Words(
                en=(
                    "That averages means: a batch in which one vector chose a code would count"
                    " as much as one with a hundred. Average sums and counts, then divide."
                ),
                zh="这是对均值求平均：只有一个向量选它的批，会与有一百个的批同样重。应分别平均总和与次数，再相除。",
            ),
        ),
        Mistake(
            lambda counts, sums, vectors, codes, gamma: _ema_step(
                counts, sums, vectors, codes, 1 - gamma
            ),
            Words(
                en="gamma is the share of the OLD value; the new one gets 1 - gamma.",
                zh="gamma 是旧值的份额；新值占 1 - gamma。",
            ),
        ),
        Mistake(
            lambda counts, sums, vectors, codes, gamma: (
                gamma * sums
                + (1 - gamma)
                * F.one_hot(codes, len(counts)).type_as(vectors).T
                @ vectors
            ),
            Words(
                en="That is m, the averaged sum: divide it by the averaged count N.",
                zh="这是平均后的总和 m：还要除以平均后的次数 N。",
            ),
        ),
    ],
    hint=Words(
        en="`F.one_hot(codes, K)` as a matrix: its column sums are n, its transpose times the vectors the sums.",
        zh="把 `F.one_hot(codes, K)` 当作矩阵：各列之和就是 n，它的转置乘向量就是各码的总和。",
    ),
)


# --- 5. perplexity --------------------------------------------------------------------


def _perplexity(codes: Tensor, num_codes: int) -> Tensor:
    share = codes.bincount(minlength=num_codes).double() / len(codes)
    return torch.special.entr(share).sum().exp()


perplexity = Exercise(
    reference=_perplexity,
    cases=lambda: [
        (_codes(200, 16, seed=41), 16),
        (_codes(50, 64, seed=42) // 4, 64),
        (torch.tensor([3, 3, 3, 5]), 8),
    ],
    mistakes=[
        Mistake(
            lambda codes, num_codes: _perplexity(codes, num_codes).log(),
            Words(
                en="That is the entropy; perplexity is its exponential.",
                zh="这是熵；困惑度是熵的指数。",
            ),
        ),
        Mistake(
            lambda codes, num_codes: len(codes.unique()),
            Words(
                en="That counts a code that came once as much as one that came every time.",
                zh="这样数，只出现一次的码与每次都出现的码同样算一个。",
            ),
        ),
        Mistake(
            lambda codes, num_codes: (
                _perplexity(codes, num_codes).log() / math.log(2)
            ).exp(),
            Words(
                en="An entropy in bits is undone by 2^H, one in nats by e^H.",
                zh="以比特计的熵要用 2^H 还原，以奈特计的熵用 e^H。",
            ),
        ),
    ],
    hint=Words(
        en="`bincount`, then shares; 0 ln 0 counts as 0 (`torch.special.entr`).",
        zh="先 `bincount`，再变成份额；0 ln 0 按 0 算（`torch.special.entr`）。",
    ),
)


# --- 6. the Gumbel trick --------------------------------------------------------------


def _gumbel_max(logits: Tensor, uniform: Tensor) -> Tensor:
    return (logits - (-uniform.log()).log()).argmax(dim=-1)


def _uniform(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


gumbel_max = Exercise(
    reference=_gumbel_max,
    cases=lambda: [
        (_numbers(40, 6, seed=51), _uniform(40, 6, seed=52)),
        (2 * _numbers(30, 4, seed=53), _uniform(30, 4, seed=54)),
    ],
    mistakes=[
        Mistake(
            lambda logits, uniform: logits.argmax(dim=-1),
            Words(
                en="That is the likeliest code every time, no draw.",
                zh="这样每次都是最可能的码，没有抽样。",
            ),
        ),
        Mistake(
            lambda logits, uniform: (logits - uniform.log()).argmax(dim=-1),
            Words(
                en="-ln u is exponential noise; Gumbel noise needs the logarithm once more.",
                zh="-ln u 是指数分布的噪声；Gumbel 噪声还要再取一次对数。",
            ),
        ),
        Mistake(
            lambda logits, uniform: (logits + (-uniform.log()).log()).argmax(dim=-1),
            Words(
                en="The sign: g = -ln(-ln u). Yours has its long tail on the wrong side.",
                zh="符号：g = -ln(-ln u)。你的噪声把长尾放到了另一边。",
            ),
        ),
        Mistake(
            lambda logits, uniform: (logits + uniform).argmax(dim=-1),
            Words(
                en="Uniform noise draws from another distribution; turn it into Gumbel noise.",
                zh="均匀噪声抽出来的是另一个分布；先把它变成 Gumbel 噪声。",
            ),
        ),
    ],
    hint=Words(
        en="g = -ln(-ln u), added to the logits; then the largest.",
        zh="g = -ln(-ln u)，加到 logits 上，再取最大。",
    ),
)


# --- 7. the KL to the uniform distribution --------------------------------------------


def _kl(logits: Tensor) -> Tensor:
    log_q = logits.log_softmax(dim=-1)
    return (log_q.exp() * log_q).sum(dim=-1) + math.log(logits.shape[-1])


kl_to_uniform = Exercise(
    reference=_kl,
    cases=lambda: [(3 * _numbers(5, 8, seed=61),), (_numbers(4, 32, seed=62),)],
    mistakes=[
        Mistake(
            lambda logits: _kl(logits) - math.log(logits.shape[-1]),
            Words(
                en="That is minus the entropy. ln K is missing: for equal logits the KL is 0.",
                zh="这是负的熵，少了 ln K：logits 全相等时 KL 应为 0。",
            ),
        ),
        Mistake(
            lambda logits: (
                -logits.log_softmax(dim=-1).mean(dim=-1) - math.log(logits.shape[-1])
            ),
            Words(
                en="That is KL(uniform || q). The bound has KL(q || uniform).",
                zh="这是 KL(均匀 || q)。下界里的是 KL(q || 均匀)。",
            ),
        ),
        Mistake(
            lambda logits: math.log(logits.shape[-1]) - _kl(logits),
            Words(
                en="That is the entropy H(q). The KL is ln K - H(q).",
                zh="这是熵 H(q)。KL 等于 ln K - H(q)。",
            ),
        ),
    ],
    hint=Words(
        en="sum of q ln(q / (1/K)); `log_softmax` gives ln q.",
        zh="对 q ln(q / (1/K)) 求和；`log_softmax` 给出 ln q。",
    ),
)


# --- 8. the logit-Laplace likelihood --------------------------------------------------


def _logit_laplace(x: Tensor, mu: Tensor, b: Tensor) -> Tensor:
    logit = (x / (1 - x)).log()
    return (-(logit - mu).abs() / b).exp() / (2 * b * x * (1 - x))


logit_laplace = Exercise(
    reference=_logit_laplace,
    cases=lambda: [
        (
            0.1 + 0.8 * _uniform(6, seed=71 + s),
            _numbers(6, seed=73 + s),
            0.2 + _uniform(6, seed=75 + s),
        )
        for s in (0, 1)
    ],
    mistakes=[
        Mistake(
            lambda x, mu, b: _logit_laplace(x, mu, b) * x * (1 - x),
            Words(
                en=(
                    "That is the density of logit x. A density of x needs the factor"
                    " |d logit x / dx| = 1 / (x (1 - x))."
                ),
                zh="这是 logit x 的密度。换成 x 的密度，还要乘上 |d logit x / dx| = 1 / (x (1 - x))。",
            ),
        ),
        Mistake(
            lambda x, mu, b: _logit_laplace(x, mu, b) * (x * (1 - x)) ** 2,
            Words(
                en="Divide by x (1 - x), do not multiply.",
                zh="要除以 x (1 - x)，不是乘。",
            ),
        ),
        Mistake(
            lambda x, mu, b: (-(x - mu).abs() / b).exp() / (2 * b * x * (1 - x)),
            Words(
                en="mu is on the scale of the logit: compare it with ln(x / (1 - x)).",
                zh="mu 在 logit 的刻度上：应与 ln(x / (1 - x)) 比较。",
            ),
        ),
        Mistake(
            lambda x, mu, b: 2 * b * _logit_laplace(x, mu, b),
            Words(
                en="The Laplace density itself begins with 1 / (2b).",
                zh="拉普拉斯密度本身前面有 1 / (2b)。",
            ),
        ),
    ],
    hint=Words(
        en="The Laplace density at ln(x / (1 - x)), times the derivative of that.",
        zh="在 ln(x / (1 - x)) 处的拉普拉斯密度，乘上它的导数。",
    ),
)
