"""Lesson: a small grammar that puts the truth into words, in English and in Chinese.

A caption is built the way a sentence is: noun phrases for the objects ("a large striped
red circle", 一个大的红色条纹圆形), a frame that says where things are, and the background before
or after it. At every turn there are several ways to go, and a list of random numbers in
[0, 1), one row per caption, takes the turns: the same numbers give the same words, and
all zeros the first wording everywhere.

People do not write everything they see. A "mixed" caption never says that a plain
object is plain, and leaves out sizes, textures, places and backgrounds at random, down
to "a red circle" and 红色圆形. A "full" caption leaves out nothing, so that a picture can
be checked against it. Each language has its own grammar, for word-for-word Chinese is
not Chinese: a plain red is 纯红色, a star is counted with 颗 and a sign with 块.

This file knows words only; the factors are defined in `dalle2_edu.data.shapes`. Used in
chapter 02.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dalle2_edu.errors import Dalle2EduError

LANGUAGES = ("en", "zh")
DETAILS = ("full", "mixed")

# in mixed captions, how often a thing that could be said is said
KEEP_SIZE = 0.5
KEEP_TEXTURE = 0.8
KEEP_PLACE = 0.5
KEEP_LAYOUT = 0.85
KEEP_BACKGROUND = 0.4
KEEP_SIGN_COLOUR = 0.8
# how often a mixed Chinese caption says 红色圆形 and not 一个红色圆形, as titles do
BARE_CHINESE = 0.6


class Thing(NamedTuple):
    """An object, by the names of its values."""

    shape: str
    colour: str
    size: str
    texture: str


class Truth(NamedTuple):
    """What there is to say of one scene, by the names of its values."""

    kind: str
    background: str
    a: Thing
    b: Thing
    place: str
    layout: str
    word: str


class Draws(NamedTuple):
    """The random numbers in [0, 1) that choose the words of one noun phrase, or of the
    sentence around it.
    """

    form: float
    word: float
    noun: float
    keep_first: float  # the size of an object; the place, layout or colour of a scene
    keep_second: float  # the texture of an object; the background of a scene
    bare: float


# random numbers for one caption: for object a, for object b, for the sentence
DRAWS = 3 * len(Draws._fields)


def pick(options: Sequence[str], number: float) -> str:
    """One of the options, by a number in [0, 1)."""
    return options[int(number * len(options))]


def captions(
    truths: Sequence[Truth],
    numbers: Sequence[Sequence[float]],
    language: str,
    detail: str,
) -> list[str]:
    """One caption a scene. `numbers`: for each scene `DRAWS` numbers in [0, 1) that
    choose the wording.

    Raises Dalle2EduError for an unknown language or detail.
    """
    if language not in LANGUAGES:
        raise Dalle2EduError(
            f"unknown language '{language}': choose from {', '.join(LANGUAGES)}"
        )
    if detail not in DETAILS:
        raise Dalle2EduError(
            f"unknown detail '{detail}': choose from {', '.join(DETAILS)}"
        )
    sentence = english_sentence if language == "en" else chinese_sentence
    full = detail == "full"
    n = len(Draws._fields)  # numbers of one phrase
    found = []
    for truth, row in zip(truths, numbers, strict=True):
        draws_a = Draws(*row[:n])
        draws_b = Draws(*row[n : 2 * n])
        draws = Draws(*row[2 * n :])  # of the sentence
        found.append(sentence(truth, draws_a, draws_b, draws, full))
    return found


# --- English --------------------------------------------------------------------------

ENGLISH_SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "diamond",
)
ENGLISH_SIZES = {"small": ("small", "little"), "large": ("large", "big")}
ENGLISH_TEXTURES = {
    "plain": ("plain", "solid"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
}
ENGLISH_PLACES = {
    "middle": ("in the middle", "in the center"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
}
ENGLISH_LAYOUTS = {
    "side by side": (
        "{a} to the left of {b}",
        "{b} to the right of {a}",
        "{a} on the left of {b}",
        "{b} on the right of {a}",
        "{a} on the left and {b} on the right",
        "{b} on the right and {a} on the left",
    ),
    "stacked": (
        "{a} above {b}",
        "{b} below {a}",
        "{a} over {b}",
        "{b} under {a}",
        "{a} at the top and {b} at the bottom",
        "{b} at the bottom and {a} at the top",
    ),
    "": ("{a} and {b}", "{b} and {a}"),
}
ENGLISH_SIGNS = (
    '{sign} that says "{word}"',
    '{sign} with "{word}" on it',
    '{sign} reading "{word}"',
    '{sign} with the text "{word}"',
)
ENGLISH_BACKGROUNDS = (
    "{scene} on a {background} background",
    "on a {background} background, {scene}",
    "{scene}, {background} background",
    "{scene} against a {background} background",
)


def with_article(words: str) -> str:
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article} {words}"


def english_thing(thing: Thing, draws: Draws, full: bool) -> str:
    """A noun phrase: "a large striped red circle"."""
    size = texture = ""  # "" leaves it out
    if full or draws.keep_first < KEEP_SIZE:
        size = pick(ENGLISH_SIZES[thing.size], draws.word) + " "
    # "plain" is said in full captions only: nobody writes that a thing has no pattern
    if full or (thing.texture != "plain" and draws.keep_second < KEEP_TEXTURE):
        texture = pick(ENGLISH_TEXTURES[thing.texture], draws.noun) + " "
    colour = thing.colour + " "
    # "striped red" or "red striped"
    adjectives = pick((texture + colour, colour + texture), draws.form)
    return with_article(f"{size}{adjectives}{thing.shape}")


def english_sentence(
    truth: Truth, draws_a: Draws, draws_b: Draws, draws: Draws, full: bool
) -> str:
    """A whole caption: the objects or the sign, where they are, and the background."""
    if truth.kind == "one":
        scene = english_thing(truth.a, draws_a, full)
        if full or draws.keep_first < KEEP_PLACE:
            place = pick(ENGLISH_PLACES[truth.place], draws.word)
            scene = f"{scene} {place}"
    elif truth.kind == "two":
        # "" stands for "a and b", without saying where
        layout = truth.layout if full or draws.keep_first < KEEP_LAYOUT else ""
        a = english_thing(truth.a, draws_a, full)
        b = english_thing(truth.b, draws_b, full)
        scene = pick(ENGLISH_LAYOUTS[layout], draws.form).format(a=a, b=b)
    else:
        named = full or draws.keep_first < KEEP_SIGN_COLOUR
        sign = with_article(f"{truth.a.colour} sign" if named else "sign")
        scene = pick(ENGLISH_SIGNS, draws.form).format(sign=sign, word=truth.word)
    if full or draws.keep_second < KEEP_BACKGROUND:
        background = pick(ENGLISH_BACKGROUNDS, draws.noun)
        return background.format(scene=scene, background=truth.background)
    return scene


# --- Chinese --------------------------------------------------------------------------

CHINESE_SHAPES = {
    "circle": ("圆形",),
    "square": ("正方形",),
    "triangle": ("三角形",),
    "star": ("五角星", "星星"),
    "heart": ("爱心", "心形"),
    "cross": ("十字", "十字形"),
    "ring": ("圆环",),
    "diamond": ("菱形",),
}
# 一颗 for stars and hearts, 一个 for the rest
COUNTED_WITH_KE = ("五角星", "星星", "爱心")
CHINESE_COLOURS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "black": "黑色",
    "white": "白色",
    "light blue": "浅蓝色",
    "light green": "浅绿色",
    "light yellow": "浅黄色",
    "light pink": "浅粉色",
}
CHINESE_SIZES = {"small": "小", "large": "大"}
# as an adjective (条纹圆形), and after 带 (带条纹的圆形)
CHINESE_PATTERNS = {"striped": ("条纹", "条纹"), "dotted": ("波点", "圆点")}
CHINESE_PLACES = {
    "middle": ("中间", "中央", "正中"),
    "left": ("左边", "左侧"),
    "right": ("右边", "右侧"),
    "top": ("上方", "上面"),
    "bottom": ("下方", "下面"),
}
CHINESE_PLACED = (
    "{thing}在{place}",
    "{place}有{thing}",
    "画面{place}是{thing}",
    "{thing}位于画面{place}",
)
CHINESE_LAYOUTS = {
    "side by side": (
        "{a}在{b}的左边",
        "{b}在{a}的右边",
        "左边是{a}，右边是{b}",
        "右边是{b}，左边是{a}",
        "{a}的右边有{b}",
        "{b}的左边有{a}",
    ),
    "stacked": (
        "{a}在{b}的上方",
        "{b}在{a}的下方",
        "上面是{a}，下面是{b}",
        "下面是{b}，上面是{a}",
        "{a}的下面有{b}",
        "{b}的上面有{a}",
    ),
    "": ("{a}和{b}", "{b}和{a}"),
}
CHINESE_SIGNS = (
    "一块{colour}牌子，上面写着“{word}”",
    "一块写着“{word}”的{colour}牌子",
    "{colour}牌子上写着“{word}”",
    "一块{colour}牌子上写着“{word}”",
)
CHINESE_BACKGROUNDS = (
    "{background}背景上，{scene}",
    "{scene}，背景是{background}",
    "{scene}，{background}背景",
    "在{background}的背景上，{scene}",
)


def chinese_thing(thing: Thing, draws: Draws, full: bool) -> str:
    """A noun phrase, in one order of three: 一个大的红色条纹圆形, 红色条纹的大圆形, 带条纹的红色大圆形."""
    size = CHINESE_SIZES[thing.size] if full or draws.keep_first < KEEP_SIZE else ""
    noun = pick(CHINESE_SHAPES[thing.shape], draws.noun)
    colour = CHINESE_COLOURS[thing.colour]
    before = ""  # what stands before the colour, in the third order only
    form = int(draws.form * 3)
    if thing.texture == "plain":
        if full and form == 2:
            before = "没有花纹的"
        elif full:
            colour = "纯" + colour  # a word-for-word "plain red" would not be Chinese
    elif full or draws.keep_second < KEEP_TEXTURE:
        adjective, after_dai = CHINESE_PATTERNS[thing.texture]
        if form == 2:
            before = f"带{after_dai}的"
        else:
            colour = colour + adjective
    of_size = "的" if size else ""
    orders = (
        f"{size}{of_size}{colour}{noun}",  # 大的红色条纹圆形
        f"{colour}的{size}{noun}",  # 红色条纹的大圆形
        f"{before}{colour}{size}{noun}",  # 带条纹的红色大圆形
    )
    if not full and draws.bare < BARE_CHINESE:  # as titles do
        return orders[form]
    measure = "颗" if noun in COUNTED_WITH_KE else "个"
    return f"一{measure}{orders[form]}"


def chinese_sentence(
    truth: Truth, draws_a: Draws, draws_b: Draws, draws: Draws, full: bool
) -> str:
    """A whole caption: the objects or the sign, where they are, and the background."""
    if truth.kind == "one":
        scene = chinese_thing(truth.a, draws_a, full)
        if full or draws.keep_first < KEEP_PLACE:
            place = pick(CHINESE_PLACES[truth.place], draws.word)
            scene = pick(CHINESE_PLACED, draws.form).format(thing=scene, place=place)
    elif truth.kind == "two":
        layout = truth.layout if full or draws.keep_first < KEEP_LAYOUT else ""
        a = chinese_thing(truth.a, draws_a, full)
        b = chinese_thing(truth.b, draws_b, full)
        scene = pick(CHINESE_LAYOUTS[layout], draws.form).format(a=a, b=b)
    else:
        named = full or draws.keep_first < KEEP_SIGN_COLOUR
        colour = CHINESE_COLOURS[truth.a.colour] if named else ""
        scene = pick(CHINESE_SIGNS, draws.form).format(colour=colour, word=truth.word)
    if full or draws.keep_second < KEEP_BACKGROUND:
        background = CHINESE_COLOURS[truth.background]
        frame = pick(CHINESE_BACKGROUNDS, draws.noun)
        return frame.format(scene=scene, background=background)
    return scene


def speaks_of_shapes(prompt: str) -> bool:
    """Whether a prompt names something of this world: a shape or a sign, in either
    language.
    """
    lowered = prompt.lower()
    nouns = {*ENGLISH_SHAPES, "sign"}
    for word in re.findall("[a-z]+", lowered):
        if word in nouns or word.removesuffix("s") in nouns:  # "stars", too
            return True
    # Chinese has no spaces: a noun is looked for anywhere
    known = [*CHINESE_SHAPES.values(), ("牌子",)]
    return any(noun in prompt for group in known for noun in group)
