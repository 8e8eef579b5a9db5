"""Exercises of chapter 24 (to full size), and the diagnoses of their usual mistakes.

Each reference is the shortest right answer; each mistake is an answer that students
(and published code) really give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words, words

# --- 1. where a step stands -----------------------------------------------------------


def _place(step: int, batch_size: int, samples: int) -> tuple[int, int]:
    """The epoch of a step's first sample, and its place within the epoch."""
    return divmod(step * batch_size, samples)


place = Exercise(
    reference=_place,
    cases=lambda: [
        (0, 4, 18),
        (3, 4, 18),
        (5, 4, 18),
        (9, 4, 18),
        (600_000, 4096, 250_000_000),
    ],
    mistakes=[
        Mistake(
            lambda step, batch_size, samples: divmod((step + 1) * batch_size, samples),
            Words(
                en=(
                    "This is where the step ends. The first step is step 0, and it begins with"
                    " sample 0."
                ),
                zh="这是该步结束的地方。第一步的步号是 0，从第 0 个样本开始。",
            ),
        ),
        Mistake(
            lambda step, batch_size, samples: divmod(step, samples // batch_size),
            Words(
                en=(
                    "You count steps within the epoch, and lose the rest that fills no batch."
                    " Count samples."
                ),
                zh="你在一轮里数的是步，还丢掉了凑不满一批的尾巴。请按样本数。",
            ),
        ),
        Mistake(
            lambda step, batch_size, samples: (
                step * batch_size // samples,
                step * batch_size,
            ),
            Words(
                en="The place is counted from the epoch's beginning, not from the run's.",
                zh="位置要从这一轮的开头数，而不是从整个训练的开头数。",
            ),
        ),
    ],
    hint=Words(
        en="How many samples came before? `divmod`.",
        zh="前面一共看过多少个样本？用 `divmod`。",
    ),
)


# --- 2. back into the official order --------------------------------------------------


def _heads_first(rows: Tensor, parts: int, head_channels: int) -> Tensor:
    """All q, all k, all v -> [q|k|v] per head: the inverse of `keys.heads_last`."""
    return rows.unflatten(0, (parts, -1, head_channels)).transpose(0, 1).flatten(0, 2)


def _numbered(rows: int, columns: int) -> Tensor:
    return torch.arange(rows * columns, dtype=torch.float64).reshape(rows, columns)


heads_first = Exercise(
    reference=_heads_first,
    cases=lambda: [
        (_numbered(48, 2), 3, 4),
        (_numbered(32, 1), 2, 4),
        (_numbered(12, 3), 3, 4),
    ],
    mistakes=[
        Mistake(
            lambda rows, parts, c: (
                rows.unflatten(0, (-1, parts, c)).transpose(0, 1).flatten(0, 2)
            ),
            Words(
                en=(
                    "This is `heads_last` once more: it reads the rows as if they were in the"
                    " official order already."
                ),
                zh="这还是 `heads_last`：它把输入当成已经是官方次序的了。",
            ),
        ),
        Mistake(
            lambda rows, parts, c: rows.unflatten(0, (parts, -1, c)).flatten(0, 2),
            Words(
                en=(
                    "Split and joined again, nothing has moved: the two axes, parts and heads,"
                    " must be exchanged."
                ),
                zh="拆开又合上，什么都没动：要交换“部分”与“头”这两个轴。",
            ),
        ),
        Mistake(
            lambda rows, parts, c: (
                rows.unflatten(0, (parts, c, -1)).transpose(0, 1).flatten(0, 2)
            ),
            Words(
                en=(
                    "You split a part into channels times heads. A head's channels stand"
                    " together: heads x channels."
                ),
                zh="你把每一部分拆成了“通道 × 头”。一个头的各通道是挨在一起的，应拆成“头 × 通道”。",
            ),
        ),
    ],
    hint=Words(
        en="`unflatten` into (parts, heads, channels), exchange the first two, `flatten`.",
        zh="先 `unflatten` 成（部分，头，通道），交换前两个轴，再 `flatten`。",
    ),
)


# --- 3. memory on each GPU ------------------------------------------------------------


def _bytes_per_gpu(
    parameters: int, largest_block: int, gpus: int, sharded: bool
) -> float:
    """Weight, gradient, two moments and the average, 4 bytes each; under FSDP a share,
    and one block in bf16.
    """
    return 20 * parameters / gpus + 2 * largest_block if sharded else 20 * parameters


bytes_per_gpu = Exercise(
    reference=_bytes_per_gpu,
    cases=lambda: [
        (1000, 100, 1, False),
        (1000, 100, 8, False),
        (1000, 100, 8, True),
        (2_300_000_000, 10**8, 64, True),
    ],
    mistakes=[
        Mistake(
            lambda parameters, largest_block, gpus, sharded: (
                20 * parameters / gpus + 2 * largest_block
                if sharded
                else 20 * parameters / gpus
            ),
            Words(
                en=(
                    "DDP shares pictures, not weights: every GPU keeps all of them, however"
                    " many there are."
                ),
                zh="DDP 分摊的是图片，不是权重：不管有几块 GPU，每一块都保存全部权重。",
            ),
        ),
        Mistake(
            lambda parameters, largest_block, gpus, sharded: (
                20 * parameters / gpus if sharded else 20 * parameters
            ),
            Words(
                en=(
                    "A GPU can't compute with a share of a block: its weights are gathered"
                    " first, and they need room."
                ),
                zh="GPU 不能用一块权重的碎片做计算：要先把这一块收齐，收齐的权重也占地方。",
            ),
        ),
        Mistake(
            lambda parameters, largest_block, gpus, sharded: (
                16 * parameters / gpus + 2 * largest_block
                if sharded
                else 16 * parameters
            ),
            Words(
                en="The moving average is missing: 4 bytes more.",
                zh="漏了滑动平均：还要 4 字节。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "Five numbers of 4 bytes a weight. FSDP divides all five, and adds one whole block"
            " of 2 bytes a weight."
        ),
        zh="每个权重有五个 4 字节的数。FSDP 把五个都分摊，另加一个完整的块，每个权重 2 字节。",
    ),
)


# --- 4. how mixed a batch is ----------------------------------------------------------


def _distinct(window: int, batch: int) -> float:
    """How many shards of the window a batch is expected to come from."""
    return window * (1 - (1 - 1 / window) ** batch)


distinct = Exercise(
    reference=_distinct,
    cases=lambda: [(1, 8), (16, 1), (16, 16), (16, 2048), (1000, 100)],
    mistakes=[
        Mistake(
            lambda window, batch: window * (1 - 1 / window) ** batch,
            Words(
                en="These are the shards that are missed.",
                zh="你算的是没有抽到的分片数。",
            ),
        ),
        Mistake(
            lambda window, batch: float(min(window, batch)),
            Words(
                en=(
                    "This is the most there can be. Samples come at random: some shards come"
                    " twice before others once."
                ),
                zh="这是上限。样本是随机抽的：有的分片会先被抽到两次，有的还没轮到。",
            ),
        ),
        Mistake(
            lambda window, batch: 1 - (1 - 1 / window) ** batch,
            Words(
                en="This is the chance of one shard to be there; how many shards are there?",
                zh="这是某一个分片被抽到的概率；一共有几个分片？",
            ),
        ),
    ],
    hint=Words(
        en=(
            "One sample misses a given shard with probability 1 - 1/W, and B of them all miss"
            " it with ..."
        ),
        zh="一个样本错过某个分片的概率是 1 - 1/W，B 个样本都错过它的概率是……",
    ),
)


# --- 5. unequal shares ----------------------------------------------------------------


def _whole_gradient(gradients: Tensor, counts: Tensor) -> Tensor:
    """Mean gradients (K, D) of shares of counts (K,) pictures -> the mean gradient of
    all, (D,).
    """
    return (gradients * counts[:, None]).sum(dim=0) / counts.sum()


def _gradient_cases() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shares = ([4.0, 4.0], [6.0, 2.0], [1.0, 2.0, 3.0, 10.0])
    return [
        (torch.randn(len(s), 5, generator=generator).double(), torch.tensor(s).double())
        for s in shares
    ]


whole_gradient = Exercise(
    reference=_whole_gradient,
    cases=_gradient_cases,
    mistakes=[
        Mistake(
            lambda gradients, counts: gradients.mean(dim=0),
            Words(
                en=(
                    "Right only for equal shares: this gives a picture in a small share a"
                    " louder voice."
                ),
                zh="只有各份一样大时才对：这样写，小份里的每张图分量就重了。",
            ),
        ),
        Mistake(
            lambda gradients, counts: gradients.sum(dim=0),
            Words(
                en="A sum over processes: the step grows with their number.",
                zh="这是各进程之和：进程越多，步子越大。",
            ),
        ),
        Mistake(
            lambda gradients, counts: (gradients * counts[:, None]).mean(dim=0),
            Words(
                en="Weighted rightly, but divided by the number of shares, not of pictures.",
                zh="加权是对的，但除以了份数，应当除以图片总数。",
            ),
        ),
    ],
    hint=Words(
        en="A share's mean times its count is the sum over its pictures.",
        zh="一份的均值乘以它的张数，就是这一份里各图之和。",
    ),
)


# --- 6. the roofline ------------------------------------------------------------------


def _attainable(flops: float, moved: float, peak: float, bandwidth: float) -> float:
    """The rate that work of so many operations on so many moved bytes can reach."""
    return min(peak, flops / moved * bandwidth)


attainable = Exercise(
    reference=_attainable,
    cases=lambda: [
        (1e9, 1e9, 1e12, 1e11),
        (1e12, 1e9, 1e12, 1e11),
        (2e9, 12e6, 3e12, 2e10),
        (1e6, 12e6, 3e12, 2e10),
    ],
    mistakes=[
        Mistake(
            lambda flops, moved, peak, bandwidth: flops / moved * bandwidth,
            Words(
                en="Without the ceiling: no work runs faster than the arithmetic units.",
                zh="漏了天花板：再密集的计算也快不过运算单元。",
            ),
        ),
        Mistake(
            lambda flops, moved, peak, bandwidth: (
                flops / (flops / peak + moved / bandwidth)
            ),
            Words(
                en="You let computing wait for moving. They overlap: the slower one decides.",
                zh="你让计算等搬运做完。两者是同时进行的：由较慢的一方决定。",
            ),
        ),
        Mistake(
            lambda flops, moved, peak, bandwidth: min(peak, bandwidth),
            Words(
                en=(
                    "Bytes a second are no operations a second: multiply by the operations per"
                    " byte."
                ),
                zh="每秒字节数不是每秒运算数：要乘上每字节的运算数。",
            ),
        ),
    ],
    hint=Words(
        en="Operations per byte, times bytes a second; and never above the peak.",
        zh="每字节的运算数，乘以每秒的字节数；再不超过峰值。",
    ),
)


# --- 7. days --------------------------------------------------------------------------


def _days(
    forward: float,
    batch: int,
    iterations: int,
    gpus: int,
    peak: float,
    utilisation: float,
) -> float:
    """Days of training; `forward` is the operations of one pass over one example."""
    return 3 * forward * batch * iterations / (gpus * peak * utilisation) / 86_400


days = Exercise(
    reference=_days,
    cases=lambda: [
        (1e12, 2048, 800_000, 256, 3e14, 0.4),
        (5e11, 64, 5500, 1, 1e12, 0.5),
        (1e9, 1, 1, 1, 1e9, 1.0),
    ],
    mistakes=[
        Mistake(
            lambda forward, batch, iterations, gpus, peak, utilisation: (
                forward * batch * iterations / (gpus * peak * utilisation) / 86_400
            ),
            Words(
                en="This is the forward pass alone; the backward pass is twice as much again.",
                zh="这只是前向；反向还要两倍。",
            ),
        ),
        Mistake(
            lambda forward, batch, iterations, gpus, peak, utilisation: (
                3 * forward * batch * iterations * utilisation / (gpus * peak) / 86_400
            ),
            Words(
                en="The wrong way round: at half the utilisation it takes twice as long.",
                zh="反了：利用率减半，时间加倍。",
            ),
        ),
        Mistake(
            lambda forward, batch, iterations, gpus, peak, utilisation: (
                3 * forward * batch * iterations / (gpus * peak * utilisation) / 3600
            ),
            Words(en="These are hours.", zh="这是小时数。"),
        ),
    ],
    hint=Words(
        en=(
            "All operations by operations a second, by the seconds of a day. Forward and"
            " backward are three forwards."
        ),
        zh="总运算量除以每秒运算量，再除以一天的秒数。前向加反向等于三次前向。",
    ),
)


# --- 8. the noise scale ---------------------------------------------------------------


def _noise_scale(small: float, large: float, b_small: int, b_large: int) -> float:
    """tr Sigma / |G|^2 from the mean squared lengths of the gradients of small and
    large batches.
    """
    length = (b_large * large - b_small * small) / (b_large - b_small)
    variance = (small - large) / (1 / b_small - 1 / b_large)
    return variance / length


noise_scale = Exercise(
    reference=_noise_scale,
    cases=lambda: [
        (1 + 100 / 4, 1 + 100 / 64, 4, 64),
        (0.3 + 7 / 2, 0.3 + 7 / 8, 2, 8),
        (5.0, 2.0, 1, 16),
    ],
    mistakes=[
        Mistake(
            lambda small, large, b_small, b_large: (
                (small - large) / (1 / b_small - 1 / b_large) / large
            ),
            Words(
                en=(
                    "You took the large batch's gradient for the true one; its noise is still"
                    " in it."
                ),
                zh="你把大批的梯度当成了真梯度，可里面还有噪声。",
            ),
        ),
        Mistake(
            lambda small, large, b_small, b_large: (
                1 / _noise_scale(small, large, b_small, b_large)
            ),
            Words(en="Upside down.", zh="分子分母颠倒了。"),
        ),
        Mistake(
            lambda small, large, b_small, b_large: (
                (small - large) / (1 / b_small - 1 / b_large)
            ),
            Words(
                en=(
                    "This is the variance of one picture's gradient; divide it by the true"
                    " gradient's squared length."
                ),
                zh="这是单张图的梯度方差；还要除以真梯度长度的平方。",
            ),
        ),
    ],
    hint=Words(
        en="Two equations of the form length = G2 + S / B, with two unknowns G2 and S.",
        zh="两个形如“长度平方 = G2 + S / B”的方程，两个未知数 G2 与 S。",
    ),
)


# --- 9. a large batch in small pieces -------------------------------------------------


@dataclass(frozen=True)
class _SmallCard:
    """The mean gradient of pictures start to stop - 1, on a card with room for `most`
    of them.
    """

    gradients: Tensor  # (N, D), one a picture
    most: int

    def __call__(self, start: int, stop: int) -> Tensor:
        chosen = self.gradients[start:stop]
        if len(chosen) > self.most:
            raise Dalle2EduError(
                words(
                    f"out of memory: {len(chosen)} pictures at once, and {self.most} fit",
                    f"内存不足：一次放了 {len(chosen)} 张图，只放得下 {self.most} 张",
                )
            )
        return chosen.mean(dim=0)


MeanGradient = Callable[[int, int], Tensor]


def _accumulate(gradient: MeanGradient, n: int, most: int) -> Tensor:
    """The mean gradient of n pictures, taken in pieces of at most `most`."""
    total = torch.zeros(())
    for start in range(0, n, most):
        stop = min(start + most, n)
        total = total + (stop - start) * gradient(start, stop)  # mean -> sum
    return total / n


def _mean_of_means(gradient: MeanGradient, n: int, most: int) -> Tensor:
    means = [gradient(i, min(i + most, n)) for i in range(0, n, most)]
    return torch.stack(means).mean(dim=0)


def _sum_of_means(gradient: MeanGradient, n: int, most: int) -> Tensor:
    means = [gradient(i, min(i + most, n)) for i in range(0, n, most)]
    return torch.stack(means).sum(dim=0)


def _whole_pieces_only(gradient: MeanGradient, n: int, most: int) -> Tensor:
    return _accumulate(gradient, n // most * most, most)


def _last_piece_as_large(gradient: MeanGradient, n: int, most: int) -> Tensor:
    pieces = [most * gradient(i, min(i + most, n)) for i in range(0, n, most)]
    return torch.stack(pieces).sum(dim=0) / n


def _card_case(n: int, most: int) -> tuple[MeanGradient, int, int]:
    numbers = torch.randn(n, 5, generator=torch.Generator().manual_seed(n)).double()
    return _SmallCard(numbers, most), n, most


accumulate = Exercise(
    reference=_accumulate,
    cases=lambda: [_card_case(10, 4), _card_case(7, 3), _card_case(9, 5)],
    mistakes=[
        Mistake(
            _mean_of_means,
            Words(
                en=(
                    "The last piece is smaller, and counts here as much as the others. Weigh"
                    " each mean by its number of pictures."
                ),
                zh="最后一份较小，这里却与别的份一样算。每个均值要按自己的张数加权。",
            ),
        ),
        Mistake(
            _sum_of_means,
            Words(
                en=(
                    "A sum of means: it grows with the number of pieces. (In a training loop:"
                    " backward() adds up, so each piece's loss must be scaled.)"
                ),
                zh="这是各份均值之和，份数越多越大。（训练循环里 backward() 会累加，所以每份的损失要先缩放。）",
            ),
        ),
        Mistake(
            _whole_pieces_only,
            Words(
                en="The pictures left over at the end are missing.",
                zh="最后不足一份的那几张图漏掉了。",
            ),
        ),
        Mistake(
            _last_piece_as_large,
            Words(
                en="The last piece has fewer pictures than `most`: weigh it by what it has.",
                zh="最后一份不足 `most` 张：有几张就按几张加权。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "for start in range(0, n, most): the piece's mean times its number of pictures"
            " is its sum. Divide once, at the end."
        ),
        zh="for start in range(0, n, most)：一份的均值乘以张数就是这一份之和；最后只除一次。",
    ),
)
