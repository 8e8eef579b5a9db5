"""Pictures and masks that somebody brings along: files of any size and mode -> square tensors.

What is asked for is square. Of an oblong picture the middle is kept, with a warning where that
is less than half. Transparent places become white. A mask is True (in a file: white) where
something new is to be painted; a picture that brings its own is transparent there.

Chapter 19 uses this file.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dalle2_edu.data.pictures import to_square
from dalle2_edu.errors import Dalle2EduError

Picture = (
    Tensor | Image.Image | str | Path
)  # a tensor (3, H, W) or (B, 3, H, W): float in [-1, 1], or uint8


def open_picture(path: str | Path) -> Image.Image:
    """The picture in a file, turned the way its camera was held; raises Dalle2EduError where
    there is none.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise Dalle2EduError(
            f"There is no picture {path}; give the path of a PNG, JPEG or WebP file."
        ) from None
    except UnidentifiedImageError:
        raise Dalle2EduError(
            f"{path} is not a picture that can be read: give a PNG, JPEG or WebP file."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise Dalle2EduError(f"The picture {path} can't be read: {reason}.") from None


def as_pictures(image: Picture, side: int) -> Tensor:
    """Any picture, or a batch as a tensor, as the network's (B, 3, side, side) in [-1, 1].

    Raises Dalle2EduError for what is no picture: a missing file, no pixels, another number of
    channels, numbers outside [-1, 1]."""
    if isinstance(image, Tensor):
        images = _checked_tensor(image)
        warn_of_cut(images.shape[-1], images.shape[-2])
        return resize(_middle(images), side)
    opened = image if isinstance(image, Image.Image) else open_picture(image)
    if 0 in opened.size:
        raise Dalle2EduError(
            f"The picture is {opened.width} x {opened.height}: it has no pixels."
        )
    warn_of_cut(opened.width, opened.height)
    return to_square(opened, side)[None].float() / 127.5 - 1


def one_picture(image: Picture, side: int) -> Tensor:
    """As `as_pictures`, (1, 3, side, side); raises Dalle2EduError for a batch of several."""
    images = as_pictures(image, side)
    if len(images) != 1:
        raise Dalle2EduError(f"Give one picture at a time, not {len(images)}.")
    return images


def _checked_tensor(image: Tensor) -> Tensor:
    """(3, H, W) or (B, 3, H, W), uint8 or float in [-1, 1] => (B, 3, H, W) float."""
    images = image[None] if image.dim() == 3 else image
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise Dalle2EduError(
            "A picture is a tensor (3, H, W), a batch (B, 3, H, W); this is"
            f" {tuple(image.shape)}."
        )
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    if not bool((images.abs() <= 1 + 1e-4).all()):  # false for nan as well
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
    top, left = (height - short) // 2, (width - short) // 2
    return images[..., top : top + short, left : left + short]


def resize(images: Tensor, side: int) -> Tensor:
    """Square pictures (B, 3, S, S) at another side. A whole factor down is the box average that
    the decoder and the upsamplers were trained with; the same side leaves every number as it
    is.
    """
    own = images.shape[-1]
    if own % side == 0:
        return images if own == side else F.avg_pool2d(images, own // side)
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)


# --- masks ------------------------------------------------------------------------------------


def as_mask(mask: Picture, side: int) -> Tensor:
    """A mask as bool (1, 1, side, side), True where to paint anew.

    mask: True or above 1/2 (in a file: the lighter half) is to be painted; a tensor is (H, W),
    (1, H, W) or (1, 1, H, W). A pixel of the result is True if any of those that it stands for
    is: better a little more is painted than an edge of what was to go stays. Raises
    Dalle2EduError for another shape or a mask with nothing to paint."""
    wanted = _mask_tensor(mask)
    result = cover(_middle(wanted), side)
    if not bool(result.any()):
        raise Dalle2EduError(
            "The mask is black everywhere: there is nothing to paint; make white what should"
            " change."
        )
    return result


def cover(mask: Tensor, side: int) -> Tensor:
    """A square mask at another side: True where it touches any True pixel. bool (B, 1, S, S) =>
    (B, 1, side, side).
    """
    own = mask.shape[-1]
    if own >= side:
        return F.adaptive_max_pool2d(mask.float(), side) > 0
    return F.interpolate(mask.float(), (side, side), mode="nearest") > 0


def _mask_tensor(mask: Picture) -> Tensor:
    """Any mask => bool (1, 1, H, W)."""
    if not isinstance(mask, Tensor):
        grey = (mask if isinstance(mask, Image.Image) else open_picture(mask)).convert("L")
        mask = torch.from_numpy(np.array(grey)).float() / 255  # (H, W)
    shape = (1,) * (4 - mask.dim()) + tuple(mask.shape)
    if mask.dim() not in (2, 3, 4) or shape[:2] != (1, 1) or 0 in shape:
        raise Dalle2EduError(
            f"A mask is one tensor (H, W) of True and False; this is {tuple(mask.shape)}."
        )
    return mask.reshape(shape) > 0.5


def transparency_mask(image: Image.Image) -> Image.Image | None:
    """White where a picture is more than half transparent; None for one that has no
    transparency.
    """
    if not image.has_transparency_data:
        return None
    return ImageOps.invert(image.convert("RGBA").getchannel("A"))


def check_same_shape(picture: Sequence[int], mask: Sequence[int]) -> None:
    """Raise Dalle2EduError unless (width, height) of both have the same proportions; the size
    may differ.
    """
    (width, height), (mask_width, mask_height) = picture, mask
    if abs(width * mask_height - height * mask_width) > max(
        width, height, mask_width, mask_height
    ):
        raise Dalle2EduError(
            f"The mask is {mask_width} x {mask_height}, the picture {width} x {height}: they"
            " must have the same shape."
        )


def size_of(image: Picture) -> tuple[int, int]:
    """(width, height) of a picture or mask of any kind."""
    if isinstance(image, Tensor):
        return image.shape[-1], image.shape[-2]
    return (image if isinstance(image, Image.Image) else open_picture(image)).size
