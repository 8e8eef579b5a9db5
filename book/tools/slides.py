"""`make slides`: each chapter's tagged cells as a reveal.js deck, in both languages.

A cell's slide type (JupyterLab: property inspector, "Slide Type") says what becomes of
it:

    slide      starts a slide                      subslide   starts a slide below the last one
    fragment   appears at the next key press       notes      for the lecturer alone (key S)

All other cells stay out. A code cell shows what it drew or printed; its code only with
the tag `show-code`. Formulas are typeset by the book's own MathJax, so a deck needs no
network, and opens from a memory stick too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Template
from markdown_it import MarkdownIt
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
CHINESE = r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]"
BETWEEN_CHINESE = re.compile(
    rf"(?<={CHINESE})\n(?={CHINESE})"
)  # a line break that must not become a space
# What is folded away gets lines of its own, so that it is read as Markdown too.
DETAILS = re.compile(
    r"^(<details>\s*<summary>.*?</summary>)\s*(.*?)\s*</details>\s*",
    re.MULTILINE | re.DOTALL,
)
TYPES = ("slide", "subslide", "fragment", "notes")
WORDS = {
    "en": {
        "here": "en", "other": "zh", "lang": "en", "book": "DALL·E 2, piece by piece",
        "slides": "Slides", "chapter": "The chapter", "switch": "中文",
        "keys": "F full screen · O overview · S speaker notes · add ?print-pdf to the address to print",
    },
    "zh": {
        "here": "zh", "other": "en", "lang": "zh-CN", "book": "拆开 DALL·E 2",
        "slides": "幻灯片", "chapter": "本章正文", "switch": "English",
        "keys": "F 全屏 · O 总览 · S 讲者备注 · 网址后加 ?print-pdf 可打印",
    },
}  # fmt: skip


@dataclass
class Slide:
    """What is on one slide, as HTML, and what the lecturer reads."""

    body: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    running: str = ""  # the heading above, for a slide that has none of its own


# --- from notebooks to decks ----------------------------------------------------------


def build_slides(output: Path) -> None:
    """A deck for every notebook that has tagged cells, a list of them, and the files
    they need.
    """
    shutil.rmtree(output, ignore_errors=True)
    for language in WORDS:
        decks = [
            deck
            for path in sorted((ROOT / "notebooks" / language).glob("*.ipynb"))
            if (deck := Deck.of(path, language))
        ]
        (output / language).mkdir(parents=True)
        for deck in decks:
            (output / language / f"{deck.number}.html").write_text(
                deck.html(), encoding="utf8"
            )
        (output / language / "index.html").write_text(
            _list_page(decks, language), encoding="utf8"
        )
        print(f"slides in {language}: {len(decks)} decks", flush=True)
    _copy_vendored(output)


@dataclass(frozen=True)
class Deck:
    """A chapter's slides: columns, each a slide and the slides below it."""

    name: str  # "07_ddpm"
    language: str
    title: str
    columns: list[list[Slide]]

    @property
    def number(self) -> str:
        return self.name.split("_")[0]

    @classmethod
    def of(cls, path: Path, language: str) -> Deck | None:
        """The deck of a notebook; None if no cell is tagged."""
        notebook = nbformat.read(path, as_version=4)
        columns = columns_of(notebook.cells, language)
        return (
            cls(path.stem, language, title_of(notebook.cells) or path.stem, columns)
            if columns
            else None
        )

    def html(self) -> str:
        return _template("deck.html").render(
            deck=self, words=WORDS[self.language], pygments=_pygments_css()
        )


def columns_of(cells: Iterable[NotebookNode], language: str) -> list[list[Slide]]:
    """Tagged cells as columns of slides."""
    columns: list[list[Slide]] = []
    for cell in cells:
        kind = cell.metadata.get("slideshow", {}).get("slide_type")
        if kind not in TYPES:
            continue
        if kind == "slide" or not columns:
            columns.append([Slide()])
        elif kind == "subslide":
            columns[-1].append(Slide())
        add(columns[-1][-1], linked(cell_html(cell), language), kind)
    carry_headings(slide for column in columns for slide in column)
    return columns


def carry_headings(slides: Iterable[Slide]) -> None:
    """A slide without a heading repeats, small, the one before it."""
    heading = ""
    for slide in slides:
        own = re.findall(
            r"<h[1-6]>(.*?)</h[1-6]>", "".join(slide.body), flags=re.DOTALL
        )
        slide.running = "" if own else heading
        heading = own[-1] if own else heading


def add(slide: Slide, html: str, kind: str) -> None:
    """Put a cell on a slide, or into its notes."""
    if kind == "notes":
        slide.notes.append(html)
    else:
        slide.body.append(
            f'<div class="fragment">{html}</div>' if kind == "fragment" else html
        )


def title_of(cells: Iterable[NotebookNode]) -> str | None:
    """The text of the first `# ` heading."""
    for cell in cells:
        heading = (
            re.search(r"^# (.+)$", cell.source, flags=re.MULTILINE)
            if cell.cell_type == "markdown"
            else None
        )
        if heading:
            return heading[1].strip()
    return None


# --- from cells to HTML ---------------------------------------------------------------


def cell_html(cell: NotebookNode) -> str:
    if cell.cell_type == "markdown":
        return markdown(BETWEEN_CHINESE.sub("", cell.source))
    code = (
        code_html(cell.source) if "show-code" in cell.metadata.get("tags", []) else ""
    )
    return code + outputs_html(
        [output_html(output) for output in cell.get("outputs", [])]
    )


def code_html(source: str) -> str:
    return highlight(source, PythonLexer(), HtmlFormatter(cssclass="highlight"))


def outputs_html(parts: list[str]) -> str:
    """What a cell shows. Three figures or more stand two to a row, each under the words
    that were printed before it.
    """
    if sum(part.startswith("<img") for part in parts) < 3:
        return "".join(parts)
    pairs, words = [], ""
    for part in parts:
        words += part
        if part.startswith("<img"):
            pairs.append(f'<div class="pair">{words}</div>')
            words = ""
    return f'<div class="pairs">{"".join(pairs)}</div>{words}'


def output_html(output: NotebookNode) -> str:
    """An output as a slide shows it: a picture, HTML, or text."""
    if output.output_type == "stream":
        return _printed(output.text)
    data = output.get("data", {})
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img src="data:{kind};base64,{data[kind].strip()}" alt="">'
    if "image/svg+xml" in data or "text/html" in data:
        return f'<div class="output">{data.get("image/svg+xml") or data["text/html"]}</div>'
    if "text/markdown" in data or "text/latex" in data:
        return markdown(data.get("text/markdown") or data["text/latex"])
    return _printed(data.get("text/plain", ""))


def _printed(text: str) -> str:
    # without the terminal's colours
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).strip("\n")
    return f'<pre class="printed">{escape(plain)}</pre>' if plain else ""


def markdown(text: str) -> str:
    """Markdown and formulas, with the parser that the book uses."""
    return _parser().render(DETAILS.sub(r"\1\n\n\2\n\n</details>\n\n", text))


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser.use(
        dollarmath_plugin, renderer=_formula, allow_labels=False, double_inline=True
    )
    return parser.use(
        amsmath_plugin, renderer=lambda text: f'<div class="math">{escape(text)}</div>'
    )


def _formula(text: str, options: dict[str, Any]) -> str:
    return rf"\[{escape(text)}\]" if options["display_mode"] else rf"\({escape(text)}\)"


def linked(html: str, language: str) -> str:
    """Lead a notebook's links, from where the decks lie, to chapters, pages, source
    files and pictures of the book.
    """
    local = re.compile(r'(href|src)="(?![a-z]+:|#|/)([^"]+)"')
    return local.sub(lambda match: f'{match[1]}="{_in_site(match[2], language)}"', html)


def _in_site(address: str, language: str) -> str:
    """../../dalle2_edu/a.py#L1 -> ../../en/dalle2_edu/a.py.html#L1; 08.ipynb ->
    ../../en/notebooks/en/08.html.
    """
    path, hash_, place = address.partition("#")
    path = (
        path.removeprefix("../../")
        if path.startswith("../../")
        else f"notebooks/{language}/{path}"
    )
    if path.startswith("book/assets/"):
        return f"../assets/{path.removeprefix('book/assets/')}"
    page = re.sub(r"\.(?:md|ipynb)$|(?<=\.py)$", ".html", path)
    return f"../../{language}/{page}{hash_}{place}"


# --- pages ----------------------------------------------------------------------------


def _list_page(decks: list[Deck], language: str) -> str:
    return _template("list.html").render(decks=decks, words=WORDS[language])


def _template(name: str) -> Template:
    return Template(
        (BOOK / "slides" / name).read_text(encoding="utf8"),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _pygments_css() -> str:
    return HtmlFormatter(style="default").get_style_defs(".highlight")


def _copy_vendored(output: Path) -> None:
    shutil.copytree(BOOK / "assets", output / "assets")
    shutil.copytree(BOOK / "vendor" / "reveal", output / "reveal")
    for name in ("fonts", "mathjax"):
        shutil.copytree(BOOK / "vendor" / "static" / name, output / name)
    for name in ("deck.css", "deck.js"):
        shutil.copy(BOOK / "slides" / name, output / name)
