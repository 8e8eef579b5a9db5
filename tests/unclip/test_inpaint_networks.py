"""The networks that were taught to inpaint: where they start, what they see, and how
unCLIP uses them.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.inpainting import seam
from dalle2_edu.unclip.decoder import Decoder
from dalle2_edu.unclip.inpaint_networks import InpaintDecoder, InpaintUpsampler
from dalle2_edu.unclip.inpainting import inpaint
from dalle2_edu.unclip.pipeline import UnCLIP
from dalle2_edu.unclip.upsampler import Upsampler

FEW: dict[str, Any] = {
    "prior_steps": 2,
    "decoder_steps": 3,
    "upsampler_steps": 2,
    "progress": False,
}


def inputs(n: int = 2) -> dict[str, Tensor]:
    hole = torch.zeros(n, 1, 32, 32, dtype=torch.bool)
    hole[..., 8:20, 10:30] = True
    known, image_emb = torch.rand(n, 3, 32, 32) * 2 - 1, torch.randn(n, tiny_models.DIM)
    return {
        "known": known,
        "hole": hole,
        "image_emb": image_emb,
        **tiny_models.conditioning(n),
    }


@torch.no_grad()
def test_it_starts_as_the_decoder_that_it_was_made_of() -> None:
    decoder = tiny_models.awake(Decoder(tiny_models.DECODER))
    twin, given = InpaintDecoder.from_decoder(decoder).eval(), inputs()
    x_t, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 900])
    plain = {
        name: each for name, each in given.items() if name not in ("known", "hole")
    }
    # With zero weights the new channels add zeros: the same numbers, up to the order in
    # which a sum is taken.
    torch.testing.assert_close(
        twin(x_t, t, **given), decoder(x_t, t, **plain), rtol=0, atol=1e-6
    )
    assert twin.config.unet.in_channels == 7 and decoder.config.unet.in_channels == 3
    assert not twin.decoder.unet.stem.weight[
        :, 12:
    ].any()  # four new channels, each folded into four


@torch.no_grad()
def test_it_sees_the_known_part_and_nothing_under_the_hole() -> None:
    model, given, x_t, t = (
        tiny_models.inpaint_decoder(),
        inputs(),
        torch.randn(2, 3, 32, 32),
        torch.tensor([3, 900]),
    )
    answer = model(x_t, t, **given)
    under = {
        **given,
        "known": torch.where(given["hole"], torch.full_like(x_t, 9.0), given["known"]),
    }
    around = {**given, "known": given["known"] + 0.1}
    assert torch.equal(model(x_t, t, **under), answer)
    assert not torch.equal(model(x_t, t, **around), answer)
    assert not torch.equal(model(x_t, t, **{**given, "hole": ~given["hole"]}), answer)


@torch.no_grad()
def test_an_upsampler_starts_as_the_one_that_it_was_made_of() -> None:
    upsampler = tiny_models.awake(Upsampler(tiny_models.upsampler_config(64)))
    twin, low_res = (
        InpaintUpsampler.from_upsampler(upsampler).eval(),
        torch.rand(2, 3, 32, 32) * 2 - 1,
    )
    x_t, t, known = (
        torch.randn(2, 3, 64, 64),
        torch.tensor([3, 900]),
        torch.rand(2, 3, 64, 64),
    )
    hole = torch.rand(2, 1, 64, 64) < 0.5
    torch.testing.assert_close(
        twin(x_t, t, low_res, known, hole),
        upsampler(x_t, t, low_res),
        rtol=0,
        atol=1e-6,
    )
    assert twin.config.unet.in_channels == 10 and upsampler.config.unet.in_channels == 6


@torch.no_grad()
def test_an_upsampler_sees_the_known_detail_and_nothing_under_the_hole() -> None:
    model, low_res = (
        tiny_models.inpaint_upsamplers()[0],
        torch.rand(2, 3, 32, 32) * 2 - 1,
    )
    x_t, t, known = (
        torch.randn(2, 3, 64, 64),
        torch.tensor([3, 900]),
        torch.rand(2, 3, 64, 64),
    )
    hole = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    hole[..., 8:20, 10:30] = True
    answer = model(x_t, t, low_res, known, hole)
    assert torch.equal(
        model(x_t, t, low_res, torch.where(hole, 9.0, known), hole), answer
    )
    assert not torch.equal(model(x_t, t, low_res, known + 0.1, hole), answer)
    assert not torch.equal(model(x_t, t, low_res, known, ~hole), answer)


@pytest.fixture(scope="module")
def unclip() -> UnCLIP:
    torch.manual_seed(0)
    pipeline = tiny_models.pipeline()
    pipeline.inpaint_decoder = tiny_models.inpaint_decoder()
    pipeline.inpaint_upsamplers = tiny_models.inpaint_upsamplers()
    return pipeline


def test_upsamplers_that_were_taught_are_used_where_there_are_some(
    unclip: UnCLIP,
) -> None:
    picture, mask = (
        torch.rand(1, 3, 128, 128) * 2 - 1,
        torch.zeros(128, 128, dtype=torch.bool),
    )
    mask[30:77, 41:90] = True
    all_taught, replaced = (
        inpaint(unclip, picture, mask, "a cat", method=method, **FEW)
        for method in ("finetuned", "replace")
    )
    plain = copy(unclip)
    plain.inpaint_upsamplers = unclip.inpaint_upsamplers[
        1:
    ]  # the first size is drawn by the plain one
    fewer = inpaint(plain, picture, mask, "a cat", **FEW)
    assert not torch.equal(fewer, all_taught)
    assert torch.equal(fewer[..., ~mask], picture[..., ~mask])
    again = inpaint(plain, picture, mask, "a cat", method="replace", **FEW)
    assert torch.equal(again, replaced)


def test_unclip_inpaints_with_it_where_there_is_one(unclip: UnCLIP) -> None:
    picture, mask = (
        torch.rand(1, 3, 128, 128) * 2 - 1,
        torch.zeros(128, 128, dtype=torch.bool),
    )
    mask[30:77, 41:90] = True
    painted, taught, replaced = (
        inpaint(unclip, picture, mask, "a cat", n=2, method=method, **FEW)
        for method in (None, "finetuned", "replace")
    )
    assert torch.equal(painted, taught) and not torch.equal(painted, replaced)
    assert torch.equal(painted[:, :, ~mask], picture.expand(2, -1, -1, -1)[:, :, ~mask])
    assert not torch.equal(painted[0], painted[1])
    assert seam(painted, mask).ratio.isfinite().all()
    erased = torch.where(mask, torch.zeros_like(picture), picture)
    assert torch.equal(inpaint(unclip, erased, mask, "a cat", n=2, **FEW), painted)


def test_what_is_not_there_is_said_in_one_line() -> None:
    pipeline, white = tiny_models.pipeline(), torch.ones(128, 128)
    for method, said in (
        ("finetuned", "emoji-inpaint"),
        ("guessed", "replace or finetuned"),
    ):
        with pytest.raises(Dalle2EduError, match=said) as caught:
            inpaint(
                pipeline, torch.zeros(3, 128, 128), white, "a cat", method=method, **FEW
            )
        assert "\n" not in str(caught.value)
