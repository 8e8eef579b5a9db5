"""Exercises of chapter 01 (a tour of DALL·E 2), and the diagnoses of their usual
mistakes.

Some of the mistakes are from published code: the elementwise product in `slerp` stood
in two pipelines of diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words
from dalle2_edu.unclip.latents import slerp as package_slerp


def _numbers(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _units(n: int, dim: int, seed: int) -> Tensor:
    """n unit vectors (n, dim)."""
    return torch.nn.functional.normalize(_numbers(n, dim, seed=seed), dim=-1)


# --- 1. what a picture costs ----------------------------------------------------------


def _network_calls(
    prior: int, candidates: int, decoder: int, guided: bool, upsamplers: list[int]
) -> int:
    """How often a denoiser looks at one picture (or embedding) until it is drawn."""
    return candidates * prior + (2 if guided else 1) * decoder + sum(upsamplers)


def _calls_one_candidate(
    prior: int, candidates: int, decoder: int, guided: bool, upsamplers: list[int]
) -> int:
    return _network_calls(prior, 1, decoder, guided, upsamplers)


def _calls_unguided(
    prior: int, candidates: int, decoder: int, guided: bool, upsamplers: list[int]
) -> int:
    return _network_calls(prior, candidates, decoder, False, upsamplers)


def _calls_all_guided(
    prior: int, candidates: int, decoder: int, guided: bool, upsamplers: list[int]
) -> int:
    return (2 if guided else 1) * _network_calls(
        prior, candidates, decoder, False, upsamplers
    )


def _calls_prior_guided(
    prior: int, candidates: int, decoder: int, guided: bool, upsamplers: list[int]
) -> int:
    return (2 if guided else 1) * (candidates * prior + decoder) + sum(upsamplers)


network_calls = Exercise(
    reference=_network_calls,
    cases=lambda: [
        (25, 2, 25, True, [10, 10]),
        (64, 2, 250, True, [27, 15]),
        (64, 2, 250, False, [27, 15]),
        (10, 1, 50, True, []),
        (25, 4, 30, True, [5]),
    ],
    mistakes=[
        Mistake(
            _calls_one_candidate,
            Words(
                en="The prior draws several candidates, and each takes all of its steps.",
                zh="先验模型要抽好几个候选，每个候选都要走完全部步数。",
            ),
        ),
        Mistake(
            _calls_unguided,
            Words(
                en=(
                    "Guidance asks the decoder twice a step: once with the condition and once"
                    " without."
                ),
                zh="引导时解码器每步要问两次：带条件一次，不带条件一次。",
            ),
        ),
        Mistake(
            _calls_all_guided,
            Words(
                en="You doubled everything; only the decoder is guided.",
                zh="你把所有部分都翻倍了；只有解码器使用引导。",
            ),
        ),
        Mistake(
            _calls_prior_guided,
            Words(
                en=(
                    "You doubled the prior too; the paper found that guiding it hurts, and"
                    " leaves it unguided."
                ),
                zh="你把先验模型也翻倍了；论文发现引导先验模型反而有害，所以不引导它。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "prior: candidates × steps; decoder: its steps, twice if guided; upsamplers: their"
            " steps, added up."
        ),
        zh="先验模型：候选数 × 步数；解码器：步数，有引导则加倍；上采样器：各自的步数相加。",
    ),
)


# --- 2. cosine similarity -------------------------------------------------------------


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of all rows of a (N, D) with all rows of b (M, D): (N, M)."""
    return (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T


def _cosine_of_neighbours(a: Tensor, b: Tensor) -> Tensor:
    """Row by row only: (N,)."""
    return torch.nn.functional.cosine_similarity(a, b[: len(a)], dim=1)


cosine = Exercise(
    reference=_cosine,
    cases=lambda: [
        (_numbers(3, 8, seed=0), _numbers(4, 8, seed=1)),
        (torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0], [-3.0, -4.0]])),
        (_units(2, 16, seed=2), 5 * _units(3, 16, seed=3)),
    ],
    mistakes=[
        Mistake(
            lambda a, b: a @ b.T,
            Words(
                en=(
                    "These are plain dot products: longer vectors get larger numbers. Divide"
                    " each row by its length."
                ),
                zh="这是普通的点积，越长的向量数值越大。先把每一行除以自己的长度。",
            ),
        ),
        Mistake(
            lambda a, b: (a / a.norm(dim=1, keepdim=True)) @ b.T,
            Words(
                en="Only a is normalised; b needs it too.",
                zh="只归一化了 a，b 也要归一化。",
            ),
        ),
        Mistake(
            lambda a, b: a @ b.T / (a.norm() * b.norm()),
            Words(
                en=(
                    "The norm is taken of the whole table. Take it of each row: dim=1,"
                    " keepdim=True."
                ),
                zh="你取的是整个表的范数。应按行取：dim=1，keepdim=True。",
            ),
        ),
        Mistake(
            lambda a, b: _cosine(a, b).T,
            Words(
                en="Rows and columns are swapped: a's rows come first.",
                zh="行和列颠倒了：a 的行应排在第一维。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "Divide every row by its length (norm with dim=1, keepdim=True); one matrix product"
            " does the rest."
        ),
        zh="每一行除以自己的长度（norm，dim=1，keepdim=True），再做一次矩阵乘法就得到所有点积。",
    ),
)


# --- 3. the candidate that is kept ----------------------------------------------------


def _keep_best(candidates: Tensor, text_emb: Tensor) -> Tensor:
    """Of candidates (B, n, D) the one with the largest dot product with the text's (B,
    D): (B, D).
    """
    # (B, n, D) * (B, 1, D) => (B, n)
    scores = (candidates * text_emb[:, None]).sum(dim=-1)
    return candidates[torch.arange(len(candidates)), scores.argmax(dim=1)]


def _keep_worst(candidates: Tensor, text_emb: Tensor) -> Tensor:
    scores = (candidates * text_emb[:, None]).sum(dim=-1)
    return candidates[torch.arange(len(candidates)), scores.argmin(dim=1)]


def _keep_same_place(candidates: Tensor, text_emb: Tensor) -> Tensor:
    scores = (candidates * text_emb[:, None]).sum(dim=-1).sum(dim=0)
    return candidates[:, scores.argmax()]


def _keep_closest_to_first(candidates: Tensor, text_emb: Tensor) -> Tensor:
    scores = (candidates * text_emb[0]).sum(dim=-1)
    return candidates[torch.arange(len(candidates)), scores.argmax(dim=1)]


def _keep_mean(candidates: Tensor, text_emb: Tensor) -> Tensor:
    return candidates.mean(dim=1)


keep_best = Exercise(
    reference=_keep_best,
    cases=lambda: [
        (_numbers(5, 2, 8, seed=4), _units(5, 8, seed=5)),
        (_numbers(6, 4, 16, seed=6), _units(6, 16, seed=7)),
        (_numbers(4, 3, 8, seed=8), _units(4, 8, seed=9)),
    ],
    mistakes=[
        Mistake(
            _keep_worst,
            Words(
                en="That is the farthest candidate: argmax, not argmin.",
                zh="这是最远的候选：该用 argmax，不是 argmin。",
            ),
        ),
        Mistake(
            _keep_same_place,
            Words(
                en=(
                    "You keep the same place for the whole batch; each row has a best of its"
                    " own (argmax with dim=1)."
                ),
                zh="整批都取了同一个位置；每一行有自己的最佳候选（argmax 要写 dim=1）。",
            ),
        ),
        Mistake(
            _keep_closest_to_first,
            Words(
                en=(
                    "Every row is compared with the first text; row i belongs to text i"
                    " (text_emb[:, None])."
                ),
                zh="每一行都在和第一句文本比较；第 i 行应与第 i 句文本比（text_emb[:, None]）。",
            ),
        ),
        Mistake(
            _keep_mean,
            Words(
                en=(
                    "The mean of the candidates is no candidate: it is the blur that the prior"
                    " exists to avoid."
                ),
                zh="候选的平均不是任何一个候选：先验模型正是为了避开这种模糊而设的。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "scores = (candidates * text_emb[:, None]).sum(-1) has shape (B, n); then argmax"
            " along n, and index."
        ),
        zh=(
            "scores = (candidates * text_emb[:, None]).sum(-1) 的形状是 (B, n)；沿 n 取"
            " argmax，再按下标取出。"
        ),
    ),
)


# --- 4. guidance ----------------------------------------------------------------------


def _guided(null: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance; scale 1 is off."""
    return null + scale * (conditional - null)


guided = Exercise(
    reference=_guided,
    cases=lambda: [
        (_numbers(2, 6, seed=10), _numbers(2, 6, seed=11), scale)
        for scale in (2.0, 1.0, 0.0, 4.0)
    ],
    mistakes=[
        Mistake(
            lambda null, conditional, scale: (1 + scale) * conditional - scale * null,
            Words(
                en=(
                    "This is Ho and Salimans' formula; their w is our s - 1. Here s = 1 has to"
                    " be the plain condition."
                ),
                zh=(
                    "这是 Ho 和 Salimans 的写法，他们的 w 等于本书的 s - 1。这里 s = 1"
                    " 应当就是带条件的答案本身。"
                ),
            ),
        ),
        Mistake(
            lambda null, conditional, scale: conditional + scale * (null - conditional),
            Words(
                en="The arrow points the wrong way: start at null and go towards conditional.",
                zh="方向反了：应从 null 出发，朝 conditional 走。",
            ),
        ),
        Mistake(
            lambda null, conditional, scale: scale * conditional,
            Words(
                en=(
                    "That only makes the answer larger. Guidance enlarges the difference"
                    " between the two answers."
                ),
                zh="这只是把答案放大。引导放大的是两个答案之差。",
            ),
        ),
    ],
    hint=Words(
        en="Start at the answer without the condition, and go s times the difference.",
        zh="从不带条件的答案出发，沿两者之差走 s 倍。",
    ),
)


# --- 5. slerp -------------------------------------------------------------------------


def _slerp(a: Tensor, b: Tensor, amount: float) -> Tensor:
    """From a to b (D,), unit vectors, along the great circle."""
    return package_slerp(a, b, amount)


def _lerp(a: Tensor, b: Tensor, amount: float) -> Tensor:
    return (1 - amount) * a + amount * b


def _normalised_lerp(a: Tensor, b: Tensor, amount: float) -> Tensor:
    return torch.nn.functional.normalize(_lerp(a, b, amount), dim=0)


def _slerp_of_product(a: Tensor, b: Tensor, amount: float) -> Tensor:
    """The product without its sum: an angle for each coordinate."""
    omega = torch.acos(a * b)
    return (
        torch.sin((1 - amount) * omega) * a + torch.sin(amount * omega) * b
    ) / torch.sin(omega)


def _slerp_backwards(a: Tensor, b: Tensor, amount: float) -> Tensor:
    return package_slerp(b, a, amount)


def _slerp_undivided(a: Tensor, b: Tensor, amount: float) -> Tensor:
    omega = torch.acos((a * b).sum())
    return torch.sin((1 - amount) * omega) * a + torch.sin(amount * omega) * b


slerp = Exercise(
    reference=_slerp,
    cases=lambda: [
        (*_units(2, 8, seed=12), 0.25),
        (*_units(2, 16, seed=13), 0.5),
        (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 1 / 3),
        (*_units(2, 8, seed=14), 0.0),
        (*_units(2, 8, seed=14), 1.0),
    ],
    mistakes=[
        Mistake(
            _lerp,
            Words(
                en=(
                    "This is the straight line: in the middle the vector is shorter than 1. Go"
                    " along the circle."
                ),
                zh="这是走直线：中间的向量长度不到 1。要沿着圆弧走。",
            ),
        ),
        Mistake(
            _normalised_lerp,
            Words(
                en=(
                    "The length is right, the pace isn't: the straight line, pulled out to the"
                    " sphere, rushes midway."
                ),
                zh="长度对了，但速度不匀：把直线撑到球面上，会在中间走得快、两头走得慢。",
            ),
        ),
        Mistake(
            _slerp_of_product,
            Words(
                en=(
                    "acos of a * b is an angle for each coordinate. The cosine is the dot"
                    " product: sum over them."
                ),
                zh="对 a * b 取 acos，得到的是每个坐标各自的“角”。余弦是点积：要把各坐标的积加起来。",
            ),
        ),
        Mistake(
            _slerp_backwards,
            Words(
                en="The ends are swapped: amount 0 is a, amount 1 is b.",
                zh="两端颠倒了：amount 为 0 得 a，为 1 得 b。",
            ),
        ),
        Mistake(
            _slerp_undivided,
            Words(en="Divide by sin(omega).", zh="还要再除以 sin(omega)。"),
        ),
    ],
    hint=Words(
        en=(
            "omega = acos(a · b); then (sin((1 - amount) omega) a + sin(amount omega) b) /"
            " sin(omega)."
        ),
        zh=(
            "夹角 omega = acos(a · b)，结果是 (sin((1 - amount) omega) a + sin(amount omega) b)"
            " / sin(omega)。"
        ),
    ),
    tolerance=1e-3,
)


# --- 6. the text diff -----------------------------------------------------------------


def _text_diff(z_i: Tensor, z_source: Tensor, z_target: Tensor, theta: float) -> Tensor:
    """The image embedding (D,), turned by the share theta towards the texts'
    difference.
    """
    direction = torch.nn.functional.normalize(z_target - z_source, dim=0)
    return package_slerp(z_i, direction, theta)


def _diff_reversed(
    z_i: Tensor, z_source: Tensor, z_target: Tensor, theta: float
) -> Tensor:
    return _text_diff(z_i, z_target, z_source, theta)


def _diff_to_target(
    z_i: Tensor, z_source: Tensor, z_target: Tensor, theta: float
) -> Tensor:
    return package_slerp(z_i, z_target, theta)


def _diff_added(
    z_i: Tensor, z_source: Tensor, z_target: Tensor, theta: float
) -> Tensor:
    return z_i + theta * (z_target - z_source)


def _diff_not_normalised(
    z_i: Tensor, z_source: Tensor, z_target: Tensor, theta: float
) -> Tensor:
    return package_slerp(z_i, z_target - z_source, theta)


text_diff = Exercise(
    reference=_text_diff,
    cases=lambda: [
        (*_units(3, 16, seed=15 + i), theta)
        for i, theta in enumerate((0.25, 0.5, 0.1, 0.0))
    ],
    mistakes=[
        Mistake(
            _diff_reversed,
            Words(
                en="You go from the target to the source: z_d is target minus source.",
                zh="方向反了：z_d 是目标减去原文。",
            ),
        ),
        Mistake(
            _diff_to_target,
            Words(
                en=(
                    "You go to the target itself. The direction is the texts' difference: what"
                    " they share must stay."
                ),
                zh="你直接走向了目标文本。方向应是两句文本之差：它们共有的部分不该动。",
            ),
        ),
        Mistake(
            _diff_added,
            Words(
                en=(
                    "Adding the difference leaves the sphere. Normalise it, and slerp"
                    " towards it."
                ),
                zh="直接相加会离开球面。先把差归一化，再用球面插值转过去。",
            ),
        ),
        Mistake(
            _diff_not_normalised,
            Words(
                en=(
                    "The difference isn't a unit vector yet, so the length changes on the way."
                    " Normalise it first."
                ),
                zh="差还不是单位向量，途中长度会变。先归一化。",
            ),
        ),
    ],
    hint=Words(
        en="direction = normalise(z_target - z_source), then slerp(z_i, direction, theta).",
        zh=(
            "先算方向 direction = normalise(z_target - z_source)，再转过去：slerp(z_i,"
            " direction, theta)。"
        ),
    ),
    tolerance=1e-3,
)


# --- 7. how well a picture came back --------------------------------------------------


def _psnr(given: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, for pictures in [-1, 1]."""
    return 10 * torch.log10(4 / (given - wanted).square().mean())


psnr = Exercise(
    reference=_psnr,
    cases=lambda: [
        (
            _numbers(3, 8, 8, seed=20).clamp(-1, 1),
            _numbers(3, 8, 8, seed=21).clamp(-1, 1),
        ),
        (torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), 0.4)),
        (torch.full((3, 4, 4), -1.0), torch.full((3, 4, 4), 1.0)),
    ],
    mistakes=[
        Mistake(
            lambda given, wanted: (
                10 * torch.log10(1 / (given - wanted).square().mean())
            ),
            Words(
                en="Too small by 6.02 dB: from -1 to 1 the peak is 2, and its square 4.",
                zh="小了 6.02 dB：从 -1 到 1，峰值是 2，平方是 4。",
            ),
        ),
        Mistake(
            lambda given, wanted: 10 * torch.log(4 / (given - wanted).square().mean()),
            Words(
                en="Decibels need the logarithm to base 10.",
                zh="分贝要用以 10 为底的对数。",
            ),
        ),
        Mistake(
            lambda given, wanted: (
                10 * torch.log10(2 / (given - wanted).square().mean().sqrt())
            ),
            Words(
                en=(
                    "Half of it: the ratio is of squares, or take 20 times the logarithm of the"
                    " ratio of roots."
                ),
                zh="只有一半：这里应是平方之比；用方根之比的话，要乘 20。",
            ),
        ),
        Mistake(
            lambda given, wanted: (
                10 * torch.log10((given - wanted).square().mean() / 4)
            ),
            Words(
                en="The sign is the wrong way round: a better picture has more decibels.",
                zh="正负号反了：越像，分贝应越大。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "10 log10(peak² / mean squared error), and the peak is the distance from black to"
            " white: 2."
        ),
        zh="10 log10(峰值² / 均方误差)，峰值是从黑到白的距离：2。",
    ),
)


# --- 8. is the right caption found? ---------------------------------------------------


def _rank(similarities: Tensor) -> Tensor:
    """similarities (N, N), picture i with caption j, right on the diagonal: the right
    one's rank, (N,), from 1.
    """
    right = similarities.diag()[:, None]  # (N, 1)
    return 1 + (similarities > right).sum(dim=1)


rank = Exercise(
    reference=_rank,
    cases=lambda: [
        (_numbers(6, 6, seed=22),),
        (_numbers(10, 10, seed=23),),
        (torch.eye(4),),
        (torch.tensor([[0.5, 0.5, 0.1], [0.2, 0.9, 0.9], [0.3, 0.1, 0.3]]),),  # ties
    ],
    mistakes=[
        Mistake(
            lambda similarities: (similarities > similarities.diag()[:, None]).sum(
                dim=1
            ),
            Words(en="The best rank is 1, not 0.", zh="最好的名次是 1，不是 0。"),
        ),
        Mistake(
            lambda similarities: (similarities >= similarities.diag()[:, None]).sum(
                dim=1
            ),
            Words(
                en="Right, except for ties: a caption with the same score doesn't beat it.",
                zh="除了同分都对：得分相同不算超过它。",
            ),
        ),
        Mistake(
            lambda similarities: (
                1 + (similarities < similarities.diag()[:, None]).sum(dim=1)
            ),
            Words(
                en="You count the captions that are worse.",
                zh="你数的是比它差的描述文字。",
            ),
        ),
        Mistake(
            lambda similarities: (
                1 + (similarities > similarities.diag()[None]).sum(dim=0)
            ),
            Words(
                en=(
                    "You rank pictures for each caption (columns); wanted are captions for each"
                    " picture (rows)."
                ),
                zh="你在给每句描述文字排图像（按列）；要的是给每张图像排描述文字（按行）。",
            ),
        ),
        Mistake(
            lambda similarities: similarities.argmax(dim=1),
            Words(
                en="That is which caption wins, not how high the right one stands.",
                zh="这是哪一句胜出，而不是正确的那句排第几。",
            ),
        ),
    ],
    hint=Words(
        en="Count in each row how many captions beat the diagonal's (a tie doesn't), and add 1.",
        zh="在每一行里数有多少句的得分高于对角线上的那个（同分不算），再加 1。",
    ),
)


# --- 9. the decoder's loop ------------------------------------------------------------

Guess = Callable[[Tensor, int], Tensor]


def _paints_towards(x: Tensor, k: int) -> Tensor:
    """A decoder of one line: its guess of the clean picture at place k."""
    return torch.tanh(0.8 * x + 0.1 * k - 0.2)


def _move(x: Tensor, x0: Tensor, abar: float, before: float) -> Tensor:
    """From the level abar to the level before, along the guess x0; no fresh noise."""
    eps = (x - math.sqrt(abar) * x0) / math.sqrt(1 - abar)  # the noise in x
    return math.sqrt(before) * x0 + math.sqrt(1 - before) * eps


def _walk(guess: Guess, x_T: Tensor, abar: list[float]) -> Tensor:
    """From noise to picture; abar: ᾱ of each place, the cleanest first."""
    x = x_T
    for k in reversed(range(len(abar))):
        before = abar[k - 1] if k > 0 else 1.0
        x = _move(x, guess(x, k), abar[k], before)
    return x


def _walk_away(guess: Guess, x_T: Tensor, abar: list[float]) -> Tensor:
    x = x_T
    for k in range(len(abar)):
        before = abar[k - 1] if k > 0 else 1.0
        x = _move(x, guess(x, k), abar[k], before)
    return x


def _walk_never_arrives(guess: Guess, x_T: Tensor, abar: list[float]) -> Tensor:
    x = x_T
    for k in reversed(range(1, len(abar))):
        x = _move(x, guess(x, k), abar[k], abar[k - 1])
    return x


def _walk_on_the_spot(guess: Guess, x_T: Tensor, abar: list[float]) -> Tensor:
    x = x_T
    for k in reversed(range(len(abar))):
        x = _move(x, guess(x, k), abar[k], abar[k])
    return x


def _walk_with_the_first_noise(guess: Guess, x_T: Tensor, abar: list[float]) -> Tensor:
    x = x_T
    for k in reversed(range(len(abar))):
        before = abar[k - 1] if k > 0 else 1.0
        x = math.sqrt(before) * guess(x, k) + math.sqrt(1 - before) * x_T
    return x


walk = Exercise(
    reference=_walk,
    cases=lambda: [
        (_paints_towards, _numbers(2, 3, 4, 4, seed=30), [0.98, 0.8, 0.45, 0.1]),
        (_paints_towards, _numbers(1, 3, 4, 4, seed=31), [0.9, 0.2]),
        (_paints_towards, _numbers(1, 3, 4, 4, seed=32), [0.3]),
    ],
    mistakes=[
        Mistake(
            _walk_away,
            Words(
                en="You walk from the cleanest place to the noisiest: start at the last k.",
                zh="你从最干净的位置走向噪声最多的位置：应从最后一个 k 开始。",
            ),
        ),
        Mistake(
            _walk_never_arrives,
            Words(
                en=(
                    "One step is missing: after place 0 the picture is clean, so its next"
                    " level is 1."
                ),
                zh="少走了一步：走过位置 0 之后图就干净了，下一处的 ᾱ 是 1。",
            ),
        ),
        Mistake(
            _walk_on_the_spot,
            Words(
                en=(
                    "You put guess and noise together again at the level where you were;"
                    " nothing moves. Use the level of place k - 1."
                ),
                zh="你又按原来的 ᾱ 把猜测和噪声合了起来，等于原地不动。应当用位置 k - 1 的 ᾱ。",
            ),
        ),
        Mistake(
            _walk_with_the_first_noise,
            Words(
                en=(
                    "The noise is worked out anew in each step, from x and the guess. You"
                    " keep x_T."
                ),
                zh="每一步都要由 x 和猜测重新求噪声，你一直用的是 x_T。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "Three lines inside the loop: the guess, the noise in x, and both put together"
            " at the next level, which is 1 after place 0."
        ),
        zh="循环里三行：猜测；x 里的噪声；按下一处的 ᾱ 把两者合起来，走过位置 0 之后它是 1。",
    ),
)
