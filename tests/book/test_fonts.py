"""The book brings its fonts along, and they have every character that it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import fonts
import pytest
from fontTools.ttLib import TTFont

from dalle2_edu.errors import Dalle2EduError

SHEET = (fonts.FONTS / "fonts.css").read_text(encoding="utf8")
RULE = re.compile(
    r'@font-face { font-family: "([^"]+)"; font-style: (\w+); font-weight: ([\d ]+);[^}]*'
    r'url\("([^"]+)"\)[^}]*unicode-range: ([^;]+);'
)


def test_every_character_that_the_book_shows_has_a_shape() -> None:
    assert fonts.missing() == []


def test_a_character_that_no_font_has_is_named(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "source": ["x"], "outputs": [{"text": ["\U0001fadf"]}]},
        {
            "cell_type": "code",
            "source": [],
            "outputs": [{"data": {"text/html": ["龘"]}}],
        },
    ]
    for path, text in (
        ("notebooks/zh/01_a.ipynb", json.dumps({"cells": cells})),
        ("book/zh/index.md", "图 \u0e01"),
        ("dalle2_edu/words.py", "# \u05d0"),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text, encoding="utf8")
    assert sorted(fonts.missing(tmp_path)) == sorted(
        [
            "\U0001fadf U+1FADF in notebooks/zh/01_a.ipynb",
            "龘 U+9F98 in notebooks/zh/01_a.ipynb",
            "\u0e01 U+0E01 in book/zh/index.md",
            "\u05d0 U+05D0 in dalle2_edu/words.py",
        ]
    )


@pytest.mark.parametrize("weight", ["400", "700"])
def test_the_rule_that_claims_a_chinese_character_has_it(weight: str) -> None:
    """The last rule whose range holds a character wins."""
    winner: dict[str, str] = {}
    for family, _, weights, file, ranges in RULE.findall(SHEET):
        if (family, weights) == ("Book Hans", weight):
            winner |= dict.fromkeys(fonts.characters_of(ranges), file)
    has = {
        file: TTFont(fonts.FONTS / file).getBestCmap() for file in set(winner.values())
    }
    wanted = fonts.gb2312() | set("，。：；！？（）《》、")
    assert len(wanted) == 6763 + 11
    assert {c for c in wanted if ord(c) not in has[winner[c]]} == set()


def test_the_sheet_names_every_file_and_no_other() -> None:
    rules = RULE.findall(SHEET)
    assert SHEET.count("@font-face") == len(rules)
    assert {file for *_, file, _ in rules} == {
        path.name for path in fonts.FONTS.glob("*.woff2")
    }


def test_what_a_page_loads_is_small() -> None:
    size = {path.name: path.stat().st_size for path in fonts.FONTS.iterdir()}
    assert sum(size.values()) < 3e6
    assert max(size.values()) < 110_000
    first = ("sans.woff2", "hans-regular-01.woff2", "fonts.css")
    assert sum(size[name] for name in first) < 150_000


def test_a_changed_font_has_a_name_of_its_own() -> None:
    for path in fonts.FONTS.glob("*.woff2"):
        names = TTFont(path)["name"]
        assert names.getDebugName(1).startswith("Book "), path.name
        assert not re.search(
            "Source|Noto", names.getDebugName(4) + names.getDebugName(6)
        )


def test_ranges_are_read_as_they_were_written() -> None:
    assert fonts.unicode_range("cabz一") == "U+61-63,U+7A,U+4E00"
    assert fonts.characters_of("U+61-63,U+7A,U+4E00") == set("cabz一")


def test_slices_stay_as_they_are_until_they_are_sorted_anew(tmp_path: Path) -> None:
    (tmp_path / "book/zh").mkdir(parents=True)
    (tmp_path / "book/zh/index.md").write_text("的龘一", encoding="utf8")
    (tmp_path / "empty").mkdir()
    before = fonts.common_as_before(SHEET, tmp_path / "empty")
    after = fonts.common_as_before(SHEET, tmp_path)
    assert "的" in before.often
    assert after == before._replace(seldom=before.seldom | {"龘"})
    assert fonts.common_anew(tmp_path) == fonts.Common(set(), set(), set("的龘一"))


def test_a_font_to_cut_from_that_is_another_one(tmp_path: Path) -> None:
    font = tmp_path / "a.ttf"
    with pytest.raises(Dalle2EduError, match=r"a\.ttf is missing: book/vendor/README"):
        fonts.check_source(font, "00")
    font.write_bytes(b"another")
    with pytest.raises(Dalle2EduError, match=r"a\.ttf is not the version .*README"):
        fonts.check_source(font, "00")
