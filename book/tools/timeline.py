"""Draw the timeline's figure, book/assets/timeline-en.svg and timeline-zh.svg:  python book/tools/timeline.py

Portrait and three lanes wide, so that it can be read on a phone. Every item has a row
of its own, in the order of the months; letters are drawn as outlines, so the figure
looks the same wherever it is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve

ASSETS = Path(__file__).parents[1] / "assets"
FONT = (
    Path(__file__).parents[2]
    / "dalle2_edu"
    / "data"
    / "fonts"
    / "NotoSansSC-subset.otf"
)

LANES = {
    "en": ("adversarial,\nautoencoding", "autoregressive", "diffusion"),
    "zh": ("对抗与自编码", "自回归", "扩散"),
}
COLOURS = (
    "#0072B2",
    "#B35900",
    "#007A5E",
)  # told apart by colour-blind readers, and in print by their lane


class Item(NamedTuple):
    """A paper or release: the month of it, its name, its lane, and the names of what it
    was built on.
    """

    month: str
    name: str
    lane: float
    built_on: tuple[str, ...] = ()


ITEMS = (
    Item("2013-12", "VAE", 0),
    Item("2014-06", "GAN", 0),
    Item("2015-03", "Sohl-Dickstein et al.", 2),
    Item("2017-11", "VQ-VAE", 0, ("VAE",)),
    Item("2019-06", "VQ-VAE-2", 0, ("VQ-VAE",)),
    Item("2020-06", "DDPM", 2, ("Sohl-Dickstein et al.",)),
    Item("2020-10", "DDIM", 2, ("DDPM",)),
    Item("2020-12", "VQGAN", 0, ("VQ-VAE", "GAN")),
    Item("2021-02", "DALL·E", 1, ("VQ-VAE",)),
    Item("2021-03", "CLIP", 1.5),
    Item("2021-05", "ADM", 2, ("DDPM",)),
    Item("2021-05", "CogView", 1, ("DALL·E",)),
    Item("2021-11", "NÜWA", 1, ("VQGAN",)),
    Item("2021-12", "GLIDE", 2, ("ADM",)),
    Item("2021-12", "Latent diffusion", 2, ("VQGAN", "ADM")),
    Item("2021-12", "ERNIE-ViLG", 1, ("DALL·E", "VQGAN")),
    Item("2022-04", "DALL·E 2", 2, ("GLIDE", "CLIP")),
    Item("2022-04", "CogView2", 1, ("CogView",)),
    Item("2022-05", "Imagen", 2, ("ADM",)),
    Item("2022-05", "CogVideo", 1, ("CogView2",)),
    Item("2022-08", "Stable Diffusion", 2, ("Latent diffusion", "CLIP")),
    Item("2023-10", "DALL·E 3", 2, ("Latent diffusion",)),
)


def font(size: float) -> FontProperties:
    """The package's font, which has Latin and Chinese."""
    return FontProperties(fname=str(FONT), size=size)


def draw(language: str) -> Path:
    """One language's figure; the path of the SVG."""
    figure = Figure(figsize=(6.4, 8.6), facecolor="white", layout="constrained")
    axes = figure.subplots()
    rows = {item.name: row for row, item in enumerate(ITEMS)}
    places = {item.name: item.lane for item in ITEMS}
    for item in ITEMS:
        for parent in item.built_on:
            connect(axes, (places[parent], rows[parent]), (item.lane, rows[item.name]))
    for item in ITEMS:
        mark(axes, item, rows[item.name])
    for lane, title in enumerate(LANES[language]):
        axes.text(
            lane,
            -1.4,
            title,
            ha="center",
            va="center",
            color=COLOURS[lane],
            fontproperties=font(12),
        )
    axes.set(xlim=(-0.95, 2.75), ylim=(len(ITEMS) - 0.3, -2.1))
    axes.axis("off")
    path = ASSETS / f"timeline-{language}.svg"
    figure.savefig(path, metadata={"Date": None})
    return path


def mark(axes: Axes, item: Item, row: int) -> None:
    """A dot, the name beside it, and the month at the left edge."""
    colour = "#555555" if item.lane == 1.5 else COLOURS[int(item.lane)]
    bold = item.name == "DALL·E 2"
    axes.plot(item.lane, row, "o", color=colour, markersize=11 if bold else 7, zorder=3)
    under = {
        "facecolor": "white",
        "edgecolor": "none",
        "pad": 1,
    }  # lines pass beneath the letters
    size = 14 if bold else 11
    axes.text(
        item.lane + 0.09,
        row,
        item.name,
        va="center",
        fontproperties=font(size),
        zorder=4,
        bbox=under,
    )
    axes.text(
        -0.9, row, item.month, va="center", color="#666666", fontproperties=font(9.5)
    )
    axes.axhline(row, color="#eeeeee", linewidth=0.8, zorder=0)


def connect(axes: Axes, start: tuple[float, int], end: tuple[float, int]) -> None:
    """A thin curve from what came first to what was built on it."""
    (x0, y0), (x1, y1) = start, end
    # Within a lane the curve bows to the left, away from the names at the right of the
    # dots.
    bow = -0.16 if x0 == x1 else 0.0
    curve = Curve(
        [(x0, y0), (x0 + bow, (y0 + y1) / 2), (x1 + bow, (y0 + y1) / 2), (x1, y1)],
        [1, 4, 4, 4],
    )
    axes.add_patch(
        PathPatch(curve, facecolor="none", edgecolor="#aaaaaa", linewidth=1.2, zorder=1)
    )


if __name__ == "__main__":
    mpl.rcParams["svg.hashsalt"] = "timeline"  # the same file every time
    for each in LANES:
        print(draw(each).relative_to(ASSETS.parents[1]))
