"""Figures in one style: readable in print, by colour-blind readers, and in Chinese.

Eight colours that stay apart for the common kinds of colour blindness (after Okabe and
Ito) come with line styles, so that curves stay apart on a black-and-white print as
well. Words are set in the package's own font, which has Latin, Greek and Chinese. A
figure made here is shown once, at the end of the cell, and is small on disk.

    figure()   an empty figure with axes, as plt.subplots, in the book's sizes
    grid()     pictures in rows
    curves()   one line for each name
"""

import io
import math
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from cycler import cycler
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dalle2_edu.teaching.words import words

FONT = Path(__file__).parents[1] / "data" / "fonts" / "NotoSansSC-subset.otf"
FAMILY = (  # a name of our own, so that no other Noto of the machine is taken for it
    "dalle2_edu Sans"
)
DPI = 90
MARGIN = 0.1  # inches of a panel that its picture can't use
WIDTH = 7.6  # inches: 684 pixels, the width of the page's text


class Palette(NamedTuple):
    """The book's colours, by name or number, in the order in which curves take them."""

    blue: str = "#0072B2"
    orange: str = "#D55E00"
    green: str = "#009E73"
    pink: str = "#CC79A7"
    sky: str = "#56B4E9"
    amber: str = "#E69F00"
    black: str = "#222222"
    grey: str = "#8A8A8A"


COLOURS = Palette()
LINES = ("-", "--", "-.", ":", (0, (6, 1.5)), (0, (3, 1, 1, 1, 1, 1)), "-", "--")


# --- Style ----------------------------------------------------------------------------


def use_style() -> None:
    """Sets matplotlib's defaults to the book's style; `chapter` calls it."""
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=list(COLOURS), linestyle=list(LINES)),
            "axes.grid": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.titlesize": 10.5,
            "axes.labelsize": 10,
            "figure.dpi": DPI,
            "figure.figsize": (WIDTH * 0.75, 3.0),
            # also on a dark page: a figure is a sheet of paper
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.family": families(),
            "font.size": 10,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "image.interpolation": "nearest",
            "legend.fontsize": 9,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "mathtext.fontset": "cm",  # as the page's formulas
            "savefig.dpi": DPI,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
        }
    )


def families() -> list[str]:
    """The book's font, then matplotlib's own; one clear line where the book's is
    missing.
    """
    fallback = "DejaVu Sans"
    if any(entry.name == FAMILY for entry in font_manager.fontManager.ttflist):
        return [FAMILY, fallback]
    try:
        font_manager.get_font(str(FONT))
    except (OSError, RuntimeError):  # not there, or not a font
        print(
            words(
                f"The font {FONT.name} is missing from dalle2_edu/data/fonts, so Chinese labels"
                " will be empty boxes: restore the file, or install the package again.",
                f"dalle2_edu/data/fonts 中缺少字体 {FONT.name}，"
                "图中的汉字会显示成方框：请恢复该文件，或重新安装本包。",
            )
        )
        return [fallback]
    entry = font_manager.FontEntry(
        fname=str(FONT),
        name=FAMILY,
        style="normal",
        variant="normal",
        weight=400,
        stretch="normal",
        size="scalable",
    )
    font_manager.fontManager.ttflist.append(entry)
    return [FAMILY, fallback]


class BookFigure(Figure):
    """A figure that a notebook shows once.

    matplotlib shows every open figure at the end of a cell, and IPython shows the
    cell's last value: a figure that is both would come twice. This one is closed when
    it is first shown.

    alt: what there is to be seen, for those who can't see it; by default the figure's
    own labels say it (`description`). dots: pixels an inch in the file.
    """

    alt: str = ""
    dots: int = DPI

    def _ipython_display_(self) -> None:
        show_once(self)


def show_once(drawn: Figure) -> None:
    """Shows a figure in the notebook, with its words for those who can't see it."""
    from IPython.display import display

    told = {"image/png": {"alt": getattr(drawn, "alt", "") or description(drawn)}}
    display(
        {"image/png": png(drawn), "text/plain": "<Figure>"}, metadata=told, raw=True
    )
    close(drawn)


def png(drawn: Figure) -> bytes:
    """The figure as the bytes of a PNG file, with no empty border."""
    file = io.BytesIO()
    drawn.savefig(
        file,
        format="png",
        dpi=getattr(drawn, "dots", DPI),
        bbox_inches="tight",
        pad_inches=0.06,
        pil_kwargs={"optimize": True},
    )
    return file.getvalue()


def close(drawn: Figure) -> None:
    """Takes the figure off pyplot's list of those that the cell's end shows."""
    import matplotlib.pyplot as plt

    plt.close(drawn)


def figure(
    rows: int = 1,
    columns: int = 1,
    width: float | None = None,
    height: float | None = None,
    alt: str = "",
    **options: Any,
) -> tuple[Figure, Any]:
    """A figure and its axes, as plt.subplots gives them, in the book's sizes.

    width, height: of the whole figure in inches; by default as wide as the text (three
    quarters of it for a single panel) and 2.6 inches a row. alt: what there is to be
    seen, in the reader's language. options: for plt.subplots, such as sharey=True.
    """
    import matplotlib.pyplot as plt

    width = width or (WIDTH * 0.75 if columns == 1 else WIDTH)
    height = height or 2.6 * rows + 0.4
    drawn, axes = plt.subplots(
        rows, columns, figsize=(width, height), FigureClass=BookFigure, **options
    )
    drawn.alt = alt
    return drawn, axes


# --- Words for those who can't see it -------------------------------------------------

SIGNS = {  # TeX -> what a screen reader can say
    "alpha": "α", "beta": "β", "eps": "ε", "varepsilon": "ε", "eta": "η", "lambda": "λ",
    "theta": "θ", "sigma": "σ", "mu": "μ", "varnothing": "∅", "phi": "φ", "varphi": "φ",
}  # fmt: skip
LONGEST = 400  # letters of a description


def description(drawn: Figure) -> str:
    """What a figure's labels say of it, in the reader's language: "Plot: SNR(t) over
    step t. Curves: linear, cosine." It is better to pass `alt` where the labels don't
    say what matters.
    """
    parts = pictures_told([axes for axes in drawn.axes if axes.images])
    parts += [
        told for axes in drawn.axes if not axes.images and (told := plot_told(axes))
    ]
    heading = drawn._suptitle.get_text() if getattr(drawn, "_suptitle", None) else ""  # type: ignore[attr-defined]
    text = " ".join(
        [*([spoken(heading) + words(".", "。")] if heading else []), *parts]
    )
    text = text or words("A drawing.", "一幅示意图。")
    return text if len(text) <= LONGEST else text[: LONGEST - 2].rstrip() + " …"


def pictures_told(panels: Sequence[Axes]) -> list[str]:
    """One sentence about the panels that hold pictures: how many, and what their labels
    are.
    """
    if not panels:
        return []
    count = len(panels)
    titles = listed(axes.get_title() for axes in panels)
    rows = listed(axes.get_ylabel() for axes in panels)
    said = words(f"{count} pictures" if count > 1 else "A picture", f"{count} 张图")
    if rows:
        said += words(f"; rows: {rows}", f"；各行：{rows}")
    if titles:
        said += words(f"; titles: {titles}", f"；标题：{titles}")
    return [said + words(".", "。")]


def plot_told(axes: Axes) -> str:
    """One sentence about a panel with curves, bars or points."""
    x, y, title = (
        spoken(text)
        for text in (axes.get_xlabel(), axes.get_ylabel(), axes.get_title())
    )
    names = listed(
        label
        for label in axes.get_legend_handles_labels()[1]
        if not label.startswith("_")
    )
    what = listed([title, y])
    if not (what or x or names):
        return ""
    over = words(f" over {x}", f"，横轴：{x}") if x else ""
    curves_told = words(f"; shown: {names}", f"；图中有：{names}") if names else ""
    return words("A plot: ", "曲线图：") + what + over + curves_told + words(".", "。")


def listed(texts: Iterable[str]) -> str:
    """Different texts in one line, without the empty ones."""
    different = list(dict.fromkeys(filter(None, map(spoken, texts))))
    return words(", ", "、").join(different)


def spoken(text: str) -> str:
    """A label without TeX's dollar signs and commands: letters that can be read aloud."""
    text = re.sub(r"\\([a-zA-Z]+)", lambda found: SIGNS.get(found[1], ""), text)
    text = re.sub(r"[${}]|\\[,;!]|\\.", "", text)
    return " ".join(text.split())


# --- Pictures -------------------------------------------------------------------------


def grid(
    images: Tensor | Sequence[Tensor],
    titles: Sequence[str] | None = None,
    columns: int = 8,
    row_titles: Sequence[str] | None = None,
    heading: str | None = None,
    scale: float = 1.0,
    alt: str = "",
) -> Figure:
    """Pictures in rows, nearest neighbour, so that every pixel is seen: a picture never
    gets fewer pixels of the figure than it has itself.

    images: (N, 3, H, W) or (N, 1, H, W) in [-1, 1], or uint8; or a list of N such
    pictures, sizes may differ. titles: N, above the pictures. columns: pictures a row.
    row_titles: one for each row, at its left. scale: 1 fits 8 columns into the width of
    the text; a picture with more pixels than such a panel gets a larger one. alt: what
    there is to be seen.
    """
    pictures = list(images)
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    room = WIDTH - (0.9 if row_titles else 0)  # inches for the pictures
    panel = min(room / max(columns, 4.5), 1.7) * scale
    wide = max(picture.shape[-1] for picture in pictures)  # in pixels
    # wider, as the page has room
    panel = max(panel, min(wide / DPI + MARGIN, room / columns))
    texts = [wrapped(text, round(panel * 14)) for text in titles or ()]
    lines = [
        max((t.count("\n") + 1 for t in texts[row * columns :][:columns]), default=0)
        for row in range(rows)
    ]
    height = rows * (panel + 0.04) + 0.155 * sum(lines) + (0.3 if heading else 0)
    drawn, panels = figure(
        rows,
        columns,
        panel * columns + (0.9 if row_titles else 0),
        height,
        squeeze=False,
    )
    drawn.set_layout_engine(
        "constrained", w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02
    )
    assert isinstance(drawn, BookFigure)
    drawn.alt, drawn.dots = alt, max(DPI, math.ceil(wide / (panel - MARGIN)))
    for place, axes in enumerate(panels.ravel()):
        blank(axes)
        if place < len(pictures):
            axes.imshow(pixels(pictures[place]), interpolation="nearest")
        if place < len(texts):
            axes.set_title(texts[place], fontsize=8, pad=2.5)
    for axes, text in zip(panels[:, 0], row_titles or (), strict=False):
        axes.set_ylabel(
            wrapped(text, 14),
            fontsize=8.5,
            rotation=0,
            ha="right",
            va="center",
            labelpad=6,
        )
    if heading:
        drawn.suptitle(heading, fontsize=10.5)
    return drawn


def blank(axes: Axes) -> None:
    """No ticks, no frame, no lines: a place for a picture (its label stays, unlike with
    axis("off")).
    """
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def pixels(picture: Tensor) -> np.ndarray:
    """One picture, (3, H, W) or (1, H, W) in [-1, 1] or uint8, as matplotlib and Pillow
    want it: uint8 (H, W, 3).
    """
    if picture.dtype != torch.uint8:
        picture = (
            ((picture.detach().float().clamp(-1, 1) + 1) * 127.5)
            .round()
            .to(torch.uint8)
        )
    if picture.ndim == 2:
        picture = picture.unsqueeze(0)  # (H, W) -> (1, H, W)
    return (
        picture.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    )  # (1 or 3, H, W) -> (H, W, 3)


def wrapped(text: str, width: int) -> str:
    """Breaks a line after about `width` columns; a Chinese character takes two, and may
    stand at any line's end.
    """
    if not any(unicodedata.east_asian_width(char) in "WF" for char in text):
        return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))
    lines, used = [""], 0
    for char in text:
        columns = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if char == "\n" or (used + columns > width and char not in "，。：；！？”）"):
            lines, used = [*lines, ""], 0
        if char != "\n":
            lines[-1] += char
            used += columns
    return "\n".join(lines)


# --- Curves ---------------------------------------------------------------------------


def curves(
    lines: Mapping[str, Any],
    x: Any = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    log: bool = False,
    smooth: int = 1,
    axes: Axes | None = None,
    alt: str = "",
) -> Figure:
    """One line for each name in `lines` (name -> numbers), with a legend.

    x: what they are drawn over, 0, 1, 2, ... by default. log: a logarithmic y axis.
    smooth: each point is the mean of this many neighbours. axes: draws there and not
    into a new figure. alt: what there is to be seen, for a new figure.
    """
    if axes is None:
        _, axes = figure(alt=alt)
    for name, numbers in lines.items():
        y = moving_mean(as_array(numbers), smooth)
        axes.plot(
            np.arange(len(y)) if x is None else as_array(x)[: len(y)], y, label=name
        )
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if log:
        axes.set_yscale("log")
    if any(lines):
        axes.legend()
    drawn = axes.get_figure()
    assert isinstance(drawn, Figure)
    return drawn


def as_array(numbers: Any) -> np.ndarray:
    """Numbers of any kind (a tensor on any device, a list) as a NumPy array."""
    return (
        numbers.detach().cpu().numpy()
        if isinstance(numbers, Tensor)
        else np.asarray(numbers)
    )


def moving_mean(numbers: np.ndarray, width: int) -> np.ndarray:
    """The mean of each `width` neighbours: N numbers become N - width + 1; fewer than
    `width` stay as they are.
    """
    if width <= 1 or len(numbers) < width:
        return numbers
    return np.convolve(numbers, np.ones(width) / width, mode="valid")
