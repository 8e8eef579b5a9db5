"""Grids of pictures as PNG files: each picture under its words, in Latin or Chinese
letters.

`dalle2-edu` writes them (`draw`, `vary`, `trial`, `seams`), and the contact sheet is
made of the same parts. Chapters 01 and 18 show such sheets.
"""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image
from torch import Tensor

from dalle2_edu.files import atomic_write

FONT = Path(__file__).parents[1] / "data" / "fonts" / "NotoSansSC-subset.otf"


@lru_cache
def font(size: float) -> FontProperties:
    """The package's own font, which has Latin and Chinese, at a size in points."""
    return FontProperties(fname=str(FONT), size=size)


def to_pil(image: Tensor) -> Image.Image:
    """A picture (3, H, W) in [-1, 1] as an 8-bit RGB image."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())  # (H, W, 3)


def picture_grid(
    prompts: Sequence[str], images: Tensor, path: Path, columns: int = 6
) -> Path:
    """Write a PNG with the pictures (N, 3, S, S) in rows, each under its prompt."""
    rows = -(-len(prompts) // columns)  # rounded up
    figure = Figure(figsize=(1.9 * columns, 2.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # no window
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    # not strict: the last row may be short
    for panel, prompt, image in zip(panels, prompts, images, strict=False):
        panel.imshow(to_pil(image), interpolation="nearest")
        panel.set_title(wrapped(prompt, 24), fontproperties=font(8))
        panel.axis("on")
        panel.set(xticks=[], yticks=[])
        # a thin frame: a white picture, a mask for instance, must show where it ends
        panel.spines[:].set(color="0.8", linewidth=0.6)
    save_figure(figure, path, dpi=110)
    return path


def labelled_grid(
    titles: Sequence[str], rows: Mapping[str, Tensor], path: Path
) -> Path:
    """Write a PNG with a row of pictures (columns, 3, S, S) for each name, the names to
    the left, the titles above.
    """
    size = (2.4 + 1.5 * len(titles), 0.9 + 1.5 * len(rows))  # inches
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for panel, (name, images) in zip(panels, rows.items(), strict=True):
        strip = torch.cat(list(images), dim=2)  # (3, S, columns * S)
        panel.imshow(to_pil(strip), interpolation="nearest")
        panel.set_ylabel(
            wrapped(name, 20),
            rotation=0,
            ha="right",
            va="center",
            fontproperties=font(10),
        )
        panel.set(xticks=[], yticks=[], frame_on=False)
    side = next(iter(rows.values())).shape[-1]  # S
    for i, title in enumerate(titles):
        words = panels[0].text(
            (i + 0.5) * side,
            -0.05 * side,
            wrapped(title, 22),
            ha="center",
            fontproperties=font(7),
        )
        words.set_parse_math(False)  # "$" in a prompt is a dollar
    # inches: margins stay as wide, however many rows
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=1.9 / width, right=0.99, bottom=0.01, top=1 - 0.8 / height, hspace=0.04
    )
    save_figure(figure, path, dpi=90)
    return path


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as a PNG file that appears whole or not at all."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    atomic_write(path, data.getvalue())


def wrapped(text: str, width: int) -> str:
    """Break a line after about `width` columns; a Chinese character takes two, and may
    stand at any line's end.
    """
    if not any(unicodedata.east_asian_width(char) in "WF" for char in text):
        return textwrap.fill(text, width)
    lines = [""]
    used = 0  # columns of the last line
    for char in text:
        columns = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used + columns > width:
            lines.append("")
            used = 0
        lines[-1] += char
        used += columns
    return "\n".join(lines)
