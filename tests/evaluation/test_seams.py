"""Seams of inpainted pictures, compared."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny_models
import torch
from PIL import Image

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation.seams import (
    CAPTIONS,
    LESS,
    compare_seams,
    contest,
    log_ratios,
    paint_holes,
    squares,
)
from dalle2_edu.text2image.inpainting import GREY_LEVEL

FEW = {"prior_steps": 2, "decoder_steps": 3, "jump": 1, "resamples": 2}


def test_a_seam_by_hand() -> None:
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    masks[..., 4:] = True
    ramp = torch.linspace(-1, 1, 8).expand(
        2, 3, 8, 8
    )  # the edge differs as much as the inside: down it is flat
    flat = ramp.roll(4, dims=3)
    found = log_ratios(torch.where(masks, 0.5, -0.5).expand(2, 3, 8, 8), masks)
    assert found.tolist() == pytest.approx([math.log(1 / GREY_LEVEL)] * 2, abs=1e-4)
    # in `flat` it jumps from the ramp's end to its start
    assert (log_ratios(flat, masks) > log_ratios(ramp, masks)).all()


def test_ways_are_compared_hole_by_hole() -> None:
    masks = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    masks[..., 4:] = True
    inside = torch.linspace(0, 0.3, 4).expand(3, 3, 8, 4)
    one, other = (
        torch.cat([torch.tensor(edges)[:, None, None, None].expand(3, 3, 8, 4), inside], dim=3)
        for edges in ([-0.2, -0.4, -0.8], [-0.1, -0.2, -0.4])
    )
    found = compare_seams({"replaced": one, "fine-tuned": other}, masks)
    difference = found[
        LESS
    ]  # each edge is half as steep: the holes differ, the ways do so always alike
    assert difference.value == pytest.approx(100 * math.log(0.5), abs=1e-3)
    assert (
        difference.high - difference.low < 1e-3 < found["replaced"].high - found["replaced"].low
    )


def test_every_way_that_the_pipeline_has_is_measured() -> None:
    unclip = tiny_models.pipeline()
    unclip.upsamplers = []
    images, masks = (
        torch.rand(2, 3, 32, 32) * 2 - 1,
        squares(2, 32, torch.Generator().manual_seed(0)),
    )
    words = ["a cat", "火箭"]
    assert set(paint_holes(unclip, images, masks, words, **FEW)) == {
        "real pictures",
        "replaced",
        "replaced, again",
    }
    unclip.inpaint_decoder = tiny_models.inpaint_decoder()
    found = compare_seams(paint_holes(unclip, images, masks, words, **FEW), masks)
    assert (
        len({each.value for each in found.values()}) == 5
    )  # four ways and a difference, five numbers
    with pytest.raises(Dalle2EduError, match="2 masks"):
        paint_holes(unclip, images[:1], masks, words)
    with pytest.raises(Dalle2EduError, match="no edge"):
        compare_seams({"real pictures": images}, torch.ones_like(masks))


def test_squares_lie_inside() -> None:
    holes = squares(50, 128, torch.Generator().manual_seed(0))
    assert (holes.sum(dim=(1, 2, 3)) == 56**2).all()
    assert not holes[..., :16, :].any() and not holes[..., -16:].any()


def test_the_contest_has_a_table_and_a_grid(tmp_path: Path) -> None:
    unclip = tiny_models.pipeline()
    unclip.inpaint_decoder, unclip.inpaint_upsamplers = (
        tiny_models.inpaint_decoder(),
        tiny_models.inpaint_upsamplers(),
    )
    found = contest(
        "shapes", 4, out=tmp_path / "seams.png", unclip=unclip, upsampler_steps=1, **FEW
    )
    assert found["columns"] == list(CAPTIONS)
    assert list(found["rows"]) == [
        "real pictures",
        "replaced",
        "replaced, again",
        "fine-tuned",
        LESS,
    ]
    real, own = found["rows"]["real pictures"], found["rows"]["fine-tuned"]
    assert real[0] == real[1] and own[0] != own[1]  # the same pictures, other captions
    assert Image.open(tmp_path / "seams.png").size[1] > 600
    for arguments, said in ((("cats", 4), "shapes, emoji"), (("shapes", 3), "even")):
        with pytest.raises(Dalle2EduError, match=said):
            contest(*arguments, unclip=unclip)
