"""Exercises of chapter 18 (unCLIP assembled, and the prior on trial), and the diagnoses
of their usual mistakes.

Each reference is the shortest right answer, where there is one the package's own; each
mistake is an answer that students (and published code) really give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dalle2_edu.evaluation import intervals, trial
from dalle2_edu.evaluation.alignment import retrieval_ranks
from dalle2_edu.evaluation.intervals import Z_95
from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words


def _units(*shape: int, seed: int) -> Tensor:
    """Vectors of length 1 along the last axis."""
    numbers = torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return numbers / numbers.norm(dim=-1, keepdim=True)


# --- 1. the cost of a picture ---------------------------------------------------------

GFLOP = {"prior": 0.1, "decoder": 0.7, "upsampler_64": 0.7, "upsampler_128": 3.0}
STEPS = {"prior": 25, "decoder": 25, "upsampler_64": 10, "upsampler_128": 10}
PAPER_STEPS = {"prior": 64, "decoder": 250, "upsampler_64": 27, "upsampler_128": 15}
Table = Mapping[str, float]


def _sum(gflop: Table, evaluations: Table) -> float:
    return sum(gflop[name] * evaluations[name] for name in gflop)


def _cost(
    gflop: Table,
    steps: Table,
    candidates: int,
    guidance: float,
    prior_guidance: float,
    best_of: int,
) -> float:
    """GFLOP of one finished picture."""
    evaluations = dict(steps)
    evaluations["prior"] *= candidates * (2 if prior_guidance != 1 else 1)
    evaluations["decoder"] *= 2 if guidance != 1 else 1
    return best_of * _sum(gflop, evaluations)


def _cost_by_scale(
    gflop: Table,
    steps: Table,
    candidates: int,
    guidance: float,
    prior_guidance: float,
    best_of: int,
) -> float:
    own = {
        "prior": steps["prior"] * candidates * prior_guidance,
        "decoder": steps["decoder"] * guidance,
    }
    return best_of * _sum(gflop, {**steps, **own})


def _cost_always_twice(
    gflop: Table,
    steps: Table,
    candidates: int,
    guidance: float,
    prior_guidance: float,
    best_of: int,
) -> float:
    return _cost(gflop, steps, candidates, 2.0, prior_guidance, best_of)


def _cost_one_embedding(
    gflop: Table,
    steps: Table,
    candidates: int,
    guidance: float,
    prior_guidance: float,
    best_of: int,
) -> float:
    once = _cost({**gflop, **dict.fromkeys(["decoder", "upsampler_64", "upsampler_128"], 0.0)}, steps, candidates,
                 guidance, prior_guidance, 1)  # fmt: skip
    return once + _cost(
        {**gflop, "prior": 0.0}, steps, candidates, guidance, prior_guidance, best_of
    )


def _cost_small_only(
    gflop: Table,
    steps: Table,
    candidates: int,
    guidance: float,
    prior_guidance: float,
    best_of: int,
) -> float:
    decided = {**gflop, "upsampler_64": 0.0, "upsampler_128": 0.0}
    rest = {**gflop, "prior": 0.0, "decoder": 0.0}
    return _cost(decided, steps, candidates, guidance, prior_guidance, best_of) + _sum(
        rest, steps
    )


cost = Exercise(
    reference=_cost,
    cases=lambda: [
        (GFLOP, STEPS, 2, 2.0, 1.0, 1),
        (GFLOP, STEPS, 2, 1.0, 1.0, 4),
        (GFLOP, PAPER_STEPS, 2, 3.0, 1.0, 2),
        (GFLOP, PAPER_STEPS, 1, 3.0, 4.0, 1),
    ],
    mistakes=[
        Mistake(
            _cost_by_scale,
            Words(
                en=(
                    "You multiplied by the guidance scale. Guidance costs one more evaluation a"
                    " step, however strong."
                ),
                zh="你乘上了引导强度。引导不管多强，每步都只是多问一次。",
            ),
        ),
        Mistake(
            _cost_always_twice,
            Words(
                en=(
                    "At a guidance scale of 1 the decoder is asked once a step: the null pass"
                    " would not be used."
                ),
                zh="引导强度为 1 时解码器每步只问一次：不带条件的那次用不上。",
            ),
        ),
        Mistake(
            _cost_one_embedding,
            Words(
                en=(
                    "You let all tries share one embedding. In best_of each try has its own"
                    " seed, in the prior as well."
                ),
                zh="你让各次尝试共用一个嵌入。best_of 里每次尝试都有自己的随机种子，先验模型也要重抽。",
            ),
        ),
        Mistake(
            _cost_small_only,
            Words(
                en=(
                    "You enlarge the winner only. That would be wise; but text_to_image scores"
                    " the finished pictures."
                ),
                zh="你只放大胜出的那张。这主意不错；但 text_to_image 是给放大完的图打分的。",
            ),
        ),
    ],
    hint=Words(
        en="Evaluations a stage first; best_of multiplies everything.",
        zh="先算每个阶段要问几次网络；best_of 乘的是全部。",
    ),
)


# --- 2. best of m ---------------------------------------------------------------------


def _best(scores: Tensor, best_of: int) -> Tensor:
    """Where each prompt's best picture stands among all: scores (B * best_of,) -> int64
    (B,).
    """
    groups = scores.reshape(-1, best_of)
    return groups.argmax(dim=1) + torch.arange(len(groups)) * best_of


best = Exercise(
    reference=_best,
    cases=lambda: [
        (torch.tensor([0.1, 0.5, 0.3, 0.9, 0.2, 0.4]), 3),
        (torch.tensor([0.1, 0.5, 0.9, 0.3, 0.2, 0.4]), 2),
        (torch.rand(12, generator=torch.Generator().manual_seed(0)), 4),
        (torch.tensor([0.3, 0.2]), 1),
    ],
    mistakes=[
        Mistake(
            lambda scores, best_of: scores.reshape(-1, best_of).argmax(dim=1),
            Words(
                en=(
                    "These are places within each prompt's own group. Add where the group"
                    " begins: 0, best_of, ..."
                ),
                zh="这是各组内部的位置。还要加上这一组的起点：0、best_of……",
            ),
        ),
        Mistake(
            lambda scores, best_of: scores.reshape(best_of, -1).argmax(dim=0),
            Words(
                en=(
                    "You take every B-th picture for one prompt's. One prompt's pictures stand"
                    " next to each other."
                ),
                zh="你把每隔 B 张的图当成了同一句的。同一句提示词的图是挨在一起的。",
            ),
        ),
        Mistake(
            lambda scores, best_of: scores.topk(len(scores) // best_of).indices,
            Words(
                en=(
                    "These are the best pictures of all prompts together: one prompt may win"
                    " twice, another never."
                ),
                zh="这是全体提示词里最好的几张：有的提示词会中两次，有的一次也没有。",
            ),
        ),
        Mistake(
            lambda scores, best_of: scores.reshape(-1, best_of).max(dim=1).values,
            Words(
                en="These are the best scores. Where do they stand?",
                zh="这是最高的得分。它们在什么位置？",
            ),
        ),
    ],
    hint=Words(
        en="reshape to (B, best_of), argmax along the row, then add the row's beginning.",
        zh="先 reshape 成 (B, best_of)，按行取 argmax，再加上这一行的起点。",
    ),
)


# --- 3. the judge's rank --------------------------------------------------------------


def _cosines(
    image_emb: Tensor, right_emb: Tensor, wrong_emb: Tensor
) -> tuple[Tensor, Tensor]:
    """Of every picture with its own caption, (B, 1), and with the wrong ones, (B,
    K).
    """
    own = (image_emb * right_emb).sum(dim=-1, keepdim=True)
    return own, (wrong_emb * image_emb[:, None]).sum(dim=-1)


def _ranks_lenient(image_emb: Tensor, right_emb: Tensor, wrong_emb: Tensor) -> Tensor:
    own, wrong = _cosines(image_emb, right_emb, wrong_emb)
    return 1 + (wrong > own).sum(dim=-1)


def _ranks_from_zero(image_emb: Tensor, right_emb: Tensor, wrong_emb: Tensor) -> Tensor:
    own, wrong = _cosines(image_emb, right_emb, wrong_emb)
    return (wrong >= own).sum(dim=-1)


def _ranks_backwards(image_emb: Tensor, right_emb: Tensor, wrong_emb: Tensor) -> Tensor:
    own, wrong = _cosines(image_emb, right_emb, wrong_emb)
    return 1 + (wrong <= own).sum(dim=-1)


def _ranks_of_captions(
    image_emb: Tensor, right_emb: Tensor, wrong_emb: Tensor
) -> Tensor:
    own = (image_emb * right_emb).sum(dim=-1, keepdim=True)
    return 1 + ((wrong_emb * right_emb[:, None]).sum(dim=-1) >= own).sum(dim=-1)


def _tie() -> tuple[Tensor, Tensor, Tensor]:
    """One picture; of three wrong captions one is as near as the right one, one
    nearer.
    """
    axis = torch.eye(3, dtype=torch.float64)
    right = torch.tensor([[0.6, 0.8, 0.0]], dtype=torch.float64)
    wrong = torch.stack(
        [torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64), axis[0], axis[1]]
    )
    return axis[:1], right, wrong[None]


ranks = Exercise(
    reference=retrieval_ranks,
    cases=lambda: [
        _tie(),
        (_units(4, 8, seed=0), _units(4, 8, seed=1), _units(4, 9, 8, seed=2)),
        (_units(3, 16, seed=3), _units(3, 16, seed=3), _units(3, 99, 16, seed=4)),
    ],
    mistakes=[
        Mistake(
            _ranks_lenient,
            Words(
                en=(
                    "A tie counts for the right caption with you. A judge that finds all"
                    " captions equally near would then always put the right one first. Count"
                    " wrong captions that are AT LEAST as near."
                ),
                zh=(
                    "你把并列算成了正确描述赢。这样一来，一个觉得所有描述都一样近的评审永远会让正确的排第一。"
                    "应当数“至少一样近”的错误描述。"
                ),
            ),
        ),
        Mistake(
            _ranks_from_zero,
            Words(en="The best rank is 1, not 0.", zh="最好的名次是 1，不是 0。"),
        ),
        Mistake(
            _ranks_backwards,
            Words(
                en="You count the wrong captions that are further away: your best is last.",
                zh="你数的是更远的错误描述：最好的反而排在最后。",
            ),
        ),
        Mistake(
            _ranks_of_captions,
            Words(
                en=(
                    "You compare the wrong captions with the right caption. Compare them with"
                    " the picture."
                ),
                zh="你拿错误描述与正确描述比。应当与图比。",
            ),
        ),
    ],
    hint=Words(
        en="Two sets of cosines with the picture: (B, 1) and (B, K). Then count.",
        zh="先求与图的两组余弦，形状 (B, 1) 和 (B, K)，再数个数。",
    ),
)


# --- 4. diversity ---------------------------------------------------------------------


def _spread_with_itself(emb: Tensor) -> Tensor:
    return (1 - emb @ emb.mT).mean(dim=(1, 2))


def _spread_of_neighbours(emb: Tensor) -> Tensor:
    return (1 - (emb[:, 1:] * emb[:, :-1]).sum(dim=-1)).mean(dim=1)


def _likeness(emb: Tensor) -> Tensor:
    return 1 - trial.spread(emb)


def _spread_of_captions(emb: Tensor) -> Tensor:
    return trial.spread(emb.transpose(0, 1))


diversity = Exercise(
    reference=trial.spread,
    cases=lambda: [
        (_units(5, 4, 8, seed=0),),
        (_units(3, 2, 6, seed=1),),
        (_units(2, 1, 8, seed=2).expand(-1, 3, -1).clone(),),
    ],
    mistakes=[
        Mistake(
            _spread_with_itself,
            Words(
                en=(
                    "You compare each picture with itself as well; those zeros pull the mean"
                    " down."
                ),
                zh="你把每张图与它自己也比了一遍；这些零把平均值拉低了。",
            ),
        ),
        Mistake(
            _spread_of_neighbours,
            Words(
                en="Only neighbours are compared. Take all pairs: of 4 pictures there are 6.",
                zh="只比了相邻的图。应当取所有的对：4 张图有 6 对。",
            ),
        ),
        Mistake(
            _likeness,
            Words(
                en=(
                    "That is how ALIKE they are: 1 for equal pictures. Diversity is 1 minus"
                    " that."
                ),
                zh="这是相像的程度：完全相同时得 1。多样性是 1 减去它。",
            ),
        ),
        Mistake(
            _spread_of_captions,
            Words(
                en=(
                    "You compare pictures of different captions. The pairs are within one"
                    " caption: along axis 1."
                ),
                zh="你比的是不同描述的图。应当在同一句描述内部配对：沿第 1 维。",
            ),
        ),
    ],
    hint=Words(
        en="itertools.combinations(range(m), 2) lists the pairs.",
        zh="itertools.combinations(range(m), 2) 列出所有对。",
    ),
)


# --- 5. how sure is a share? ----------------------------------------------------------

Interval = tuple[float, float, float]


def _share(right: Tensor) -> Interval:
    """Share of True, and Wilson's 95% interval, in per cent."""
    measure = intervals.share(right)
    return measure.value, measure.low, measure.high


def _share_plain(right: Tensor) -> Interval:
    p, n = float(right.double().mean()), len(right)
    half = Z_95 * math.sqrt(p * (1 - p) / n)
    return 100 * p, 100 * (p - half), 100 * (p + half)


def _share_as_fraction(right: Tensor) -> Interval:
    value, low, high = _share(right)
    return value / 100, low / 100, high / 100


def _share_not_divided(right: Tensor) -> Interval:
    p, n = float(right.double().mean()), len(right)
    half = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2))
    centre = p + Z_95**2 / (2 * n)
    return 100 * p, 100 * (centre - half), 100 * (centre + half)


def _share_centre(right: Tensor) -> Interval:
    value, low, high = _share(right)
    return (low + high) / 2, low, high


share = Exercise(
    reference=_share,
    cases=lambda: [
        (torch.arange(100) < 79,),
        (torch.arange(1000) < 570,),
        (torch.arange(8) < 3,),
        (torch.ones(100, dtype=torch.bool),),
    ],
    mistakes=[
        Mistake(
            _share_plain,
            Words(
                en=(
                    "That is the paper's plain interval. Fine for 570 of 1,000; for 100 of 100"
                    " it says 100 ± 0. (18.6) is Wilson's."
                ),
                zh=(
                    "这是论文用的简单区间。1,000 中 570 没问题；100 中 100 却会说成 100 ± 0。式"
                    " (18.6) 是威尔逊区间。"
                ),
            ),
        ),
        Mistake(
            _share_as_fraction,
            Words(en="Right, but give it in per cent.", zh="对了，但请以百分数给出。"),
        ),
        Mistake(
            _share_not_divided,
            Words(
                en="Centre and half width are both divided by 1 + 1.96² / n.",
                zh="中心和半宽都要除以 1 + 1.96² / n。",
            ),
        ),
        Mistake(
            _share_centre,
            Words(
                en=(
                    "The first number is the share itself, not the interval's centre: Wilson's"
                    " is not symmetric."
                ),
                zh="第一个数是比例本身，不是区间的中心：威尔逊区间并不对称。",
            ),
        ),
    ],
    hint=Words(
        en="(18.6), term by term; c is 1.96.", zh="照 (18.6) 逐项写；c 取 1.96。"
    ),
)


# --- 6. the factorisation, on a toy ---------------------------------------------------


def _factorise(p_x_given_y: Tensor, z_of_x: Tensor) -> tuple[Tensor, Tensor]:
    """P(x | y) (Y, X) and the embedding of each x (X,) -> P(z | y) (Y, Z) and P(x |
    z(x), y) (Y, X).
    """
    p_z = p_x_given_y.new_zeros(len(p_x_given_y), int(z_of_x.max()) + 1).index_add(
        1, z_of_x, p_x_given_y
    )
    return p_z, p_x_given_y / p_z[:, z_of_x]


def _factorise_by_mean(p_x_given_y: Tensor, z_of_x: Tensor) -> tuple[Tensor, Tensor]:
    p_z = _factorise(p_x_given_y, z_of_x)[0] / torch.bincount(z_of_x)
    return p_z, p_x_given_y / p_z[:, z_of_x]


def _factorise_undivided(p_x_given_y: Tensor, z_of_x: Tensor) -> tuple[Tensor, Tensor]:
    return _factorise(p_x_given_y, z_of_x)[0], p_x_given_y


def _factorise_deaf(p_x_given_y: Tensor, z_of_x: Tensor) -> tuple[Tensor, Tensor]:
    p_x = p_x_given_y.mean(dim=0, keepdim=True)  # as if every y were equally frequent
    return _factorise(p_x_given_y, z_of_x)[0], _factorise(p_x, z_of_x)[1].expand_as(
        p_x_given_y
    )


def _random_table(rows: int, columns: int, seed: int) -> Tensor:
    table = torch.rand(
        rows,
        columns,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    return table / table.sum(dim=1, keepdim=True)


factorise = Exercise(
    reference=_factorise,
    cases=lambda: [
        (_random_table(2, 6, seed=0), torch.tensor([0, 1, 1, 2, 2, 2])),
        (_random_table(3, 5, seed=1), torch.tensor([1, 0, 1, 0, 0])),
        (_random_table(1, 4, seed=2), torch.tensor([0, 1, 2, 3])),
    ],
    mistakes=[
        Mistake(
            _factorise_by_mean,
            Words(
                en=(
                    "You average the pictures that share an embedding. Probabilities of"
                    " exclusive events add up."
                ),
                zh="你对嵌入相同的图取了平均。互斥事件的概率应当相加。",
            ),
        ),
        Mistake(
            _factorise_undivided,
            Words(
                en=(
                    "P(x | z, y) is still P(x | y) with you. Among the pictures with this z it"
                    " must add up to 1."
                ),
                zh="你的 P(x | z, y) 还是 P(x | y)。在嵌入为 z 的那些图里，它加起来应当等于 1：要除一下。",
            ),
        ),
        Mistake(
            _factorise_deaf,
            Words(
                en=(
                    "That is P(x | z): your decoder does not hear the caption. Divide row by"
                    " row, each y for itself."
                ),
                zh="这是 P(x | z)：你的解码器听不见描述文字。应当逐行去除，每个 y 各算各的。",
            ),
        ),
    ],
    hint=Words(
        en="P(z | y) sums the x with that z (index_add). P(x | z, y) = P(x | y) / P(z(x) | y).",
        zh=(
            "P(z | y) 是嵌入为 z 的各个 x 的概率之和（index_add）。P(x | z, y) = P(x | y) /"
            " P(z(x) | y)。"
        ),
    ),
)


# --- 7. a paired comparison -----------------------------------------------------------


def _paired(a: Tensor, b: Tensor) -> Interval:
    """Difference of two shares of True on the same captions, in points, with its normal
    95% interval.
    """
    measure = intervals.mean(100 * (a.double() - b.double()))
    return measure.value, measure.low, measure.high


def _unpaired(a: Tensor, b: Tensor) -> Interval:
    p, q, n = float(a.double().mean()), float(b.double().mean()), len(a)
    half = Z_95 * math.sqrt((p * (1 - p) + q * (1 - q)) / n)
    return 100 * (p - q), 100 * (p - q - half), 100 * (p - q + half)


def _paired_no_root(a: Tensor, b: Tensor) -> Interval:
    d = 100 * (a.double() - b.double())
    centre, half = float(d.mean()), Z_95 * float(d.std())
    return centre, centre - half, centre + half


def _paired_turned(a: Tensor, b: Tensor) -> Interval:
    return _paired(b, a)


def _verdicts(n: int, p: float, changed: float, seed: int) -> tuple[Tensor, Tensor]:
    """Two systems that agree on most captions."""
    luck = torch.rand(3, n, generator=torch.Generator().manual_seed(seed))
    a = luck[0] < p
    return a, torch.where(luck[1] < changed, luck[2] < 0.3, a)


paired = Exercise(
    reference=_paired,
    cases=lambda: [
        _verdicts(100, 0.8, 0.1, seed=0),
        _verdicts(40, 0.5, 0.3, seed=1),
        _verdicts(200, 0.9, 0.5, seed=2),
    ],
    mistakes=[
        Mistake(
            _unpaired,
            Words(
                en=(
                    "You treat the two as if they had drawn different captions. They had the"
                    " same: take the difference caption by caption, and what is hard for both"
                    " cancels."
                ),
                zh="你当它们画的是不同的描述。其实描述是同一批：逐句相减，两边都觉得难的部分就抵消了。",
            ),
        ),
        Mistake(
            _paired_no_root,
            Words(
                en=(
                    "That is the spread of single captions. The mean of n is surer by the root"
                    " of n."
                ),
                zh="这是单句的离散程度。n 句的平均要准根号 n 倍。",
            ),
        ),
        Mistake(
            _paired_turned,
            Words(en="The sign: a minus b.", zh="正负号反了：应为 a 减 b。"),
        ),
    ],
    hint=Words(
        en=(
            "d = a - b is 1, 0 or -1 for each caption. Its mean, ± 1.96 std / sqrt(n), times"
            " 100."
        ),
        zh="每句描述的 d = a - b 取 1、0 或 -1。求平均，± 1.96 std / sqrt(n)，再乘 100。",
    ),
)


# --- 8. the null pass -----------------------------------------------------------------

Model = Callable[..., Tensor]
Given = dict[str, Tensor]


def _toy(x_t: Tensor, t: Tensor, image_emb: Tensor, text_emb: Tensor) -> Tensor:
    """A network of one line: it reads the sample, the step and both conditions."""
    heard = (image_emb.sum(dim=1) - 0.5 * text_emb.sum(dim=1))[:, None, None, None]
    return torch.tanh(0.7 * x_t + heard) + 0.001 * t[:, None, None, None]


def _guided(
    model: Model, x_t: Tensor, t: Tensor, given: Given, empty: Given, s: float
) -> Tensor:
    null, conditional = model(x_t, t, **empty), model(x_t, t, **given)
    return null + s * (conditional - null)


def _null_without_sample(
    model: Model, x_t: Tensor, t: Tensor, given: Given, empty: Given, s: float
) -> Tensor:
    null, conditional = model(torch.zeros_like(x_t), t, **empty), model(x_t, t, **given)
    return null + s * (conditional - null)


def _null_without_image(
    model: Model, x_t: Tensor, t: Tensor, given: Given, empty: Given, s: float
) -> Tensor:
    return _guided(model, x_t, t, given, {**given, "image_emb": empty["image_emb"]}, s)


def _null_without_text(
    model: Model, x_t: Tensor, t: Tensor, given: Given, empty: Given, s: float
) -> Tensor:
    return _guided(model, x_t, t, given, {**given, "text_emb": empty["text_emb"]}, s)


def _other_scale(
    model: Model, x_t: Tensor, t: Tensor, given: Given, empty: Given, s: float
) -> Tensor:
    return _guided(model, x_t, t, given, empty, 1 + s)


def _null_case(
    n: int, s: float, seed: int
) -> tuple[Model, Tensor, Tensor, Given, Given, float]:
    x_t = torch.randn(
        n, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    given = {
        "image_emb": _units(n, 6, seed=seed + 1),
        "text_emb": _units(n, 6, seed=seed + 2),
    }
    empty = {
        "image_emb": 0.1 * _units(n, 6, seed=seed + 3),
        "text_emb": 0.2 * _units(n, 6, seed=seed + 4),
    }
    return _toy, x_t, torch.full((n,), 300), given, empty, s


guided = Exercise(
    reference=_guided,
    cases=lambda: [
        _null_case(2, 2.0, seed=0),
        _null_case(1, 0.0, seed=5),
        _null_case(3, 4.0, seed=10),
    ],
    mistakes=[
        Mistake(
            _null_without_sample,
            Words(
                en=(
                    "The clinic's case: x_t is the sample itself, no condition. Both passes"
                    " must see the same x_t."
                ),
                zh="正是诊室里的病例：x_t 就是样本本身，不是条件。两遍都必须看同一个 x_t。",
            ),
        ),
        Mistake(
            _null_without_image,
            Words(
                en=(
                    "Only the image embedding is emptied. The arrow then shows what it adds"
                    " beyond the caption; the decoder's null pass has neither."
                ),
                zh=(
                    "你只清空了图像嵌入。那样得到的方向只是它在描述文字之外添了什么；解码器的空条件是两样都没有。"
                ),
            ),
        ),
        Mistake(
            _null_without_text,
            Words(
                en=(
                    "Only the caption is emptied. The decoder's null pass has no image"
                    " embedding either."
                ),
                zh="你只清空了描述文字。解码器的空条件里连图像嵌入也没有。",
            ),
        ),
        Mistake(
            _other_scale,
            Words(
                en="You count from the other side, as Ho and Salimans: here s = 1 is off.",
                zh="你的数法与 Ho 和 Salimans 一样：本书里 s = 1 表示不引导。",
            ),
        ),
    ],
    hint=Words(
        en="Two calls of the model that differ in nothing but the conditions.",
        zh="调用网络两次，除条件外全都一样。",
    ),
)


# --- 9. an interval without a formula -------------------------------------------------


def _ends(means: list[Tensor], low: float = 0.025) -> tuple[float, float]:
    """The share `low` of the means lies below the first end, as much above the
    second.
    """
    ends = torch.tensor([low, 1 - low], dtype=torch.float64)
    first, second = torch.stack(means).quantile(ends).tolist()
    return first, second


def _bootstrap(a: Tensor, b: Tensor, rounds: int, seed: int) -> tuple[float, float]:
    """The 95% bootstrap interval of a's lead over b, in points of per cent."""
    d, generator = 100 * (a.double() - b.double()), torch.Generator().manual_seed(seed)
    means = []
    for _ in range(rounds):
        chosen = torch.randint(len(d), (len(d),), generator=generator)
        means.append(d[chosen].mean())
    return _ends(means)


def _bootstrap_unpaired(
    a: Tensor, b: Tensor, rounds: int, seed: int
) -> tuple[float, float]:
    generator, means = torch.Generator().manual_seed(seed), []
    for _ in range(rounds):
        mine, yours = torch.randint(len(a), (2, len(a)), generator=generator)
        means.append(100 * (a[mine].double().mean() - b[yours].double().mean()))
    return _ends(means)


def _bootstrap_shuffled(
    a: Tensor, b: Tensor, rounds: int, seed: int
) -> tuple[float, float]:
    d = 100 * (a.double() - b.double())
    return float(d.mean()), float(d.mean())


def _bootstrap_same_round(
    a: Tensor, b: Tensor, rounds: int, seed: int
) -> tuple[float, float]:
    return _bootstrap(a, b, 1, seed)


def _bootstrap_ninety(
    a: Tensor, b: Tensor, rounds: int, seed: int
) -> tuple[float, float]:
    d, generator = 100 * (a.double() - b.double()), torch.Generator().manual_seed(seed)
    chosen = [
        torch.randint(len(d), (len(d),), generator=generator) for _ in range(rounds)
    ]
    return _ends([d[each].mean() for each in chosen], low=0.05)


bootstrap = Exercise(
    reference=_bootstrap,
    cases=lambda: [
        (*_verdicts(60, 0.8, 0.2, seed=3), 200, 0),
        (*_verdicts(25, 0.6, 0.4, seed=4), 100, 1),
        (*_verdicts(120, 0.7, 0.5, seed=5), 300, 2),
    ],
    mistakes=[
        Mistake(
            _bootstrap_unpaired,
            Words(
                en=(
                    "You draw captions for a and others for b. Draw once a round: the pair of"
                    " a caption stays together."
                ),
                zh="你给 a 和 b 各抽了一批描述。每轮只抽一次：同一句描述的一对要在一起。",
            ),
        ),
        Mistake(
            _bootstrap_shuffled,
            Words(
                en=(
                    "Each round has every caption once, only in another order, so all means"
                    " are equal. Draw *with* replacement: torch.randint."
                ),
                zh="每轮还是那些描述，只是换了次序，平均当然都一样。要有放回地抽：torch.randint。",
            ),
        ),
        Mistake(
            _bootstrap_same_round,
            Words(
                en=(
                    "All rounds are the same round: make the generator once, before the loop."
                ),
                zh="每一轮都是同一轮：随机数发生器只在循环之前建一次。",
            ),
        ),
        Mistake(
            _bootstrap_ninety,
            Words(
                en="5% on each side leave 90% between: take 2.5% on each side.",
                zh="两边各去掉 5%，中间只剩 90%：每边应去掉 2.5%。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "A list of means, one a round: torch.randint(n, (n,), generator=...) says which"
            " captions. Then quantile at 0.025 and 0.975."
        ),
        zh=(
            "每轮一个平均，存进列表：torch.randint(n, (n,), generator=...) 决定抽到哪些描述；"
            "最后取 0.025 和 0.975 分位数。"
        ),
    ),
)
