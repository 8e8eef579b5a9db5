"""Which way to inpaint leaves the smaller seam?

The idea: paint the same holes three ways and measure how much neighbouring pixels
differ, across the hole's edge and inside what was painted
(`text2image.inpainting.seam`).

    replaced           the known pixels are put in place at each step, and nothing makes the two
                       parts agree
    replaced, again    the same, going back up and down a few times: RePaint (2201.09865)
    fine-tuned         networks that were taught to look at the known pixels: GLIDE (2112.10741),
                       section 3

Asked twice. First with the picture's own caption: then the prior's embedding knows what
is around the hole, and every way can hit it. Then with *another* picture's: paint a
rocket into the cat. That is what one inpaints for, and there embedding and surroundings
disagree.

Two numbers, since one would mislead: the ratio of edge to inside falls when the edge
gets milder, and just as well when the fill gets rougher. Each is compared with the real
picture at the same place:

    edge      100 ln(difference across the edge, painted / real)      0: as steep as in the picture
    inside    100 ln(difference inside the hole, painted / real)      0: as rough as the picture

so N stands for a factor e^(N/100). The mean of logarithms is taken, since a factor of 2
is as far from 1 as one of 1/2. Holes differ more than ways do, so the last row compares
ways hole by hole.

Chapter 17 uses this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dalle2_edu.data.domains import DOMAINS
from dalle2_edu.drawing.grids import labelled_grid
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import intervals
from dalle2_edu.evaluation.exams import make_exam
from dalle2_edu.evaluation.intervals import Measure
from dalle2_edu.evaluation.tables import table
from dalle2_edu.text2image.inpainting import GREY_LEVEL, seam
from dalle2_edu.unclip.inpainting import inpaint
from dalle2_edu.unclip.pipeline import UnCLIP

REPLACED = "replaced"
TAUGHT = "fine-tuned"
REAL = "real pictures"
WAYS: dict[str, dict[str, Any]] = {
    REPLACED: {"method": "replace", "resamples": 1},  # straight down, once
    "replaced, again": {"method": "replace"},
    TAUGHT: {"method": "finetuned"},
}
LESS = f"{TAUGHT}, less {REPLACED}"
TITLE = "the seam: 100 x ln(painted / real), 0 is as in the real picture"
EDGE = "edge"
INSIDE = "inside"
CAPTIONS = {  # by how many places the captions are moved on
    "its own caption": 0,
    "another's caption": 1,
}
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
    """The real pictures, and those painted in each way that the pipeline has: (N, 3, S,
    S) each, on the CPU.

    images (N, 3, S, S) of the pipeline's size; masks, bool (N, 1, S, S), True where to
    paint; N prompts. settings are those of `unclip.inpainting.inpaint`. Raises
    Dalle2EduError unless there are N of each, two or more.
    """
    if not len(images) == len(masks) == len(prompts) >= 2:
        raise Dalle2EduError(
            f"{len(images)} pictures, {len(masks)} masks, {len(prompts)} prompts: not two or"
            " more each."
        )
    painted = {REAL: images}
    for name, way in WAYS.items():
        if way["method"] == "finetuned" and unclip.inpaint_decoder is None:
            continue
        rows = tqdm(
            zip(images, masks[:, 0], prompts, strict=True),
            desc=name,
            total=len(images),
            unit="picture",
        )
        drawn = []
        for i, (image, mask, prompt) in enumerate(rows):
            # the same seed in every way: what differs is how the hole is filled
            picture = inpaint(
                unclip,
                image,
                mask,
                prompt,
                seed=seed + i,
                progress=False,
                **{**settings, **way},
            )
            drawn.append(picture)
        painted[name] = torch.cat(drawn).cpu()  # (N, 3, S, S)
    return painted


def compare_seams(
    painted: Mapping[str, Tensor], masks: Tensor
) -> dict[str, dict[str, Measure]]:
    """For each way the two numbers of the module's docstring, with their intervals, and
    the difference hole by hole: {way: {"edge": Measure, "inside": Measure}}.

    painted as `paint_holes` gives it. Raises Dalle2EduError if a hole has no edge or no
    inside.
    """
    logs = {name: log_seams(images, masks) for name, images in painted.items()}
    found: dict[str, dict[str, Tensor]] = {}
    for way in logs:
        if way != REAL:
            found[way] = _less(logs[way], logs[REAL])  # ln(painted / real)
    if TAUGHT in found:
        found[LESS] = _less(found[TAUGHT], found[REPLACED])  # paired, hole by hole
    return {
        way: {name: intervals.mean(100 * values) for name, values in numbers.items()}
        for way, numbers in found.items()
    }


def _less(logs: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both numbers of one way minus those of another, (N,) each."""
    return {name: logs[name] - others[name] for name in (EDGE, INSIDE)}


def log_seams(images: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """The logarithms of the differences across the edge and inside, (N,) each.

    A difference below one step of a byte counts as one step: a flat hole has no
    logarithm.
    """
    measured = seam(images, masks)  # (N,) each
    logs = {EDGE: measured.across, INSIDE: measured.inside}
    for values in logs.values():
        # nan: nothing was measured
        if not bool(values.isfinite().all()):
            raise Dalle2EduError(
                "A hole has no edge, or no two neighbouring pixels inside: there is no seam to"
                " measure."
            )
    return {name: values.clamp(min=GREY_LEVEL).log() for name, values in logs.items()}


def squares(n: int, side: int, generator: torch.Generator) -> Tensor:
    """n square holes, 7/16 of the side wide, an eighth or more away from the border:
    bool (n, 1, side, side).
    """
    width = side * 7 // 16
    least = side // 8  # from the border
    holes = torch.zeros(n, 1, side, side, dtype=torch.bool)
    most = side - least - width
    for hole in holes:
        corner = torch.randint(least, most + 1, (2,), generator=generator)
        top, left = corner.tolist()
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
    """Paint n pictures' holes in each way, with their own captions and with others';
    return a `tables.table`.

    n is even, half of the captions are Chinese; out is the picture grid's PNG; unclip
    replaces the zoo's; settings are those of `unclip.inpainting.inpaint`. Raises
    Dalle2EduError for an unknown domain and n below 2 or odd.
    """
    if domain not in DOMAINS:
        raise Dalle2EduError(
            f"Unknown domain {domain!r}; choose one of: {', '.join(DOMAINS)}."
        )
    if n < 2 or n % 2:
        raise Dalle2EduError(
            f"n is the number of pictures, even and at least 2, not {n}."
        )
    unclip = unclip or UnCLIP.from_zoo(domain, device)
    exam = make_exam(domain, n, seed)
    masks = squares(n, unclip.image_size, torch.Generator().manual_seed(seed))
    settings = {"decoder_steps": STEPS, **settings}  # 25 steps, unless asked otherwise

    found = {}
    # the first row: what is to be painted
    shown = {"the hole": torch.where(masks, 0.0, exam.twins)}
    for column, moved in CAPTIONS.items():
        # 1: the next picture's caption
        prompts = [exam.prompts[(i + moved) % n] for i in range(n)]
        painted = paint_holes(unclip, exam.twins, masks, prompts, seed, **settings)
        found[column] = compare_seams(painted, masks)
        for name, images in painted.items():
            if name != REAL:
                shown[f"{name}, {column}"] = images
    if out is not None:
        write_grid(exam.prompts, shown, out)
    return seam_table(found)


def seam_table(
    found: Mapping[str, Mapping[str, Mapping[str, Measure]]],
) -> dict[str, Any]:
    """Caption -> way -> number -> measure as a table: a row for each way, two columns a
    caption.
    """
    columns = [f"{number}, {caption}" for caption in found for number in (EDGE, INSIDE)]
    ways = next(iter(found.values()))  # the same ways for every caption
    rows = {}
    for way in ways:
        rows[way] = [
            of_way[way][number]
            for of_way in found.values()
            for number in (EDGE, INSIDE)
        ]
    return table(TITLE, columns, rows)


def write_grid(prompts: Sequence[str], shown: Mapping[str, Tensor], out: Path) -> None:
    """Write the picture grid: a row for each way, a column for some neighbours in the
    middle.

    Neighbours, so that another picture's caption stands over the next column.
    """
    n = len(prompts)
    # from the middle: English captions end there and Chinese ones begin
    first = max(0, n // 2 - SHOWN // 2)
    places = list(range(first, min(n, first + SHOWN)))
    rows = {name: images[places] for name, images in shown.items()}
    labelled_grid([prompts[place] for place in places], rows, out)
