"""Pictures and masks that somebody brings: every kind is read, or refused in one
line.
"""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dalle2_edu.drawing.pictures import (
    as_mask,
    as_pictures,
    black_and_white,
    cover,
    one_picture,
    open_picture,
    save_png,
    size_of,
    transparency_mask,
)
from dalle2_edu.errors import Dalle2EduError


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (128, 128), (31, 47), (300, 200)])
def test_any_picture_becomes_a_square_one(mode: str, size: tuple[int, int]) -> None:
    made = as_pictures(Image.new(mode, size), 128)
    assert made.shape == (1, 3, 128, 128)
    assert made.abs().max() <= 1


def test_a_very_wide_picture_warns_of_what_is_left_out() -> None:
    wide = Image.new("RGB", (10_000, 20), "red")
    wide.paste("blue", (4990, 0, 5010, 20))
    with pytest.warns(UserWarning, match="10000 x 20.*20 x 20"):
        made = as_pictures(wide, 128)
    # away from the edge, where Pillow's filter looks beyond the cut
    middle = made[..., 32:96]
    assert (middle[:, 2] == 1).all() and (middle[:, 0] == -1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_pictures(Image.new("RGB", (200, 100)), 128)


def test_files_and_tensors_of_the_right_size_keep_their_numbers(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    exact = pixels.float()[None] / 127.5 - 1
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    for same in (pixels, exact, exact[0], tmp_path / "a.png", str(tmp_path / "a.png")):
        assert torch.equal(as_pictures(same, 128), exact)
    torch.testing.assert_close(
        as_pictures(exact, 32), torch.nn.functional.avg_pool2d(exact, 4)
    )


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    for name in ("missing.png", "text.png", "cut.png", ""):
        with pytest.raises(Dalle2EduError, match=name or "read") as caught:
            open_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(Dalle2EduError, match="no pixels"):
        as_pictures(Image.new("RGB", (0, 5)), 128)


def test_a_small_pixel_is_painted_if_any_of_its_large_ones_is() -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 3, 5] = True
    assert cover(mask, 4).nonzero().tolist() == [[0, 0, 1, 2]]
    assert cover(cover(mask, 4), 8).nonzero()[:, 2:].tolist() == [
        [2, 4],
        [2, 5],
        [3, 4],
        [3, 5],
    ]


def rgba(colour: str, hole: tuple[int, int, int, int] = (2, 1, 4, 3)) -> Image.Image:
    """A picture of 8 x 8 pixels with a transparent hole."""
    picture = Image.new("RGBA", (8, 8), colour)
    picture.paste((255, 255, 255, 0), hole)
    return picture


HOLE = [[0, 0, y, x] for y in (1, 2) for x in (2, 3)]


def test_a_picture_with_a_transparent_part_is_its_own_mask() -> None:
    assert transparency_mask(Image.new("RGB", (8, 8))) is None
    assert transparency_mask(Image.new("RGBA", (8, 8), "teal")) is None
    assert as_mask(transparency_mask(rgba("teal")), 8).nonzero().tolist() == HOLE
    assert black_and_white(rgba("teal")).getbbox() == (2, 1, 4, 3)


@pytest.mark.parametrize("colour", ["teal", "black", "#888888"])
def test_a_mask_with_a_transparent_part_is_read_by_it(
    colour: str, tmp_path: Path
) -> None:
    assert as_mask(rgba(colour), 8).nonzero().tolist() == HOLE
    rgba(colour).save(tmp_path / "mask.webp", lossless=True)
    assert as_mask(tmp_path / "mask.webp", 8).nonzero().tolist() == HOLE


def test_a_mask_that_can_be_read_in_two_ways_is_refused() -> None:
    strokes = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    strokes.paste("white", (1, 1, 3, 3))  # white strokes on a layer of their own
    both = rgba("black")
    both.paste("white", (5, 5, 8, 8))
    for ambiguous in (strokes, both, Image.new("RGBA", (8, 8), (0, 0, 0, 0))):
        with pytest.raises(Dalle2EduError, match="transparent part and a white one"):
            as_mask(ambiguous, 8)


def test_a_mask_without_transparency_is_painted_where_it_is_white() -> None:
    mask = Image.new("RGBA", (8, 8), "black")
    mask.paste("white", (2, 1, 4, 3))
    for same in (
        mask,
        mask.convert("RGB"),
        mask.convert("1"),
        np.array(mask.convert("L")),
    ):
        assert as_mask(same, 8).nonzero().tolist() == HOLE
    with pytest.raises(Dalle2EduError, match="black everywhere"):
        as_mask(Image.new("RGBA", (8, 8), "black"), 8)


def test_a_white_part_outside_of_the_middle_square_is_named_as_such() -> None:
    mask = torch.zeros(8, 24, dtype=torch.bool)
    mask[:, :4] = True
    with pytest.raises(Dalle2EduError, match="outside of the 8 x 8 in the middle"):
        as_mask(mask, 8)


@pytest.mark.parametrize(
    "mask",
    [torch.ones(3, 8, 8), torch.ones(2, 1, 8, 8), torch.ones(8), torch.ones(0, 0)],
)
def test_what_is_no_mask_is_refused(mask: Tensor) -> None:
    with pytest.raises(Dalle2EduError, match="A mask is one tensor"):
        as_mask(mask, 8)


# --- arrays, and what is none of them -------------------------------------------------


def test_an_array_is_read_as_it_is_shown() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    exact = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    for same in (
        pixels,
        pixels.astype(np.int64),
        pixels / 255,
        exact.numpy(),
        exact[0].numpy(),
    ):
        torch.testing.assert_close(as_pictures(same, 16), exact, rtol=0, atol=1e-5)
    assert torch.equal(
        as_pictures(pixels[:, :, :1], 16), as_pictures(pixels[:, :, 0], 16)
    )
    assert size_of(pixels[:8]) == (16, 8)
    clear = np.concatenate([pixels, np.zeros_like(pixels[:, :, :1])], axis=2)
    assert (as_pictures(clear, 16) == 1).all()  # transparent: white


@pytest.mark.parametrize(
    "image",
    [
        None,
        7,
        b"bytes",
        ["a.png"],
        np.array(["a"]),
        np.array(3.0),
        np.full((8, 8, 3), np.nan),
        np.full((8, 8, 3), -1.0),
        np.full((8, 8, 3), 300),
        np.zeros((8, 8, 2)),
        np.zeros((0, 8, 3)),
        torch.zeros(3, 8, 8, dtype=torch.complex64),
        torch.zeros(8, 8),
        Image.new("F", (8, 8)),
    ],
)
def test_what_is_no_picture_is_refused(image: Any) -> None:
    with pytest.raises(Dalle2EduError) as caught:
        one_picture(image, 8)
    assert "\n" not in str(caught.value)


def test_rare_modes_are_read_or_refused_by_the_files_name(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "white").convert("LAB").save(tmp_path / "lab.tif")
    assert as_mask(tmp_path / "lab.tif", 8).all()
    Image.new("F", (8, 8)).save(tmp_path / "float.tif")
    for read in (as_pictures, as_mask):
        with pytest.raises(Dalle2EduError, match="float.tif.*8 bits"):
            read(tmp_path / "float.tif", 8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_reason_to_refuse_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(
        tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\xff"
    )
    assert as_pictures(tmp_path / "a.jpg", 8)[0, 0].min() > 0.9


def test_a_png_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (8, 8), "red"), tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").size == (8, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(Dalle2EduError, match="is a folder"):
        save_png(Image.new("RGB", (8, 8)), tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_damaged_pictures_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    draw = random.Random(kind)
    file = io.BytesIO()
    picture = Image.effect_noise((24, 20), 60)
    picture.convert("RGB").save(
        file, kind, **({"exif": Image.Exif()} if kind != "GIF" else {})
    )
    for _ in range(60):
        data = bytearray(file.getvalue())
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        del data[draw.randrange(len(data)) + 1 :: draw.choice((1, len(data)))]
        (tmp_path / "a").write_bytes(data)
        for read in (as_pictures, as_mask):
            with contextlib.suppress(Dalle2EduError):
                read(tmp_path / "a", 8)
