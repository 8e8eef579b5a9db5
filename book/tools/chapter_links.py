"""`python book/tools/chapter_links.py`: in the pages, chapters that exist become links.

A bare number in a page means a chapter that is not written yet (how_to_use says so). So
when a chapter has been written, every page that names it must link to it; this does it
in both languages. Headings, code, formulas and what is a link already stay as they
are.
"""

from __future__ import annotations

import re
from pathlib import Path

from twins import LANGUAGES

ROOT = Path(__file__).resolve().parents[2]
KEEP = re.compile(r"(`[^`]*`|\[[^\]]*\]\([^)]*\)|\$[^$]*\$)")  # code, links, formulas
ONE = {"en": re.compile(r"\b[Cc]hapter \d+\b"), "zh": re.compile(r"第 \d+ 章")}
SEVERAL = {
    "en": re.compile(r"\b[Cc]hapters \d+(?:(?:, and |, | and | to )\d+)+"),
    "zh": re.compile(r"第 \d+(?:(?:、| 至 | 和 )\d+)+ 章"),
}
NUMBER = re.compile(r"\d+")


def linked(text: str, language: str, written: dict[int, str]) -> str:
    """A page's text with its links. written: the file of each chapter that exists."""
    lines = []
    in_code = False
    for line in text.split("\n"):
        if line.startswith("```"):
            in_code = not in_code and "{glossary}" not in line
        keep = in_code or line.startswith(("#", "    ", ":alt:"))
        lines.append(line if keep else line_linked(line, language, written))
    return "\n".join(lines)


def line_linked(line: str, language: str, written: dict[int, str]) -> str:
    def link(words: str, chapter: int) -> str:
        file = written.get(chapter)
        return f"[{words}](../../notebooks/{language}/{file})" if file else words

    def one(found: re.Match[str]) -> str:
        chapter = NUMBER.findall(found[0])[0]
        return link(found[0], int(chapter))

    def several(found: re.Match[str]) -> str:
        return NUMBER.sub(lambda number: link(number[0], int(number[0])), found[0])

    for pattern, change in ((SEVERAL[language], several), (ONE[language], one)):
        pieces = KEEP.split(line)
        pieces[::2] = [pattern.sub(change, piece) for piece in pieces[::2]]
        line = "".join(pieces)
    return line


def chapters(root: Path = ROOT) -> dict[int, str]:
    """The chapters that exist, and their files' names."""
    return {
        int(file.name[:2]): file.name
        for file in (root / "notebooks" / "en").glob("*.ipynb")
    }


def main() -> None:
    for language in LANGUAGES:
        for page in sorted((ROOT / "book" / language).glob("*.md")):
            text = page.read_text(encoding="utf8")
            page.write_text(linked(text, language, chapters()), encoding="utf8")


if __name__ == "__main__":
    main()
