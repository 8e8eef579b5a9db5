"""Shards: pictures with captions from disk or from the web, in the format that large data sets
come in.

Read in chapters 02 (data and tokens) and 24 (to full size).

A *shard* is a plain tar file. Files that share a name and differ in the extension make one
*sample*:

    000017.webp   the picture
    000017.json   what is known about it, the captions among it

A tar file is read from front to back, so a billion pairs need no index, no random access and no
unpacking: many readers stream many shards, from a disk or through HTTP alike. That is the
WebDataset format; the LAION sets come in it, and so do the emoji of this package
(`dalle2_edu/data/emoji.tar`). The captions are found, in this order, in the JSON's `captions`
(a list) or `caption` (a string), or in a `.txt` beside the picture.

Not everything on the web is a picture that can be read. A bad one is named in a warning, left
out and counted; more than one in a hundred means that something is wrong with the set, and
reading ends with an error.

In reading order: a picture becomes a square tensor (`to_square`), shards and folders become
samples, samples become `Pairs`, and `write` makes a shard of pictures and captions."""

import csv
import glob
import io
import json
import os
import shutil
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import braceexpand
import numpy as np
import torch
import webdataset
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dalle2_edu.data.pairs import Pairs
from dalle2_edu.errors import Dalle2EduError

PICTURES = ("jpg", "jpeg", "png", "webp")
LIST_NAMES = ("captions.csv", "captions.tsv", "captions.jsonl")
FILE_FIELDS = (
    "file_name",
    "file",
    "filename",
    "image",
)  # how the column with the file's name may be called
CAPTION_FIELDS = ("captions", "caption", "text")
MOST_BAD = 0.01  # more than this share of unreadable pictures stops the reading


# --- A picture --------------------------------------------------------------------------------


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture, turned the way its camera was held, as RGB; whatever was transparent becomes
    white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(
        "I"
    ):  # 16 bits of grey; Pillow's own conversion would cut them off at 255
        image = Image.fromarray(
            (np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8)
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def to_square(image: Image.Image, size: int) -> Tensor:
    """The middle square of a picture, resized.

    Lanczos looks at every source pixel under the wider filter, so nothing aliases; "bilinear,
    no antialiasing" would drop three pixels of four between 128 and 32, and thin lines with
    them.

    image: any size and mode. size: S in pixels. Returns uint8 (3, S, S).
    """
    square = ImageOps.fit(
        to_rgb(image), (size, size), Image.Resampling.LANCZOS, centering=(0.5, 0.5)
    )
    return (
        torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()
    )  # (S, S, 3) -> (3, S, S)


def decode(data: bytes, size: int) -> Tensor:
    """The bytes of a picture file as uint8 (3, size, size); raises ValueError where they can't
    be read.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return to_square(image, size)
    except UnidentifiedImageError as error:  # its own message names an object in memory
        raise ValueError("not a picture that can be read: of no known format") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a picture that can be read: {error}") from error


# --- Samples ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One picture file as bytes, where it came from, and what is said about it (captions may be
    empty).
    """

    name: str
    data: bytes
    captions: list[str]


def clean(captions: Any) -> list[str]:
    """One caption, several or none, as a list of those that say something."""
    several = [captions] if isinstance(captions, str) else captions or []
    return [
        caption.strip() for caption in several if isinstance(caption, str) and caption.strip()
    ]


def captions_in(fields: dict[str, Any]) -> list[str]:
    """The captions of one record, under whichever of the usual names they stand; [] where there
    are none.
    """
    return next((found for field in CAPTION_FIELDS if (found := clean(fields.get(field)))), [])


def sample_from_parts(parts: dict[str, Any]) -> Sample | None:
    """The sample that one group of a shard's files makes; None where no picture is among them.

    parts: what WebDataset gives: {"__key__": name, "__url__": shard, "webp": bytes, "json":
    bytes, ...}."""
    files = {key: value for key, value in parts.items() if not key.startswith("__")}
    by_kind = {key.rsplit(".", 1)[-1].lower(): data for key, data in files.items()}
    kind = next((kind for kind in PICTURES if kind in by_kind), None)
    if kind is None:
        return None
    name = f"{parts['__key__']}.{kind} in {parts['__url__']}"
    try:
        fields = json.loads(by_kind.get("json", b"{}"))
    except ValueError:
        fields = {}
    captions = captions_in(fields) if isinstance(fields, dict) else []
    return Sample(
        name,
        by_kind[kind],
        captions or clean(by_kind.get("txt", b"").decode("utf-8", "replace")),
    )


def samples_in_shards(urls: Sequence[str]) -> Iterator[Sample]:
    """The samples of tar files, one shard after the other, in the order in which they lie
    there.
    """
    # nodesplitter=None: every process of a training reads the same pairs; its loop deals them
    # out.
    dataset = webdataset.WebDataset(
        list(urls), shardshuffle=False, nodesplitter=None, empty_check=False
    )
    try:
        for parts in dataset:
            sample = sample_from_parts(parts)
            if sample is not None:
                yield sample
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        where = urls[0] if len(urls) == 1 else f"one of {urls[0]} ... {urls[-1]}"
        raise Dalle2EduError(
            f"can't read {where} as a tar shard ({one_line(error)}): is the address right and"
            " the file whole?"
        ) from error


def one_line(error: Exception) -> str:
    """An error's message on one line, cut where it gets long."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The lines of a captions file as (file name, captions).

    .csv and .tsv: the name, then one or more captions; a first line of column names is passed
    over. .jsonl: one {"file_name": ..., "caption": ...} a line."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        if path.suffix == ".jsonl":
            for number, line in enumerate(filter(str.strip, lines), start=1):
                yield row_from_json(line, f"{path}, line {number}")
        else:
            for row in csv.reader(lines, delimiter="\t" if path.suffix == ".tsv" else ","):
                if row and row[0].strip().lower() not in FILE_FIELDS:
                    yield row[0].strip(), clean(row[1:])


def row_from_json(line: str, where: str) -> tuple[str, list[str]]:
    """One line of a .jsonl captions file as (file name, captions)."""
    try:
        fields = json.loads(line)
        return next(fields[field] for field in FILE_FIELDS if field in fields), captions_in(
            fields
        )
    except (ValueError, TypeError, StopIteration) as error:
        raise Dalle2EduError(
            f'{where}: expected {{"file_name": ..., "caption": ...}}, found'
            f" {line.strip()[:60]!r}"
        ) from error


def captions_by_file(folder: Path) -> dict[str, list[str]]:
    """Which file of a folder has which captions: by its captions file, or else by a .txt beside
    each.
    """
    listed = next((folder / name for name in LIST_NAMES if (folder / name).is_file()), None)
    found: dict[str, list[str]] = {}
    if listed is not None:
        for name, captions in rows(listed):  # a picture may stand on several lines
            found.setdefault(name, []).extend(captions)
        return found
    for path in sorted(folder.iterdir()):
        if path.suffix[1:].lower() in PICTURES:
            text = path.with_suffix(".txt")
            found[path.name] = (
                clean(text.read_text("utf-8", "replace")) if text.is_file() else []
            )
    return found


def samples_in_folder(folder: Path) -> Iterator[Sample]:
    """The pictures of a folder with their captions; a picture that is listed but isn't there
    has no bytes.
    """
    for name, captions in captions_by_file(folder).items():
        path = folder / name
        yield Sample(str(path), path.read_bytes() if path.is_file() else b"", captions)


# --- Where they come from ---------------------------------------------------------------------


def expand(source: str) -> list[str]:
    """The shards that a path, a glob ("train/*.tar"), a brace range ("{000..009}.tar") or a URL
    names.

    Raises Dalle2EduError for a part of it that names nothing.
    """
    try:
        parts = list(braceexpand.braceexpand(source))
    except ValueError as error:
        raise Dalle2EduError(f"a brace is open or closed too often in {source}") from error
    urls: list[str] = []
    for part in parts:
        elsewhere = "://" in part or part.startswith("pipe:")
        found = (
            [part]
            if elsewhere or (part and Path(part).exists())
            else sorted(glob.glob(part, recursive=True))
        )
        if not found:
            raise Dalle2EduError(
                f"there is no data at '{part}': give a tar file, a glob, a URL, or a folder of"
                " pictures"
            )
        urls += found
    return urls


def samples_from(source: str | os.PathLike[str]) -> Iterator[Sample]:
    """The samples of a source of any kind; raises Dalle2EduError where there is nothing at that
    place.
    """
    place = os.fspath(source)
    if place and Path(place).is_dir():  # Path("") is the current folder: hardly what was meant
        shards = sorted(str(path) for path in Path(place).glob("*.tar"))
        return samples_in_shards(shards) if shards else samples_in_folder(Path(place))
    urls = [place] if Path(place).is_file() else expand(place)
    check_curl(urls)
    return samples_in_shards(urls)


def check_curl(urls: Sequence[str]) -> None:
    """Raise Dalle2EduError where a URL can't be read for want of the program that WebDataset
    reads URLs with.
    """
    far = next((url for url in urls if url.startswith(("http:", "https:"))), None)
    if far and shutil.which("curl") is None:
        raise Dalle2EduError(
            f"reading {far} needs the program curl: install it, or download the shard first"
        )


def keep_readable(
    samples: Iterable[Sample], size: int, limit: int | None
) -> tuple[list[Tensor], list[list[str]], list[str]]:
    """Decodes up to `limit` good samples: pictures (3, S, S), captions, and the names of the
    bad ones.
    """
    images: list[Tensor] = []
    captions: list[list[str]] = []
    bad: list[str] = []
    for sample in samples:
        if limit is not None and len(images) >= limit:
            break
        try:
            if not sample.captions:
                raise ValueError("it has no caption")
            images.append(decode(sample.data, size))
            captions.append(sample.captions)
        except ValueError as error:
            bad.append(sample.name)
            warnings.warn(f"left out {sample.name}: {one_line(error)}", stacklevel=3)
    return images, captions, bad


def pairs(source: str | os.PathLike[str], size: int, limit: int | None = None) -> Pairs:
    """Pictures with captions from wherever they lie.

    source: a WebDataset tar as a path, a glob, a brace range or a URL; or a folder of tars; or
    a folder of pictures with captions.csv, captions.tsv or captions.jsonl (file name,
    captions), or with a .txt beside each picture. size: S in pixels; the middle square is cut
    out and resized. limit: how many at most (all of them are held in memory: 3 S^2 bytes each).

    Returns Pairs with images uint8 (N, 3, S, S). Raises Dalle2EduError where nothing is found,
    nothing has a caption, or more than 1% of the pictures can't be read."""
    if size < 1 or (limit is not None and limit < 1):
        raise Dalle2EduError(
            f"size and limit must be at least 1, not size={size}, limit={limit}"
        )
    images, captions, bad = keep_readable(samples_from(source), size, limit)
    if not images and not bad:
        raise Dalle2EduError(
            f"{source} holds no pictures: expected {', '.join(PICTURES)} with captions beside"
            " them"
        )
    if len(bad) > MOST_BAD * (len(images) + len(bad)):
        raise Dalle2EduError(
            f"{len(bad)} of {len(images) + len(bad)} pictures in {source} can't be used (1% may"
            " be bad): unreadable, or without a caption (captions.csv, captions.jsonl, .txt or"
            f" .json), such as {'; '.join(bad[:3])}"
        )
    return Pairs(
        torch.stack(images), captions, skipped=len(bad)
    )  # N x (3, S, S) -> (N, 3, S, S)


# --- Writing ----------------------------------------------------------------------------------


def webp(image: Tensor, quality: int) -> bytes:
    """A picture, uint8 (3, S, S), as the bytes of a WebP file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(
        file, "WEBP", quality=quality, method=6
    )  # (S, S, 3)
    return file.getvalue()


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Puts a file into a tar with no owner and no date, so that the same data always give the
    same bytes.
    """
    entry = tarfile.TarInfo(name)  # uid, gid and mtime are 0
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def write(
    path: str | os.PathLike[str],
    images: Tensor,
    captions: Sequence[Sequence[str]],
    records: Sequence[dict[str, Any]] | None = None,
    names: Sequence[str] | None = None,
    notice: str = "",
    quality: int = 75,
) -> None:
    """Writes a shard: for each picture a WebP and a JSON with its captions.

    images: uint8 (N, 3, S, S). captions: N lists. records: more fields for each JSON. names:
    the samples' names without extension (000000, 000001, ... otherwise). notice: a licence,
    written as the file LICENSE at the front. quality: WebP's, 0..100. The file appears whole or
    not at all: it is written under another name and renamed."""
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(captions):
        raise Dalle2EduError(
            "a shard needs images uint8 (N, 3, S, S) and N lists of captions, "
            f"not {images.dtype} {tuple(images.shape)} and {len(captions)}"
        )
    unfinished = f"{os.fspath(path)}.part"
    with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
        if notice:
            add_file(tar, "LICENSE", notice.encode())
        for index, image in enumerate(images):
            name = names[index] if names else f"{index:06d}"
            fields = {**(records[index] if records else {}), "captions": list(captions[index])}
            add_file(tar, f"{name}.webp", webp(image, quality))
            text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
            add_file(tar, f"{name}.json", text.encode())
    os.replace(unfinished, path)
