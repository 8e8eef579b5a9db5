"""Small made-up notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import twins
from nbformat import NotebookNode

TRANSLATED = {
    "title": ("# 1. Noise", "# 1. 噪声"),
    "why": ("We add noise to a picture.", "我们给图片加噪声。"),
}


def text(
    cell_id: str, source: str, counterpart: str | None = None, **metadata: Any
) -> NotebookNode:
    """A text cell; `counterpart` is the other language's text that it was last compared
    with.
    """
    if counterpart is not None:
        metadata["counterpart"] = twins.digest(counterpart)
    return nbformat.v4.new_markdown_cell(source, id=cell_id, metadata=metadata)


def code(
    cell_id: str, source: str, printed: str | None = None, **metadata: Any
) -> NotebookNode:
    """A code cell; with `printed` it has been run."""
    cell = nbformat.v4.new_code_cell(source, id=cell_id, metadata=metadata)
    if printed is not None:
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)]
        cell.execution_count = 1
    return cell


def book(*cells: NotebookNode) -> NotebookNode:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=list(cells), metadata={"kernelspec": kernel})


class Folder:
    """A `notebooks` folder with one chapter, 01_noise, in both languages."""

    def __init__(self, root: Path) -> None:
        self.root = root / "notebooks"
        for place, language in enumerate(twins.LANGUAGES):
            cells = [
                text(key, pair[place], pair[1 - place])
                for key, pair in TRANSLATED.items()
            ]
            cells += [text("formula", "$$x_t = x_0$$"), code("add", "print(1 + 1)")]
            self.write(language, book(*cells))

    def path(self, language: str) -> Path:
        return self.root / language / "01_noise.ipynb"

    def read(self, language: str) -> NotebookNode:
        return nbformat.read(self.path(language), as_version=4)

    def write(self, language: str, notebook: NotebookNode) -> None:
        twins.write(notebook, self.path(language))

    def cell(self, language: str, cell_id: str) -> NotebookNode:
        return next(cell for cell in self.read(language).cells if cell.id == cell_id)

    def ids(self, language: str) -> list[str]:
        return [cell.id for cell in self.read(language).cells]

    def edit(self, language: str, cell_id: str, **changes: Any) -> None:
        """Change a cell's source, metadata, outputs ... as an author would in
        JupyterLab.
        """
        notebook = self.read(language)
        next(cell for cell in notebook.cells if cell.id == cell_id).update(changes)
        self.write(language, notebook)

    def insert(self, language: str, place: int, cell: NotebookNode) -> None:
        notebook = self.read(language)
        notebook.cells.insert(place, cell)
        self.write(language, notebook)

    def remove(self, language: str, cell_id: str) -> None:
        notebook = self.read(language)
        notebook.cells = [cell for cell in notebook.cells if cell.id != cell_id]
        self.write(language, notebook)

    def problems(self) -> list[str]:
        return [str(problem) for problem in twins.problems(self.root)]
