"""Exercises of chapter 02, data and tokens."""

import torch
from torch import Tensor

from dalle2_edu.teaching.checks import Exercise, Mistake
from dalle2_edu.teaching.words import Words


def plane(size: int = 9) -> tuple[Tensor, Tensor]:
    """x and y of some points between -1.2 and 1.2: (size, size) each."""
    steps = torch.linspace(-1.2, 1.2, size)
    x, y = torch.meshgrid(steps, steps, indexing="xy")
    return x, y


# --- A moon: one disc cut out of another ----------------------------------------------


def _discs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.hypot(x, y) - 0.9, torch.hypot(x - 0.4, y - 0.2) - 0.7


def _moon(x: Tensor, y: Tensor) -> Tensor:
    disc, bite = _discs(x, y)
    return torch.maximum(disc, -bite)


def _union(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(*_discs(x, y))


def _intersection(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(*_discs(x, y))


def _either_side(x: Tensor, y: Tensor) -> Tensor:
    disc, bite = _discs(x, y)
    return torch.minimum(disc, -bite)


def _subtracted(x: Tensor, y: Tensor) -> Tensor:
    disc, bite = _discs(x, y)
    return disc - bite


moon = Exercise(
    reference=_moon,
    cases=lambda: [plane()],
    mistakes=[
        Mistake(
            _union,
            Words(
                en="This is both discs together: min joins two shapes.",
                zh="这是两个圆合在一起的形状：min 求的是并集。",
            ),
        ),
        Mistake(
            _intersection,
            Words(
                en=(
                    "This is where the two discs overlap. The moon is where the second disc is"
                    " not: turn its sign."
                ),
                zh="这是两个圆重叠的部分。月牙在第二个圆之外：要把它的正负号反过来。",
            ),
        ),
        Mistake(
            _either_side,
            Words(
                en=(
                    "You turned the second sign, but min keeps points that lie in the first"
                    " disc or outside the second."
                ),
                zh="第二个圆的正负号反得对，但 min 表示“或”：在第一个圆内，或在第二个圆外。这里要的是“且”。",
            ),
        ),
        Mistake(
            _subtracted,
            Words(
                en=(
                    "Distances are not subtracted: the zero of d1 - d2 is where both edges are"
                    " equally far."
                ),
                zh="距离不能相减：d1 - d2 = 0 的地方，是到两条边同样远的点。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "A point is in the moon if it is in the first disc AND not in the second. max is"
            " AND, a minus sign is NOT."
        ),
        zh="点在月牙里，当且仅当它在第一个圆内，并且不在第二个圆内。max 是“且”，负号是“非”。",
    ),
)

# --- A box, exactly -------------------------------------------------------------------


def _box(x: Tensor, y: Tensor, a: float, b: float) -> Tensor:
    dx, dy = x.abs() - a, y.abs() - b
    outside = torch.hypot(dx.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dx, dy).clamp(max=0)


def _box_bound(x: Tensor, y: Tensor, a: float, b: float) -> Tensor:
    return torch.maximum(x.abs() - a, y.abs() - b)


def _box_outside(x: Tensor, y: Tensor, a: float, b: float) -> Tensor:
    return torch.hypot((x.abs() - a).clamp(min=0), (y.abs() - b).clamp(min=0))


def _box_not_clamped(x: Tensor, y: Tensor, a: float, b: float) -> Tensor:
    return torch.hypot(x.abs() - a, y.abs() - b)


box = Exercise(
    reference=_box,
    cases=lambda: [(*plane(), 0.7, 0.4), (*plane(), 0.3, 0.9)],
    mistakes=[
        Mistake(
            _box_bound,
            Words(
                en=(
                    "Right inside and beside the edges, but beyond a corner this is too short:"
                    " there the nearest point is the corner itself."
                ),
                zh="内部和四条边外侧都对，但在角的外侧偏小：那里最近的点是角的顶点。",
            ),
        ),
        Mistake(
            _box_outside,
            Words(
                en="Right outside, but inside the box the distance must be negative, not 0.",
                zh="外部正确，但在盒子内部距离应为负数，而不是 0。",
            ),
        ),
        Mistake(
            _box_not_clamped,
            Words(
                en=(
                    "This is the distance to the nearest corner. Beside an edge only one of the"
                    " two excesses counts: clamp the negative one to 0."
                ),
                zh="这是到最近的角的距离。在边的外侧，只有一个方向超出了盒子：负的那个要截断为 0。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "By symmetry use |x| and |y|. dx = |x| - a and dy = |y| - b say how far a point"
            " sticks out. Outside: the hypotenuse of the positive parts. Inside, both are"
            " negative: the larger one."
        ),
        zh=(
            "由对称性只看 |x| 和 |y|。dx = |x| - a、dy = |y| - b 是超出的量。在外部：对正的部分求斜边；"
            "在内部两者都为负：取较大者。"
        ),
    ),
)

# --- Samples of a shard ---------------------------------------------------------------


def _group(names: list[str]) -> dict[str, list[str]]:
    samples: dict[str, list[str]] = {}
    for name in names:
        folder, slash, file = name.rpartition("/")
        key, _, extension = file.partition(".")
        samples.setdefault(folder + slash + key, []).append(extension)
    return samples


def _group_last_dot(names: list[str]) -> dict[str, list[str]]:
    samples: dict[str, list[str]] = {}
    for name in names:
        key, _, extension = name.rpartition(".")
        samples.setdefault(key, []).append(extension)
    return samples


def _group_no_folder(names: list[str]) -> dict[str, list[str]]:
    samples: dict[str, list[str]] = {}
    for name in names:
        key, _, extension = name.rpartition("/")[2].partition(".")
        samples.setdefault(key, []).append(extension)
    return samples


def _group_first_dot_anywhere(names: list[str]) -> dict[str, list[str]]:
    samples: dict[str, list[str]] = {}
    for name in names:
        key, _, extension = name.partition(".")
        samples.setdefault(key, []).append(extension)
    return samples


group = Exercise(
    reference=_group,
    cases=lambda: [
        (["000.webp", "000.json", "001.webp", "001.json"],),
        (["cats/7.webp", "cats/7.mask.png", "cats/7.txt", "dogs/7.webp"],),
        (["v1.2/7.webp", "v1.2/7.json"],),
    ],
    mistakes=[
        Mistake(
            _group_last_dot,
            Words(
                en=(
                    "You cut at the last dot, so 7.mask.png is torn from its sample. The key"
                    " ends at the first dot of the file's name."
                ),
                zh="你在最后一个点处切开，于是 7.mask.png 与它的样本分开了。键到文件名的第一个点为止。",
            ),
        ),
        Mistake(
            _group_no_folder,
            Words(
                en="Without their folders, cats/7 and dogs/7 become one sample.",
                zh="丢掉文件夹之后，cats/7 和 dogs/7 混成了一个样本。",
            ),
        ),
        Mistake(
            _group_first_dot_anywhere,
            Words(
                en=(
                    "A folder's name may have a dot too (v1.2/): look for the first dot after"
                    " the last slash."
                ),
                zh="文件夹名里也可能有点（v1.2/）：要找最后一个斜杠之后的第一个点。",
            ),
        ),
    ],
    hint=Words(
        en=(
            'name.rpartition("/") splits off the folder; file.partition(".") cuts at the first'
            " dot."
        ),
        zh='name.rpartition("/") 分出文件夹；file.partition(".") 在第一个点处切开。',
    ),
)

# --- A flip that keeps the caption true -----------------------------------------------


def _flip(image: Tensor, caption: str) -> tuple[Tensor, str]:
    for one, other in (("left", "right"), ("左", "右")):
        caption = caption.replace(one, "\0").replace(other, one).replace("\0", other)
    return image.flip(-1), caption


def _flip_picture_only(image: Tensor, caption: str) -> tuple[Tensor, str]:
    return image.flip(-1), caption


def _flip_one_after_the_other(image: Tensor, caption: str) -> tuple[Tensor, str]:
    caption = caption.replace("left", "right").replace("right", "left")
    return image.flip(-1), caption.replace("左", "右").replace("右", "左")


def _flip_upside_down(image: Tensor, caption: str) -> tuple[Tensor, str]:
    return image.flip(-2), _flip(image, caption)[1]


def _flip_english_only(image: Tensor, caption: str) -> tuple[Tensor, str]:
    caption = (
        caption.replace("left", "\0").replace("right", "left").replace("\0", "right")
    )
    return image.flip(-1), caption


flip = Exercise(
    reference=_flip,
    cases=lambda: [
        (torch.arange(12.0).view(3, 2, 2), "a circle"),
        (
            torch.arange(12.0).view(3, 2, 2),
            "a star on the left and a ring on the right",
        ),
        (torch.arange(12.0).view(3, 2, 2), "左边是圆形，右边是五角星"),
    ],
    mistakes=[
        Mistake(
            _flip_picture_only,
            Words(
                en=(
                    "The picture is mirrored and the caption isn't: what stood on the left now"
                    " stands on the right."
                ),
                zh="图翻转了，描述文字没有跟着改：原来在左边的东西现在到了右边。",
            ),
        ),
        Mistake(
            _flip_one_after_the_other,
            Words(
                en=(
                    "After the first replacement every side is right, and the second turns all"
                    " of them into left. Park one word under another name first."
                ),
                zh="第一次替换之后全都成了“右”，第二次又把它们全变成“左”。要先用别的记号暂存其中一个。",
            ),
        ),
        Mistake(
            _flip_upside_down,
            Words(
                en=(
                    "The axes are (channel, row, column): flipping axis -2 turns the picture"
                    " upside down."
                ),
                zh="三个轴是（通道，行，列）：翻转 -2 轴是上下颠倒。",
            ),
        ),
        Mistake(
            _flip_english_only,
            Words(
                en="Chinese captions have sides too: 左 and 右.",
                zh="中文描述里也有“左”“右”，同样要对调。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "image.flip(-1) mirrors the columns. Swap two words with a third one: left ->"
            ' "\\0", right -> left, "\\0" -> right.'
        ),
        zh=(
            'image.flip(-1) 左右翻转各列。对调两个词要借助第三个记号：left -> "\\0"，right ->'
            ' left，"\\0" -> right。'
        ),
    ),
)

# --- A row of ids that keeps its end --------------------------------------------------

START, END = 98, 99


def _row(ids: list[int], length: int) -> list[int]:
    kept = [START, *ids[: length - 2], END]
    return kept + [0] * (length - len(kept))


def _row_end_cut(ids: list[int], length: int) -> list[int]:
    kept = [START, *ids, END][:length]
    return kept + [0] * (length - len(kept))


def _row_too_long(ids: list[int], length: int) -> list[int]:
    kept = [START, *ids[:length], END]
    return kept + [0] * (length - len(kept))


def _row_end_last(ids: list[int], length: int) -> list[int]:
    kept = [START, *ids[: length - 2]]
    return kept + [0] * (length - 1 - len(kept)) + [END]


def _row_padded_with_end(ids: list[int], length: int) -> list[int]:
    kept = [START, *ids[: length - 2]]
    return kept + [END] * (length - len(kept))


row = Exercise(
    reference=_row,
    cases=lambda: [([5, 6, 7], 8), ([], 4), ([1, 2, 3, 4, 5, 6, 7, 8], 6), ([1, 2], 4)],
    mistakes=[
        Mistake(
            _row_end_cut,
            Words(
                en=(
                    "A long text loses its end token: CLIP then reads the text at the wrong"
                    " place. Cut the ids before the end is added."
                ),
                zh="长文本的结束词元被截掉了，CLIP 会在错误的位置读取文本。应先截断，再加上结束词元。",
            ),
        ),
        Mistake(
            _row_too_long,
            Words(
                en="Start and end take two places: only length - 2 ids fit.",
                zh="开始和结束各占一个位置：只放得下 length - 2 个词元。",
            ),
        ),
        Mistake(
            _row_end_last,
            Words(
                en="The end token stands right behind the text, and the padding behind it.",
                zh="结束词元紧跟在文本后面，填充在它之后。",
            ),
        ),
        Mistake(
            _row_padded_with_end,
            Words(
                en="The places after the end are padding: 0, not more end tokens.",
                zh="结束词元之后是填充，应为 0，而不是重复的结束词元。",
            ),
        ),
    ],
    hint=Words(
        en="kept = [START, *ids[: length - 2], END], then as many zeros as are missing.",
        zh="kept = [START, *ids[: length - 2], END]，再补上缺少的 0。",
    ),
)

# --- Held-out compositions that leaked ------------------------------------------------

Scene = list[tuple[str, str]]


def _leaks(scenes: list[Scene], held_out: dict[str, str]) -> list[bool]:
    return [
        any(held_out.get(shape) == colour for shape, colour in scene)
        for scene in scenes
    ]


def _leaks_first_only(scenes: list[Scene], held_out: dict[str, str]) -> list[bool]:
    return [held_out.get(scene[0][0]) == scene[0][1] for scene in scenes]


def _leaks_all(scenes: list[Scene], held_out: dict[str, str]) -> list[bool]:
    return [
        all(held_out.get(shape) == colour for shape, colour in scene)
        for scene in scenes
    ]


def _leaks_apart(scenes: list[Scene], held_out: dict[str, str]) -> list[bool]:
    return [
        any(s in held_out and c in held_out.values() for s, c in scene)
        for scene in scenes
    ]


def _leaks_across(scenes: list[Scene], held_out: dict[str, str]) -> list[bool]:
    return [
        any(held_out.get(s) == c for s, _ in scene for _, c in scene)
        for scene in scenes
    ]


leaks = Exercise(
    reference=_leaks,
    cases=lambda: [
        (
            [
                [("star", "blue")],
                [("star", "red")],
                [("ring", "red"), ("star", "blue")],
                [("star", "blue"), ("ring", "red")],
                [("star", "red"), ("ring", "blue")],
                [("heart", "green"), ("star", "blue")],
            ],
            {"star": "blue", "heart": "green"},
        ),
        (
            [[("heart", "blue")], [("cross", "green")]],
            {"star": "blue", "heart": "green"},
        ),
    ],
    mistakes=[
        Mistake(
            _leaks_first_only,
            Words(
                en="A scene may hold two objects: the second one leaks as well as the first.",
                zh="一个场景可能有两个物体：第二个同样会泄漏。",
            ),
        ),
        Mistake(
            _leaks_all,
            Words(
                en="One held-out object is enough: any, not all.",
                zh="只要有一个物体是留出组合就算泄漏：用 any，不是 all。",
            ),
        ),
        Mistake(
            _leaks_apart,
            Words(
                en=(
                    "A heart is allowed, and so is blue. Held out is the pair: this shape with"
                    " this colour."
                ),
                zh="心形可以出现，蓝色也可以出现。留出的是“这个形状配这个颜色”的组合。",
            ),
        ),
        Mistake(
            _leaks_across,
            Words(
                en=(
                    "A red star beside a blue ring is no blue star: shape and colour must"
                    " belong to one object."
                ),
                zh="红色五角星旁边有一个蓝色圆环，并不等于蓝色五角星：形状和颜色要属于同一个物体。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "held_out.get(shape) == colour is true for a held-out object, and false for a shape"
            " that isn't in the dict."
        ),
        zh="物体是留出组合时 held_out.get(shape) == colour 为真；形状不在字典里时为假。",
    ),
)

# --- UTF-8 by hand --------------------------------------------------------------------


def _utf8(code: int) -> list[int]:
    if code < 0x80:
        return [code]
    if code < 0x800:
        return [0xC0 | code >> 6, 0x80 | code & 0x3F]
    if code < 0x10000:
        return [0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F]
    return [
        0xF0 | code >> 18,
        0x80 | code >> 12 & 0x3F,
        0x80 | code >> 6 & 0x3F,
        0x80 | code & 0x3F,
    ]


def _utf8_no_mark(code: int) -> list[int]:
    first, *others = _utf8(code)
    return [first, *[byte & 0x3F for byte in others]]


def _utf8_not_masked(code: int) -> list[int]:
    count = len(_utf8(code))
    if count == 1:
        return [code]
    first = (0xC0, 0xE0, 0xF0)[count - 2] | code >> 6 * (count - 1)
    return [first, *[0x80 | code >> 6 * place for place in reversed(range(count - 1))]]


def _utf8_reversed(code: int) -> list[int]:
    first, *others = _utf8(code)
    return [first, *reversed(others)]


def _utf8_three_at_most(code: int) -> list[int]:
    return (
        _utf8(code)
        if code < 0x10000
        else [0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F]
    )


utf8 = Exercise(
    reference=_utf8,
    cases=lambda: (
        [(ord(char),) for char in ("A", "é", "红", "🚀")]
        + [(0x7F,), (0x80,), (0x7FF,), (0x800,), (0xFFFF,)]
    ),
    mistakes=[
        Mistake(
            _utf8_no_mark,
            Words(
                en="Every byte after the first begins with the bits 10: add 0x80.",
                zh="第一个字节之后的每个字节都以二进制 10 开头：要加上 0x80。",
            ),
        ),
        Mistake(
            _utf8_not_masked,
            Words(
                en=(
                    "A byte after the first carries six bits: cut the higher ones off with &"
                    " 0x3F."
                ),
                zh="后面的每个字节只装六位：用 & 0x3F 去掉更高的位。",
            ),
        ),
        Mistake(
            _utf8_reversed,
            Words(en="The highest bits come first.", zh="高位在前。"),
        ),
        Mistake(
            _utf8_three_at_most,
            Words(
                en="From 0x10000 on a character takes four bytes: emoji are there.",
                zh="从 0x10000 起要用四个字节：emoji 就在那里。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "code >> 6 drops the last six bits, code & 0x3F keeps only them. 红 is 0x7EA2 ="
            " 0111 111010 100010: E7 BA A2."
        ),
        zh=(
            "code >> 6 去掉最低六位，code & 0x3F 只留最低六位。“红”是 0x7EA2 = 0111 111010"
            " 100010，即 E7 BA A2。"
        ),
    ),
)

# --- Encoding with learnt merges ------------------------------------------------------

Merge = tuple[str, str]


def _merged(symbols: list[str], pair: Merge) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def _encode(text: str, merges: list[Merge]) -> list[str]:
    symbols = list(text)
    for pair in merges:
        symbols = _merged(symbols, pair)
    return symbols


def _encode_longest(text: str, merges: list[Merge]) -> list[str]:
    vocabulary = {a + b for a, b in merges} | set(text)
    out, place = [], 0
    while place < len(text):
        end = next(
            end for end in range(len(text), place, -1) if text[place:end] in vocabulary
        )
        out.append(text[place:end])
        place = end
    return out


def _encode_from_the_left(text: str, merges: list[Merge]) -> list[str]:
    symbols = list(text)
    while True:
        place = next(
            (
                i
                for i in range(len(symbols) - 1)
                if (symbols[i], symbols[i + 1]) in merges
            ),
            None,
        )
        if place is None:
            return symbols
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]


def _encode_one_round(text: str, merges: list[Merge]) -> list[str]:
    symbols = list(text)
    for a, b in merges:
        for place in range(len(symbols) - 1):
            if (symbols[place], symbols[place + 1]) == (a, b):
                symbols[place : place + 2] = [a + b]
                break
    return symbols


MERGES = [
    ("e", "d"),
    ("r", "ed"),
    ("t", "r"),
    ("i", "n"),
    ("b", "l"),
    ("r", "in"),
    ("t", "e"),
    ("bl", "u"),
    ("u", "e"),
]
MERGES += [("n", "s"), ("i", "ns")]

encode = Exercise(
    reference=_encode,
    cases=lambda: [
        ("red", MERGES),
        ("tred", MERGES),
        ("trin", MERGES),
        ("ins", MERGES),
        ("blue", MERGES),
        ("eded", MERGES),
        ("ted", MERGES),
        ("", MERGES),
    ],
    mistakes=[
        Mistake(
            _encode_longest,
            Words(
                en=(
                    "You take the longest known piece from the left. BPE replays its merges in"
                    " the order in which they were learnt."
                ),
                zh="你从左边起取词表里最长的一段。BPE 是按学到的先后顺序重放每次合并。",
            ),
        ),
        Mistake(
            _encode_from_the_left,
            Words(
                en=(
                    "You merge whatever stands furthest left. The merge that was learnt first"
                    " goes first, wherever it stands."
                ),
                zh="你总是先合并最靠左的一对。应该先做最早学到的合并，不管它在什么位置。",
            ),
        ),
        Mistake(
            _encode_one_round,
            Words(
                en=(
                    "A pair may stand in a text more than once: each merge replaces all of"
                    " them."
                ),
                zh="同一对可能出现多次：每一步合并要替换所有出现的地方。",
            ),
        ),
    ],
    hint=Words(
        en=(
            "for pair in merges: walk through the symbols once and join every place where this"
            " pair stands."
        ),
        zh="for pair in merges：把符号从头到尾走一遍，凡是出现这一对的地方都合并。",
    ),
)
