"""Shards and folders as `Pairs`: pictures with captions, all of them in memory.

What the formats are stands in `samples`, where shards may lie in `sources`. A data set
that does not fit into memory is read by `stream`.

Not everything on the web is a picture that can be read. A bad one is named in a
warning, left out and counted; more than one in a hundred means that something is wrong
with the set, and reading ends with an error.

`write` makes a shard of pictures and captions.

Chapters 02 (data and tokens) and 24 (to full size) use this file.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dalle2_edu.data.layouts import PICTURES
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.pictures import decode, webp
from dalle2_edu.data.samples import Sample, samples_in_folder
from dalle2_edu.data.sources import expand, is_folder, open_shard, tars_in
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import one_line

MOST_BAD = 0.01  # more than this share of unreadable pictures stops the reading


# --- reading --------------------------------------------------------------------------


def samples_in_shards(urls: Sequence[str]) -> Iterator[Sample]:
    """The samples of tar files, one shard after the other, in the order in which they
    lie there.
    """
    for url in urls:
        yield from open_shard(url)


def samples_from(source: str | os.PathLike[str]) -> Iterator[Sample]:
    """The samples of a source of any kind; raises Dalle2EduError where there is nothing
    at that place.
    """
    place = os.fspath(source)
    if is_folder(place):
        shards = tars_in(Path(place))
        if shards:
            return samples_in_shards(shards)
        return samples_in_folder(Path(place))
    return samples_in_shards(expand(place))


def usable(sample: Sample, size: int) -> Tensor:
    """A sample's picture, uint8 (3, size, size); raises ValueError for one that can't
    be used.
    """
    if sample.wrong:
        raise ValueError(sample.wrong)
    if not sample.captions:
        raise ValueError("it has no caption")
    return decode(sample.data, size)


def keep_readable(
    samples: Iterable[Sample], size: int, limit: int | None
) -> tuple[list[Tensor], list[list[str]], list[str]]:
    """Decodes up to `limit` good samples: pictures (3, S, S), captions, and the names
    of the bad ones.
    """
    images: list[Tensor] = []
    captions: list[list[str]] = []
    bad: list[str] = []
    for sample in samples:
        if limit is not None and len(images) >= limit:
            break
        try:
            images.append(usable(sample, size))
            captions.append(sample.captions)
        except ValueError as error:
            bad.append(f"{sample.name} ({one_line(error)})")
            warnings.warn(f"left out {sample.name}: {one_line(error)}", stacklevel=3)
    return images, captions, bad


def pairs(source: str | os.PathLike[str], size: int, limit: int | None = None) -> Pairs:
    """Pictures with captions from wherever they lie.

    source: a tar shard as a path, a glob, a brace range or an address; or a folder of
    tars; or a folder of pictures with captions (`samples` lists the ways). size: S in
    pixels; the middle square is cut out and resized. limit: how many at most (all of
    them are held in memory: 3 S^2 bytes each).

    Returns Pairs with images uint8 (N, 3, S, S). Raises Dalle2EduError where nothing is
    found, nothing has a caption, or more than 1% of the pictures can't be used.
    """
    if size < 1 or (limit is not None and limit < 1):
        raise Dalle2EduError(
            f"size and limit must be at least 1, not size={size}, limit={limit}"
        )
    images, captions, bad = keep_readable(samples_from(source), size, limit)
    total = len(images) + len(bad)
    if total == 0:
        raise Dalle2EduError(
            f"{source} holds no pictures: expected {', '.join(PICTURES)} with captions beside"
            " them, in a tar shard or in a folder"
        )
    if len(bad) > MOST_BAD * total:
        raise Dalle2EduError(
            f"{len(bad)} of {total} pictures in {source} can't be used (1% may be bad), such as"
            f" {'; '.join(bad[:3])}"
        )
    return Pairs(torch.stack(images), captions, skipped=len(bad))  # (N, 3, S, S)


# --- writing --------------------------------------------------------------------------


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Puts a file into a tar with no owner and no date, so that the same data always
    give the same bytes.
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

    images: uint8 (N, 3, S, S). captions: N lists. records: more fields for each JSON.
    names: the samples' names without extension (000000, 000001, ... otherwise). notice:
    a licence, written as the file LICENSE at the front. quality: WebP's, 0..100. The
    file appears whole or not at all: it is written under another name and renamed.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(captions):
        raise Dalle2EduError(
            "a shard needs images uint8 (N, 3, S, S) and N lists of captions, "
            f"not {images.dtype} {tuple(images.shape)} and {len(captions)}"
        )
    unfinished = Path(f"{os.fspath(path)}.part")
    try:
        # USTAR: read by every tar
        with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
            if notice:
                add_file(tar, "LICENSE", notice.encode())
            for index, image in enumerate(images):
                name = names[index] if names else f"{index:06d}"
                fields = records[index] if records else {}
                record = {**fields, "captions": list(captions[index])}
                add_file(tar, f"{name}.webp", webp(image, quality))
                add_file(tar, f"{name}.json", compact_json(record))
        os.replace(unfinished, path)  # whole, or not at all
    finally:
        unfinished.unlink(missing_ok=True)


def compact_json(record: dict[str, Any]) -> bytes:
    """A record as JSON without spaces, Chinese letters as they are."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    return text.encode()
