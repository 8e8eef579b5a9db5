"""Picture files: bytes of any format and mode become square tensors.

Everything that brings a picture comes through here: shards, folders, the command line
and notebooks. `open_image` reads it, `to_rgb` turns it upright and makes it RGB,
`to_square` cuts the middle square out and resizes it.

Chapter 02 uses this file.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor


def open_image(source: bytes | Path) -> Image.Image:
    """A picture, read to its last byte and turned the way its camera was held.

    Raises ValueError, with the reason, for what is no picture; FileNotFoundError for a
    file that is not there.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file) as image:
            image.load()  # Pillow reads the pixels late; errors should come here
            return upright(image)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError:  # its own message names an object in memory
        raise ValueError(
            "it is of no known format; PNG, JPEG and WebP are read"
        ) from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    # Pillow's readers raise many kinds for files that are damaged
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data say; as it is where they can't be read."""
    try:
        return ImageOps.exif_transpose(image)
    # broken EXIF raises whatever its bytes lead to; the pixels are fine
    except Exception:
        return image.copy()


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture, upright, as RGB; whatever was transparent becomes white.

    Raises ValueError for a mode that can't be shown, such as floating point numbers.
    """
    image = upright(image)
    if image.mode == "F":  # nobody knows whether its white is 1 or 255
        raise ValueError(
            "it holds floating point numbers; save it with 8 bits a channel"
        )
    if image.mode.startswith("I"):
        # 16 bits of grey; Pillow's own conversion would cut them off at 255.
        grey = np.asarray(image).astype(np.float64) / 257  # 65535 / 257 = 255
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def to_square(image: Image.Image, size: int) -> Tensor:
    """The middle square of a picture, resized.

    Lanczos looks at every source pixel under the wider filter, so nothing aliases;
    "bilinear, no antialiasing" would drop three pixels of four between 128 and 32, and
    thin lines with them.

    image: any size and mode. size: S in pixels. Returns uint8 (3, S, S).
    """
    rgb = to_rgb(image)
    square = ImageOps.fit(
        rgb, (size, size), Image.Resampling.LANCZOS, centering=(0.5, 0.5)
    )
    pixels = torch.from_numpy(np.array(square))  # (S, S, 3)
    return pixels.permute(2, 0, 1).contiguous()  # (3, S, S)


def decode(data: bytes, size: int) -> Tensor:
    """The bytes of a picture file as uint8 (3, size, size); raises ValueError where
    they can't be read.
    """
    try:
        return to_square(open_image(data), size)
    except (ValueError, OSError) as error:
        raise ValueError(f"not a picture that can be read: {error}") from error


def webp(image: Tensor, quality: int) -> bytes:
    """A picture, uint8 (3, S, S), as the bytes of a WebP file."""
    file = io.BytesIO()
    pixels = image.permute(1, 2, 0).numpy()  # (3, S, S) => (S, S, 3)
    Image.fromarray(pixels).save(file, "WEBP", quality=quality, method=6)
    return file.getvalue()
