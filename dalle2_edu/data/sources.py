"""Where shards lie: names with braces and stars, folders, and addresses on the web.

    train-000.tar   train-*.tar   train-{000..099}.tar   a folder of tars   https://...   s3://...

A local name is a file and nothing else, whatever its letters are: it is never read as
an address or as a command. An address over http(s) is fetched by Python itself, any
other kind by the library fsspec, which says what to install for it.

Chapter 24 uses this file.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import braceexpand

from dalle2_edu.data.samples import TarShard
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import one_line

ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
TIMEOUT = 60  # seconds without a byte until a fetch is given up


def is_address(source: str) -> bool:
    """Whether a source is an address such as https://... and no local name."""
    return ADDRESS.match(source) is not None


def expand(source: str) -> list[str]:
    """The shards that a path, a glob ("train/*.tar"), a brace range ("{000..009}.tar")
    or an address names.

    Raises Dalle2EduError for a part of it that names nothing.
    """
    # webdataset's way to read from a command: never done, and said so
    if source.startswith("pipe:") and not local_names(source):
        raise Dalle2EduError(
            "pipe: would run a command of the shell, which this package never does: give the"
            " address itself, such as s3://..., or download the shards first"
        )
    # a file may have braces or stars in its name
    if os.path.isfile(source):
        return [source]
    try:
        parts = list(braceexpand.braceexpand(source))
    except ValueError as error:
        raise Dalle2EduError(
            f"a brace is open or closed too often in {source}"
        ) from error
    found: list[str] = []
    for part in parts:
        here = [part] if is_address(part) else local_names(part)
        if not here:
            raise Dalle2EduError(
                f"there is no data at '{part}': give a tar file, a glob, an address, or a folder"
                " of pictures"
            )
        found += here
    return found


def local_names(part: str) -> list[str]:
    """The files or folders that a path or a glob names."""
    try:
        if part and Path(part).exists():
            return [part]
        return sorted(glob.glob(part, recursive=True)) if part else []
    # a name that no file can have: too long, or with a null
    except (OSError, ValueError):
        return []


def is_folder(source: str) -> bool:
    """Whether a source is a folder; a name that no file can have is none."""
    return os.path.isdir(source)  # Path.is_dir would raise for a name that is too long


def tars_in(folder: Path) -> list[str]:
    """The tar shards of a folder, by name."""
    return sorted(str(path) for path in folder.glob("*.tar"))


def tar_files(source: str) -> list[str]:
    """The tar files that a source names; raises Dalle2EduError if it names anything
    else.
    """
    urls = tars_in(Path(source)) if is_folder(source) else expand(source)
    if not urls or any(not is_address(url) and is_folder(url) for url in urls):
        raise Dalle2EduError(
            f"{source} names no tar shards: give a tar file, a glob, a brace range or addresses"
            " of them"
        )
    return urls


def is_shards(source: str) -> bool:
    """Whether a source is tar shards, to be streamed, and no folder of pictures, which
    is read into memory.
    """
    return bool(tars_in(Path(source))) if is_folder(source) else True


# --- opening and fetching -------------------------------------------------------------


def open_shard(url: str) -> TarShard:
    """The shard, read where it lies on this disk; one behind an address is fetched
    first.

    With DALLE2_EDU_CACHE, a folder, fetched shards stay there, for all processes of the
    machine and for the next epoch. Without it a process fetches a shard for itself and
    keeps it only while it is open.
    """
    if not is_address(url):
        return TarShard(url, Path(url))
    # several processes share what is fetched
    if cache := os.environ.get("DALLE2_EDU_CACHE"):
        name = hashlib.sha256(url.encode()).hexdigest()[:32]
        copy = Path(cache) / f"{name}.tar"
        if not copy.is_file():
            fetch(url, copy)
        return TarShard(url, copy)
    with tempfile.TemporaryDirectory() as folder:  # the open file outlives its name
        copy = Path(folder) / "shard.tar"
        fetch(url, copy)
        return TarShard(url, copy)


def fetch(url: str, copy: Path) -> None:
    """Write what an address gives into a file, which appears whole or not at all, also
    when several processes ask for it. Raises Dalle2EduError with the reason.
    """
    # one per process: two may fetch the same shard
    unfinished = copy.with_suffix(f".{os.getpid()}.part")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with opened(url) as source, unfinished.open("wb") as target:
            shutil.copyfileobj(source, target)
        os.replace(unfinished, copy)  # at once: nobody sees half a file
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "reason", None) or one_line(error)
        raise Dalle2EduError(
            f"can't fetch {url} ({reason}): is the address right?"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """The bytes behind an address, as a file."""
    if url.startswith(("http://", "https://")):
        with urllib.request.urlopen(url, timeout=TIMEOUT) as source:
            yield source
        return
    import fsspec  # here, since few need it

    with fsspec.open(url, "rb") as source:
        yield source
