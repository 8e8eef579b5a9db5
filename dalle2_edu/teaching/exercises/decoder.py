"""Exercises of chapter 16 (the decoder), and the diagnoses of their usual mistakes.

Some of the mistakes are from published code, such as the image tokens that are cut
along the wrong axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dalle2_edu.diffusion.guidance import guide as package_guide
from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words
from dalle2_edu.text2image.inpainting import repaint_walk


def _numbers(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


# --- 1. what a picture is shown in training -------------------------------------------


def _shares(image_drop: float, text_drop: float) -> tuple[float, float, float, float]:
    """How often training shows both conditions, the image embedding alone, the text
    alone, and nothing.
    """
    image, text = 1 - image_drop, 1 - text_drop
    return image * text, image * text_drop, image_drop * text, image_drop * text_drop


def _text_alone_is_all_dropped_images(
    image_drop: float, text_drop: float
) -> tuple[float, float, float, float]:
    both, image, _, nothing = _shares(image_drop, text_drop)
    return both, image, image_drop, nothing


def _alone_swapped(
    image_drop: float, text_drop: float
) -> tuple[float, float, float, float]:
    both, image, text, nothing = _shares(image_drop, text_drop)
    return both, text, image, nothing


def _drops_exclude_each_other(
    image_drop: float, text_drop: float
) -> tuple[float, float, float, float]:
    return 1 - image_drop - text_drop, text_drop, image_drop, 0.0


shares = Exercise(
    reference=_shares,
    cases=lambda: [(0.1, 0.5), (0.2, 0.3), (0.05, 0.4)],
    mistakes=[
        Mistake(
            _alone_swapped,
            Words(
                en=(
                    "The two in the middle are swapped: the image embedding is alone where the"
                    " text was dropped."
                ),
                zh="中间两项写反了：被丢掉的是文本时，剩下的才是图像嵌入。",
            ),
        ),
        Mistake(
            _text_alone_is_all_dropped_images,
            Words(
                en=(
                    "Where the image embedding is dropped, the text is still there only in some"
                    " cases: multiply."
                ),
                zh="图像嵌入被丢掉时，文本也只在一部分情况下还在：还要再乘一个概率。",
            ),
        ),
        Mistake(
            _drops_exclude_each_other,
            Words(
                en=(
                    "You let the two drops exclude each other, so that nothing is never left."
                    " They are two separate throws of a coin: probabilities multiply."
                ),
                zh="你让两种丢弃互相排斥，于是永远不会两样都丢。它们是两次独立的抽签，概率应当相乘。",
            ),
        ),
    ],
    hint=Words(en="Four products; they add up to 1.", zh="四个乘积，加起来等于 1。"),
)


# --- 2. how many keys attention sees --------------------------------------------------


def _keys(text_tokens: int, side: int) -> int:
    """Keys that one place of a feature map of side x side may look at, with so many
    real tokens of text.
    """
    return text_tokens + 4 + side**2


keys = Exercise(
    reference=_keys,
    cases=lambda: [(5, 8), (32, 16), (1, 4)],
    mistakes=[
        Mistake(
            lambda text_tokens, side: text_tokens + side**2,
            Words(
                en=(
                    "That is GLIDE. The decoder puts four tokens of the image embedding beside"
                    " the text's."
                ),
                zh="这是 GLIDE 的数目。解码器还在文本词元旁放了四个由图像嵌入变来的词元。",
            ),
        ),
        Mistake(
            lambda text_tokens, side: text_tokens + 4,
            Words(
                en=(
                    "You count what comes from outside. In this attention the picture's own"
                    " places are keys as well."
                ),
                zh="你只数了外来的词元。在这种注意力里，图像自己的各个位置也是键。",
            ),
        ),
        Mistake(
            lambda text_tokens, side: text_tokens + 4 + side,
            Words(
                en="A feature map has side x side places, not side.",
                zh="特征图有 side × side 个位置，而不是 side 个。",
            ),
        ),
    ],
)


# --- 3. the null embedding ------------------------------------------------------------


def _drop(image_emb: Tensor, keep: Tensor, null: Tensor) -> Tensor:
    """(B, D) with the learned null vector (D,) in the rows where keep (B,) is False."""
    return torch.where(keep[:, None], image_emb, null)


drop = Exercise(
    reference=_drop,
    cases=lambda: [
        (
            _numbers(4, 6, seed=1),
            torch.tensor([True, False, True, True]),
            _numbers(6, seed=2),
        ),
        (
            _numbers(3, 3, seed=3),
            torch.tensor([False, True, False]),
            _numbers(3, seed=4),
        ),
    ],
    mistakes=[
        Mistake(
            lambda image_emb, keep, null: torch.where(keep[:, None], null, image_emb),
            Words(
                en="The wrong way round: keep is True where the embedding stays.",
                zh="方向反了：keep 为 True 的行应当保留原来的嵌入。",
            ),
        ),
        Mistake(
            lambda image_emb, keep, null: image_emb * keep[:, None],
            Words(
                en="Dropped rows are zero with you. Here a learned vector stands for nothing.",
                zh="你把丢掉的行变成了零。这里代表“没有”的是一个学出来的向量。",
            ),
        ),
        Mistake(
            lambda image_emb, keep, null: image_emb + (~keep)[:, None] * null,
            Words(
                en=(
                    "The null vector is added to the embedding, so the network still sees what"
                    " it should not. Replace."
                ),
                zh="你把空向量加在了嵌入上，网络仍然看得到本该丢掉的内容。应当替换。",
            ),
        ),
    ],
    hint=Words(
        en="torch.where, with keep as (B, 1).",
        zh="用 torch.where，keep 变形为 (B, 1)。",
    ),
)


# --- 4. guidance ----------------------------------------------------------------------


def _guide(null: Tensor, conditional: Tensor, s: float) -> Tensor:
    """The point at s on the line from the null answer (0) to the conditional one
    (1).
    """
    return null + s * (conditional - null)


def _ho_salimans(null: Tensor, conditional: Tensor, w: float) -> Tensor:
    """The same in the convention of the paper that found it: w = 0 is off."""
    return (1 + w) * conditional - w * null


def _answers(seed: int) -> tuple[Tensor, Tensor]:
    return _numbers(2, 3, 4, 4, seed=seed), _numbers(2, 3, 4, 4, seed=seed + 50)


guide = Exercise(
    reference=_guide,
    cases=lambda: [
        (*_answers(1), 2.0),
        (*_answers(2), 1.0),
        (*_answers(3), 0.0),
        (*_answers(4), 7.5),
    ],
    mistakes=[
        Mistake(
            _ho_salimans,
            Words(
                en=(
                    "Your s = 0 is the conditional answer: that is Ho and Salimans' w. Here s ="
                    " 1 is off: s = 1 + w."
                ),
                zh=(
                    "你的 s = 0 得到的是有条件的回答：那是 Ho 与 Salimans 的 w。本书 s = 1"
                    " 表示关闭，s = 1 + w。"
                ),
            ),
        ),
        Mistake(
            lambda null, conditional, s: conditional + s * (null - conditional),
            Words(
                en=(
                    "The ends are swapped: s = 1 gives the null answer. Start at the null and"
                    " walk to the condition."
                ),
                zh="两端颠倒了：s = 1 得到的是空条件的回答。应从空条件出发，朝有条件的方向走。",
            ),
        ),
        Mistake(
            lambda null, conditional, s: null + s * conditional,
            Words(
                en=(
                    "You walk along the conditional answer. The direction is the difference of"
                    " the two."
                ),
                zh="你是沿着有条件的回答走的。方向应当是两者之差。",
            ),
        ),
    ],
    hint=Words(
        en="s = 0 must give null, s = 1 conditional.",
        zh="s = 0 必须得到 null，s = 1 必须得到 conditional。",
    ),
)

ho_salimans = Exercise(
    reference=_ho_salimans,
    cases=lambda: [(*_answers(5), 0.0), (*_answers(6), 1.0), (*_answers(7), 3.0)],
    mistakes=[
        Mistake(
            _guide,
            Words(
                en=(
                    "That is our s. In this convention w = 0 is off, and must give the"
                    " conditional answer."
                ),
                zh="这是本书的 s。在这种写法里 w = 0 才是关闭，应当得到有条件的回答。",
            ),
        ),
        Mistake(
            lambda null, conditional, w: (1 + w) * conditional + w * null,
            Words(
                en="A sign: the two weights must add up to 1, so one of them is negative.",
                zh="有一个正负号不对：两个系数之和必须等于 1，所以其中一个是负数。",
            ),
        ),
        Mistake(
            lambda null, conditional, w: _guide(null, conditional, w - 1),
            Words(
                en="The other way: s is larger than w.", zh="换算方向反了：s 比 w 大。"
            ),
        ),
    ],
)


# --- 6. guidance with a learned variance ----------------------------------------------


def _all_channels(null: Tensor, conditional: Tensor, s: float) -> Tensor:
    return _guide(null, conditional, s)


def _null_variance(null: Tensor, conditional: Tensor, s: float) -> Tensor:
    return torch.cat([_guide(null[:, :3], conditional[:, :3], s), null[:, 3:]], dim=1)


def _no_variance(null: Tensor, conditional: Tensor, s: float) -> Tensor:
    return _guide(null[:, :3], conditional[:, :3], s)


guide_learned = Exercise(
    reference=lambda null, conditional, s: package_guide(
        null, conditional, s, channels=3
    ),
    cases=lambda: [
        (_numbers(2, 6, 4, 4, seed=8), _numbers(2, 6, 4, 4, seed=9), 3.0),
        (_numbers(1, 6, 2, 2, seed=10), _numbers(1, 6, 2, 2, seed=11), 1.5),
    ],
    mistakes=[
        Mistake(
            _all_channels,
            Words(
                en=(
                    "You guide the variance as well. At s = 3 it lands far outside the two"
                    " bounds; only the first three channels are guided."
                ),
                zh="你连方差也引导了。s = 3 时它会远远跑出上下界；只有前三个通道需要引导。",
            ),
        ),
        Mistake(
            _null_variance,
            Words(
                en=(
                    "The variance is the null answer's. The step that is taken belongs to the"
                    " condition."
                ),
                zh="你取的是空条件那份回答的方差。要走的这一步属于有条件的一方。",
            ),
        ),
        Mistake(
            _no_variance,
            Words(
                en="Three channels came back: the sampler still needs the variance.",
                zh="只返回了三个通道：采样器还需要方差。",
            ),
        ),
    ],
)


# --- 7. dynamic thresholding ----------------------------------------------------------


def _dynamic(x0: Tensor, p: float) -> Tensor:
    """Imagen's dynamic thresholding: clip at the percentile of |x0| if that is above 1,
    and divide by it.
    """
    bound = torch.quantile(x0.abs().flatten(1), p, dim=1).clamp(min=1)[
        :, None, None, None
    ]
    return x0.clamp(-bound, bound) / bound


def _always_divides(x0: Tensor, p: float) -> Tensor:
    bound = torch.quantile(x0.abs().flatten(1), p, dim=1)[:, None, None, None]
    return x0.clamp(-bound, bound) / bound


def _one_bound(x0: Tensor, p: float) -> Tensor:
    bound = torch.quantile(x0.abs().flatten(), p).clamp(min=1)
    return x0.clamp(-bound, bound) / bound


def _unclipped(x0: Tensor, p: float) -> Tensor:
    bound = torch.quantile(x0.abs().flatten(1), p, dim=1).clamp(min=1)[
        :, None, None, None
    ]
    return x0 / bound


dynamic = Exercise(
    reference=_dynamic,
    cases=lambda: [
        (
            torch.cat(
                [_numbers(1, 3, 4, 4, seed=12) * 3, _numbers(1, 3, 4, 4, seed=13) * 0.2]
            ),
            0.9,
        ),
        (_numbers(3, 3, 4, 4, seed=14) * 1.5, 0.8),
    ],
    mistakes=[
        Mistake(
            lambda x0, p: x0.clamp(-1, 1),
            Words(
                en=(
                    "That is static clipping: a pixel at 3 and one at 1.1 become the same"
                    " colour."
                ),
                zh="这是普通的截断：等于 3 的像素和等于 1.1 的像素变成了同一种颜色。",
            ),
        ),
        Mistake(
            _always_divides,
            Words(
                en=(
                    "A pale picture is stretched until it is garish. Divide only where the"
                    " bound is above 1."
                ),
                zh="原本柔和的图被拉得刺眼。只有界大于 1 时才需要除。",
            ),
        ),
        Mistake(
            _one_bound,
            Words(
                en=(
                    "One bound for the whole batch: a picture would depend on its neighbours."
                    " Each has its own."
                ),
                zh="整批共用了一个界，一张图就会受邻居影响。每张图应有自己的界。",
            ),
        ),
        Mistake(
            _unclipped,
            Words(
                en=(
                    "The brightest pixels are still outside [-1, 1]: clip to the bound before"
                    " you divide by it."
                ),
                zh="最亮的像素仍在 [-1, 1] 之外：先截断到界，再除以界。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "torch.quantile of the flattened |x0|, one number for each picture, and not"
            " below 1."
        ),
        zh="把 |x0| 展平后用 torch.quantile，每张图一个数，且不小于 1。",
    ),
)


# --- 8. four tokens -------------------------------------------------------------------


def _tokens(flat: Tensor, width: int) -> Tensor:
    """Karlo's four tokens of a projected embedding (B, width * 4), the token's number
    the fastest: (B, 4, width).
    """
    return flat.reshape(len(flat), width, 4).transpose(1, 2)


tokens = Exercise(
    reference=_tokens,
    cases=lambda: [
        (_numbers(2, 24, seed=15), 6),
        (torch.arange(40.0).reshape(1, 40), 10),
    ],
    mistakes=[
        Mistake(
            lambda flat, width: flat.reshape(len(flat), 4, width),
            Words(
                en=(
                    "The shape is right and every number is in the wrong place. In this layout"
                    " the four tokens' first numbers come first, then their second ones: cut it"
                    " into (B, width, 4) and turn that round."
                ),
                zh=(
                    "形状对了，数却都放错了位置。在这种排列里，先是四个词元各自的第一个数，再是第二个数："
                    "先切成 (B, width, 4)，再转置。"
                ),
            ),
        ),
        Mistake(
            lambda flat, width: flat.reshape(len(flat), width, 4),
            Words(
                en=(
                    "These are `width` tokens of four numbers each: the last two axes are still"
                    " to be swapped."
                ),
                zh="这是 width 个词元、每个四个数：最后两个轴还要交换。",
            ),
        ),
    ],
    hint=Words(en="reshape, then transpose.", zh="先 reshape，再 transpose。"),
)


# --- 9. the seven channels ------------------------------------------------------------


def _inpaint_input(x_t: Tensor, known: Tensor, hole: Tensor) -> Tensor:
    """What the inpainting decoder sees: (B, 3 + 3 + 1, H, W)."""
    keep = (~hole).to(x_t.dtype)
    return torch.cat([x_t, known * keep, keep], dim=1)


def _shows_the_hole(x_t: Tensor, known: Tensor, hole: Tensor) -> Tensor:
    return torch.cat([x_t, known, (~hole).to(x_t.dtype)], dim=1)


def _hole_for_keep(x_t: Tensor, known: Tensor, hole: Tensor) -> Tensor:
    return torch.cat([x_t, known * ~hole, hole.to(x_t.dtype)], dim=1)


def _known_noised_over(x_t: Tensor, known: Tensor, hole: Tensor) -> Tensor:
    keep = (~hole).to(x_t.dtype)
    return torch.cat([torch.where(hole, x_t, known), known * keep, keep], dim=1)


def _pictures_and_hole(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    hole = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    hole[:, :, 1:3, : 2 + seed % 2] = True
    return _numbers(2, 3, 4, 4, seed=seed), _numbers(2, 3, 4, 4, seed=seed + 50), hole


inpaint_input = Exercise(
    reference=_inpaint_input,
    cases=lambda: [_pictures_and_hole(16), _pictures_and_hole(17)],
    mistakes=[
        Mistake(
            _shows_the_hole,
            Words(
                en=(
                    "The known picture still holds what is under the hole. In training that"
                    " would give the answer away."
                ),
                zh="已知图像里还留着洞下面的内容。训练时这等于把答案告诉了网络。",
            ),
        ),
        Mistake(
            _hole_for_keep,
            Words(
                en=(
                    "The mask is the wrong way round: the last channel is 1 where a pixel is"
                    " known. With everything erased, all four new channels must be zero."
                ),
                zh="掩码反了：最后一个通道在像素已知的地方是 1。全部擦去时，四个新通道都必须是零。",
            ),
        ),
        Mistake(
            _known_noised_over,
            Words(
                en=(
                    "You also put the known pixels into x_t. That is the noisy picture and"
                    " stays as it is; the known ones have channels of their own."
                ),
                zh="你把已知像素也放进了 x_t。那是带噪声的图，应保持原样；已知像素有自己的通道。",
            ),
        ),
    ],
    hint=Words(
        en="keep = not hole, as numbers; then one torch.cat.",
        zh="keep 是 hole 取反后的数；然后一次 torch.cat。",
    ),
)


# --- 10. replacing what is known ------------------------------------------------------


def _replace(
    x: Tensor, known: Tensor, hole: Tensor, abar: float, noise: Tensor
) -> Tensor:
    """After a step to the level abar: the hole as the sampler made it, the rest from
    the known picture, noised.
    """
    return torch.where(hole, x, math.sqrt(abar) * known + math.sqrt(1 - abar) * noise)


def _replace_cases() -> list[tuple[Tensor, Tensor, Tensor, float, Tensor]]:
    first, second = _pictures_and_hole(18), _pictures_and_hole(19)
    return [
        (*first, 0.3, _numbers(2, 3, 4, 4, seed=20)),
        (*second, 0.9, _numbers(2, 3, 4, 4, seed=21)),
    ]


replace = Exercise(
    reference=_replace,
    cases=_replace_cases,
    mistakes=[
        Mistake(
            lambda x, known, hole, abar, noise: torch.where(hole, x, known),
            Words(
                en=(
                    "The known pixels are clean while the hole is still noisy: the network"
                    " never saw such a picture. Bring them to the same level of noise first."
                ),
                zh="已知像素是干净的，洞里却还有噪声：网络从没见过这样的图。应先把它们加噪到同一强度。",
            ),
        ),
        Mistake(
            lambda x, known, hole, abar, noise: _replace(x, known, ~hole, abar, noise),
            Words(
                en="The mask is the wrong way round: True is where to paint.",
                zh="掩码反了：True 表示要画的地方。",
            ),
        ),
        Mistake(
            lambda x, known, hole, abar, noise: torch.where(
                hole, x, known + math.sqrt(1 - abar) * noise
            ),
            Words(
                en=(
                    "You add noise and keep the picture at full strength: it must be scaled by"
                    " the root of abar."
                ),
                zh="你加了噪声，图像却没有减弱：还要乘以 abar 的平方根。",
            ),
        ),
        Mistake(
            lambda x, known, hole, abar, noise: torch.where(
                hole, x, abar * known + (1 - abar) * noise
            ),
            Words(
                en=(
                    "The roots are missing: abar is a share of the variance, not of the"
                    " amplitude."
                ),
                zh="忘了开平方：abar 是方差的份额，不是振幅的份额。",
            ),
        ),
    ],
    hint=Words(
        en="q(x_t | x_0) on the known part, then torch.where.",
        zh="对已知部分用 q(x_t | x_0)，再用 torch.where。",
    ),
)


# --- 11. down and up again ------------------------------------------------------------


def _climb(levels: int, resamples: int) -> list[int]:
    """The levels of noise that RePaint visits if it climbs one level at a time."""
    return repaint_walk(levels, jump=1, resamples=resamples)


def _straight_down(levels: int, resamples: int) -> list[int]:
    return list(range(levels, -1, -1))


def _one_climb_too_many(levels: int, resamples: int) -> list[int]:
    return _climb(levels, resamples + 1)


def _climbs_from_zero(levels: int, resamples: int) -> list[int]:
    return _climb(levels, resamples) + [1, 0] * (resamples - 1)


def _begins_below(levels: int, resamples: int) -> list[int]:
    return _climb(levels, resamples)[1:]


def _stays_there(levels: int, resamples: int) -> list[int]:
    visited = [levels]
    for level in range(levels - 1, -1, -1):
        visited += [level] * (resamples if level else 1)
    return visited


climb = Exercise(
    reference=_climb,
    cases=lambda: [(3, 2), (4, 3), (5, 1), (2, 4)],
    mistakes=[
        Mistake(
            _straight_down,
            Words(
                en="You go straight down. Each level but 0 is visited `resamples` times.",
                zh="你一路走到底了。除 0 级外，每一级都要到达 resamples 次。",
            ),
        ),
        Mistake(
            _one_climb_too_many,
            Words(
                en=(
                    "One climb too many: the first visit counts, so there are resamples - 1"
                    " climbs."
                ),
                zh="多退了一次：第一次到达也算一次，所以只退 resamples - 1 次。",
            ),
        ),
        Mistake(
            _climbs_from_zero,
            Words(
                en="You climb from level 0, too. There the picture is finished.",
                zh="你到了 0 级还往回退。到那里图已经画完了。",
            ),
        ),
        Mistake(
            _begins_below,
            Words(
                en="The start is missing: the first level of the list is `levels`.",
                zh="漏了起点：列表的第一项是 levels。",
            ),
        ),
        Mistake(
            _stays_there,
            Words(
                en=(
                    "You stay at a level instead of climbing: between two visits the list needs"
                    " the level above."
                ),
                zh="你停在原地没有退回：两次到达之间，列表里应当有上面那一级。",
            ),
        ),
    ],
    hint=Words(
        en="An outer loop for the levels, an inner loop for the extra visits.",
        zh="外层循环走各级，内层循环是多出来的几次。",
    ),
)
