"""Exercises of chapter 17 (cascaded upsamplers), and the diagnoses of their usual
mistakes.

Each reference is the shortest right answer; each mistake is an answer that students
(and published code) really give.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words
from dalle2_edu.unclip.upsampler import DETAIL_SCALE, enlarge, to_detail


def _pictures(seed: int, side: int, count: int = 2) -> Tensor:
    """Random pictures in [-1, 1], float64 (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(count, 3, side, side, generator=generator, dtype=torch.float64) * 2
        - 1
    )


# --- 1. attention against convolution -------------------------------------------------


def _attention_share(side: int, channels: int) -> float:
    """The products of one attention layer, scores and weighted sum, per product of one
    3 x 3 convolution.
    """
    places = side * side
    return (2 * places**2 * channels) / (9 * places * channels**2)


attention_share = Exercise(
    reference=_attention_share,
    cases=lambda: [(8, 64), (32, 512), (64, 192), (256, 320)],
    mistakes=[
        Mistake(
            lambda side, channels: (2 * side**2 * channels) / (9 * side * channels**2),
            Words(
                en=(
                    "The places are the pixels of the map, side times side; you took one side"
                    " only."
                ),
                zh="位置数是特征图的像素数，即边长乘边长；你只取了一条边。",
            ),
        ),
        Mistake(
            lambda side, channels: (side**4 * channels) / (9 * side**2 * channels**2),
            Words(
                en=(
                    "Half of it. Attention multiplies twice for each pair of places: once for"
                    " the score, once to add up the values."
                ),
                zh="少了一半。对每一对位置，注意力要乘两回：一回算分数，一回把值加权求和。",
            ),
        ),
        Mistake(
            lambda side, channels: (2 * side**4 * channels) / (9 * side**2 * channels),
            Words(
                en=(
                    "A convolution reads all input channels for each of its output channels:"
                    " channels squared."
                ),
                zh="卷积的每个输出通道都要读全部输入通道：通道数要平方。",
            ),
        ),
    ],
    hint=Words(
        en="Divide 2 n^2 C by 9 n C^2, with n = side * side.",
        zh="用 2 n^2 C 除以 9 n C^2，其中 n = side * side。",
    ),
)


# --- 2. the detail --------------------------------------------------------------------


detail = Exercise(
    reference=to_detail,
    cases=lambda: [
        (_pictures(0, 8), _pictures(1, 4)),
        (_pictures(2, 16, 1), _pictures(3, 8, 1)),
    ],
    mistakes=[
        Mistake(
            lambda images, low_res: images - enlarge(low_res, images.shape[-1]),
            Words(
                en=(
                    "Four times too small: the schedules were made for pictures, so the detail"
                    " is multiplied by DETAIL_SCALE."
                ),
                zh="小了四倍：噪声调度是为图像设计的，所以细节要乘上 DETAIL_SCALE。",
            ),
        ),
        Mistake(
            lambda images, low_res: (
                DETAIL_SCALE * (enlarge(low_res, images.shape[-1]) - images)
            ),
            Words(
                en=(
                    "The sign is the wrong way round: the detail is what must be added to the"
                    " enlarged picture."
                ),
                zh="符号反了：细节是要加到放大图上去的东西。",
            ),
        ),
        Mistake(
            lambda images, low_res: (
                DETAIL_SCALE
                * (images - F.interpolate(low_res, images.shape[-2:], mode="nearest"))
            ),
            Words(
                en=(
                    "You enlarged by repeating pixels. The network is shown the bicubic"
                    " enlargement (`enlarge`), and `from_detail` adds to that one."
                ),
                zh=(
                    "你用重复像素的方式放大。网络看到的是双三次放大（`enlarge`），`from_detail`"
                    " 加的也是它。"
                ),
            ),
        ),
    ],
    hint=Words(
        en="`enlarge` and `DETAIL_SCALE` are all you need.",
        zh="只需要 `enlarge` 和 `DETAIL_SCALE`。",
    ),
)


# --- 3. noise at another resolution ---------------------------------------------------


def _seen_from_afar(abar: float, factor: int) -> float:
    """lambda of a noisy picture after box-averaging factor x factor pixels, if the
    picture itself is smooth.
    """
    return 0.5 * math.log(abar / (1 - abar)) + math.log(factor)


seen_from_afar = Exercise(
    reference=_seen_from_afar,
    cases=lambda: [(0.5, 2), (0.5, 4), (0.01, 4), (0.9, 1), (0.3, 16)],
    mistakes=[
        Mistake(
            lambda abar, factor: (
                0.5 * math.log(abar / (1 - abar)) + 2 * math.log(factor)
            ),
            Words(
                en=(
                    "You added the logarithm of factor squared: that is the gain of the"
                    " signal-to-noise ratio. lambda is half of its logarithm."
                ),
                zh="你加的是 factor 平方的对数，那是信噪比的增益；λ 是信噪比对数的一半。",
            ),
        ),
        Mistake(
            lambda abar, factor: 0.5 * math.log(abar / (1 - abar)) - math.log(factor),
            Words(
                en="The wrong way round: averaging makes noise weaker, so lambda rises.",
                zh="方向反了：取平均使噪声变弱，λ 应当升高。",
            ),
        ),
        Mistake(
            lambda abar, factor: (
                0.5 * math.log(abar / (1 - abar)) + 0.5 * math.log(factor)
            ),
            Words(
                en="One mean is over factor * factor pixels, not over factor of them.",
                zh="一次平均的是 factor * factor 个像素，不是 factor 个。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "The mean of m independent noises of variance 1 has the variance 1/m. How many"
            " pixels go into one?"
        ),
        zh="m 个方差为 1 的独立噪声，平均后的方差是 1/m。一个平均值里有几个像素？",
    ),
)


# --- 4. where a crop may begin --------------------------------------------------------


def _corner(luck: float, side: int, crop: int, step: int) -> int:
    """The corner that a number in [0, 1) chooses: a multiple of step, all of them
    equally likely.
    """
    return int(luck * ((side - crop) // step + 1)) * step


corner = Exercise(
    reference=_corner,
    cases=lambda: (
        [(luck, 64, 16, 2) for luck in (0.0, 0.03, 0.2, 0.5, 0.97, 0.999)]
        + [(0.999, 128, 32, 4), (0.7, 16, 16, 2)]
    ),
    mistakes=[
        Mistake(
            lambda luck, side, crop, step: int(luck * (side - crop + 1)),
            Words(
                en=(
                    "These corners may be odd. Then no crop of the small picture belongs to"
                    " this crop of the large one: corners must be multiples of step."
                ),
                zh="这样的角可能落在奇数位置，小图里就没有与之对应的裁块：角必须是 step 的倍数。",
            ),
        ),
        Mistake(
            lambda luck, side, crop, step: int(luck * ((side - crop) // step)) * step,
            Words(
                en=(
                    "The last place is never drawn: of places 0, step, ..., side - crop there"
                    " is one more than gaps between them, so the right and lower edges would"
                    " never be learned."
                ),
                zh=(
                    "最后一个位置永远抽不到：0、step、……、side - crop 的个数比间隔数多 1。"
                    "照你的写法，右边和下边的边缘永远学不到。"
                ),
            ),
        ),
        Mistake(
            lambda luck, side, crop, step: round(luck * (side - crop) / step) * step,
            Words(
                en=(
                    "Rounding gives the first and the last place only half a share each: the"
                    " edges would be learned half as often."
                ),
                zh="四舍五入使第一个和最后一个位置只占半份：边缘被学到的机会少了一半。",
            ),
        ),
        Mistake(
            lambda luck, side, crop, step: int(luck * (side // step)) * step,
            Words(
                en="This crop may begin so late that it leaves the picture.",
                zh="这样裁块的起点可能太靠后，裁块会超出图像。",
            ),
        ),
    ],
    hint=Words(
        en="Count the places first: 0, step, 2 step, ..., side - crop.",
        zh="先数有几个位置：0、step、2 step……",
    ),
)


# --- 5. each picture its own share of the damage --------------------------------------


def _share_damage(low_res: Tensor, damaged: Tensor, share: Tensor) -> Tensor:
    """Pictures (B, 3, h, w) mixed with their damaged selves, share (B,) of the damage
    each, in [-1, 1].
    """
    return torch.lerp(low_res, damaged, share.reshape(-1, 1, 1, 1)).clamp(-1, 1)


def _damage_cases() -> list[tuple[Tensor, Tensor, Tensor]]:
    shares = (
        torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64),
        torch.tensor([0.9, 0.2, 0.5], dtype=torch.float64),
    )
    return [
        (_pictures(i, 3, 3), 2.5 * _pictures(i + 10, 3, 3), share)
        for i, share in enumerate(shares)
    ]


share_damage = Exercise(
    reference=_share_damage,
    cases=_damage_cases,
    mistakes=[
        Mistake(
            lambda low_res, damaged, share: torch.lerp(
                damaged, low_res, share.reshape(-1, 1, 1, 1)
            ).clamp(-1, 1),
            Words(
                en="The ends are swapped: with share 0 the picture must stay as it is.",
                zh="两头反了：share 为 0 时，图像应当保持原样。",
            ),
        ),
        Mistake(
            lambda low_res, damaged, share: torch.lerp(
                low_res, damaged, share.reshape(-1, 1, 1, 1)
            ),
            Words(
                en=(
                    "Some values leave [-1, 1]: noise can push them there, and no stage below"
                    " ever draws such a picture. Clamp."
                ),
                zh="有些值超出了 [-1, 1]：噪声会把它们推出去，而前一级从来画不出这样的图。请截断。",
            ),
        ),
        Mistake(
            lambda low_res, damaged, share: torch.lerp(low_res, damaged, share).clamp(
                -1, 1
            ),
            Words(
                en=(
                    "A share of shape (B,) lies along the last axis, the columns of pixels:"
                    " here both have length 3, so nothing complains. Reshape it to (B, 1,"
                    " 1, 1)."
                ),
                zh=(
                    "形状为 (B,) 的 share 会沿最后一轴（像素列）广播：这里两者恰好都是 3，所以没有报错。"
                    "请改成 (B, 1, 1, 1)。"
                ),
            ),
        ),
        Mistake(
            lambda low_res, damaged, share: torch.lerp(
                low_res, damaged, share.mean()
            ).clamp(-1, 1),
            Words(
                en="One share for the whole batch. Each picture needs its own.",
                zh="整批共用了一个 share。每张图要有自己的。",
            ),
        ),
    ],
    hint=Words(en="`torch.lerp(a, b, 0)` is a.", zh="`torch.lerp(a, b, 0)` 等于 a。"),
)


# --- 6. the receptive field of a U-Net ------------------------------------------------


def _field(
    levels: int,
    blocks: int,
    patch: int,
    *,
    pooling: bool = True,
    folded: bool = True,
    late: bool = True,
) -> int:
    """How many pixels, along one side, one output of the U-Net sees; the keywords make
    the usual mistakes.
    """
    step = patch
    seen = (patch if folded else 1) + 2 * step  # a folded square, and the stem
    for level in range(levels):
        seen += 4 * step * blocks
        if level < levels - 1:
            seen += step if pooling else 0
            step *= 2
            seen += 4 * step
    seen += 8 * step  # the middle: two blocks
    for level in reversed(range(levels)):
        seen += 4 * step * (blocks + 1)
        if level:
            seen += 4 * (step // 2 if late else step)
            step //= 2
    return seen + 2 * step  # the head


field = Exercise(
    reference=lambda levels, blocks, patch: _field(levels, blocks, patch),
    cases=lambda: [(1, 1, 1), (1, 2, 2), (2, 1, 1), (3, 1, 2), (4, 3, 1), (6, 2, 1)],
    mistakes=[
        Mistake(
            lambda levels, blocks, patch: _field(levels, blocks, patch, pooling=False),
            Words(
                en=(
                    "Almost. Averaging 2 x 2 places is a layer, too: it adds one step before"
                    " the step doubles."
                ),
                zh="差一点。2 x 2 平均也是一层：先加一个间隔，间隔再翻倍。",
            ),
        ),
        Mistake(
            lambda levels, blocks, patch: _field(levels, blocks, patch, folded=False),
            Words(
                en=(
                    "You began with one pixel. After the folding one place already holds patch"
                    " x patch of them."
                ),
                zh="你从 1 个像素数起。折叠之后，一个位置里已经有 patch x patch 个像素。",
            ),
        ),
        Mistake(
            lambda levels, blocks, patch: _field(levels, blocks, patch, late=False),
            Words(
                en=(
                    "The block that doubles the map does so before its convolutions: they work"
                    " with the finer step."
                ),
                zh="把特征图放大的那一块，是先放大再卷积：它的卷积用的是更细的间隔。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "Carry `seen` and `step` along, in pixels, as the page does for our upsampler. A"
            " residual block has two 3 x 3 convolutions and adds 4 steps. On the way up each"
            " level has blocks + 1 blocks."
        ),
        zh=(
            "像正文里那样，一路记住 `seen` 与 `step`（以像素计）。一个残差块有两个 3 x 3 卷积，"
            "增加 4 个间隔；"
            "上行时每层有 blocks + 1 块。"
        ),
    ),
)


# --- 7. back to the small picture, exactly --------------------------------------------


def _project(picture: Tensor, low_res: Tensor) -> Tensor:
    """The nearest picture whose 2 x 2 averages are low_res."""
    error = low_res - F.avg_pool2d(picture, 2)
    return picture + F.interpolate(error, scale_factor=2.0, mode="nearest")


def _smooth_correction(picture: Tensor, low_res: Tensor) -> Tensor:
    return picture + enlarge(low_res - F.avg_pool2d(picture, 2), picture.shape[-1])


def _away_from_it(picture: Tensor, low_res: Tensor) -> Tensor:
    return 2 * picture - _project(picture, low_res)


def _quarter(picture: Tensor, low_res: Tensor) -> Tensor:
    return picture + (_project(picture, low_res) - picture) / 4


project = Exercise(
    reference=_project,
    cases=lambda: [
        (_pictures(20, 8), _pictures(21, 4)),
        (_pictures(22, 6, 1), _pictures(23, 3, 1)),
    ],
    mistakes=[
        Mistake(
            _smooth_correction,
            Words(
                en=(
                    "A bicubic correction spills over its square, so the averages come out"
                    " almost right. Repeat the correction over its own four pixels."
                ),
                zh=(
                    "双三次放大的修正量会溢到邻近的方块，平均值只是差不多对。"
                    "应当把修正量重复到它自己的四个像素上。"
                ),
            ),
        ),
        Mistake(
            _away_from_it,
            Words(
                en="The correction has the wrong sign: the error doubles.",
                zh="修正量的符号反了：误差变成了两倍。",
            ),
        ),
        Mistake(
            _quarter,
            Words(
                en=(
                    "You shared the correction among four pixels. It is a mean that must rise:"
                    " each pixel rises by all of it."
                ),
                zh="你把修正量分给了四个像素。要抬高的是平均值：每个像素都要加上全部修正量。",
            ),
        ),
    ],
    hint=Words(
        en="How far is `F.avg_pool2d(picture, 2)` off? Add just that to all four pixels.",
        zh="`F.avg_pool2d(picture, 2)` 差多少？把差值原样加到四个像素上。",
    ),
)
