"""Which way to inpaint leaves the smaller seam?

The idea: paint the same holes three ways and measure how much neighbouring pixels differ across the hole's edge,
against inside what was painted (`text2image.inpainting.seam`): 1 means that the edge looks like any other place.

    replaced           the known pixels are put in place at each step, and nobody makes the two agree
    replaced, again    the same, going back up and down a few times: RePaint (2201.09865)
    fine-tuned         a decoder that was taught to look at the known pixels: GLIDE (2112.10741), section 3

The real picture's own number stands beside them: an edge that runs along an outline of the picture is steep by right.
The mean of the logarithms is compared, since a ratio of 2 is as far from 1 as one of 1/2.

Chapter 19 uses this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import intervals
from dalle2_edu.evaluation.intervals import Measure
from dalle2_edu.text2image.inpainting import seam
from dalle2_edu.unclip.pipeline import UnCLIP

WAYS: dict[str, dict[str, Any]] = {
    "replaced": {"how": "replace", "resamples": 1},
    "replaced, again": {"how": "replace"},
    "fine-tuned": {"how": "finetuned"},
}


def compare_seams(
    unclip: UnCLIP, images: Tensor, masks: Tensor, prompts: Sequence[str], seed: int = 0, **settings: Any
) -> dict[str, Measure]:
    """The mean log of the seam's ratio for each way and for the real pictures, with its interval; 0 is no seam.

    images (N, 3, S, S) of the pipeline's size; masks, bool (N, 1, S, S), True where to paint; N prompts. settings are
    those of `UnCLIP.inpaint`. A way that the pipeline lacks is left out. Raises Dalle2EduError unless there are N of
    each, two or more, and if a hole has no edge or no inside.
    """
    if not len(images) == len(masks) == len(prompts) >= 2:
        raise Dalle2EduError(
            f"{len(images)} pictures, {len(masks)} masks, {len(prompts)} prompts: not two or more each."
        )
    painted = {"real pictures": images}
    for name, way in WAYS.items():
        if way["how"] == "replace" or unclip.inpaint_decoder is not None:
            rows = zip(images, masks[:, 0], prompts, strict=True)
            drawn = [
                unclip.inpaint(image, mask, prompt, seed=seed + i, progress=False, **{**settings, **way})
                for i, (image, mask, prompt) in enumerate(rows)
            ]
            painted[name] = torch.cat(drawn).cpu()
    return {name: log_seam(each, masks) for name, each in painted.items()}


def log_seam(images: Tensor, masks: Tensor) -> Measure:
    """The mean log of the seam's ratio of painted pictures, as `intervals.mean` has it."""
    ratio = seam(images, masks).ratio
    if not bool(ratio.isfinite().all()):
        raise Dalle2EduError("A hole has no edge, or no two neighbouring pixels inside: there is no seam to measure.")
    return intervals.mean(ratio.clamp(min=1e-3).log())
