"""One style for all figures, and a font that has every word of them."""

import ast
import io
import json

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from PIL import Image

from dalle2_edu.data import emoji, grammar
from dalle2_edu.teaching import plots
from dalle2_edu.teaching.chapter import PACKAGE

NOTEBOOKS = sorted((PACKAGE.parent / "notebooks").glob("*/*.ipynb"))


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def characters(path) -> set[str]:
    return {chr(code) for code in font_manager.get_font(str(path)).get_charmap()}


def test_labels_use_the_packages_font():
    assert font_manager.findfont(plots.FAMILY, fallback_to_default=False) == str(
        plots.FONT
    )
    assert plots.FONT.stat().st_size < 2.5e6


def test_the_font_has_gb2312_greek_and_the_words_of_prompts():
    first_level = {
        bytes((high, low)).decode("gb2312")
        for high in range(0xB0, 0xD8)
        for low in range(0xA1, 0xFF)
        if (high, low) < (0xD7, 0xFA)
    }
    prompts = "".join(caption for each in emoji.load() for caption in each.captions)
    wanted = (
        first_level
        | set("，。：；！？（）“”《》、αβγδεημσθλφπΣΔ×−±≤≥≈≠→∈∞·")
        | set(prompts + str(vars(grammar)))
    )
    assert {char for char in wanted if char.isprintable()} - characters(
        plots.FONT
    ) == set()


@pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_the_font_has_the_words_of_every_notebook(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join(
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"
    )
    strings = [
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant)
    ]
    chinese = {
        char
        for text in strings
        if isinstance(text, str)
        for char in text
        if "\u2e80" <= char <= "\uffef"
    }
    assert chinese - characters(plots.FONT) == set()


def test_colours_differ_in_hue_and_curves_in_line_style():
    assert len(set(plots.COLOURS)) == 8 == len(plots.LINES)
    assert plots.COLOURS.blue == plots.COLOURS[0]
    assert len(set(map(str, plots.LINES[:6]))) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("channels", [1, 3])
def test_grid_takes_pictures_of_all_kinds(dtype, channels):
    images = torch.zeros(10, channels, 8, 8).to(dtype)
    drawn = plots.grid(images, titles=[f"第 {i} 步" for i in range(10)], columns=8)
    shown = [axes for axes in drawn.axes if axes.images]
    assert len(shown) == 10 and len(drawn.axes) == 16
    assert shown[9].get_title() == "第 9 步"


def test_pixels_are_exact():
    picture = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 3).expand(3, 1, 3)
    assert plots.pixels(picture)[0, :, 0].tolist() == [0, 128, 255]


def test_a_figure_is_as_wide_as_the_text_and_no_wider():
    drawn = plots.grid(torch.zeros(8, 3, 8, 8))
    with Image.open(io.BytesIO(plots.png(drawn))) as image:
        assert 600 < image.width < 720


def test_a_figure_is_shown_once(monkeypatch):
    shown = []
    monkeypatch.setattr(
        "IPython.display.display",
        lambda data, metadata, raw: shown.append((data, metadata["image/png"]["alt"])),
    )
    drawn, _ = plots.figure()
    drawn._ipython_display_()
    [(data, alt)] = shown
    assert data["image/png"].startswith(b"\x89PNG") and alt
    assert not plt.get_fignums(), "the cell's end would show it again"


def test_curves_take_tensors_lists_and_a_moving_mean():
    drawn = plots.curves(
        {"a": torch.arange(10.0), "b": [1, 2, 3]}, smooth=2, xlabel="步", log=True
    )
    (axes,) = drawn.axes
    assert (
        np.allclose(axes.lines[0].get_ydata(), np.arange(0.5, 9.5))
        and axes.get_yscale() == "log"
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_wrapping_counts_a_chinese_character_as_two_columns():
    assert plots.wrapped("红色圆形在左边", 6) == "红色圆\n形在左\n边"
    assert (
        plots.wrapped("红色圆，形", 6) == "红色圆，\n形"
    )  # no line begins with a comma
    assert plots.wrapped("a red circle", 6) == "a red\ncircle"


# --- Every pixel, and words for those who can't see -----------------------------------


@pytest.mark.parametrize(
    ("side", "columns", "row_titles"),
    [(128, 8, None), (128, 5, ["a", "b"]), (64, 12, None), (32, 8, None)],
)
def test_a_picture_never_gets_fewer_pixels_than_it_has(side, columns, row_titles):
    drawn = plots.grid(
        torch.zeros(2 * columns, 3, side, side),
        columns=columns,
        row_titles=row_titles,
        scale=0.4,
    )
    drawn.set_dpi(drawn.dots)
    drawn.canvas.draw()
    widths = [axes.get_window_extent().width for axes in drawn.axes]
    assert min(widths) >= side - 0.5


@pytest.mark.parametrize(
    ("lang", "said"),
    [
        ("en", "A plot: SNR(t), ᾱ_t over step t; shown: linear, cosine."),
        ("zh", "曲线图：SNR(t)、ᾱ_t，横轴：步 t；图中有：线性、余弦。"),
    ],
)
def test_a_figure_says_what_its_labels_say(lang, said, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_LANG", lang)
    names = {"en": ("linear", "cosine", "step t"), "zh": ("线性", "余弦", "步 t")}[lang]
    drawn = plots.curves(
        {names[0]: [1, 2], names[1]: [2, 1]},
        xlabel=names[2],
        ylabel="$ᾱ_t$",
        title="SNR(t)",
    )
    assert plots.description(drawn) == said


def test_a_grid_says_what_its_rows_are(monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_LANG", "en")
    drawn = plots.grid(
        torch.zeros(4, 3, 8, 8),
        ["s = 1", "s = 2", "", ""],
        columns=2,
        row_titles=["right", "hers"],
    )
    assert (
        plots.description(drawn)
        == "4 pictures; rows: right, hers; titles: s = 1, s = 2."
    )
    assert plots.description(plots.figure()[0]) == "A drawing."


def test_tex_is_spoken():
    assert plots.spoken(r"$\hat x_0$ at $\eta = 1$") == "x_0 at η = 1"


def test_words_given_by_hand_come_first():
    assert plots.figure(alt="Two bumps.")[0].alt == "Two bumps."
    assert (
        plots.grid(torch.zeros(1, 3, 8, 8), alt="A black square.").alt
        == "A black square."
    )
