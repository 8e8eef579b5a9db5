"""Claims: which text cells read an output, and which of them a code cell holds to its
numbers.

A text cell that says what a number or a figure shows is a *reading*. The cell that
measured it names it, `ch.claim("hides-read", 300 < ratio < 500)`, and from then on a
run whose numbers don't support the text stops. A reading is

- a text cell whose id ends in `-read`, `-reading` or `-answer`;
- a text cell right below a code cell with an output of its own (not an exercise) that
  states a
  number measured: a decimal or a percentage in plain text, outside of formulas, code, tables,
  and references to equations and sections. A cell that opens with a heading begins something new.

The English text decides, for both languages. What no number can check (how a figure is
to be read, an answer that is an argument) is listed with its reason in
`tests/unclaimed.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from nbformat import NotebookNode

READS = re.compile(r"-(read|reading|answer)$")
# what holds numbers that nobody measured here: fences, formulas, code, links, equation
# numbers
NOT_PROSE = re.compile(
    r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`|\[[^\]]*\]\([^)]*\)|\(\d+\.\d+[a-z]?\)",
    re.S,
)
# "7.10" after these words is a section or table of a paper
SECTION = re.compile(
    r"(?:sections?|chapters?|tables?|figures?|exercises?|versions?|eq\.?|see)\s+\d+\.\d+",
    re.I,
)
MEASURED = re.compile(r"(?<![\d.])\d*\.\d+|\d+(?:\.\d+)?\s?%")


def claimed(notebook: NotebookNode) -> dict[str, str]:
    """Text cell's id -> id of the first code cell that makes a claim about it."""
    found: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for name in claims_in(cell.source):
                found.setdefault(name, cell.id)
    return found


def claims_in(source: str) -> Iterator[str]:
    """The ids that a code cell's claims name; "?" for one that is no plain text."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a %magic line
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "claim":
            first = node.args[0] if node.args else None
            plain = isinstance(first, ast.Constant) and isinstance(first.value, str)
            yield str(first.value) if plain else "?"  # type: ignore[union-attr]


def readings(english: NotebookNode, chapter: str) -> list[str]:
    """Ids of the text cells that say what an output shows, in their order."""
    before = [None, *english.cells]
    return [
        cell.id
        for last, cell in zip(before, english.cells, strict=False)
        if cell.cell_type == "markdown"
        and (
            READS.search(cell.id)
            or (shows_something(last) and states_a_number(cell.source, chapter))
        )
    ]


def shows_something(cell: NotebookNode | None) -> bool:
    """Whether it is a code cell with an output that is no exercise's verdict or source
    code.
    """
    if cell is None or cell.cell_type != "code" or not cell.get("outputs"):
        return False
    return not re.search(r"\bcheck\(|^show\(", cell.source, flags=re.M)


def states_a_number(text: str, chapter: str) -> bool:
    """Whether plain prose has a decimal or a percentage in it; "7.4" in chapter 7 is a
    section.
    """
    if text.startswith("#"):
        return False
    lines = [
        line for line in text.splitlines() if not re.match(r"\s*(#|>|\||!\[)", line)
    ]
    prose = SECTION.sub(" ", NOT_PROSE.sub(" ", "\n".join(lines)))
    own = rf"(?<![\d.]){int(chapter)}\.\d+"
    return bool(MEASURED.search(re.sub(own, " ", prose)))


def problems(
    notebook: NotebookNode, reads: Sequence[str], excused: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong between a notebook's claims and its texts.

    reads: the ids of `readings`. excused: readings without a claim, each with the
    reason.
    """
    texts = {cell.id for cell in notebook.cells if cell.cell_type == "markdown"}
    named = claimed(notebook)
    for cell_id, where in named.items():
        if cell_id not in texts:
            yield f"cell {where} claims {cell_id!r}, and no text cell has this id"
    for cell_id in reads:
        if cell_id not in named and cell_id not in excused:
            yield f"{cell_id} reads an output, and no ch.claim({cell_id!r}, ...) holds it to it"
    for cell_id, reason in excused.items():
        if cell_id in named or cell_id not in reads:
            yield f"{cell_id} is excused from claims and needs no excuse"
        if len(reason) < 12:
            yield f"{cell_id} is excused from claims without a reason"
