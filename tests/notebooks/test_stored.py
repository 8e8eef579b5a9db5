"""Every notebook as it is stored: run top to bottom at the cpu tier, small, clean, and
made like a chapter.
"""

from __future__ import annotations

import re

import pytest
import run
import twins
from nbformat import NotebookNode

CHAPTERS = [
    (language, name) for name in twins.chapter_names() for language in twins.LANGUAGES
]
SLIDES = {"slide", "subslide", "fragment", "notes", "skip"}
EXERCISES = 6
RUN_IT = "run: make notebooks CHAPTER={}"

each_notebook = pytest.mark.parametrize(
    ("language", "name"), CHAPTERS, ids=lambda value: value
)


def load(language: twins.Language, name: str) -> NotebookNode:
    return twins.read(twins.path_of(twins.NOTEBOOKS, language, name))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def prose_lines(notebook: NotebookNode) -> list[str]:
    """Lines of the text cells, without fenced code (where a line may begin with #
    too).
    """
    text = "\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "markdown"
    )
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).splitlines()


def test_the_five_first_chapters_are_there() -> None:
    assert {name[:2] for _, name in CHAPTERS} >= {"01", "02", "07", "08", "09"}


@each_notebook
def test_small_without_errors_or_paths(language: twins.Language, name: str) -> None:
    assert list(run.faults(load(language, name))) == []
    assert twins.path_of(twins.NOTEBOOKS, language, name).stat().st_size <= run.LARGEST


@each_notebook
def test_the_outputs_are_of_a_whole_run_of_this_code(
    language: twins.Language, name: str
) -> None:
    notebook = load(language, name)
    stamp = notebook.metadata.get("dalle2_edu", {}).get("run", {})
    assert stamp.get("tier") in ("cpu", "gpu"), RUN_IT.format(name)
    assert {
        "device",
        "minutes",
        "versions",
        "commit",
        "date",
        "zoo",
        "package",
    } <= stamp.keys()
    assert set(stamp["versions"]) == {"python", "torch", "dalle2_edu"}
    assert stamp["code"] == run.code_digest(notebook), (
        f"the code changed since the outputs were stored; {RUN_IT.format(name)}"
    )
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), RUN_IT.format(name)


@each_notebook
def test_the_outputs_show_weights_that_are_in_the_zoo(
    language: twins.Language, name: str
) -> None:
    """New weights, old pictures: such a page tells of a model that nobody can load."""
    stamp = load(language, name).metadata.get("dalle2_edu", {}).get("run", {})
    assert run.other_weights(stamp) == [], RUN_IT.format(name)


@each_notebook
def test_at_the_cpu_tier_it_takes_under_five_minutes(
    language: twins.Language, name: str
) -> None:
    stamp = load(language, name).metadata.get("dalle2_edu", {}).get("run", {})
    assert stamp.get("tier") != "cpu" or stamp["minutes"] <= 5


@each_notebook
def test_what_is_stored_is_the_same_after_every_run(
    language: twins.Language, name: str
) -> None:
    """No timings, widgets or names of this machine's kernel in the metadata: they would
    change with every run.
    """
    notebook = load(language, name)
    assert notebook.metadata.keys() <= {"kernelspec", "language_info", "dalle2_edu"}
    assert notebook.metadata.kernelspec == run.KERNELSPEC
    known = {*twins.SHARED_METADATA, "counterpart"}
    assert {key for cell in notebook.cells for key in cell.metadata} <= known
    assert not [
        cell.id
        for cell in code_cells(notebook)
        for out in cell.outputs
        if out.get("name") == "stderr"
    ]


@each_notebook
def test_one_title_and_no_skipped_level(language: twins.Language, name: str) -> None:
    levels = [
        len(line) - len(line.lstrip("#"))
        for line in prose_lines(load(language, name))
        if re.match("#+ ", line)
    ]
    assert levels[:1] == [1]
    assert levels.count(1) == 1
    assert all(
        later <= earlier + 1 for earlier, later in zip(levels, levels[1:], strict=False)
    )


@each_notebook
def test_the_title_carries_the_chapters_number(
    language: twins.Language, name: str
) -> None:
    assert prose_lines(load(language, name))[0].startswith(f"# {int(name[:2])}. ")


@each_notebook
def test_pictures_have_words_for_those_who_cannot_see_them(
    language: twins.Language, name: str
) -> None:
    prose = "\n".join(prose_lines(load(language, name)))
    assert re.findall(r"!\[\s*\]\([^)]*\)|<img(?![^>]*\balt=)[^>]*>", prose) == []


@each_notebook
def test_exercises_have_a_stub_and_a_hidden_solution(
    language: twins.Language, name: str
) -> None:
    """Each `check("ddpm.q_sample", ...)` stands twice: under the stub, and in a cell
    tagged `solution`.
    """
    open_, solved = set(), set()
    for cell in code_cells(load(language, name)):
        found = set(re.findall(r"""\bcheck\(\s*["']([\w.]+)["']""", cell.source))
        if "solution" in tags(cell):
            solved |= found
            assert "hide-cell" in tags(cell), cell.id
            assert cell.metadata.get("jupyter", {}).get("source_hidden"), cell.id
        else:
            open_ |= found
    assert open_ == solved
    assert len(open_) >= EXERCISES


@each_notebook
def test_some_outputs_are_compared_and_some_cells_are_slides(
    language: twins.Language, name: str
) -> None:
    notebook = load(language, name)
    compared = [
        cell for cell in code_cells(notebook) if "nbval-check-output" in tags(cell)
    ]
    assert compared
    assert all(cell.outputs for cell in compared), "a compared cell prints nothing"
    types = [
        cell.metadata.get("slideshow", {}).get("slide_type") for cell in notebook.cells
    ]
    assert set(filter(None, types)) <= SLIDES
    assert sum(kind in ("slide", "subslide", "fragment") for kind in types) >= 12


@each_notebook
def test_nothing_waits_to_be_filled_in(language: twins.Language, name: str) -> None:
    sources = "\n".join(cell.source for cell in load(language, name).cells)
    assert re.findall(r"TODO|FIXME|TBD|@@\w+@@|\?\?\?|待填|待补", sources) == []
