"""Pictures and masks that somebody brings along: of any kind, size and mode -> square
tensors.

    a path             of a PNG, JPEG or WebP file
    a Pillow image     of any mode
    a NumPy array      (H, W, 3) as Matplotlib shows them, bytes or floats in [0, 1]; also grey
                       (H, W), and (H, W, 4) with transparency
    a tensor           (3, H, W) or a batch (B, 3, H, W): bytes, or floats in [-1, 1]; an array of
                       such a shape is read in the same way

What is asked for is square. Of an oblong picture the middle is kept, with a warning
where that is less than half. Transparent places become white.

A mask says where something new is to be painted:

    a mask without transparency     where it is white (a tensor: True, or above 1/2)
    a picture with transparency     where it is transparent, as in DALL·E 2's own API
    black and white and clear       either could be meant: refused

Chapter 19 uses this file.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dalle2_edu.data.pictures import open_image, to_rgb, to_square
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import atomic_write, one_line

Picture = Tensor | np.ndarray | Image.Image | str | Path
KINDS = "give a path, a Pillow image, an array (H, W, 3) or a tensor (3, H, W)"
PURE = 8  # of 255: how far from black or white a pixel of a drawn mask may be


def open_picture(path: str | Path) -> Image.Image:
    """The picture in a file, turned the way its camera was held; raises Dalle2EduError
    where there is none.
    """
    try:
        return open_image(Path(path))
    except FileNotFoundError:
        raise Dalle2EduError(
            f"There is no picture {path}; give the path of a PNG, JPEG or WebP file."
        ) from None
    except ValueError as error:
        raise Dalle2EduError(
            f"The picture {path} can't be read: {one_line(error)}."
        ) from None


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG file that appears whole or not at all."""
    data = io.BytesIO()
    image.save(data, "PNG")
    atomic_write(path, data.getvalue())


def as_pictures(image: Picture, side: int) -> Tensor:
    """Any picture, or a batch as a tensor, as the network's (B, 3, side, side) in [-1,
    1].

    Raises Dalle2EduError for what is no picture: a missing file, no pixels, another
    number of channels, numbers outside of their range.
    """
    opened = opened_picture(image)
    if isinstance(opened, Tensor):
        images = _checked_tensor(opened)
        warn_of_cut(images.shape[-1], images.shape[-2])
        return resize(_middle(images), side)
    warn_of_cut(opened.width, opened.height)
    with naming(image):
        square = to_square(opened, side)  # uint8 (3, side, side)
    batch = square[None].float()  # (1, 3, side, side)
    return batch / 127.5 - 1  # 0 ... 255 => [-1, 1]


@contextmanager
def naming(image: Picture) -> Iterator[None]:
    """Turn a ValueError over a picture into one line that names its file."""
    try:
        yield
    except ValueError as error:
        name = f" {image}" if isinstance(image, str | Path) else ""
        raise Dalle2EduError(
            f"The picture{name} can't be read: {one_line(error)}."
        ) from None


def one_picture(image: Picture, side: int) -> Tensor:
    """As `as_pictures`, (1, 3, side, side); raises Dalle2EduError for a batch of
    several.
    """
    images = as_pictures(image, side)
    if len(images) != 1:
        raise Dalle2EduError(f"Give one picture at a time, not {len(images)}.")
    return images


def opened_picture(image: Picture) -> Image.Image | Tensor:
    """A picture of any kind as an image with pixels, or as the tensor that it is."""
    if isinstance(image, str | Path):
        # the path first: what it opens is looked at by the next lines
        image = open_picture(image)
    if isinstance(image, np.ndarray):
        image = of_array(image)
    if isinstance(image, Image.Image) and 0 in image.size:
        raise Dalle2EduError(
            f"The picture is {image.width} x {image.height}: it has no pixels."
        )
    if not isinstance(image, Image.Image | Tensor):
        raise Dalle2EduError(f"A {type(image).__name__} is no picture: {KINDS}.")
    return image


def of_array(array: np.ndarray) -> Image.Image | Tensor:
    """An array as Matplotlib shows it, (H, W, 3), as an image; of a tensor's shape as a
    tensor.
    """
    if array.dtype.kind not in "buif":
        raise Dalle2EduError(f"An array of {array.dtype} is no picture: {KINDS}.")
    shown = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not shown:
        return torch.from_numpy(np.ascontiguousarray(array))
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]  # (H, W, 1) => (H, W)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        if not ((array >= 0) & (array <= 1)).all():  # false for nan as well
            raise Dalle2EduError(
                "An array (H, W, 3) of floats holds numbers in [0, 1]; this one has others. For"
                " [-1, 1] give a tensor (3, H, W)."
            )
        array = (array * 255).round()  # as a file would hold it
    elif ((array < 0) | (array > 255)).any():
        raise Dalle2EduError(
            "An array of whole numbers holds bytes, 0 to 255; this has others."
        )
    return Image.fromarray(array.astype(np.uint8))


def _checked_tensor(image: Tensor) -> Tensor:
    """(3, H, W) or (B, 3, H, W), uint8 or float in [-1, 1] => (B, 3, H, W) float."""
    images = image[None] if image.dim() == 3 else image  # (B, 3, H, W)
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise Dalle2EduError(
            "A picture is a tensor (3, H, W), a batch (B, 3, H, W); this is"
            f" {tuple(image.shape)}."
        )
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    if images.is_complex():
        in_range = False
    else:
        in_range = bool((images.abs() <= 1 + 1e-4).all())  # false for nan as well
    if not in_range:
        raise Dalle2EduError(
            "A picture's numbers lie in [-1, 1], or are bytes (uint8); these do not."
        )
    return images.float()


def warn_of_cut(width: int, height: int) -> None:
    """Say so when the middle square is less than half of the picture."""
    short = min(width, height)
    if max(width, height) > 2 * short:
        message = (
            f"The picture is {width} x {height}; only the {short} x {short} in the middle are"
            " used."
        )
        warnings.warn(message, stacklevel=2)


def _middle(images: Tensor) -> Tensor:
    """The middle square: (B, C, H, W) => (B, C, S, S)."""
    height, width = images.shape[-2:]
    short = min(height, width)
    top = (height - short) // 2
    left = (width - short) // 2
    return images[..., top : top + short, left : left + short]


def resize(images: Tensor, side: int) -> Tensor:
    """Square pictures (B, 3, S, S) at another side. A whole factor down is the box
    average that the decoder and the upsamplers were trained with; the same side leaves
    every number as it is.
    """
    side_now = images.shape[-1]
    if side_now == side:
        return images
    if side_now % side == 0:
        return F.avg_pool2d(images, side_now // side)
    # bicubic overshoots at edges
    resized = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
    return resized.clamp(-1, 1)


# --- masks ----------------------------------------------------------------------------


def as_mask(mask: Picture, side: int) -> Tensor:
    """A mask as bool (1, 1, side, side), True where to paint anew.

    mask: as the top of this file says; a tensor is (H, W), (1, H, W) or (1, 1, H, W). A
    pixel of the result is True if any of those that it stands for is: better a little
    more is painted than an edge of what was to go stays. Raises Dalle2EduError for
    another shape, a mask with nothing to paint in the square that is used, and one that
    could be read in two ways.
    """
    wanted = _mask_tensor(mask)  # bool (1, 1, H, W)
    if not bool(wanted.any()):
        raise Dalle2EduError(
            "The mask is black everywhere: there is nothing to paint; make white what should"
            " change."
        )
    used = _middle(wanted)
    if not bool(used.any()):
        short = used.shape[-1]
        raise Dalle2EduError(
            f"The mask's white part lies outside of the {short} x {short} in the middle, which"
            " alone are used: cut picture and mask to a square around it."
        )
    return cover(used, side)


def cover(mask: Tensor, side: int) -> Tensor:
    """A square mask at another side: True where it touches any True pixel. bool (B, 1,
    S, S) => (B, 1, side, side).
    """
    if mask.shape[-1] >= side:
        return F.adaptive_max_pool2d(mask.float(), side) > 0  # one True is enough
    return F.interpolate(mask.float(), (side, side), mode="nearest") > 0


def _mask_tensor(mask: Picture) -> Tensor:
    """Any mask => bool (1, 1, H, W)."""
    opened = opened_picture(mask)
    if isinstance(opened, Image.Image):
        hole = transparency_mask(opened)
        if hole is not None:
            check_reading(opened)  # which of the two parts is meant?
        with naming(mask):
            grey = (hole or to_rgb(opened)).convert("L")
            pixels = np.array(grey)
        opened = torch.from_numpy(pixels).float() / 255  # (H, W)
    shape = (1,) * (4 - opened.dim()) + tuple(opened.shape)  # (1, 1, H, W)
    if opened.dim() not in (2, 3, 4) or shape[:2] != (1, 1) or 0 in shape:
        raise Dalle2EduError(
            f"A mask is one tensor (H, W) of True and False; this is {tuple(opened.shape)}."
        )
    return opened.reshape(shape) > 0.5  # white is True


def transparency_mask(image: Image.Image) -> Image.Image | None:
    """White where a picture is more than half transparent; None where no pixel is."""
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    hole = np.array(alpha) < 128  # (H, W)
    return Image.fromarray(hole.astype(np.uint8) * 255) if hole.any() else None


def check_reading(image: Image.Image) -> None:
    """Raise Dalle2EduError for a mask in which the transparent part or the white part
    could be meant: white strokes on nothing, or black, white and clear.
    """
    # int: bytes would wrap round
    pixels = np.array(image.convert("RGBA")).astype(int)  # (H, W, 4)
    opaque = pixels[pixels[..., 3] >= 128][:, :3]  # (N, 3)
    black = (opaque <= PURE).all(axis=1)
    white = (opaque >= 255 - PURE).all(axis=1)
    # a photograph with a hole has few pure pixels; a drawn mask has hardly any others
    pure = (black | white).mean() > 0.95 if len(opaque) else True
    if pure and (white.any() or not len(opaque)):
        raise Dalle2EduError(
            "The mask has a transparent part and a white one, and either could be meant: save it"
            " without transparency, white where to paint and black elsewhere."
        )


def black_and_white(mask: Picture) -> Image.Image:
    """A mask of any kind as an image that is white where to paint."""
    wanted = _mask_tensor(mask)[0, 0]  # bool (H, W)
    return Image.fromarray(wanted.to(torch.uint8).mul(255).cpu().numpy())


def check_same_shape(picture: Sequence[int], mask: Sequence[int]) -> None:
    """Raise Dalle2EduError unless (width, height) of both have the same proportions;
    the size may differ.
    """
    width, height = picture
    mask_width, mask_height = mask
    # w / h = w' / h', cross-multiplied: up to one pixel of rounding in a side
    difference = abs(width * mask_height - height * mask_width)
    if difference > max(width, height, mask_width, mask_height):
        raise Dalle2EduError(
            f"The mask is {mask_width} x {mask_height}, the picture {width} x {height}: they"
            " must have the same shape."
        )


def size_of(image: Picture) -> tuple[int, int]:
    """(width, height) of a picture or mask of any kind."""
    opened = opened_picture(image)
    if isinstance(opened, Image.Image):
        return opened.size
    if opened.dim() < 2:
        raise Dalle2EduError(
            f"A picture has a width and a height; this is {tuple(opened.shape)}."
        )
    return opened.shape[-1], opened.shape[-2]
