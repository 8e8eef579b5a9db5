"""`python book/tools/chapter_links.py`: in pages and notebooks, chapters that exist
become links.

A bare number means a chapter that is not written yet (how_to_use says so). So when a
chapter has been written, every page and every notebook that names it must link to it;
this does it in both languages. Headings, code, formulas and what is a link already stay
as they are. A notebook's translations that fitted before fit afterwards.
"""

from __future__ import annotations

import re
from pathlib import Path

from nbformat import NotebookNode
from twins import LANGUAGES, chapter_names, digest, path_of, read, write

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


def link_pages(root: Path = ROOT) -> None:
    for language in LANGUAGES:
        for page in sorted((root / "book" / language).glob("*.md")):
            text = page.read_text(encoding="utf8")
            page.write_text(linked(text, language, chapters(root)), encoding="utf8")


def link_notebooks(root: Path = ROOT) -> None:
    folder = root / "notebooks"
    for name in chapter_names(folder):
        books: dict[str, NotebookNode] = {
            language: read(path_of(folder, language, name)) for language in LANGUAGES
        }
        others = {n: f for n, f in chapters(root).items() if n != int(name[:2])}
        if link_chapter(books, others):
            for language in LANGUAGES:
                write(books[language], path_of(folder, language, name))


def link_chapter(books: dict[str, NotebookNode], written: dict[int, str]) -> bool:
    """Links the text of a chapter's twins in place; whether anything changed."""
    changed = False
    for en, zh in zip(books["en"].cells, books["zh"].cells, strict=True):
        if en.cell_type != "markdown":
            continue
        before = en.source, zh.source
        for language, cell in (("en", en), ("zh", zh)):
            text = linked(cell.source, language, written)
            # a notebook's neighbours are in its own folder
            cell.source = text.replace(f"../../notebooks/{language}/", "")
        if (en.source, zh.source) != before:
            changed = True
            keep_fitting(en, zh, before)
    return changed


def keep_fitting(en: NotebookNode, zh: NotebookNode, before: tuple[str, str]) -> None:
    """Renews the marks of two texts that fitted each other before they were linked."""
    if en.metadata.get("counterpart") == digest(before[1]):
        en.metadata.counterpart = digest(zh.source)
    if zh.metadata.get("counterpart") == digest(before[0]):
        zh.metadata.counterpart = digest(en.source)


def main() -> None:
    link_pages()
    link_notebooks()


if __name__ == "__main__":
    main()
