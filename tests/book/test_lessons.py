"""The list of the package's files, and the README's map, say what the files say of
themselves.
"""

from __future__ import annotations

import re
from pathlib import Path

import build
import chapter_links
import pytest
import twins
from dalle2_book import lessons
from small_notebooks import book, text

ROOT = Path(build.__file__).resolve().parents[2]
READMES = {"en": "README.md", "zh": "README.zh.md"}
NO_LESSON = ("cli", "teaching")  # folders that belong to no chapter in particular

each_language = pytest.mark.parametrize("language", READMES)


def lesson_of(tmp_path: Path, text: str) -> lessons.Lesson:
    file = tmp_path / "dalle2_edu" / "unclip" / "one.py"
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf8")
    return lessons.lessons(tmp_path)[0]


def test_a_file_is_read_and_not_imported(tmp_path: Path) -> None:
    text = (
        '"""The decoder (ADM), to be\nread. More.\n\nChapters 01 (a tour), 16 and 18 use it."""\n'
        'import nothing_at_all\nclass Decoder:\n    """Paints."""\ndef _own():\n    """No."""\n'
    )
    found = lesson_of(tmp_path, text)
    assert found.says == "The decoder (ADM), to be read."
    assert found.chapters == (1, 16, 18)
    assert found.members == (lessons.Member("Decoder", 3 + 3, "Paints."),)
    assert found.part == "unclip"


def test_chapters_are_found_however_they_are_written() -> None:
    found = lessons.chapters_in(
        "Chapter 7 derives it; chapters 9, 15 to 17, and 19 use it."
    )
    assert found == (7, 9, 15, 16, 17, 19)
    assert lessons.chapters_in("Section 3 of 7 papers.") == ()


def test_what_a_docstring_says_is_no_markup() -> None:
    assert (
        lessons.escaped("a `x_t` of *this* $kind$") == r"a `x_t` of \*this\* \$kind\$"
    )


def test_every_folder_of_the_package_is_a_part_and_every_lesson_names_its_chapter() -> (
    None
):
    folders = {each.part for each in lessons.lessons(ROOT)} - {""}
    assert folders <= set(lessons.PARTS)
    silent = [
        each.path
        for each in lessons.lessons(ROOT)
        if each.members
        and not each.chapters
        and each.part
        and each.part not in NO_LESSON
    ]
    assert silent == [], "their docstrings do not say which chapters use them"


@each_language
def test_the_map_of_the_readme_is_that_of_the_docstrings(language: str) -> None:
    text = (ROOT / READMES[language]).read_text(encoding="utf8")
    assert f"\n\n{lessons.readme_map(ROOT, language)}\n" in text, (
        "python book/tools/readme_map.py writes it again"
    )


@each_language
def test_the_list_links_to_lines_that_exist(language: str) -> None:
    page = (ROOT / "book" / language / "code.md").read_text(encoding="utf8")
    assert page.count(lessons.MARK) == 1
    links = re.findall(
        r"\(\.\./\.\./([\w/]+\.\w+)(?:#L(\d+))?\)", lessons.listing(ROOT, language)
    )
    assert len(links) > 300
    for path, line in links:
        lines = (ROOT / path).read_text(encoding="utf8").splitlines()
        assert not line or re.match(r"class |def ", lines[int(line) - 1]), (path, line)


def test_numbers_become_links_where_the_chapter_exists() -> None:
    written = {7: "07_ddpm.ipynb"}
    said = "See chapter 7, chapters 6 and 7, `chapter 7`, [chapter 7](x.ipynb)."
    link = "(../../notebooks/en/07_ddpm.ipynb)"
    wanted = f"See [chapter 7]{link}, chapters 6 and [7]{link}, `chapter 7`, [chapter 7](x.ipynb)."
    assert chapter_links.linked(said, "en", written) == wanted
    chinese = chapter_links.linked("见第 6、7 章与第 8 章。", "zh", written)
    assert chinese == "见第 6、[7](../../notebooks/zh/07_ddpm.ipynb) 章与第 8 章。"


@each_language
def test_every_chapter_that_exists_is_linked_where_a_page_names_it(
    language: str,
) -> None:
    written = chapter_links.chapters()
    for page in sorted((ROOT / "book" / language).glob("*.md")):
        text = page.read_text(encoding="utf8")
        message = f"{page.name}: python book/tools/chapter_links.py"
        assert chapter_links.linked(text, language, written) == text, message


def test_a_notebooks_links_lead_to_its_neighbours_and_keep_its_translations_fitting() -> (
    None
):
    said = {"en": "See chapter 7 and chapter 8.", "zh": "见第 7 章和第 8 章。"}
    books = {language: book(text("a", said[language])) for language in said}
    for language, other in (("en", "zh"), ("zh", "en")):
        cell = books[language].cells[0]
        cell.metadata.counterpart = twins.digest(said[other])
    assert chapter_links.link_chapter(books, {7: "07_ddpm.ipynb"})
    en, zh = books["en"].cells[0], books["zh"].cells[0]
    assert en.source == "See [chapter 7](07_ddpm.ipynb) and chapter 8."
    assert zh.source == "见[第 7 章](07_ddpm.ipynb)和第 8 章。"
    assert en.metadata.counterpart == twins.digest(zh.source)
    assert zh.metadata.counterpart == twins.digest(en.source)
    assert not chapter_links.link_chapter(books, {7: "07_ddpm.ipynb"})
