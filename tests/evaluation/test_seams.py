"""Seams of inpainted pictures, compared."""

from __future__ import annotations

import math

import pytest
import tiny_models
import torch

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation.seams import compare_seams, log_seam
from dalle2_edu.text2image.inpainting import GREY_LEVEL

FEW = {"prior_steps": 2, "decoder_steps": 3, "jump": 1, "resamples": 2}


def test_a_seam_by_hand() -> None:
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    masks[..., 4:] = True
    ramp = torch.linspace(-1, 1, 8).expand(2, 3, 8, 8)  # the edge differs as much as the inside: down it is flat
    flat = ramp.roll(4, dims=3)
    assert log_seam(torch.where(masks, 0.5, -0.5).expand(2, 3, 8, 8), masks).value == pytest.approx(
        math.log(1 / GREY_LEVEL), abs=1e-4
    )
    assert log_seam(flat, masks).value > log_seam(ramp, masks).value  # now it jumps from the ramp's end to its start


def test_every_way_that_the_pipeline_has_is_measured() -> None:
    unclip = tiny_models.pipeline()
    unclip.upsamplers = []
    images, masks = torch.rand(2, 3, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    masks[:, :, 8:20, 10:24] = True
    words = ["a cat", "火箭"]
    assert set(compare_seams(unclip, images, masks, words, **FEW)) == {"real pictures", "replaced", "replaced, again"}
    unclip.inpaint_decoder = tiny_models.inpaint_decoder()
    found = compare_seams(unclip, images, masks, words, **FEW)
    assert len({each.value for each in found.values()}) == 4  # four ways, four numbers
    with pytest.raises(Dalle2EduError, match="2 masks"):
        compare_seams(unclip, images[:1], masks, words)
    with pytest.raises(Dalle2EduError, match="no edge"):
        compare_seams(unclip, images, torch.ones_like(masks), words, **FEW)
