"""Notebooks really run: `make notebooks` stores what they show, nbval compares it, and
both refuse what they must.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import run
from nbformat import NotebookNode
from PIL import Image
from small_notebooks import Folder, book, code, text

# one grey pixel
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="

# What a chapter sees of the machine that runs it; the same on every machine.
SEEN = """
import os, pathlib
names = ["DALLE2_EDU_TIER", "DALLE2_EDU_STATIC", "HF_HUB_OFFLINE"]
print(pathlib.Path.cwd().name, *[os.environ.get(name) for name in names])
"""


def only_chapter(folder: Folder, *cells: NotebookNode) -> list[str]:
    """Put these cells into the English notebook; returns the arguments that run it at
    the smoke tier.
    """
    folder.write("en", book(*cells))
    return ["--folder", str(folder.root), "--language", "en", "--tier", "smoke"]


def printed(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


# --- make notebooks -------------------------------------------------------------------


def test_a_good_notebook_is_stored_with_its_stamp(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = (
        "import sys, warnings\nwarnings.warn('old')\nprint('10%',"
        " end='\\r')\nprint('100%')\nobject()"
    )
    arguments = only_chapter(
        folder, text("title", "# 1. Noise"), code("seen", SEEN), code("noise", noise)
    )
    assert run.main(arguments) == 0
    assert capsys.readouterr().out.startswith("en/01_noise: ")
    assert printed(folder.cell("en", "seen")) == "en smoke 1 1\n"
    noisy = folder.cell("en", "noise")
    assert printed(noisy) == "100%\n"
    assert noisy.outputs[-1].data["text/plain"] == "<object>"
    assert [cell.get("execution_count") for cell in folder.read("en").cells] == [
        None,
        1,
        2,
    ]
    stamp = folder.read("en").metadata.dalle2_edu.run
    assert stamp.tier == "smoke"
    assert stamp.device.startswith("cpu")
    assert set(stamp.versions) == {"python", "torch", "dalle2_edu"}
    assert stamp.code == run.code_digest(folder.read("en"))
    assert stamp.keys() >= {"minutes", "commit", "date"}


def test_the_stamp_names_weights_claims_and_package(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it is found out when either is another one later."""
    claim = (
        "from dalle2_edu import zoo\nfrom dalle2_edu.teaching import chapter\n"
        "ch = chapter('01')\nzoo.load('shapes', 'oracle')\nch.claim('why', True)"
    )
    arguments = only_chapter(folder, text("title", "# 1. Noise"), code("claim", claim))
    assert run.main(arguments) == 0
    stamp = folder.read("en").metadata.dalle2_edu.run
    assert stamp.claims == 1
    assert list(stamp.zoo) == ["shapes/oracle"] and run.other_weights(stamp) == []
    assert "dalle2_edu.zoo" in stamp.package and run.other_modules(stamp) == []
    assert run.stale(folder.root, "en", "01_noise") == ""
    stamp.zoo["shapes/oracle"] = "0123456789abcdef"
    stamp.package["dalle2_edu.zoo"] = "0123456789abcdef"
    assert run.other_weights(stamp) == ["shapes/oracle"]
    assert run.other_modules(stamp) == ["dalle2_edu.zoo"]
    notebook = folder.read("en")
    notebook.metadata.dalle2_edu.run = stamp
    folder.write("en", notebook)
    capsys.readouterr()
    assert run.main([*arguments, "--stale"]) == 0
    said = capsys.readouterr().out
    assert (
        "other weights: shapes/oracle" in said
        and "changed since: dalle2_edu.zoo" in said
    )


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (
            "x = 1\nraise ValueError('too noisy\\nsecond line')",
            "cell bad: ValueError: too noisy",
        ),
        (
            "import pathlib\nprint(pathlib.Path.cwd() / 'x')",
            "cell bad shows a path of this machine: ",
        ),
        ("print('0123456789' * 150_001)", "1.50 MB with its outputs, 1.5 MB at most"),
        (
            "from IPython.display import Image, display\nimport base64\n"
            f"display(Image(base64.b64decode({PIXEL!r})))",
            "cell bad shows a figure without words for those who can't see it",
        ),
    ],
)
def test_a_bad_notebook_is_refused(
    folder: Folder, capsys: pytest.CaptureFixture[str], source: str, what: str
) -> None:
    arguments = only_chapter(folder, code("bad", source))
    before = folder.path("en").read_bytes()
    assert run.main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"en/01_noise: {what}")
    assert line.endswith("the file was kept as it was")
    assert folder.path("en").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--tier", "tpu"], "there is no tier 'tpu'; TIER is one of smoke, cpu, gpu"),
        (["--language", "fr"], "there is no language 'fr'; LANGUAGE is one of en, zh"),
        (["--chapter", "99"], "no notebook is called '99'; there are: 01_noise"),
    ],
)
def test_what_does_not_exist_is_said_in_one_line(
    folder: Folder, capsys: pytest.CaptureFixture[str], arguments: list[str], what: str
) -> None:
    assert run.main(["--folder", str(folder.root), *arguments]) == 2
    assert capsys.readouterr().err == what + "\n"


@pytest.mark.parametrize(
    "shown",
    [
        "/home/reader/book/x.py",
        "see /opt/venv/lib/python3.11",
        'href="/srv/book/x"',
        "C:\\Users\\reader",
        "(/tmp/a/b)",
    ],
)
def test_absolute_paths_are_found(shown: str) -> None:
    assert run.absolute_paths(nbformat.v4.new_output("stream", text=shown))
    assert run.absolute_paths(
        nbformat.v4.new_output("display_data", {"text/html": shown})
    )


@pytest.mark.parametrize(
    "shown",
    [
        '<a href="../../dalle2_edu/diffusion/process.py#L10">source</a></b></td>',
        "https://arxiv.org/abs/2006.11239",
        "12 / 34 / 56 and 1/2/3, and/or/not, N/A",
        "data:image/png;base64,iVBORw0KGgo/aaa/bbb/ccc+/ddd/eee=",
        "dalle2_edu/diffusion/process.py",
        "mean = total / count / steps",
    ],
)
def test_what_is_no_absolute_path_passes(shown: str) -> None:
    assert (
        run.absolute_paths(nbformat.v4.new_output("display_data", {"text/html": shown}))
        == []
    )


def test_a_live_widget_is_not_stored() -> None:
    view = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
        "text/plain": "HBox()",
    }
    cell = code("slider", "explore()")
    cell.outputs = [nbformat.v4.new_output("display_data", view)]
    notebook = book(cell)
    run.tidy(notebook)
    assert cell.outputs == []


def encoded(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decoded(picture: str) -> np.ndarray:
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    ).astype(int)


def test_a_plot_takes_fewer_bytes_and_looks_the_same() -> None:
    figure, axes = plt.subplots()
    axes.plot(np.sin(np.arange(100)), label="sine")
    axes.legend()
    figure.canvas.draw()
    plot = np.asarray(figure.canvas.buffer_rgba())
    plt.close(figure)
    png = encoded(plot)
    data = {"image/png": png}
    run.shrink(data)
    assert len(data["image/png"]) < 0.7 * len(png)
    assert np.abs(decoded(data["image/png"]) - plot[..., :3]).max() <= run.INVISIBLE


def test_a_picture_of_many_colours_becomes_a_good_jpeg() -> None:
    noise = (
        np.random.default_rng(0)
        .normal(128, 20, (64, 64, 3))
        .clip(0, 255)
        .astype(np.uint8)
    )
    data = {"image/png": encoded(noise)}
    run.shrink(data)
    assert set(data) == {"image/jpeg"}
    assert (
        np.abs(decoded(data["image/jpeg"]) - noise).mean() < 10
    )  # of 255, and noise is the worst case


@pytest.mark.parametrize(
    "pixels", [np.full((8, 8, 4), 100, np.uint8), np.full((1, 1, 3), 100, np.uint8)]
)
def test_a_picture_that_is_see_through_or_tiny_stays_as_it_is(
    pixels: np.ndarray,
) -> None:
    data = {"image/png": encoded(pixels)}
    run.shrink(data)
    assert data == {"image/png": encoded(pixels)}


# --- nbval ----------------------------------------------------------------------------


@pytest.fixture
def nbval_folder(folder: Folder) -> Folder:
    """The chapter beside the settings that the real notebooks run with."""
    shutil.copy(run.NOTEBOOKS / "conftest.py", folder.root / "conftest.py")
    return folder


def nbval(folder: Folder) -> str:
    """What pytest says of the notebooks."""
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval-lax",
        "--nbval-current-env",
        "--import-mode=importlib",
    ]
    command = [sys.executable, "-m", "pytest", *options, "--color=no", str(folder.root)]
    environment = {**os.environ, "DALLE2_EDU_TIER": "gpu"}
    return subprocess.run(
        command, cwd=folder.root, env=environment, capture_output=True, text=True
    ).stdout


def test_nbval_runs_each_notebook_in_its_folder_at_the_smoke_tier(
    nbval_folder: Folder,
) -> None:
    # The tests draw with Agg, which shows nothing; a notebook's kernel must not inherit
    # that.
    source = SEEN + "\nimport matplotlib\nprint('inline' in matplotlib.get_backend())"
    for language in ("en", "zh"):
        seen = code(
            "seen", source, f"{language} smoke 1 1\nTrue\n", tags=["nbval-check-output"]
        )
        nbval_folder.write(
            language,
            book(seen, code("free", "print('of this run')", "of the stored run\n")),
        )
    assert "4 passed" in nbval(nbval_folder)


def test_nbval_finds_another_output_and_an_error(nbval_folder: Folder) -> None:
    nbval_folder.write(
        "en", book(code("add", "print(1 + 1)", "3\n", tags=["nbval-check-output"]))
    )
    nbval_folder.write("zh", book(code("bad", "1 / 0")))
    said = nbval(nbval_folder)
    assert "2 failed" in said
    assert "ZeroDivisionError" in said
