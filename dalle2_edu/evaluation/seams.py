"""Which way to inpaint leaves the smaller seam?

The idea: paint the same holes three ways and measure how much neighbouring pixels differ across
the hole's edge, against inside what was painted (`text2image.inpainting.seam`): 1 means that
the edge looks like any other place.

    replaced           the known pixels are put in place at each step, and nobody makes the two agree
    replaced, again    the same, going back up and down a few times: RePaint (2201.09865)
    fine-tuned         networks that were taught to look at the known pixels: GLIDE (2112.10741), section 3

Asked twice. First with the picture's own caption: then the prior's embedding knows what is
around the hole, and every way can hit it. Then with *another* picture's: paint a rocket into
the cat. That is what one inpaints for, and there embedding and surroundings pull in two
directions.

The mean of the logarithms is compared, since a ratio of 2 is as far from 1 as one of 1/2: N
stands for an edge e^(N/100) times as steep as the inside. Holes differ more than ways do, so
the last row compares ways hole by hole. The real picture's own number stands beside them: an
edge that runs along an outline of the picture is steep by right. Mind that a rougher inside
lowers the ratio as well as a milder edge does: look at the grid, too.

Chapter 17 uses this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dalle2_edu.drawing.grids import labelled_grid
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import intervals
from dalle2_edu.evaluation.intervals import Measure
from dalle2_edu.evaluation.report import DOMAINS, table
from dalle2_edu.evaluation.trial import emoji_exam, shapes_exam
from dalle2_edu.text2image.inpainting import seam
from dalle2_edu.unclip.pipeline import UnCLIP

REPLACED, TAUGHT, REAL = "replaced", "fine-tuned", "real pictures"
WAYS: dict[str, dict[str, Any]] = {
    REPLACED: {"how": "replace", "resamples": 1},
    "replaced, again": {"how": "replace"},
    TAUGHT: {"how": "finetuned"},
}
LESS = f"{TAUGHT}, less {REPLACED}"
TITLE = "the seam: 100 x ln(across the edge / inside), 0 is none"
CAPTIONS = {
    "its own caption": 0,
    "another's caption": 1,
}  # by how many places the captions are moved on
STEPS = 25  # of the decoder
SHOWN = 6  # columns of the picture grid


def paint_holes(
    unclip: UnCLIP,
    images: Tensor,
    masks: Tensor,
    prompts: Sequence[str],
    seed: int = 0,
    **settings: Any,
) -> dict[str, Tensor]:
    """The real pictures, and those painted in each way that the pipeline has: (N, 3, S, S)
    each, on the CPU.

    images (N, 3, S, S) of the pipeline's size; masks, bool (N, 1, S, S), True where to paint; N
    prompts. settings are those of `UnCLIP.inpaint`. Raises Dalle2EduError unless there are N of
    each, two or more."""
    if not len(images) == len(masks) == len(prompts) >= 2:
        raise Dalle2EduError(
            f"{len(images)} pictures, {len(masks)} masks, {len(prompts)} prompts: not two or"
            " more each."
        )
    painted = {REAL: images}
    for name, way in WAYS.items():
        if way["how"] == "replace" or unclip.inpaint_decoder is not None:
            rows = tqdm(
                zip(images, masks[:, 0], prompts, strict=True),
                desc=name,
                total=len(images),
                unit="picture",
            )
            drawn = [
                unclip.inpaint(
                    image, mask, prompt, seed=seed + i, progress=False, **{**settings, **way}
                )
                for i, (image, mask, prompt) in enumerate(rows)
            ]
            painted[name] = torch.cat(drawn).cpu()
    return painted


def compare_seams(painted: Mapping[str, Tensor], masks: Tensor) -> dict[str, Measure]:
    """The mean of 100 x the log of the seam's ratio in each way, with its interval; and the
    difference hole by hole.

    painted as `paint_holes` gives it. Raises Dalle2EduError if a hole has no edge or no inside.
    """
    logs = {name: log_ratios(each, masks) for name, each in painted.items()}
    if TAUGHT in logs:
        logs[LESS] = logs[TAUGHT] - logs[REPLACED]
    return {name: intervals.mean(100 * each) for name, each in logs.items()}


def log_ratios(images: Tensor, masks: Tensor) -> Tensor:
    """The log of the seam's ratio of each painted picture, (N,)."""
    ratio = seam(images, masks).ratio
    if not bool(ratio.isfinite().all()):
        raise Dalle2EduError(
            "A hole has no edge, or no two neighbouring pixels inside: there is no seam to"
            " measure."
        )
    return ratio.clamp(min=1e-3).log()


def squares(n: int, side: int, generator: torch.Generator) -> Tensor:
    """n square holes, 7/16 of the side wide, an eighth or more away from the border: bool (n,
    1, side, side).
    """
    width, least = side * 7 // 16, side // 8
    holes = torch.zeros(n, 1, side, side, dtype=torch.bool)
    for hole in holes:
        top, left = torch.randint(
            least, side - least - width + 1, (2,), generator=generator
        ).tolist()
        hole[:, top : top + width, left : left + width] = True
    return holes


def contest(
    domain: str,
    n: int = 24,
    seed: int = 0,
    out: Path | None = None,
    device: str = "cpu",
    unclip: UnCLIP | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Paint n pictures' holes in each way, with their own captions and with others', and return
    the table, as `table`.

    n is even, half of the captions are Chinese; out is the picture grid's PNG; unclip replaces
    the zoo's; settings are those of `UnCLIP.inpaint`. Raises Dalle2EduError for an unknown
    domain and n below 2 or odd."""
    if domain not in DOMAINS:
        raise Dalle2EduError(f"Unknown domain {domain!r}; choose one of: {', '.join(DOMAINS)}.")
    if n < 2 or n % 2:
        raise Dalle2EduError(f"n is the number of pictures, even and at least 2, not {n}.")
    unclip = unclip or UnCLIP.from_zoo(domain, device)
    exam = (shapes_exam if domain == "shapes" else emoji_exam)(n, seed)
    masks = squares(n, unclip.image_size, torch.Generator().manual_seed(seed))
    images, found, shown = exam.twins, {}, {}
    shown["the hole"] = torch.where(masks, 0.0, images)
    for column, moved in CAPTIONS.items():
        prompts = [exam.prompts[(i + moved) % n] for i in range(n)]
        painted = paint_holes(
            unclip, images, masks, prompts, seed, **{"decoder_steps": STEPS, **settings}
        )
        found[column] = compare_seams(painted, masks)
        shown |= {f"{name}, {column}": each for name, each in painted.items() if name != REAL}
    if out is not None:
        first = max(
            0, n // 2 - SHOWN // 2
        )  # neighbours, so that another's caption stands over the next column
        places = list(range(first, min(n, first + SHOWN)))
        labelled_grid(
            [exam.prompts[i] for i in places],
            {name: each[places] for name, each in shown.items()},
            out,
        )
    ways = next(iter(found.values()))
    return table(
        TITLE, list(found), {way: [each[way] for each in found.values()] for way in ways}
    )
