"""A contact sheet: one prompt on its way through all stages, on one picture.

Chapter 01 shows it and `dalle2-edu draw` writes it beside the picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dalle2_edu.drawing.grids import font, save_figure, to_pil, wrapped
from dalle2_edu.unclip.pipeline import Stages


def contact_sheet(stages: Stages, path: Path) -> Path:
    """Write a PNG with a row for each prompt: prompt, tokens, prior, and every picture
    from small to large.
    """
    rows, columns = len(stages.prompts), 3 + len(stages.pictures)
    figure = Figure(figsize=(2.1 * columns, 2.45 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    for i, row in enumerate(panels):
        show_text(row[0], "prompt", wrapped(stages.prompts[i], 18), 11)
        show_text(row[1], "tokens", wrapped(" · ".join(stages.pieces[i]), 20), 9)
        show_prior(row[2], stages, i)
        stage_names = ["decoder"] + ["upsampler"] * (len(stages.pictures) - 1)
        for panel, name, picture in zip(
            row[3:], stage_names, stages.pictures, strict=True
        ):
            show_picture(
                panel, picture[i], f"{name} {picture.shape[-1]}×{picture.shape[-1]}"
            )
    save_figure(figure, path, dpi=110)
    return path


def show_text(panel: Axes, title: str, text: str, size: float) -> None:
    """A panel with words in it."""
    panel.set_title(title, fontproperties=font(10))
    panel.axis("off")
    words = panel.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        fontproperties=font(size),
        transform=panel.transAxes,
    )
    words.set_parse_math(False)  # "$5 or $6" is no formula


def show_prior(panel: Axes, stages: Stages, i: int) -> None:
    """The drawn image embedding as a small map of its numbers, and how near both
    candidates lie to the text.
    """
    z = stages.image_emb[i].cpu().numpy()
    side = int(np.ceil(np.sqrt(len(z) / 2)))  # half as high as wide
    cells = np.full(2 * side * side, np.nan)
    cells[: len(z)] = z
    limit = float(np.abs(z).max())
    panel.imshow(cells.reshape(side, 2 * side), cmap="PuOr", vmin=-limit, vmax=limit)
    near = stages.candidates[i] @ stages.text_emb[i]  # (candidates,)
    panel.set_title(f"prior: {len(z)} numbers", fontproperties=font(10))
    panel.set_xlabel(
        "z·text  " + "  ".join(f"{value:.2f}" for value in near.tolist()),
        fontproperties=font(9),
    )
    panel.set_xticks([])
    panel.set_yticks([])


def show_picture(panel: Axes, image: Tensor, title: str) -> None:
    """A picture with its pixels left as they are."""
    panel.set_title(title, fontproperties=font(10))
    panel.imshow(to_pil(image), interpolation="nearest")
    panel.axis("off")
