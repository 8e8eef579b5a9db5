"""A chapter's page: a line under the title, the words on hidden solutions, formulas and
Chinese lines set right.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from .words import language_of, words

DETAILS = re.compile(
    r"^(<details>\s*<summary>.*?</summary>)\s*(.*?)\s*</details>\s*",
    re.MULTILINE | re.DOTALL,
)
BOTH_CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef“”‘’…—]{2}")
SLIDE_TYPES = {"slide", "subslide", "fragment", "notes"}


def open_details(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Give what is folded away lines of its own: otherwise a hint's formulas and code
    would be shown as typed.
    """
    if docname.startswith("notebooks/"):
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = DETAILS.sub(
                    r"\1\n\n\2\n\n</details>\n\n", "".join(cell["source"])
                )
        source[0] = json.dumps(notebook)


def name_solutions(app: Sphinx, doctree: nodes.document) -> None:
    """A wholly hidden cell is a solution; one whose code alone is hidden keeps the
    book's "Show the code".
    """
    for cell in doctree.findall(nodes.container):
        if cell.get("hide_mode") == "all":
            cell["prompt_show"] = words(app.config)["show solution"]
            cell["prompt_hide"] = words(app.config)["hide solution"]


def keep_formulas(app: Sphinx, doctree: nodes.document) -> None:
    r"""Give MathJax a `$$` formula as it was written.

    Sphinx would put a formula with line breaks into a `split` environment, and in there
    `\tag{7.3}` is an error.
    """
    for formula in doctree.findall(nodes.math_block):
        if not formula.get("nowrap"):
            formula.children = [nodes.Text(rf"\[{formula.astext()}\]")]
            formula["nowrap"] = True


def join_chinese_lines(app: Sphinx, doctree: nodes.document) -> None:
    """A line break in the source is a space on the page; between two Chinese characters
    there must be none.
    """
    if language_of(app.config) == "zh":
        for parent in {
            id(text.parent): text.parent
            for text in doctree.findall(nodes.Text)
            if text == "\n"
        }.values():
            parent.children = [
                node
                for i, node in enumerate(parent)
                if not _splits_chinese(parent.children, i)
            ]


def _splits_chinese(row: list[nodes.Node], i: int) -> bool:
    if row[i] != "\n" or not 0 < i < len(row) - 1:
        return False
    return bool(
        BOTH_CHINESE.fullmatch(row[i - 1].astext()[-1:] + row[i + 1].astext()[:1])
    )


def add_line(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Under a chapter's title: its slides, and the run its results are from."""
    path = Path(app.env.doc2path(docname))
    title = next(iter(doctree.findall(nodes.title)), None)
    if path.suffix != ".ipynb" or title is None:
        return
    notebook = json.loads(path.read_text(encoding="utf8"))
    parts = [*_slides(app, docname, notebook), *_run(app, notebook)]
    if parts:
        line = nodes.raw(
            "", f'<p class="chapter-line">{" · ".join(parts)}</p>', format="html"
        )
        title.parent.insert(title.parent.index(title) + 1, line)


def has_slides(notebook: dict[str, Any]) -> bool:
    cells = notebook["cells"]
    return any(
        cell["metadata"].get("slideshow", {}).get("slide_type") in SLIDE_TYPES
        for cell in cells
    )


def _slides(app: Sphinx, docname: str, notebook: dict[str, Any]) -> list[str]:
    if not has_slides(notebook):
        return []
    number = docname.split("/")[-1].split("_")[0]
    # From _build/site/en/notebooks/en/07_ddpm.html to _build/site/slides/en/07.html.
    up = "../" * (docname.count("/") + 1)
    return [
        f'<a href="{up}slides/{language_of(app.config)}/{number}.html">{words(app.config)["slides"]}</a>'
    ]


def _run(app: Sphinx, notebook: dict[str, Any]) -> list[str]:
    run = notebook["metadata"].get("dalle2_edu", {}).get("run")
    if not run:
        return []
    said = words(app.config)
    text = said["run"].format(
        tier=run["tier"], device=run["device"], minutes=run["minutes"]
    )
    text += said["date"].format(date=run["date"]) if run.get("date") else ""
    text += said["commit"].format(commit=run["commit"]) if run.get("commit") else ""
    text += said["run end"]
    versions = ", ".join(
        f"{name} {version}" for name, version in run.get("versions", {}).items()
    )
    return [f'<span title="{escape(versions)}">{escape(text)}</span>']


def setup(app: Sphinx) -> None:
    app.connect("source-read", open_details)
    app.connect("doctree-read", name_solutions)
    app.connect("doctree-read", keep_formulas)
    app.connect("doctree-read", join_chinese_lines)
    app.connect("doctree-resolved", add_line)
