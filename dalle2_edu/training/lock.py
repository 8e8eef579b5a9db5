"""One writer per run folder.

Two trainings in one folder would write into one log and remove each other's
checkpoints. So a training locks its folder, and a second one stops and names the first.
The lock is the system's own (`flock`, on Windows `msvcrt.locking`): it ends with its
process, however that ends. A file that merely *says* "locked" would stay behind after
`kill -9`.

    out/.writer     who holds the lock: the number of the process, its command, since when

Chapter 08 trains in such a folder.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dalle2_edu.errors import Dalle2EduError

NAME = ".writer"
FAR = 1 << 30  # Windows locks bytes, and nobody may read them: one far beyond the text
# what the system raises for a lock that another process holds
TAKEN = (BlockingIOError, PermissionError)

_held: set[Path] = set()  # the folders that this process has locked


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; inside of it, the same process may ask again. Raises
    Dalle2EduError, naming the other process, if another one holds it.
    """
    place = folder.resolve()  # the same folder by whatever path
    if place in _held:  # a recipe locks, and the loop inside it
        yield
        return
    with opened(folder) as file:
        _lock(file, folder)
        _held.add(place)
        try:
            _sign(file)
            yield
        finally:
            _held.discard(place)


@contextmanager
def opened(folder: Path) -> Iterator[IO[str]]:
    """The folder's lock file; closing it lets go of the lock."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # "a+": what stands there is kept until we hold it
        file = (folder / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise Dalle2EduError(
            f"Could not write into {folder}: {error.strerror}."
        ) from error
    with file:
        yield file


def _lock(file: IO[str], folder: Path) -> None:
    try:
        _ask_the_system(file)
    except TAKEN:
        raise Dalle2EduError(
            f"{folder} is being written by {_writer(folder)}: wait for it, stop it, or choose"
            " another folder."
        ) from None
    except OSError as error:  # some network drives know no locks
        warnings.warn(f"{folder} can't be locked ({error.strerror}).", stacklevel=4)


def _ask_the_system(file: IO[str]) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file.fileno(), FAR, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # at once, or not at all


def _sign(file: IO[str]) -> None:
    """Write down who holds the lock."""
    about = {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv)[:200],
    }
    file.seek(0)
    file.truncate()
    file.write(json.dumps(about))
    file.flush()  # so that others can read who it is


def _writer(folder: Path) -> str:
    """The process that holds the lock, as far as its file tells."""
    try:
        about = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return (
            f"process {about['process']} on {about['machine']}"
            f" (since {about['since']}: {about['command']})"
        )
    except (OSError, ValueError, KeyError, TypeError):  # it has not signed yet
        return "another process"
