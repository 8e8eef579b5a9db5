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
    EDGE,
    INSIDE,
    LESS,
    compare_seams,
    contest,
    log_seams,
    paint_holes,
    squares,
)
from dalle2_edu.text2image.inpainting import GREY_LEVEL

FEW = {"prior_steps": 2, "decoder_steps": 7, "resamples": 2}


def halves(n: int) -> torch.Tensor:
    """Masks whose right half is painted."""
    masks = torch.zeros(n, 1, 8, 8, dtype=torch.bool)
    masks[..., 4:] = True
    return masks


def test_a_seam_by_hand() -> None:
    # from left to right by 2/7 a pixel
    ramp = torch.linspace(-1, 1, 8).expand(2, 3, 8, 8)
    found = log_seams(ramp, halves(2))
    assert found[EDGE].exp().tolist() == pytest.approx([2 / 7] * 2)
    # Inside, half of the neighbours stand one above the other, where the ramp is flat.
    assert found[INSIDE].exp().tolist() == pytest.approx([2 / 7 * 24 / 52] * 2)
    # Two flat halves: the inside has no difference, and counts as one step of a byte.
    flat = torch.where(halves(2), 0.5, -0.5).expand(2, 3, 8, 8)
    found = log_seams(flat, halves(2))
    assert found[EDGE].exp().tolist() == pytest.approx([1.0] * 2)
    assert found[INSIDE].exp().tolist() == pytest.approx([GREY_LEVEL] * 2)


def test_ways_are_compared_hole_by_hole_and_with_the_real_picture() -> None:
    inside = torch.linspace(0, 0.3, 4).expand(3, 3, 8, 4)

    def with_edges(*edges: float, roughness: float = 1.0) -> torch.Tensor:
        known = torch.tensor(edges)[:, None, None, None].expand(3, 3, 8, 4)
        return torch.cat([known, inside * roughness], dim=3)

    painted = {
        "real pictures": with_edges(-0.1, -0.1, -0.1),
        "replaced": with_edges(-0.2, -0.4, -0.8),
        "fine-tuned": with_edges(-0.1, -0.2, -0.4, roughness=2),
    }
    found = compare_seams(painted, halves(3))
    assert found["replaced"][EDGE].value == pytest.approx(100 * math.log(4), abs=1e-2)
    assert found["replaced"][INSIDE].value == pytest.approx(0, abs=1e-3)
    # Each edge is half as steep, the fill twice as rough: the holes differ, the ways
    # always alike.
    less = found[LESS]
    assert less[EDGE].value == pytest.approx(100 * math.log(0.5), abs=1e-2)
    assert less[INSIDE].value == pytest.approx(100 * math.log(2), abs=1e-2)
    width = found["replaced"][EDGE].high - found["replaced"][EDGE].low
    assert less[EDGE].high - less[EDGE].low < 1e-2 < width


def test_every_way_that_the_pipeline_has_is_measured() -> None:
    unclip = tiny_models.pipeline()
    unclip.upsamplers = []
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    masks = squares(2, 32, torch.Generator().manual_seed(0))
    words = ["a cat", "火箭"]
    painted = paint_holes(unclip, images, masks, words, **FEW)
    assert set(painted) == {"real pictures", "replaced", "replaced, again"}
    unclip.inpaint_decoder = tiny_models.inpaint_decoder()
    found = compare_seams(paint_holes(unclip, images, masks, words, **FEW), masks)
    # Three ways and a difference, two numbers each, all of them different.
    assert (
        len({measure.value for way in found.values() for measure in way.values()}) == 8
    )
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
    unclip.inpaint_decoder = tiny_models.inpaint_decoder()
    unclip.inpaint_upsamplers = tiny_models.inpaint_upsamplers()
    found = contest(
        "shapes", 4, out=tmp_path / "seams.png", unclip=unclip, upsampler_steps=1, **FEW
    )
    assert found["columns"] == [
        "edge, its own caption",
        "inside, its own caption",
        "edge, another's caption",
        "inside, another's caption",
    ]
    assert list(found["rows"]) == ["replaced", "replaced, again", "fine-tuned", LESS]
    taught = found["rows"]["fine-tuned"]
    assert taught[0] != taught[2]  # the same pictures, other captions
    assert Image.open(tmp_path / "seams.png").size[1] > 600
    for arguments, said in ((("cats", 4), "shapes, emoji"), (("shapes", 3), "even")):
        with pytest.raises(Dalle2EduError, match=said):
            contest(*arguments, unclip=unclip)
