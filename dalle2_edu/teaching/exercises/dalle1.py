"""Exercises of chapter 06 (DALL·E 1), and the diagnoses of their usual mistakes.

T text tokens, a page of side x side codes in reading order, both counted from 0; token 0
is padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dalle2_edu.baselines import attention_masks
from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words


def _random(seed: int, *shape: int) -> Tensor:
    """Uniform numbers of this shape, always the same."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- 1. padding -----------------------------------------------------------------------


def _fill_padding(tokens: Tensor, vocab_size: int) -> Tensor:
    place = torch.arange(tokens.shape[1])
    return torch.where(tokens == 0, vocab_size + place, tokens)


fill_padding = Exercise(
    reference=_fill_padding,
    cases=lambda: [
        (torch.tensor([[7, 3, 0, 0], [7, 1, 2, 0]]), 10),
        (torch.tensor([[4, 0, 0, 0, 0, 0]]), 5),
    ],
    mistakes=[
        Mistake(
            lambda tokens, vocab_size: torch.where(tokens == 0, vocab_size, tokens),
            Words(
                en="All places get the same token: each place has a padding of its own.",
                zh="所有位置填的是同一个词元：每个位置应当有自己的填充词元。",
            ),
        ),
        Mistake(
            lambda tokens, vocab_size: torch.where(
                tokens == 0, vocab_size + (tokens == 0).cumsum(1) - 1, tokens
            ),
            Words(
                en=(
                    "You count the padding from where it begins. The token belongs to the"
                    " place in the row: count from the row's start."
                ),
                zh="你从填充开始的地方数起。填充词元属于它在整行中的位置：要从行首数起。",
            ),
        ),
        Mistake(
            lambda tokens, vocab_size: (
                vocab_size + torch.arange(tokens.shape[1]) + 0 * tokens
            ),
            Words(
                en="The caption's own tokens are gone: only zeros are replaced.",
                zh="描述自己的词元也没了：只有 0 才要替换。",
            ),
        ),
    ],
    hint=Words(
        en="torch.where, and torch.arange over the places.",
        zh="用 torch.where，位置用 torch.arange。",
    ),
)


# --- 2. the loss ----------------------------------------------------------------------


def _loss(text: Tensor, image: Tensor, real: Tensor) -> Tensor:
    return text[real].mean() / 8 + 7 * image.mean() / 8


loss = Exercise(
    reference=_loss,
    cases=lambda: [
        (3 * _random(1, 2, 5), 6 * _random(2, 2, 16), _random(3, 2, 5) > 0.4),
        (2 * _random(4, 3, 4), 5 * _random(5, 3, 9), _random(6, 3, 4) > 0.5),
    ],
    mistakes=[
        Mistake(
            lambda text, image, real: torch.cat([text[real], image.flatten()]).mean(),
            Words(
                en=(
                    "Here every token counts alike. Take the mean over each kind by itself,"
                    " then weigh the two means."
                ),
                zh="这样每个词元一样重。应当先对两类词元各自求平均，再给两个平均值加权。",
            ),
        ),
        Mistake(
            lambda text, image, real: text.mean() / 8 + 7 * image.mean() / 8,
            Words(
                en="The padding counts as text here: take the places where `real` is True.",
                zh="填充也被当成了文字：只取 `real` 为 True 的位置。",
            ),
        ),
        Mistake(
            lambda text, image, real: 7 * text[real].mean() / 8 + image.mean() / 8,
            Words(
                en="The weights are swapped: the picture gets seven eighths.",
                zh="权重弄反了：图片占八分之七。",
            ),
        ),
    ],
    hint=Words(en="two means, 1/8 and 7/8.", zh="两个平均值，权重 1/8 与 7/8。"),
)


# --- 3. and 4. masks ------------------------------------------------------------------


def _back(side: int) -> Tensor:
    place = torch.arange(side**2)
    return place[:, None] - place  # d, (N, N)


row_mask = Exercise(
    reference=lambda side: attention_masks.image_mask("row", side),
    cases=lambda: [(3,), (5,)],
    mistakes=[
        Mistake(
            lambda side: (_back(side) >= 0) & (_back(side) < side),
            Words(
                en="One short: the code right above, d = side, is the last one seen.",
                zh="少了一个：正上方那个码（d = side）是看得到的最后一个。",
            ),
        ),
        Mistake(
            lambda side: _back(side).abs() <= side,
            Words(
                en="It also looks ahead: what comes later is not drawn yet.",
                zh="它还看到了后面的码：后面的还没有画出来。",
            ),
        ),
        Mistake(
            lambda side: (_back(side) >= 0) & (_back(side) <= side) & _same_row(side),
            Words(
                en=(
                    "This stops at the margin. The paper's row mask runs on into the row"
                    " above, up to the same column."
                ),
                zh="这样在行首就停了。论文的行掩码会接着看上一行，直到同一列为止。",
            ),
        ),
    ],
    hint=Words(
        en="torch.arange, and the difference of all pairs of places.",
        zh="用 torch.arange，求所有位置两两之差。",
    ),
)


def _same_row(side: int) -> Tensor:
    row = torch.arange(side**2) // side
    return row[:, None] == row


def _column_of_squares(side: int) -> Tensor:
    place = torch.arange(side**2)
    return (place[:, None] % side == place % side) & (place[:, None] > place)


column_mask = Exercise(
    reference=lambda side: attention_masks.image_mask("column", side),
    cases=lambda: [(3,), (4,)],
    mistakes=[
        Mistake(
            lambda side: _back(side) % side == 0,
            Words(
                en="The column is right, but it also looks down: d must be 0 or more.",
                zh="列是对的，但它也往下看：d 必须大于或等于 0。",
            ),
        ),
        Mistake(
            lambda side: _same_row(side) & (_back(side) >= 0),
            Words(
                en="These are the codes before it in its row, not those above it.",
                zh="这是同一行里在它之前的码，不是在它上方的码。",
            ),
        ),
        Mistake(
            _column_of_squares,
            Words(
                en=(
                    "A code must see itself too: its answer is about the next code, and for"
                    " that it has to know this one."
                ),
                zh="每个码也要看到自己：它回答的是下一个码，为此必须知道这一个。",
            ),
        ),
    ],
    hint=Words(
        en="the same column means that d is a multiple of side.",
        zh="同一列，就是 d 为 side 的倍数。",
    ),
)


# --- 5. and 6. drawing a token --------------------------------------------------------


def _top_k(logits: Tensor, k: int) -> Tensor:
    least = logits.topk(k, dim=1).values[:, -1:]
    return logits.masked_fill(logits < least, -math.inf).softmax(dim=1)


def _top_k_of_all(logits: Tensor, k: int) -> Tensor:
    least = logits.flatten().topk(k).values[-1]
    kept = logits.masked_fill(logits < least, -1e9)
    return kept.softmax(dim=1)


top_k = Exercise(
    reference=_top_k,
    cases=lambda: [(4 * _random(1, 3, 6), 2), (3 * _random(2, 2, 5), 4)],
    mistakes=[
        Mistake(
            lambda logits, k: logits.softmax(1) * (_top_k(logits, k) > 0),
            Words(
                en=(
                    "The probabilities no longer add up to 1: strike tokens out before the"
                    " softmax, or divide by the sum."
                ),
                zh="概率之和不再是 1：应当在 softmax 之前去掉其余的词元，或者再除以总和。",
            ),
        ),
        Mistake(
            lambda logits, k: (logits * (_top_k(logits, k) > 0)).softmax(1),
            Words(
                en=(
                    "A logit of 0 is not a probability of 0: exp(0) = 1. Strike out with"
                    " minus infinity."
                ),
                zh="logit 为 0 并不是概率为 0：exp(0) = 1。应当用负无穷。",
            ),
        ),
        Mistake(
            _top_k_of_all,
            Words(
                en="You took the k largest of the whole batch: each row has its own.",
                zh="你取的是整个批次里最大的 k 个：每一行应当各取各的。",
            ),
        ),
    ],
    hint=Words(
        en="the k-th largest of a row is logits.topk(k).values[:, -1:].",
        zh="每行第 k 大的值是 logits.topk(k).values[:, -1:]。",
    ),
)


draw = Exercise(
    reference=lambda p, u: (p.cumsum(1) <= u[:, None]).sum(1),
    cases=lambda: [
        (
            torch.tensor([[0.25, 0.25, 0.5]]).expand(4, -1),
            torch.tensor([0.0, 0.3, 0.6, 0.99]),
        ),
        (torch.tensor([[0.7, 0.1, 0.2]] * 3), torch.tensor([0.65, 0.75, 0.85])),
    ],
    mistakes=[
        Mistake(
            lambda p, u: p.argmax(1),
            Words(
                en="The likeliest, whatever u is: that is temperature 0, not a draw.",
                zh="不管 u 是多少都取最可能的：这是温度 0，不是抽样。",
            ),
        ),
        Mistake(
            lambda p, u: (p <= u[:, None]).sum(1),
            Words(
                en="Compare u with the cumulated probabilities, not with each by itself.",
                zh="u 应当与累积概率比较，而不是与每个概率单独比较。",
            ),
        ),
        Mistake(
            lambda p, u: (p.cumsum(1) <= u[:, None]).sum(1) - 1,
            Words(
                en=(
                    "One too low: the token is the first whose sum lies above u, and as many"
                    " sums as its number lie below."
                ),
                zh="小了 1：要的是第一个累积和超过 u 的词元，它的编号恰好等于没有超过 u 的和的个数。",
            ),
        ),
    ],
    hint=Words(
        en="count the cumulated sums that are not above u.",
        zh="数一数有多少个累积和没有超过 u。",
    ),
)


# --- 7. the loop ----------------------------------------------------------------------


def _model(codes: Tensor) -> Tensor:
    """Logits of the next of 5 codes, (B, 5): a function of all codes so far and of how
    many there are.
    """
    weight = torch.arange(1, codes.shape[1] + 1)
    state = (codes * weight).sum(1, keepdim=True) + 3 * codes.shape[1]  # (B, 1)
    return torch.sin(state * torch.tensor([1.0, 2.0, 3.0, 5.0, 7.0])) * 3


Model = Callable[[Tensor], Tensor]


def _generate(model: Model, given: Tensor, length: int) -> Tensor:
    codes = given
    while codes.shape[1] < length:
        best = model(codes).argmax(1)
        codes = torch.cat([codes, best[:, None]], dim=1)
    return codes


def _generate_blind(model: Model, given: Tensor, length: int) -> Tensor:
    codes = given
    while codes.shape[1] < length:
        best = model(given).argmax(1)
        codes = torch.cat([codes, best[:, None]], dim=1)
    return codes


def _generate_from_nothing(model: Model, given: Tensor, length: int) -> Tensor:
    return _generate(model, given[:, :0], length)


def _generate_beside(model: Model, given: Tensor, length: int) -> Tensor:
    more = _generate(model, given, length + given.shape[1])
    return more[:, given.shape[1] :][:, :length]


generate = Exercise(
    reference=_generate,
    cases=lambda: [
        (_model, torch.tensor([[1, 4], [0, 2]]), 7),
        (_model, torch.tensor([[3]]), 4),
    ],
    mistakes=[
        Mistake(
            _generate_blind,
            Words(
                en="The model is always asked about `given`: what it drew must be read too.",
                zh="模型每次看到的都只是 `given`：它自己写出的码也要读进去。",
            ),
        ),
        Mistake(
            _generate_from_nothing,
            Words(
                en="The given codes are lost: the page begins with them.",
                zh="给定的码丢了：这一页应当以它们开头。",
            ),
        ),
        Mistake(
            _generate_beside,
            Words(
                en="`length` counts the given codes too, and they belong to the answer.",
                zh="`length` 把给定的码也算在内，它们也属于结果。",
            ),
        ),
    ],
    hint=Words(
        en="a loop: ask the model about all codes so far, append the likeliest.",
        zh="写一个循环：把到目前为止的码全部交给模型，把最可能的码接在后面。",
    ),
)


# --- 8. and 9. reranking --------------------------------------------------------------


best_of = Exercise(
    reference=lambda scores, n: (
        torch.arange(len(scores) // n) * n + scores.reshape(-1, n).argmax(1)
    ),
    cases=lambda: [(_random(1, 12), 4), (_random(2, 10), 5)],
    mistakes=[
        Mistake(
            lambda scores, n: scores.reshape(-1, n).argmax(1),
            Words(
                en=(
                    "These are places within each prompt's n pictures: add where the"
                    " prompt's pictures begin."
                ),
                zh="这是在每条提示词自己的 n 张图里的位置：还要加上这条提示词的图从哪里开始。",
            ),
        ),
        Mistake(
            lambda scores, n: scores.topk(len(scores) // n).indices,
            Words(
                en="The best of all pictures: each prompt needs one of its own.",
                zh="这是全部图片里最好的几张：每条提示词都要有自己的一张。",
            ),
        ),
        Mistake(
            lambda scores, n: (
                torch.arange(len(scores) // n) * n + scores.reshape(-1, n).argmin(1)
            ),
            Words(
                en="This keeps the worst: a higher score is a better fit.",
                zh="这样留下的是最差的：分数越高越相符。",
            ),
        ),
    ],
    hint=Words(
        en="reshape to (prompts, n); argmax of each row; add the row's first place.",
        zh="变形为 (提示词数, n)，每行取 argmax，再加上该行第一张的位置。",
    ),
)


perfect_ranker = Exercise(
    reference=lambda right, n: 1 - (1 - right) ** n,
    cases=lambda: [
        (torch.tensor([0.1, 0.5, 0.0]), 4),
        (torch.tensor([0.02, 0.3]), 64),
    ],
    mistakes=[
        Mistake(
            lambda right, n: right * n,
            Words(
                en="This is how many right ones to expect, and it may exceed 1.",
                zh="这是期望有几张画对，可能超过 1。",
            ),
        ),
        Mistake(
            lambda right, n: right**n,
            Words(
                en="This is the chance that all n are right: one is enough.",
                zh="这是 n 张全对的概率：只要有一张对就够了。",
            ),
        ),
        Mistake(
            lambda right, n: (1 - right) ** n,
            Words(
                en="This is the chance that none is right: take it from 1.",
                zh="这是一张都不对的概率：用 1 减去它。",
            ),
        ),
    ],
    hint=Words(
        en="what is the chance that all n are wrong?",
        zh="n 张全错的概率是多少？",
    ),
)
