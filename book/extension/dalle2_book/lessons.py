"""The page "The code": every file of the package, the chapters that use it, and what is
in it.

The page `code` of each language holds a line `MARK`; here it is replaced by the list,
just before Sphinx reads the page. Everything comes from the files themselves, read as
text (`ast`): nothing is imported, and nothing is written down twice. A file says in its
docstring which chapters use it ("Chapters 08 and 13 use this file."); the map in the
README is held to the same words by `tests/book/test_lessons.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx

from .words import language_of

MARK = "<!-- every file of the package -->"
PACKAGE = "dalle2_edu"

# The folders of the package, in reading order, with what each is about.
PARTS = {
    "data": ("Data and tokens", "数据与词元"),
    "drawing": ("Runs, pictures in and out, grids", "运行、读写图像、拼图"),
    "zoo": ("Trained weights", "训练好的权重"),
    "diffusion": ("Diffusion", "扩散模型"),
    "baselines": ("Before diffusion", "扩散之前"),
    "text2image": ("CLIP and GLIDE", "CLIP 与 GLIDE"),
    "unclip": ("DALL·E 2", "DALL·E 2"),
    "beyond": ("What came after", "后来的工作"),
    "evaluation": ("Measuring", "评测"),
    "interop": ("Released weights", "公开的权重"),
    "training": ("The training loop", "训练循环"),
    "recipes": ("What is trained, with which numbers", "训练什么，用什么数值"),
    "teaching": ("What notebooks and exercises use", "notebook 与练习所用"),
    "cli": ("The command line", "命令行"),
}
REST = ("For all parts", "各部分共用")

NUMBERS = re.compile(
    r"[Cc]hapters?\s+(\d+(?:(?:\s*\([^)]*\))?(?:,|\s+and|\s+to|,\s+and)?\s+\d+)*)"
)
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!Mrs\.)(?<! al\.)\s+(?=[A-Z`\d])")
SPECIAL = re.compile(r"([\\*_$<>\[\]{}|#~])")


@dataclass(frozen=True)
class Member:
    """A public class or function: its name, the line where it begins, what it says of
    itself.
    """

    name: str
    line: int
    says: str


@dataclass(frozen=True)
class Lesson:
    """A file of the package. path: from the repository's root."""

    path: str
    says: str
    chapters: tuple[int, ...]
    members: tuple[Member, ...]

    @property
    def part(self) -> str:
        """The folder that it is in, "" for a file of the package itself."""
        folders = self.path.split("/")
        return folders[1] if len(folders) > 2 else ""


# --- reading the files ----------------------------------------------------------------


@cache
def lessons(root: Path) -> list[Lesson]:
    """Every file of the package that says something, part by part."""
    files = [lesson(path, root) for path in sorted((root / PACKAGE).rglob("*.py"))]
    told = [each for each in files if each.says]
    order = [*PARTS, ""]
    return sorted(told, key=lambda each: order.index(each.part))


def lesson(path: Path, root: Path) -> Lesson:
    tree = ast.parse(path.read_text(encoding="utf8"))
    docstring = ast.get_docstring(tree) or ""
    return Lesson(
        path=path.relative_to(root).as_posix(),
        says=first_sentence(docstring),
        chapters=chapters_in(docstring),
        members=tuple(members(tree)),
    )


def members(tree: ast.Module) -> Iterator[Member]:
    """The public classes and functions of a file that have a docstring, in its
    order.
    """
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith(
            "_"
        ):
            continue
        if docstring := ast.get_docstring(node):
            yield Member(node.name, node.lineno, first_sentence(docstring))


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, on one line.

    >>> first_sentence("A U-Net, as in ADM\\n(section 3). More.\\n\\nAnd more.")
    'A U-Net, as in ADM (section 3).'
    """
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return SENTENCE_END.split(paragraph)[0]


def chapters_in(docstring: str) -> tuple[int, ...]:
    """The chapters that a docstring names.

    >>> chapters_in("Chapters 08 (trains one), 09 and 13 use this file; chapter 2 tours
    it.") (2, 8, 9, 13)
    """
    found: set[int] = set()
    for passage in NUMBERS.findall(docstring):
        without_notes = re.sub(r"\([^)]*\)", " ", passage)
        for first, last in re.findall(r"(\d+)(?:\s+to\s+(\d+))?", without_notes):
            found |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def chapters_of_part(root: Path, part: str) -> tuple[int, ...]:
    """The chapters that use some file of a part."""
    named = {
        chapter
        for each in lessons(root)
        if each.part == part
        for chapter in each.chapters
    }
    return tuple(sorted(named))


def readme_map(root: Path, language: str) -> str:
    """The README's table: each folder, what it is about, and the chapters that use its
    files.
    """
    place = ("en", "zh").index(language)
    heads = (
        "| folder | part of the book | chapters |",
        "| 文件夹 | 书的哪一部分 | 章 |",
    )
    rows = [heads[place], "|---|---|---|"]
    for part, title in PARTS.items():
        if (root / PACKAGE / part).is_dir():
            chapters = ", ".join(map(str, chapters_of_part(root, part))) or "–"
            rows.append(f"| `{part}/` | {title[place]} | {chapters} |")
    return "\n".join(rows) + "\n"


# --- the page -------------------------------------------------------------------------


def listing(root: Path, language: str) -> str:
    """The list of all files, as Markdown."""
    place = ("en", "zh").index(language)
    every = lessons(root)
    lines: list[str] = []
    for part in dict.fromkeys(each.part for each in every):
        title = PARTS.get(part, REST)[place]
        folder = f" (`{part}/`)" if language == "en" else f"（`{part}/`）"
        lines += [f"## {title}{folder if part else ''}", ""]
        for each in every:
            if each.part == part:
                lines += [*entry(root, each, language), ""]
    return "\n".join(lines)


def entry(root: Path, lesson: Lesson, language: str) -> Iterator[str]:
    """A file with its classes and functions: a paragraph and a list."""
    name = lesson.path.removeprefix(f"{PACKAGE}/")
    link = f"**[{escaped(name)}](../../{lesson.path})**"
    used = ", ".join(
        chapter_link(root, chapter, language) for chapter in lesson.chapters
    )
    words = {
        "en": f" Chapters: {used}.",
        "zh": f"用于第 {used.replace(', ', '、')} 章。",
    }
    says = escaped(lesson.says)
    stop = "" if says.endswith((".", "!", "?", ":")) else "."
    yield f"{link}: {says}{stop}{words[language] if used else ''}"
    yield ""
    for member in lesson.members:
        target = f"../../{lesson.path}#L{member.line}"
        yield f"- [`{member.name}`]({target}): {escaped(member.says)}"


def chapter_link(root: Path, chapter: int, language: str) -> str:
    """The number of a chapter, with a link to it if it is written."""
    folder = root / "notebooks" / language
    file = next(folder.glob(f"{chapter:02d}_*.ipynb"), None)
    return (
        f"[{chapter}](../../notebooks/{language}/{file.name})" if file else str(chapter)
    )


def escaped(text: str) -> str:
    """A docstring's text as Markdown: what stands between backticks is code, the rest
    is plain.
    """
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(
        piece if piece.startswith("`") else SPECIAL.sub(r"\\\1", piece)
        for piece in pieces
    )


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the list in the place of the mark."""
    if MARK in source[0]:
        listed = listing(Path(app.srcdir), language_of(app.config))
        source[0] = source[0].replace(MARK, listed)


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill)
