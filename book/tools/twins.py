"""Two notebooks, one chapter: what the English and the Chinese notebook share, and what
is wrong between them.

`notebooks/en/07_ddpm.ipynb` and `notebooks/zh/07_ddpm.ipynb` have the same cells (ids,
types, tags), the same code and different prose. Two records, both inside the notebooks,
keep that true:

- a translated markdown cell carries `metadata.counterpart`, the digest of the other
  language's
  text when somebody last compared the two. The other text changes, the digest no longer fits:
  the cell is *stale*;
- the notebook carries `metadata.dalle2_edu.synced`, the digest of what each pair of
  cells
  shared at the last `make sync`. So it can be told which of two different cells is the newer
  one (`sync.py`).

A markdown cell without `counterpart` reads the same in both languages (a formula, a
picture) and must stay equal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nbformat
from nbformat import NotebookNode

from dalle2_edu.errors import Dalle2EduError

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, Language] = ("en", "zh")
NAMES = {"en": "English", "zh": "Chinese"}
# a digest that never fits: the cell came over from its twin and waits for a translator
UNTRANSLATED = "none"
SHARED_METADATA = (
    "tags",
    "slideshow",
    "jupyter",
)  # how a cell is shown is the same in both languages

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"


@dataclass(frozen=True)
class Problem:
    """Something to mend, and where: `07_ddpm:why-noise`, or `book/zh/index.md`."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def other(language: Language) -> Language:
    return "zh" if language == "en" else "en"


def digest(text: str) -> str:
    """Sixteen hexadecimal digits: enough to see that a text changed."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- files ----------------------------------------------------------------------------


def chapter_names(folder: Path = NOTEBOOKS, chapter: str = "") -> list[str]:
    """Names of the chapters that have a notebook in at least one language; `chapter` is
    a number or a name.
    """
    names = sorted(
        {
            path.stem
            for language in LANGUAGES
            for path in (folder / language).glob("*.ipynb")
        }
    )
    if not chapter:
        return names
    chosen = [
        name for name in names if name == chapter or name.startswith(f"{chapter}_")
    ]
    if not chosen:
        raise Dalle2EduError(
            f"no notebook is called {chapter!r}; there are: {', '.join(names) or 'none yet'}"
        )
    return chosen


def path_of(folder: Path, language: Language, name: str) -> Path:
    return folder / language / f"{name}.ipynb"


def read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    # not JSON, or JSON that is no notebook
    except (ValueError, AttributeError) as reason:
        raise Dalle2EduError(
            f"{path.name} is not a notebook that can be read ({type(reason).__name__})"
        ) from None


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook in one step, so that a stop half-way leaves the file as it
    was.
    """
    nbformat.validate(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    nbformat.write(notebook, unfinished)
    os.replace(unfinished, path)


# --- cells ----------------------------------------------------------------------------


def cells_by_id(notebook: NotebookNode) -> dict[str, NotebookNode]:
    return {cell.id: cell for cell in notebook.cells}


def shared_metadata(cell: NotebookNode) -> dict[str, Any]:
    """The metadata that twins have in common, without the empty entries JupyterLab
    leaves behind.
    """
    kept = {
        key: cell.metadata[key] for key in SHARED_METADATA if cell.metadata.get(key)
    }
    if kept.get("slideshow", {}).get("slide_type") in ("", "-"):
        del kept["slideshow"]
    return kept


def is_translated(cell: NotebookNode) -> bool:
    return cell.cell_type == "markdown" and "counterpart" in cell.metadata


def shared(cell: NotebookNode) -> str:
    """Digest of what a cell has in common with its twin: everything, but only the looks
    of translated prose.
    """
    text = "" if is_translated(cell) else cell.source
    return digest(
        json.dumps(
            [cell.cell_type, shared_metadata(cell), text],
            sort_keys=True,
            ensure_ascii=False,
        )
    )


# --- what can be wrong ----------------------------------------------------------------


def problems(folder: Path = NOTEBOOKS, chapter: str = "") -> Iterator[Problem]:
    """Everything wrong between the two languages' notebooks: pairs, cells, code,
    translations.
    """
    for name in chapter_names(folder, chapter):
        missing = [
            language
            for language in LANGUAGES
            if not path_of(folder, language, name).exists()
        ]
        if missing:
            yield Problem(
                name,
                f"has no {NAMES[missing[0]]} twin; `make sync` makes one to translate",
            )
        else:
            yield from pair_problems(
                name,
                read(path_of(folder, "en", name)),
                read(path_of(folder, "zh", name)),
            )


def pair_problems(name: str, en: NotebookNode, zh: NotebookNode) -> Iterator[Problem]:
    """Everything wrong between the twins of one chapter."""
    cells = {"en": cells_by_id(en), "zh": cells_by_id(zh)}
    yield from _layout_problems(name, en, zh)
    for cell_id in cells["en"].keys() & cells["zh"].keys():
        for what in cell_problems(cells["en"][cell_id], cells["zh"][cell_id]):
            yield Problem(f"{name}:{cell_id}", what)


def _layout_problems(
    name: str, en: NotebookNode, zh: NotebookNode
) -> Iterator[Problem]:
    ids = {"en": [cell.id for cell in en.cells], "zh": [cell.id for cell in zh.cells]}
    for language in LANGUAGES:
        for cell_id in ids[language]:
            if cell_id not in ids[other(language)]:
                yield Problem(
                    f"{name}:{cell_id}",
                    f"is in the {NAMES[language]} notebook only; run `make sync`",
                )
            if ids[language].count(cell_id) > 1:
                yield Problem(
                    f"{name}:{cell_id}",
                    f"two cells of the {NAMES[language]} notebook have this id",
                )
    common = set(ids["en"]) & set(ids["zh"])
    if [i for i in ids["en"] if i in common] != [i for i in ids["zh"] if i in common]:
        yield Problem(name, "the cells stand in different orders; run `make sync`")


def cell_problems(en: NotebookNode, zh: NotebookNode) -> Iterator[str]:
    """What is wrong between two cells of one id."""
    if en.cell_type != zh.cell_type:
        yield (
            f"is a {en.cell_type} cell in English and a {zh.cell_type} cell in Chinese; run"
            " `make sync`"
        )
        return
    if shared_metadata(en) != shared_metadata(zh):
        yield "tags or slide type differ between the languages; run `make sync`"
    if en.cell_type != "markdown":
        if en.source != zh.source:
            yield "the code differs between the languages; run `make sync`"
    elif is_translated(en) or is_translated(zh):
        yield from _translation_problems(en, zh)
    elif en.source != zh.source:
        yield (
            "the texts differ but nobody has confirmed that one translates the other; run `make"
            " sync`"
        )


def _translation_problems(en: NotebookNode, zh: NotebookNode) -> Iterator[str]:
    marks = {"en": en.metadata.get("counterpart"), "zh": zh.metadata.get("counterpart")}
    if UNTRANSLATED in marks.values() or en.source == zh.source:
        yield "is not translated yet; translate it, then `make sync CONFIRM=…`"
        return
    en_fits, zh_fits = (
        marks["en"] == digest(zh.source),
        marks["zh"] == digest(en.source),
    )
    if not en_fits and not zh_fits:
        yield "is stale: both texts changed; compare them, then `make sync CONFIRM=…`"
    elif not zh_fits:
        yield (
            "is stale: the English changed, the Chinese may not say the same; then `make sync"
            " CONFIRM=…`"
        )
    elif not en_fits:
        yield (
            "is stale: the Chinese changed, the English may not say the same; then `make sync"
            " CONFIRM=…`"
        )
