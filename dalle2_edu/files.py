"""Reading and writing small files: text, JSON, and whole-or-nothing writes.

Whatever comes from outside is read in one place for each kind of thing, so that each
mistake has one clear line: text and JSON here, pictures in `data/pictures.py`, samples
and tables in `data/samples.py`, weights in `interop/weights.py`.
"""

from __future__ import annotations

import codecs
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from dalle2_edu.errors import Dalle2EduError

# A mark at a file's start that names its encoding. UTF-32's begins like UTF-16's: look
# first.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def one_line(error: BaseException) -> str:
    """An error's message on one line, cut where it gets long."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def printable(text: str) -> str:
    """A text that a terminal can show on one line: a file's name may hold line breaks,
    or signals that the terminal would obey.
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def decode_text(data: bytes) -> str:
    """Bytes as text: by the mark at their start, otherwise as UTF-8.

    Raises ValueError for anything else: guessing would turn names into noise without a
    word.
    """
    encoding = next((MARKS[mark] for mark in MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError("its text is not UTF-8: save it again as UTF-8") from None


def parse_json(text: str | bytes) -> Any:
    """JSON values; raises ValueError for what is none, also for what is nested too
    deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file; raises Dalle2EduError, naming it, where there is none to be
    read.
    """
    try:
        return decode_text(Path(path).read_bytes())
    except OSError as error:
        raise Dalle2EduError(
            f"{path} can't be read: {error.strerror or error}."
        ) from error
    except ValueError as error:
        raise Dalle2EduError(f"{path} can't be read: {error}.") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """The values of a JSON file; raises Dalle2EduError, naming it, where it is none."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise Dalle2EduError(f"{path} is not whole JSON: {one_line(error)}.") from error


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write a file that appears whole or not at all; text is written as UTF-8.

    Written beside its place under another name, then renamed, so that a reader or a
    full disk never sees half of it. Missing folders are made, and the file has the
    usual permissions. Raises Dalle2EduError for a folder or a device at that place, and
    for a disk that can't take it.
    """
    path = Path(path)
    if path.is_dir():
        raise Dalle2EduError(f"{path} is a folder: name a file to write to.")
    if path.exists() and not path.is_file():
        raise Dalle2EduError(f"{path} is no ordinary file, and is left as it is.")
    content = data.encode("utf-8") if isinstance(data, str) else data
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(
            prefix=f".{path.name[:60]}.", dir=path.parent
        )
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(
                file.fileno()
            )  # onto the disk itself, before it takes the old file's place
        # mkstemp lets the owner alone read
        os.chmod(unfinished, 0o666 & ~current_umask())
        os.replace(unfinished, path)
    except OSError as error:
        if unfinished is not None:
            Path(unfinished).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise Dalle2EduError(f"{path} can't be written: {reason}.") from error
    return path


def current_umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
