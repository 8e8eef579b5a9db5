"""The builder of the emoji shards: one canvas for all artists, and the same bytes each
time.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dalle2_edu.data import artists, emoji
from dalle2_edu.errors import Dalle2EduError

needs_font = pytest.mark.skipif(
    not artists.FONT.is_file(), reason="fonts-noto-color-emoji is not installed"
)
CHERRY, CAT, KEYCAP, FLAG = (
    emoji.Emoji("🍒", "cherries", "樱桃"),
    emoji.Emoji("🐈", "cat", "猫"),
    emoji.Emoji("0️⃣", "keycap 0", "按键: 0"),
    emoji.Emoji("🇨🇳", "china", "中国"),
)


def drawn_box(picture: Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is not white in a picture, uint8 (3, S, S)."""
    ys, xs = (picture.amin(dim=0) < 200).nonzero(as_tuple=True)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def write_package(folder: Path, style: str, body: str) -> None:
    """An icon package with a cat, a keycap and a cherry, as npm would install it."""
    place = folder / "node_modules" / artists.PACKAGES[style]
    place.mkdir(parents=True)
    icons = {
        "cat": {"body": body},
        "zero": {"body": body},
        "cherry": {"body": '<circle cx="9" cy="9" r="5" fill="#a00"/>', "height": 18},
    }
    whole = {"icons": icons, "width": 36, "height": 36}
    (place / "icons.json").write_text(json.dumps(whole))
    names = {"1f408": "cat", "0030-20e3": "zero", "1f352": "cherry"}
    (place / "chars.json").write_text(json.dumps(names))


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    pytest.importorskip("resvg_py")
    for style, colour in (
        ("twemoji", "red"),
        ("fluent", "green"),
        ("openmoji", "blue"),
    ):
        body = f'<rect x="8" y="10" width="12" height="8" fill="{colour}"/>'
        write_package(tmp_path, style, body)
    return tmp_path


def test_a_drawing_is_enlarged_and_put_in_the_middle(packages: Path) -> None:
    icons = artists.open_package("openmoji", packages)
    picture = icons.draw(CAT)
    assert picture is not None
    assert picture.shape == (3, 128, 128)
    left, top, right, bottom = drawn_box(picture)
    assert right - left == pytest.approx(12 / 36 * 128 * 1.4, abs=2)  # the most it may
    assert (left + right, top + bottom) == (pytest.approx(128, abs=2),) * 2
    assert picture[:, 64, 64].tolist() == [0, 0, 255]
    assert picture[:, 0, 0].tolist() == [255, 255, 255]


def test_a_large_drawing_reaches_as_far_as_all(packages: Path) -> None:
    pytest.importorskip("resvg_py")
    picture = artists.draw_svg('<rect width="36" height="20"/>', 36, 36, largest=1.4)
    assert picture is not None
    left, top, right, bottom = drawn_box(picture)
    assert right - left == pytest.approx(artists.REACH, abs=1)
    assert (left + right, top + bottom) == (pytest.approx(128, abs=2),) * 2
    assert artists.draw_svg("", 36, 36, largest=1.4) is None  # nothing is visible


def test_a_window_that_is_not_square(packages: Path) -> None:
    picture = artists.open_package("twemoji", packages).draw(CHERRY)  # 36 wide, 18 high
    assert picture is not None
    left, top, right, bottom = drawn_box(picture)
    assert right - left == bottom - top == pytest.approx(10 / 36 * 128, abs=2)
    assert (left + right, top + bottom) == (pytest.approx(128, abs=2),) * 2


def test_code_points_are_spelt_as_the_packages_do(packages: Path) -> None:
    icons = artists.open_package("twemoji", packages)
    assert artists.spellings(KEYCAP) == ["0030-fe0f-20e3", "0030-20e3"]
    assert icons.draw(KEYCAP) is not None
    assert icons.draw(FLAG) is None


def test_a_whole_set_and_the_same_bytes_again(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    things = [CHERRY, CAT, KEYCAP, FLAG]
    monkeypatch.setattr(artists, "catalogue", lambda: things)
    monkeypatch.setattr(emoji, "SHARE", 1.1)  # everything that can be held out is
    black = {
        each: torch.full((3, 128, 128), place) for place, each in enumerate(things)
    }
    monkeypatch.setattr(artists, "open_font", lambda path: None)
    monkeypatch.setattr(
        artists, "draw", lambda character, font: next(
            image.byte() for each, image in black.items() if each.character == character
        )
    )  # fmt: skip
    counts = artists.build(tmp_path / "one", packages=packages)
    assert artists.build(tmp_path / "two", packages=packages) == counts
    assert sum(learned + held for learned, held in counts.values()) == 4 + 3 * 3
    # The cat has its keycap's picture, so neither is held out; the flag is drawn once
    # only.
    assert sum(held for _, held in counts.values()) == 1
    one = sorted((tmp_path / "one").rglob("*.*"))
    assert len(one) == 4 + 4 + 4  # two shards and a licence for each style
    for path in one:
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()
    monkeypatch.setattr(emoji, "FOLDER", tmp_path / "one")
    assert {each.thing for each in emoji.held_out()} == {CHERRY}
    assert emoji.load() == sorted(things, key=lambda each: each.character)


@needs_font
def test_what_the_font_can_not_join_is_left_out() -> None:
    font = artists.open_font(artists.FONT)
    rocket = artists.draw("🚀", font)
    assert rocket is not None
    assert rocket.shape == (3, 128, 128)
    assert artists.draw("👨‍🚀", font) is not None  # man + joiner + rocket: one glyph
    assert artists.draw("🚀🚀", font) is None  # two glyphs side by side
    # a code point that no emoji has yet
    assert artists.draw("\U0001faee", font) is None


def test_the_shipped_names_are_the_packages() -> None:
    pytest.importorskip("emoji")
    catalogue = artists.catalogue()
    assert len(catalogue) >= 3963
    wanted = {each for each in catalogue if artists.is_wanted(each)}
    assert set(emoji.load()) <= wanted


def test_nothing_to_draw_with(tmp_path: Path) -> None:
    with pytest.raises(Dalle2EduError, match="fonts-noto-color-emoji"):
        artists.build(tmp_path / "out", font=tmp_path / "none.ttf")
    with pytest.raises(
        Dalle2EduError, match="npm install --prefix .* @iconify-json/twemoji"
    ):
        artists.open_package("openmoji", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_package(packages: Path) -> None:
    place = packages / "node_modules" / artists.PACKAGES["fluent"]
    (place / "icons.json").write_text('{"icons": ')
    with pytest.raises(Dalle2EduError, match="install them again"):
        artists.open_package("fluent", packages)
