"""The contact sheet: a row for each prompt, whatever the prompt is made of."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from dalle2_edu.drawing.grids import to_pil, wrapped
from dalle2_edu.unclip.pipeline import Stages
from dalle2_edu.unclip.sheet import contact_sheet


def stages(*prompts: str) -> Stages:
    n = len(prompts)
    pictures = [torch.rand(n, 3, side, side) * 2 - 1 for side in (32, 64, 128)]
    embeddings = torch.randn(n, 2, 16)
    return Stages(
        [*prompts],
        [prompt.split() for prompt in prompts],
        torch.randn(n, 16),
        embeddings,
        embeddings[:, 0],
        pictures,
    )


def test_pixels_are_rounded_and_bounded() -> None:
    row = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).expand(3, 1, 6)
    assert [to_pil(row).getpixel((x, 0))[0] for x in range(6)] == [
        0,
        0,
        128,
        255,
        255,
        255,
    ]


def test_a_row_for_each_prompt(tmp_path: Path) -> None:
    one = Image.open(contact_sheet(stages("rocket"), tmp_path / "one.png"))
    two = Image.open(contact_sheet(stages("rocket", "火箭"), tmp_path / "two.png"))
    assert one.width == two.width
    assert two.height == pytest.approx(2 * one.height, abs=2)


@pytest.mark.parametrize(
    "prompt", ["红色的圆形在蓝色的五角星上面" * 3, r"$\frac{1}$ costs $5", "word" * 40]
)
def test_any_prompt_can_be_shown(prompt: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks warns
        contact_sheet(stages(prompt), tmp_path / "sheet.png")


def test_chinese_is_wrapped_by_its_width() -> None:
    assert wrapped("红色的圆形", 6) == "红色的\n圆形"
    assert wrapped("a red circle", 6) == "a red\ncircle"
