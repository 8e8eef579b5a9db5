"""The shapes world: pictures against closed forms, splits against their promise,
captions read back.
"""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from dalle2_edu.data import grammar, shapes
from dalle2_edu.data.shapes import (
    FACTORS,
    Scenes,
    applicable,
    captions,
    render,
    sample_scenes,
    scenes_from,
)
from dalle2_edu.errors import Dalle2EduError


def draw(n: int, split: str = "all", seed: int = 0) -> Scenes:
    return sample_scenes(n, torch.Generator().manual_seed(seed), split)


def rgb(name: str) -> Tensor:
    """A colour of the palette as the renderer gives it: (3,) in [-1, 1]."""
    return torch.tensor(shapes.PAINT[name]) / 127.5 - 1


def ink(pictures: Tensor, background: str = "white") -> Tensor:
    """Where a picture is not background: bool (B, S, S)."""
    return ((pictures - rgb(background).view(3, 1, 1)).abs() > 1e-4).any(1)


# --------------------------------------------------------------------------------------

AREAS = {  # in squared radii
    "circle": math.pi * 0.9**2,
    "square": 1.6**2,
    "triangle": 0.75 * math.sqrt(3) * 1.1**2,
    "star": 5 * 1.08 * 0.50 * math.sin(math.pi / 5),
    "heart": 2 * 0.8**2 + math.pi * 0.8**2 / 2,  # a square and two half discs
    "cross": 2 * 1.9 * 0.66 - 0.66**2,
    "ring": math.pi * (0.96**2 - 0.46**2),
    "diamond": 2 * 0.72 * 1.05,
}


@pytest.mark.parametrize("shape", FACTORS["shape_a"])
@pytest.mark.parametrize("size", FACTORS["size_a"])
def test_area_is_the_formula(shape: str, size: str) -> None:
    picture = render(
        scenes_from(
            [{"kind": "one", "shape_a": shape, "colour_a": "black", "size_a": size}]
        ),
        128,
    )
    white, black = rgb("white"), rgb("black")
    coverage = (white[0] - picture[0, 0]) / (white[0] - black[0])  # (128, 128)
    radius = shapes.RADII[0][FACTORS["size_a"].index(size)]
    assert coverage.sum() * (2 / 128) ** 2 == pytest.approx(
        AREAS[shape] * radius**2, rel=0.01
    )


@pytest.mark.parametrize("colour", FACTORS["colour_a"])
def test_a_plain_object_has_its_colour_and_its_background(colour: str) -> None:
    picture = render(
        scenes_from(
            [
                {
                    "kind": "one",
                    "shape_a": "square",
                    "colour_a": colour,
                    "background": "light pink",
                }
            ]
        )
    )
    torch.testing.assert_close(picture[0, :, 16, 16], rgb(colour))
    torch.testing.assert_close(picture[0, :, 0, 0], rgb("light pink"))


def test_textures_use_the_deep_shade() -> None:
    for texture in ("striped", "dotted"):
        one = {
            "kind": "one",
            "shape_a": "circle",
            "colour_a": "blue",
            "size_a": "large",
            "texture_a": texture,
        }
        picture = render(scenes_from([one]), 128)[0]
        deep = torch.tensor(shapes.DEEP["blue"]) / 127.5 - 1
        torch.testing.assert_close(
            picture[:, 64, 64], deep
        )  # a stripe and a dot pass through the middle
        share = ((picture - deep.view(3, 1, 1)).abs() < 1e-3).all(0).sum() / ink(
            picture[None]
        ).sum()
        assert 0.2 < share < 0.55


def test_places_and_layouts_are_where_they_say() -> None:
    steps = torch.linspace(-1, 1, 32)
    for size in FACTORS["size_a"]:
        places = [{"kind": "one", "size_a": size, "place": p} for p in FACTORS["place"]]
        mass = ink(render(scenes_from(places))).float()
        x = (mass.sum(1) * steps).sum(-1) / mass.sum((1, 2))  # (5,)
        y = -(mass.sum(2) * steps).sum(-1) / mass.sum((1, 2))
        assert torch.equal((x * 5).round().sign(), torch.tensor([0.0, -1, 1, 0, 0]))
        assert torch.equal((y * 5).round().sign(), torch.tensor([0.0, 0, 0, 1, -1]))
    two = {
        "kind": "two",
        "shape_a": "circle",
        "colour_a": "red",
        "shape_b": "circle",
        "colour_b": "blue",
    }
    beside, stacked = render(scenes_from([two, two | {"layout": "stacked"}]))
    for left_or_top, right_or_bottom in (
        (beside[:, 16, 8], beside[:, 16, 24]),
        (stacked[:, 8, 16], stacked[:, 24, 16]),
    ):
        torch.testing.assert_close(left_or_top, rgb("red"))
        torch.testing.assert_close(right_or_bottom, rgb("blue"))


def test_two_objects_never_touch_and_never_leave_the_picture() -> None:
    scenes = draw(4000)
    scenes.factors["background"].zero_()
    scenes.jitter = scenes.jitter.sign()  # the furthest pushes there are
    scenes = scenes[scenes.factors["kind"] != shapes.SIGN]
    drawn = ink(render(scenes, 64))  # (B, 64, 64)
    assert not drawn[:, [0, -1], :].any() and not drawn[:, :, [0, -1]].any()
    two, stacked = scenes.factors["kind"] == shapes.TWO, scenes.factors["layout"] == 1
    beside_gap = (~drawn[two & ~stacked].any(1))[:, 24:40].sum(
        1
    )  # empty columns about the middle
    stacked_gap = (~drawn[two & stacked].any(2))[:, 24:40].sum(1)
    assert beside_gap.min() >= 2 and stacked_gap.min() >= 2  # a whole pixel at 32


def test_small_is_always_clearly_smaller_than_large() -> None:
    small, large = zip(*shapes.RADII, strict=True)
    assert max(small) * (1 + shapes.SIZE_JITTER) * 1.2 < min(large) * (
        1 - shapes.SIZE_JITTER
    )


def test_every_letter_is_drawn_and_differs_from_the_others() -> None:
    signs = [
        {"kind": "sign", "letter_1": c, "colour_a": "red"} for c in FACTORS["letter_1"]
    ]
    pictures = render(scenes_from(signs), 32).flatten(1)  # (26, 3 * 32 * 32)
    assert (torch.cdist(pictures, pictures) + 100 * torch.eye(26)).min() > 2


def test_a_small_picture_is_the_large_one_shrunk() -> None:
    scenes = draw(256)
    shrunk = torch.nn.functional.avg_pool2d(render(scenes, 128), 4)
    difference = (render(scenes, 32) - shrunk).abs()
    assert difference.mean() < 0.01
    assert (
        difference > 0.2
        # tips and corners, where an edge is not straight in its pixel
    ).float().mean() < 0.01
    assert difference.max() < 0.8


def test_pictures_do_not_depend_on_the_batch() -> None:
    scenes = draw(64)
    torch.testing.assert_close(render(scenes)[5], render(scenes[5])[0])
    assert render(scenes).abs().max() <= 1


# --------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_pairs() -> None:
    first, again, other = (
        shapes.pairs(40, 16, seed=3),
        shapes.pairs(40, 16, seed=3),
        shapes.pairs(40, 16, seed=4),
    )
    assert torch.equal(first.images, again.images) and first.captions == again.captions
    assert not torch.equal(first.images, other.images)
    assert (
        first.images.dtype == torch.uint8
        and first.images.shape == (40, 3, 16, 16)
        and len(first) == 40
    )
    assert all(len(four) == 4 for four in first.captions)


def test_held_out_compositions_are_never_drawn_in_training() -> None:
    seen = draw(20_000, "seen")
    assert not shapes.is_held_out(seen).any()
    for slot in "ab":
        has = applicable(seen)[f"shape_{slot}"]
        drawn = {
            (FACTORS["shape_a"][s], FACTORS["colour_a"][c])
            for s, c in zip(
                seen.factors[f"shape_{slot}"][has],
                seen.factors[f"colour_{slot}"][has],
                strict=True,
            )
        }
        assert not drawn & set(shapes.HELD_OUT.items())
        assert len(drawn) == 64 - 8


def test_the_held_out_split_draws_nothing_else() -> None:
    held = draw(5000, "held_out")
    assert shapes.is_held_out(held).all()
    assert not (held.factors["kind"] == shapes.SIGN).any()


def test_one_word_in_eight_is_held_out_and_no_letter_is() -> None:
    scenes = draw(40_000, "all")
    words = scenes[applicable(scenes)["letter_3"]]
    assert shapes.is_held_out(words).float().mean() == pytest.approx(1 / 8, abs=0.02)
    seen = draw(20_000, "seen")
    for name in ("letter_1", "letter_2", "letter_3"):
        assert len(seen.factors[name][applicable(seen)[name]].unique()) == 26


def test_factors_that_have_no_meaning_are_zero() -> None:
    scenes = draw(2000)
    assert list(scenes.factors) == list(FACTORS)
    for name, mask in applicable(scenes).items():
        assert not scenes.factors[name][~mask].any()
        assert (
            scenes.factors[name][mask].max() == len(FACTORS[name]) - 1
        )  # every value is drawn where it has one


def test_scenes_can_be_indexed_described_and_chosen() -> None:
    scenes = draw(10)
    assert (
        len(scenes[3]) == 1
        and len(scenes[2:5]) == 3
        and len(scenes[torch.tensor([1, 1])]) == 2
    )
    again = scenes_from([scenes.describe(i) for i in range(10)])
    assert all(
        torch.equal(again.factors[name], scenes.factors[name]) for name in FACTORS
    )


# --------------------------------------------------------------------------------------

# How each language says which object is slot a: patterns with the groups a and b.
READ_LAYOUT = {
    "en": (
        r"(?P<a>.+) on the left and (?P<b>.+) on the right",
        r"(?P<b>.+) on the right and (?P<a>.+) on the left",
        r"(?P<a>.+) at the top and (?P<b>.+) at the bottom",
        r"(?P<b>.+) at the bottom and (?P<a>.+) at the top",
        r"(?P<a>.+) (to the left of|on the left of|above|over) (?P<b>.+)",
        r"(?P<b>.+) (to the right of|on the right of|below|under) (?P<a>.+)",
    ),
    "zh": (
        r"(左边|上面)是(?P<a>.+)，(右边|下面)是(?P<b>.+)",
        r"(右边|下面)是(?P<b>.+)，(左边|上面)是(?P<a>.+)",
        r"(?P<a>.+)的(右边|下面)有(?P<b>.+)",
        r"(?P<b>.+)的(左边|上面)有(?P<a>.+)",
        r"(?P<a>.+)在(?P<b>.+)的(左边|上方)",
        r"(?P<b>.+)在(?P<a>.+)的(右边|下方)",
    ),
}
READ_BACKGROUND = {
    "en": (
        r"on a (?P<bg>.+?) background, (?P<rest>.+)",
        r"(?P<rest>.+?)(,| on a| against a) (?P<bg>(light )?\w+) background",
    ),
    "zh": (
        r"在?(?P<bg>浅?.色)的?背景上，(?P<rest>.+)",
        r"(?P<rest>.+)，(背景是)?(?P<bg>浅?.色)(背景)?",
    ),
}


def read(patterns: tuple[str, ...], text: str) -> dict[str, str]:
    for pattern in patterns:
        if match := re.fullmatch(pattern, text):
            return match.groupdict()
    raise AssertionError(f"cannot read {text!r}")


def words_for(language: str, factor: str, value: str) -> tuple[str, ...]:
    """Every way of saying a value."""
    if language == "en":
        tables = {
            "size": grammar.ENGLISH_SIZES,
            "texture": grammar.ENGLISH_TEXTURES,
            "place": grammar.ENGLISH_PLACES,
        }
        return tables[factor][value] if factor in tables else (value,)
    if factor == "texture":
        return grammar.CHINESE_PATTERNS.get(value, ("纯", "没有花纹"))
    if factor in ("size", "colour"):
        return ({**grammar.CHINESE_SIZES, **grammar.CHINESE_COLOURS}[value],)
    return {"shape": grammar.CHINESE_SHAPES, "place": grammar.CHINESE_PLACES}[factor][
        value
    ]


def assert_says(language: str, text: str, truth: dict[str, str], slot: str) -> None:
    for factor in ("shape", "colour", "size", "texture"):
        words = words_for(language, factor, truth[f"{factor}_{slot}"])
        assert any(word in text for word in words), (
            f"{text!r} does not say {factor} {truth}"
        )


@pytest.mark.parametrize("language", grammar.LANGUAGES)
def test_a_full_caption_can_be_read_back(language: str) -> None:
    scenes = draw(1500)
    for i, caption in enumerate(
        captions(scenes, language, torch.Generator().manual_seed(1), "full")
    ):
        truth = scenes.describe(i)
        sentence = read(READ_BACKGROUND[language], caption)
        assert sentence["bg"] == words_for(language, "colour", truth["background"])[0]
        if truth["kind"] == "one":
            assert_says(language, sentence["rest"], truth, "a")
            assert any(
                word in sentence["rest"]
                for word in words_for(language, "place", truth["place"])
            )
        elif truth["kind"] == "two":
            things = read(READ_LAYOUT[language], sentence["rest"])
            assert_says(language, things["a"], truth, "a")
            assert_says(language, things["b"], truth, "b")
            sideways = any(
                word in sentence["rest"] for word in ("left", "right", "左", "右")
            )
            assert sideways == (truth["layout"] == "side by side")
        else:
            word = "".join(
                truth[f"letter_{k + 1}"] for k in range(int(truth["length"]))
            )
            assert f'"{word}"' in caption or f"“{word}”" in caption
            assert (
                words_for(language, "colour", truth["colour_a"])[0] in sentence["rest"]
            )


@pytest.mark.parametrize(
    "prompt", ["A big red circle!", "一个蓝色的菱形", 'a green sign that says "CAT"']
)
def test_the_grammar_knows_its_own_world(prompt: str) -> None:
    assert grammar.speaks_of_shapes(prompt)
    assert not grammar.speaks_of_shapes("火箭 rocket, designed by nobody")


def test_the_first_wording_needs_no_generator() -> None:
    one = {
        "kind": "one",
        "colour_a": "red",
        "size_a": "large",
        "texture_a": "striped",
        "place": "left",
    }
    scenes = scenes_from([one | {"shape_a": "circle", "background": "light blue"}])
    assert captions(scenes) == [
        "a large striped red circle on the left on a light blue background"
    ]
    assert captions(scenes, "zh") == ["浅蓝色背景上，一个大的红色条纹圆形在左边"]


def test_mixed_captions_leave_things_out_but_never_shape_and_colour() -> None:
    scene = {"kind": "one", "shape_a": "circle", "colour_a": "red", "size_a": "large"}
    scenes = scenes_from([scene] * 400)
    generator = torch.Generator().manual_seed(0)
    english, chinese = (
        captions(scenes, language, generator, "mixed") for language in grammar.LANGUAGES
    )
    assert "a red circle" in english and "红色圆形" in chinese
    assert all("red" in c and "circle" in c and "plain" not in c for c in english)
    assert all("红色" in c and "圆形" in c and "纯" not in c for c in chinese)
    assert len(set(english)) > 30 and len(set(chinese)) > 50


# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: draw(0), "at least one"),
        (lambda: shapes.pairs(-1, 32), "at least one"),
        (lambda: draw(1, "train"), "seen, held_out, all"),
        (lambda: render(draw(1), 4), "at least 8"),
        (lambda: captions(draw(1), "fr"), "en, zh"),
        (lambda: captions(draw(1), detail="short"), "full, mixed"),
        (lambda: scenes_from([{"shape_a": "blob"}]), "circle, square"),
        (lambda: scenes_from([{"color": "red"}]), "unknown factor 'color'"),
    ],
)
def test_bad_input_is_one_clear_line(act, message: str) -> None:
    with pytest.raises(Dalle2EduError, match=message) as error:
        act()
    assert "\n" not in str(error.value)


def test_single_objects_are_large_plain_and_of_the_split() -> None:
    images, labels = shapes.single_objects(40, 32, seed=3, split="held_out")
    assert images.shape == (40, 3, 32, 32) and images.dtype == torch.uint8
    again, same = shapes.single_objects(40, 32, seed=3, split="held_out")
    assert torch.equal(images, again) and torch.equal(labels, same)
    for image, label in zip(images, labels.tolist(), strict=True):
        name = shapes.SHAPES[label]
        colour = torch.tensor(shapes.PAINT[shapes.HELD_OUT[name]], dtype=torch.uint8)
        share = (image == colour.view(3, 1, 1)).all(dim=0).float().mean()
        # a held-out pair's colour, without texture, in a large shape
        assert share > 0.05, name
    with pytest.raises(Dalle2EduError, match="at least one"):
        shapes.single_objects(0)
