"""Tables of measures: how the report, the trial and the seams print what they found.

A table is kept as JSON values, so that it can be stored beside a chapter and read
again:

    {"title": "right, %", "columns": ["seen", "held-out"],
     "rows": {"all right": [{"value": 81.5, "low": 75.5, "high": 86.3, "n": 200}, null]}}

Each number stands with its 95% interval and the number of pictures behind it
(`intervals`).

Chapters 06, 18 and 20 use this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dalle2_edu.evaluation.intervals import Measure

Cells = Sequence[Measure | None]  # one row's measures, a column each; None is a gap


def table(title: str, columns: list[str], rows: Mapping[str, Cells]) -> dict[str, Any]:
    """A table as JSON values: its title, its columns, and for each row one measure a
    column.
    """
    cells = {}
    for name, row in rows.items():
        cells[name] = [None if cell is None else asdict(cell) for cell in row]
    return {"title": title, "columns": columns, "rows": cells}


def table_lines(one: dict[str, Any]) -> list[list[str]]:
    """A table's cells as text, the head first."""
    lines = [[one["title"], *one["columns"]]]
    for name, row in one["rows"].items():
        lines.append([name, *(format_cell(cell) for cell in row)])
    return lines


def format_table(one: dict[str, Any]) -> str:
    """A table as plain text, its columns aligned."""
    lines = table_lines(one)
    # of the widest cell
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def markdown_table(one: dict[str, Any]) -> str:
    """A table in Markdown."""
    head, *rows = table_lines(one)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def format_cell(measure: dict[str, float] | None) -> str:
    """Value, interval and number of pictures; a dash for a gap."""
    if measure is None:
        return "-"
    interval = f"[{measure['low']:.1f}, {measure['high']:.1f}]"
    return f"{measure['value']:.1f} {interval} {measure['n']}"


def headline(
    tables: Sequence[dict[str, Any]], wanted: Sequence[str]
) -> dict[str, float]:
    """The numbers of the `wanted` rows, "row, column" -> value: what a zoo card
    quotes.
    """
    found = {}
    for one in tables:
        for name, row in one["rows"].items():
            for column, cell in zip(one["columns"], row, strict=True):
                if name in wanted and cell is not None:
                    found[f"{name}, {column}"] = round(cell["value"], 1)
    return found
