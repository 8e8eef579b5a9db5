"""A slider in JupyterLab, a strip of pictures on paper.

    explore(draw, guidance=[1, 1.5, 2, 4])

calls draw(guidance=...) when the reader moves the slider. Where nothing can move (the
rendered book, a slide, a test: `DALLE2_EDU_STATIC=1`, or no ipywidgets) it draws the
pictures for all values of the first control side by side; the other controls stay at
their first value.
"""

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching import plots
from dalle2_edu.teaching.chapter import running_shell

MOST = 6  # pictures side by side
# a picture that is wider than this many times its height gets a line of its own
WIDE = 1.6


def explore(
    draw: Callable[..., Any],
    labels: Mapping[str, str] | None = None,
    alt: str = "",
    **controls: Sequence[Any],
) -> None:
    """Lets the reader turn the controls of `draw`.

    draw: called with one keyword argument for each control; returns (or draws with
    matplotlib) a picture (3, H, W), a batch (N, 3, H, W), a figure or a PIL image.
    labels: control -> the words shown for it. alt: what the strip shows, for those who
    can't see it. controls: name -> values.
    """
    if not controls or not all(len(values) for values in controls.values()):
        raise Dalle2EduError(
            "explore needs at least one control with values, such as guidance=[1, 2, 4]"
        )
    names = {name: (labels or {}).get(name, name) for name in controls}
    if can_move():
        show_sliders(draw, controls, names)
    else:
        drawn = strip(draw, controls, names)
        drawn.alt = alt  # type: ignore[attr-defined]
        show_figure(drawn)


def can_move() -> bool:
    """Whether there is a live page with widgets in front of the reader."""
    if os.environ.get("DALLE2_EDU_STATIC") == "1" or running_shell() is None:
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


# --- Live -----------------------------------------------------------------------------


def show_sliders(
    draw: Callable[..., Any],
    controls: Mapping[str, Sequence[Any]],
    names: Mapping[str, str],
) -> None:
    """One slider a control, above the picture; the picture follows when a slider is let
    go.
    """
    import ipywidgets
    from IPython.display import display

    sliders = {
        name: ipywidgets.SelectionSlider(
            options=[(str(value), value) for value in values],
            description=names[name],
            continuous_update=False,
            style={"description_width": "initial"},
        )
        for name, values in controls.items()
    }
    output = ipywidgets.Output()

    def redraw(_: Any = None) -> None:
        with output:
            output.clear_output(wait=True)
            show_figure(
                as_figure(
                    called(
                        draw, {name: slider.value for name, slider in sliders.items()}
                    )
                )
            )

    for slider in sliders.values():
        slider.observe(redraw, names="value")
    display(ipywidgets.VBox([*sliders.values(), output]))
    redraw()


def show_figure(drawn: Figure) -> None:
    """Shows a figure now; outside a notebook there is nowhere to show it."""
    if running_shell() is not None:
        plots.show_once(drawn)
    plots.close(drawn)


# --- On paper -------------------------------------------------------------------------


def strip(
    draw: Callable[..., Any],
    controls: Mapping[str, Sequence[Any]],
    names: Mapping[str, str],
) -> Figure:
    """All values of the first control, each picture under its value."""
    first, *others = controls
    fixed = {name: controls[name][0] for name in others}
    results = [called(draw, {first: value, **fixed}) for value in controls[first]]
    titles = [f"{names[first]} = {value}" for value in controls[first]]
    if all(
        isinstance(result, Tensor) and result.ndim == 4 and len(result) > 1
        for result in results
    ):
        return columns_of(results, titles)
    panels = [as_array(result) for result in results]
    small = max(panel.shape[1] / panel.shape[0] for panel in panels) < WIDE
    return sheet(panels, titles, columns=min(len(panels), MOST) if small else 1)


def columns_of(batches: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """A column for each batch, a row for each picture in it."""
    count = min(len(batch) for batch in batches)
    pictures = [batch[row] for row in range(count) for batch in batches]
    drawn = plots.grid(pictures, columns=len(batches))
    for axes, title in zip(drawn.axes, titles, strict=False):
        axes.set_title(plots.wrapped(title, 16), fontsize=8, pad=2.5)
    return drawn


def sheet(panels: Sequence[np.ndarray], titles: Sequence[str], columns: int) -> Figure:
    """Panels, uint8 (H, W, 3), under their titles."""
    rows = -(-len(panels) // columns)
    widest = max(panel.shape[1] for panel in panels) / plots.DPI
    width = plots.WIDTH if columns > 1 else min(plots.WIDTH, max(widest, 2.0))
    tallest = max(panel.shape[0] / panel.shape[1] for panel in panels)
    drawn, axes = plots.figure(
        rows, columns, width, rows * (tallest * width / columns + 0.3), squeeze=False
    )
    drawn.set_layout_engine(
        "constrained", w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02
    )
    assert isinstance(drawn, plots.BookFigure)
    # no panel has fewer pixels than its picture
    most = max(panel.shape[1] for panel in panels)
    enough = math.ceil(most / (width / columns - plots.MARGIN))
    drawn.dots = min(max(plots.DPI, enough), 2 * plots.DPI)
    for place in axes.ravel():
        plots.blank(place)
    for place, panel, title in zip(axes.ravel(), panels, titles, strict=False):
        tiny = (
            panel.shape[1] < 200
        )  # pixels of a small picture are to be seen; a figure's are not
        place.imshow(panel, interpolation="nearest" if tiny else "antialiased")
        place.set_title(title, fontsize=9, pad=3)
    return drawn


def called(draw: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """What `draw` returns for these values, or the figure that it drew with pyplot and
    did not return.
    """
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    result = draw(**values)
    fresh = [plt.figure(number) for number in plt.get_fignums() if number not in before]
    for drawn in fresh:
        plt.close(drawn)  # or the cell's end would show it a second time
    if result is None and not fresh:
        raise Dalle2EduError(
            "explore's function drew nothing: let it return a picture or a figure"
        )
    return fresh[-1] if result is None else result


def as_array(result: Any) -> np.ndarray:
    """A picture, figure or PIL image as uint8 (H, W, 3)."""
    if isinstance(result, Tensor):
        return plots.pixels(result[0] if result.ndim == 4 else result)
    image = (
        Image.open(io.BytesIO(plots.png(result)))
        if isinstance(result, Figure)
        else result
    )
    if not isinstance(image, Image.Image):
        raise Dalle2EduError(
            f"explore can't show a {type(result).__name__}: return a picture, a figure or a PIL"
            " image"
        )
    return np.asarray(image.convert("RGB"))


def as_figure(result: Any) -> Figure:
    """One result as a figure of its own."""
    if isinstance(result, Figure):
        return result
    if isinstance(result, Tensor):
        return plots.grid(
            result if result.ndim == 4 else result.unsqueeze(0),
            scale=1 if result.ndim == 4 else 1.6,
        )
    array = as_array(result)
    return sheet([array], [""], columns=1)
