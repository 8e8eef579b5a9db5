"""A slider in JupyterLab, a strip of pictures where nothing can move."""

import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching import plots, widgets


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def picture(level=0.0, size=8):
    return torch.full((3, size, size), float(level))


def plot_and_return_nothing(level):
    plt.figure()
    plt.plot([0, level])


@pytest.mark.parametrize(
    "draw",
    [
        picture,
        lambda level: picture(level).unsqueeze(0),
        lambda level: plots.curves({"a": [0, level]}),
        lambda level: Image.new("RGB", (8, 8)),
        plot_and_return_nothing,
    ],
)
def test_the_strip_has_one_titled_picture_for_each_value(draw):
    drawn = widgets.strip(draw, {"level": [0, 0.5, 1]}, {"level": "亮度"})
    assert isinstance(drawn, Figure)
    assert [axes.get_title() for axes in drawn.axes] == [
        "亮度 = 0",
        "亮度 = 0.5",
        "亮度 = 1",
    ]
    assert all(axes.images for axes in drawn.axes)


def test_a_batch_becomes_a_column():
    drawn = widgets.strip(
        lambda level: torch.zeros(3, 3, 8, 8), {"level": [0, 1]}, {"level": "level"}
    )
    assert len(drawn.axes) == 6
    assert [axes.get_title() for axes in drawn.axes[:3]] == [
        "level = 0",
        "level = 1",
        "",
    ]


def test_the_other_controls_stay_at_their_first_value():
    seen = []
    widgets.strip(
        lambda **given: seen.append(given) or picture(),
        {"a": [1, 2], "b": [7, 8]},
        {"a": "a", "b": "b"},
    )
    assert seen == [{"a": 1, "b": 7}, {"a": 2, "b": 7}]


def test_nothing_is_left_for_the_cells_end_to_show_again():
    widgets.explore(plot_and_return_nothing, level=[1, 2])
    assert not plt.get_fignums()


def test_mistakes_are_told_in_one_line():
    with pytest.raises(Dalle2EduError, match="at least one control"):
        widgets.explore(picture)
    with pytest.raises(Dalle2EduError, match="drew nothing"):
        widgets.explore(lambda level: None, level=[1])
    with pytest.raises(Dalle2EduError, match="can't show a str"):
        widgets.explore(lambda level: "picture", level=[1])


def test_sliders_move_only_in_a_live_notebook_with_widgets(monkeypatch):
    assert not widgets.can_move(), "no notebook here"
    monkeypatch.setattr(widgets, "running_shell", lambda: object())
    monkeypatch.delenv("DALLE2_EDU_STATIC", raising=False)
    pytest.importorskip("ipywidgets")
    assert widgets.can_move()
    monkeypatch.setenv("DALLE2_EDU_STATIC", "1")
    assert not widgets.can_move()
    monkeypatch.delenv("DALLE2_EDU_STATIC")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert not widgets.can_move()


def test_a_slider_draws_again_when_it_is_moved(monkeypatch):
    ipywidgets = pytest.importorskip("ipywidgets")
    seen, boxes = [], []
    monkeypatch.setattr(
        "IPython.display.display", lambda thing, **_: boxes.append(thing)
    )
    monkeypatch.setattr(widgets, "show_figure", lambda drawn: plt.close(drawn))

    def draw(level, seed):
        seen.append((level, seed))
        return picture(level)

    widgets.show_sliders(
        draw, {"level": [0, 1], "seed": [5]}, {"level": "亮度", "seed": "种子"}
    )
    (box,) = boxes
    slider = next(
        child for child in box.children if isinstance(child, ipywidgets.SelectionSlider)
    )
    assert slider.description == "亮度"
    slider.value = 1
    assert seen == [(0, 5), (1, 5)]
