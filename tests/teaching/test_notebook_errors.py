"""In a notebook, an error of ours is one line; the cell still counts as failed."""

import pytest

from dalle2_edu.teaching.chapter import show_errors_in_one_line

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


def run(*sources, folder):
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in sources]
    )
    nbclient.NotebookClient(
        book, timeout=120, allow_errors=True, resources={"metadata": {"path": folder}}
    ).execute()
    return [cell.outputs for cell in book.cells]


def test_missing_weights_an_unknown_tier_and_a_double_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))  # a zoo with nobody in it
    monkeypatch.delenv(
        "MPLBACKEND", raising=False
    )  # the tests' own: a notebook has its inline one
    *_, figure, weights, tier = run(
        "from dalle2_edu.teaching import chapter, figure\nch = chapter('01')",
        "drawn, axes = figure()\ndrawn",
        "from dalle2_edu import zoo\nzoo.load('emoji', 'prior')",
        "import os\nos.environ['DALLE2_EDU_TIER'] = 'huge'\nchapter('01')",
        folder=str(tmp_path),
    )
    assert [list(output.data) for output in figure] == [["image/png", "text/plain"]], (
        "shown once"
    )
    for outputs, words in (
        (weights, "dalle2-edu train"),
        (tier, "unknown tier 'huge'"),
    ):
        (error,) = outputs
        assert error.output_type == "error" and len(error.traceback) == 1
        assert words in error.traceback[0] and "\n" not in error.traceback[0]


def test_a_script_needs_no_notebook():
    show_errors_in_one_line()
