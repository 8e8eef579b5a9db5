"""Exercises of chapter 15 (the prior), and the diagnoses of their usual mistakes.

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
from dalle2_edu.unclip.buckets import quantile_edges
from dalle2_edu.unclip.prior import nearest_to_text, prior_mask

Network = Callable[[Tensor, Tensor], Tensor]  # (noised embedding, text) -> guess


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


# --- 1. the input scale ---------------------------------------------------------------


def _scale(dims: int, std: float) -> float:
    """What to multiply unit vectors of so many dimensions by, for this standard
    deviation in each dimension.
    """
    return std * math.sqrt(dims)


scale = Exercise(
    reference=_scale,
    cases=lambda: [(1024, 0.5375), (256, 1.0), (768, 1.0), (4, 0.25)],
    mistakes=[
        Mistake(
            lambda dims, std: std * dims,
            Words(
                en=(
                    "The squares of a unit vector's numbers add up to 1, so their mean square"
                    " is 1/D and their size 1/sqrt(D). You divided by 1/D."
                ),
                zh="单位向量各数的平方和是 1，所以均方是 1/D，大小是 1/sqrt(D)。你除以的是 1/D。",
            ),
        ),
        Mistake(
            lambda dims, std: std / math.sqrt(dims),
            Words(
                en=(
                    "That is the size the numbers would have if the whole vector had length"
                    " std. They are too small as they are: the factor must be larger than std."
                ),
                zh="这是整个向量的长度为 std 时各数的大小。现在的数本来就太小：因子应当大于 std。",
            ),
        ),
        Mistake(
            lambda dims, std: math.sqrt(dims),
            Words(
                en="Right for a standard deviation of 1. Now for std.",
                zh="标准差为 1 时是对的。现在要的是 std。",
            ),
        ),
    ],
    hint=Words(
        en="How large is one number of a unit vector?", zh="单位向量里的一个数有多大？"
    ),
)


# --- 2. the rank ----------------------------------------------------------------------


def _rank(variances: Tensor, error: float) -> int:
    """The fewest axes that lose less than the share `error` of all variance."""
    kept = torch.cat([variances.new_zeros(1), variances.cumsum(0)])
    return int(((1 - kept / kept[-1]) < error).double().argmax())


def _rank_of_stds(variances: Tensor, error: float) -> int:
    return _rank(variances.sqrt(), error)


def _one_too_few(variances: Tensor, error: float) -> int:
    return _rank(variances, error) - 1


def _at_most(variances: Tensor, error: float) -> int:
    kept = torch.cat([variances.new_zeros(1), variances.cumsum(0)])
    return int(((1 - kept / kept[-1]) <= error).double().argmax())


def _each_alone(variances: Tensor, error: float) -> int:
    return int((variances / variances.sum() >= error).sum())


rank = Exercise(
    reference=_rank,
    cases=lambda: [
        (0.8 ** torch.arange(40, dtype=torch.float64), 0.01),
        (torch.tensor([5.0, 3.0, 1.5, 0.4, 0.09, 0.01], dtype=torch.float64), 0.06),
        (1 / torch.arange(1, 30, dtype=torch.float64) ** 2, 0.1),
        # two lose just 1/4
        (torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64), 0.25),
    ],
    mistakes=[
        Mistake(
            _one_too_few,
            Words(
                en="One too few: a place in a list counts from 0, a number of axes from 1.",
                zh="少了一个：列表的位置从 0 数起，轴的个数从 1 数起。",
            ),
        ),
        Mistake(
            _at_most,
            Words(
                en="Right, unless the loss is exactly the share: it has to be LESS than that.",
                zh="只有损失恰好等于这个份额时不对：要求的是小于它。",
            ),
        ),
        Mistake(
            _rank_of_stds,
            Words(
                en=(
                    "You added up standard deviations. Variances add along the axes, standard"
                    " deviations don't."
                ),
                zh="你加的是标准差。各轴的方差可以相加，标准差不行。",
            ),
        ),
        Mistake(
            _each_alone,
            Words(
                en=(
                    "You counted the axes that are each worth the share. Small ones add up:"
                    " what counts is the sum of all that is left out."
                ),
                zh="你数的是单独就达到这个份额的轴。小的加起来也不少：要看的是被舍去的部分之和。",
            ),
        ),
    ],
    hint=Words(
        en="What is lost is the sum of the variances left out.",
        zh="损失等于被舍去的各方差之和。",
    ),
)


# --- 3. quantile edges ----------------------------------------------------------------


def _edges(values: Tensor, buckets: int) -> Tensor:
    """The inner edges of buckets with equally many of the values (N,): (buckets -
    1,).
    """
    return quantile_edges(values[:, None], buckets)[0]


def _equal_widths(values: Tensor, buckets: int) -> Tensor:
    return torch.linspace(
        values.min().item(), values.max().item(), buckets + 1, dtype=values.dtype
    )[1:-1]


def _with_the_ends(values: Tensor, buckets: int) -> Tensor:
    places = (torch.arange(buckets + 1) * len(values) // buckets).clamp(
        max=len(values) - 1
    )
    return values.sort().values[places]


def _unsorted(values: Tensor, buckets: int) -> Tensor:
    return values[torch.arange(1, buckets) * len(values) // buckets]


edges = Exercise(
    reference=_edges,
    cases=lambda: [
        (_normal(40), 4),
        (_normal(100, seed=1) ** 3, 8),
        (torch.arange(10.0), 3),
    ],
    mistakes=[
        Mistake(
            _equal_widths,
            Words(
                en=(
                    "These buckets are equally WIDE. The outer ones would be almost empty, and"
                    " a transformer learns nothing of a code that it hardly ever sees."
                ),
                zh=(
                    "这些桶是等**宽**的。最外面的桶会几乎是空的，而很少出现的码，Transformer"
                    " 什么也学不到。"
                ),
            ),
        ),
        Mistake(
            _with_the_ends,
            Words(
                en=(
                    "The outer ends are in it. Only inner edges are wanted, one fewer than"
                    " buckets: values beyond those seen in training must fall into the"
                    " outermost buckets."
                ),
                zh="多了两头的端点。只要内部的边界，比桶少一个：超出训练所见的值，应当落进最外面的桶。",
            ),
        ),
        Mistake(_unsorted, Words(en="Sort the values first.", zh="先把数值排序。")),
    ],
    hint=Words(
        en="Sort; the k-th edge stands at place k N // Q.",
        zh="先排序；第 k 条边界在第 k N // Q 个位置。",
    ),
)


# --- 4. what generation costs ---------------------------------------------------------


def _tokens(prefix: int, codes: int) -> tuple[int, int]:
    """How many tokens go through the transformer to draw the codes: without a cache,
    and with one.
    """
    return codes * prefix + codes * (codes - 1) // 2, prefix + codes - 1


tokens = Exercise(
    reference=_tokens,
    cases=lambda: [(34, 25), (34, 46), (258, 319), (5, 1)],
    mistakes=[
        Mistake(
            lambda prefix, codes: (
                codes * prefix + codes * (codes + 1) // 2,
                prefix + codes,
            ),
            Words(
                en=(
                    "Each too large: the last code is drawn and never read. The first answer"
                    " needs the prefix alone."
                ),
                zh="两个数都偏大：最后一个码画出来就不再读了。第一个回答只需要前缀。",
            ),
        ),
        Mistake(
            lambda prefix, codes: (codes * (prefix + codes - 1), prefix + codes - 1),
            Words(
                en=(
                    "The second is right. Without a cache the sentence grows: only the last"
                    " call reads all of it."
                ),
                zh="第二个数对了。没有缓存时句子逐步变长：只有最后一次调用才读完整句。",
            ),
        ),
        Mistake(
            lambda prefix, codes: (codes * prefix + codes * (codes - 1) // 2, codes),
            Words(
                en="The first is right. With a cache the prefix still has to be read, once.",
                zh="第一个数对了。有缓存时，前缀仍然要读一遍。",
            ),
        ),
    ],
    hint=Words(
        en="The call that answers code n reads the prefix and the n - 1 codes before it.",
        zh="回答第 n 个码的那次调用，读的是前缀和它前面的 n - 1 个码。",
    ),
)


# --- 5. the mask ----------------------------------------------------------------------


def _only_causal(text_mask: Tensor, extra: int) -> Tensor:
    return prior_mask(torch.ones_like(text_mask), extra)


def _only_padding(text_mask: Tensor, extra: int) -> Tensor:
    real = torch.nn.functional.pad(text_mask, (0, extra), value=True)
    return real[:, None].expand(-1, real.shape[1], -1)


def _looks_ahead(text_mask: Tensor, extra: int) -> Tensor:
    real = torch.nn.functional.pad(text_mask, (0, extra), value=True)
    return (
        torch.ones(real.shape[1], real.shape[1], dtype=torch.bool).triu()[None]
        & real[:, None]
    )


def _row_is_padding(text_mask: Tensor, extra: int) -> Tensor:
    real = torch.nn.functional.pad(text_mask, (0, extra), value=True)
    return (
        torch.ones(real.shape[1], real.shape[1], dtype=torch.bool).tril()[None]
        & real[:, :, None]
    )


mask = Exercise(
    reference=prior_mask,
    cases=lambda: [
        (torch.tensor([[True, True, False, False], [True, True, True, False]]), 4),
        (torch.tensor([[True, False]]), 2),
    ],
    mistakes=[
        Mistake(
            _only_causal,
            Words(
                en=(
                    "Causal, but the padding is looked at: a caption would mean something else"
                    " in a longer context."
                ),
                zh="因果性对了，可是补齐的位置也被看到了：上下文一变长，同一句话的意思就变了。",
            ),
        ),
        Mistake(
            _only_padding,
            Words(
                en="The padding is hidden, but rows look ahead of themselves.",
                zh="补齐部分挡住了，但各行还能往后看。",
            ),
        ),
        Mistake(
            _looks_ahead,
            Words(
                en=(
                    "The triangle is upside down: a row may look at columns up to its own, the"
                    " lower left."
                ),
                zh="三角形反了：一行能看的是不晚于自己的列，也就是左下角。",
            ),
        ),
        Mistake(
            _row_is_padding,
            Words(
                en=(
                    "You forbade padding to LOOK. It must not be LOOKED AT: that is a column."
                    " (And a row without any True turns its softmax into nan.)"
                ),
                zh=(
                    "你禁止补齐位置去**看**。应当禁止别人**看它**：那是列。（一整行没有 True，"
                    "softmax 会得出 nan。）"
                ),
            ),
        ),
    ],
    hint=Words(
        en=(
            "Pad the text's mask with True for the extra tokens; then a triangle AND the"
            " columns."
        ),
        zh="先给多出的词元补上 True；再让三角形与“列”取“与”。",
    ),
)


# --- 6. the nearer of two -------------------------------------------------------------


def _same_for_all(candidates: Tensor, text_emb: Tensor) -> Tensor:
    best = torch.einsum("bnd,bd->bn", candidates, text_emb).mean(0).argmax()
    return candidates[:, best]


def _farther(candidates: Tensor, text_emb: Tensor) -> Tensor:
    return nearest_to_text(candidates, -text_emb)


def _by_cosine(candidates: Tensor, text_emb: Tensor) -> Tensor:
    lengths = candidates.norm(dim=2, keepdim=True)  # (B, n, 1)
    best = torch.einsum("bnd,bd->bn", candidates / lengths, text_emb).argmax(dim=1)
    return candidates[torch.arange(len(best)), best]


def _longest(candidates: Tensor, text_emb: Tensor) -> Tensor:
    best = candidates.norm(dim=2).argmax(dim=1)
    return candidates[torch.arange(len(best)), best]


nearer = Exercise(
    reference=nearest_to_text,
    cases=lambda: [
        (_normal(5, 2, 8, seed=2), _normal(5, 8, seed=3)),
        (_normal(3, 4, 6, seed=4), _normal(3, 6, seed=5)),
        # candidates of very different lengths: the cosine would choose others
        (
            _normal(6, 3, 8, seed=6) * torch.tensor([0.2, 1.0, 5.0])[:, None],
            _normal(6, 8, seed=7),
        ),
    ],
    mistakes=[
        Mistake(
            _same_for_all,
            Words(
                en=(
                    "You chose one place for the whole batch. Each text chooses among its own"
                    " candidates."
                ),
                zh="你给整批选了同一个位置。每个文本应当在自己的候选里选。",
            ),
        ),
        Mistake(
            _farther,
            Words(
                en="Those are the farther ones: argmin?",
                zh="选成远的那个了：是不是用了 argmin？",
            ),
        ),
        Mistake(
            _by_cosine,
            Words(
                en=(
                    "You compare directions alone (the cosine). Asked for is the dot product:"
                    " a longer candidate counts for more."
                ),
                zh="你只比较了方向（余弦）。要的是内积：更长的候选，得分也更高。",
            ),
        ),
        Mistake(
            _longest,
            Words(
                en="The text has no say in your choice.",
                zh="你的选择里，文本没有起作用。",
            ),
        ),
    ],
    hint=Words(
        en='einsum("bnd,bd->bn", ...), then argmax.',
        zh='einsum("bnd,bd->bn", ...)，再 argmax。',
    ),
)


# --- 7. guidance ----------------------------------------------------------------------


def _guided(
    network: Network, z: Tensor, text: Tensor, null: Tensor, s: float
) -> Tensor:
    """The guided guess: the null pass drops the text, and nothing else."""
    empty = network(z, null)
    return empty + s * (network(z, text) - empty)


def _drops_the_sample(
    network: Network, z: Tensor, text: Tensor, null: Tensor, s: float
) -> Tensor:
    empty = network(torch.zeros_like(z), null)
    return empty + s * (network(z, text) - empty)


def _from_the_text(
    network: Network, z: Tensor, text: Tensor, null: Tensor, s: float
) -> Tensor:
    return network(z, text) + s * (network(z, text) - network(z, null))


def _network(z: Tensor, text: Tensor) -> Tensor:
    return torch.tanh(0.7 * z + 0.5 * text) + 0.1 * z * text


guided = Exercise(
    reference=_guided,
    cases=lambda: [
        (
            _network,
            _normal(3, 4, seed=6),
            _normal(3, 4, seed=7),
            _normal(3, 4, seed=8),  # the empty text's encoding is not a row of zeros
            s,
        )
        for s in (0.0, 1.0, 4.0)
    ],
    mistakes=[
        Mistake(
            lambda network, z, text, null, s: _guided(
                network, z, text, torch.zeros_like(null), s
            ),
            Words(
                en="You put zeros in the empty text's place. It has an encoding: `null`.",
                zh="你用零代替了空文本。空文本也有编码，就是 `null`。",
            ),
        ),
        Mistake(
            _drops_the_sample,
            Words(
                en=(
                    "Your null pass drops z as well. That is the sample being denoised and no"
                    " condition: the arrow would point along the sample itself. This mistake"
                    " stands in a well-known public implementation."
                ),
                zh=(
                    "你的空条件那一遍把 z 也丢了。z 是正在去噪的样本，不是条件：这样得到的箭头会指向样本自己。"
                    "一个有名的公开实现里就有这个错误。"
                ),
            ),
        ),
        Mistake(
            _from_the_text,
            Words(
                en=(
                    "You start from the conditional answer: there 0 would mean off. Here s = 1"
                    " is off."
                ),
                zh="你从有条件的回答出发：那是“0 表示关闭”的记法。这里 s = 1 才是关闭。",
            ),
        ),
    ],
    hint=Words(
        en="s = 0 must give the null answer, s = 1 the text's.",
        zh="s = 0 应得空条件的回答，s = 1 应得有条件的。",
    ),
)


# --- 8. the best variance -------------------------------------------------------------


def _variance(moment: float, abar: float, abar_prev: float) -> float:
    """Analytic-DPM's sigma_t^2 for standardised data."""
    beta = 1 - abar / abar_prev
    left = min(max((1 - abar) / abar * (1 - moment), 0.0), 1.0)
    share = math.sqrt(abar_prev) * beta / (1 - abar)
    return (1 - abar_prev) / (1 - abar) * beta + share**2 * left


def _no_bounds(moment: float, abar: float, abar_prev: float) -> float:
    beta = 1 - abar / abar_prev
    share = math.sqrt(abar_prev) * beta / (1 - abar)
    return (1 - abar_prev) / (1 - abar) * beta + share**2 * (1 - abar) / abar * (
        1 - moment
    )


def _no_posterior(moment: float, abar: float, abar_prev: float) -> float:
    return _variance(moment, abar, abar_prev) - (1 - abar_prev) / (1 - abar) * (
        1 - abar / abar_prev
    )


def _upside_down(moment: float, abar: float, abar_prev: float) -> float:
    beta = 1 - abar / abar_prev
    left = min(max(abar / (1 - abar) * (1 - moment), 0.0), 1.0)
    share = math.sqrt(abar_prev) * beta / (1 - abar)
    return (1 - abar_prev) / (1 - abar) * beta + share**2 * left


def _share_not_squared(moment: float, abar: float, abar_prev: float) -> float:
    beta = 1 - abar / abar_prev
    left = min(max((1 - abar) / abar * (1 - moment), 0.0), 1.0)
    return (1 - abar_prev) / (1 - abar) * beta + math.sqrt(abar_prev) * beta / (
        1 - abar
    ) * left


variance = Exercise(
    reference=_variance,
    cases=lambda: [
        (0.7, 0.6, 0.8),
        (0.4, 0.05, 0.3),
        (1.2, 0.5, 0.9),
        (0.95, 0.9, 0.97),
    ],
    mistakes=[
        Mistake(
            _no_bounds,
            Words(
                en=(
                    "Right, but for the bounds: v lies between 0 and the data's variance, here"
                    " 1. An estimate may not."
                ),
                zh="公式对了，只差上下界：v 在 0 与数据的方差（这里是 1）之间，而估计值未必。",
            ),
        ),
        Mistake(
            _no_posterior,
            Words(
                en=(
                    "The posterior's own variance is missing: even with x_0 known, a step back"
                    " has some."
                ),
                zh="漏了后验自己的方差：即使 x_0 已知，往回的一步也有方差。",
            ),
        ),
        Mistake(
            _upside_down,
            Words(
                en=(
                    "The ratio is upside down: near the noise little is known of x_0, so v must"
                    " be large there."
                ),
                zh="比值倒了：靠近噪声一端，对 x_0 所知甚少，那里的 v 应当大。",
            ),
        ),
        Mistake(
            _share_not_squared,
            Words(
                en=(
                    "The weight of x_0 in the mean must be squared: variances scale with"
                    " squares."
                ),
                zh="x_0 在均值里的权重要平方：方差按平方缩放。",
            ),
        ),
    ],
    hint=Words(
        en="beta from the two abars; then v, bounded; then beta~ + c^2 v.",
        zh="先由两个 abar 求 beta；再求 v 并限制范围；最后 beta~ + c^2 v。",
    ),
    tolerance=1e-6,
)


# --- 9. a sentence, code by code ------------------------------------------------------

Logits = Callable[[list[int]], Tensor]  # the codes so far -> the next one's (Q,)


def _pick(logits: Tensor, number: float) -> int:
    """The first code whose cumulative probability is larger than the number."""
    cumulative = logits.softmax(dim=0).cumsum(dim=0)  # (Q,)
    return int((cumulative <= number).sum())


def _sentence(logits_of: Logits, luck: Tensor) -> list[int]:
    """Codes drawn one after the other, each with a random number in [0, 1) of its
    own.
    """
    codes: list[int] = []
    for number in luck.tolist():
        codes.append(_pick(logits_of(codes), number))
    return codes


def _most_likely(logits_of: Logits, luck: Tensor) -> list[int]:
    codes: list[int] = []
    for _ in luck:
        codes.append(int(logits_of(codes).argmax()))
    return codes


def _all_from_the_start(logits_of: Logits, luck: Tensor) -> list[int]:
    return [_pick(logits_of([]), number) for number in luck.tolist()]


def _knows_the_last_only(logits_of: Logits, luck: Tensor) -> list[int]:
    codes: list[int] = []
    for number in luck.tolist():
        codes.append(_pick(logits_of(codes[-1:]), number))
    return codes


def _one_number_for_all(logits_of: Logits, luck: Tensor) -> list[int]:
    return _sentence(logits_of, luck[:1].expand(len(luck)))


def _one_too_far(logits_of: Logits, luck: Tensor) -> list[int]:
    codes: list[int] = []
    for number in luck.tolist():
        cumulative = logits_of(codes).softmax(dim=0).cumsum(dim=0)
        codes.append(int((cumulative > number).double().argmax()) + 1)
    return codes


def _language(seed: int, buckets: int) -> Logits:
    """A small language: the next code depends on all codes so far."""
    table = 1.5 * _normal(buckets, buckets, seed=seed)
    start = 1.5 * _normal(buckets, seed=seed + 1)

    def logits_of(codes: list[int]) -> Tensor:
        return start + sum(
            (table[code % buckets] for code in codes), torch.zeros(buckets)
        )

    return logits_of


def _luck(count: int, seed: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


sentence = Exercise(
    reference=_sentence,
    cases=lambda: [
        (_language(20, 5), _luck(6, 1)),
        (_language(22, 8), _luck(8, 2)),
        (_language(24, 3), _luck(1, 3)),
    ],
    mistakes=[
        Mistake(
            _most_likely,
            Words(
                en=(
                    "You take the likeliest code every time, so every sentence of a caption"
                    " would be the same. Draw: use the random numbers."
                ),
                zh="你每次都取概率最大的码，同一句描述文字永远得到同一句话。要用随机数来抽取。",
            ),
        ),
        Mistake(
            _all_from_the_start,
            Words(
                en=(
                    "All codes come from the first one's distribution. Call `logits_of` again"
                    " after each code, with all codes so far."
                ),
                zh="所有的码都来自第一个码的分布。每抽一个码，都要用已有的全部码再调用一次 `logits_of`。",
            ),
        ),
        Mistake(
            _knows_the_last_only,
            Words(
                en=(
                    "You pass on the last code only. The next one depends on all codes before"
                    " it."
                ),
                zh="你只传了最后一个码。下一个码取决于前面所有的码。",
            ),
        ),
        Mistake(
            _one_number_for_all,
            Words(
                en="One random number for all codes: the draws would not be independent.",
                zh="所有的码共用了一个随机数：各次抽取就不独立了。",
            ),
        ),
        Mistake(
            _one_too_far,
            Words(
                en="One too far: codes count from 0.",
                zh="多了一个：码从 0 数起。",
            ),
        ),
    ],
    hint=Words(
        en="Start with an empty list; in the loop: logits, cumulative probabilities, append.",
        zh="从空列表开始；循环里依次是：logits、累积概率、追加。",
    ),
)
