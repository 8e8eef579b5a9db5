"""`make book`, last step: show `_build/site` on this machine, to this machine alone.

    python book/tools/serve.py 8000

It answers only a browser that asks for `localhost`: a foreign page whose name leads to
this machine gets nothing. It shows the files of the book, and neither what a link leads
to outside of it nor what a folder holds.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from dalle2_edu.errors import Dalle2EduError

SITE = Path(__file__).resolve().parents[2] / "_build" / "site"
NAMES = ("localhost", "127.0.0.1")  # of this machine, for itself


class Book(SimpleHTTPRequestHandler):
    """Shows the files of the book, and says nothing of a page that was found."""

    def send_head(self) -> BinaryIO | None:  # type: ignore[override]
        """The beginning of every answer; None if there is nothing to show."""
        if not self._asks_for_us():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        if not self._is_of_the_book():
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()  # type: ignore[return-value]

    def _asks_for_us(self) -> bool:
        """Whether the address that the browser shows is ours. Any port: it may be
        forwarded.
        """
        try:
            return urlsplit(f"//{self.headers['Host']}").hostname in NAMES
        except ValueError:  # no address at all
            return False

    def _is_of_the_book(self) -> bool:
        """Whether the address names a file of the site, wherever links lead."""
        path = Path(self.translate_path(self.path))
        try:
            file = path / "index.html" if path.is_dir() else path
            file = file.resolve(strict=True)
        except (OSError, ValueError):  # not there; or no name that a file can have
            return False
        return file.is_file() and file.is_relative_to(os.path.realpath(self.directory))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if str(code).startswith(("4", "5")):
            super().log_request(code, size)


class Server(ThreadingHTTPServer):
    """As many may wait for an answer as a page with its fonts asks for at once."""

    request_queue_size = 128  # five by default


def server(port: int, site: Path = SITE) -> ThreadingHTTPServer:
    """A server of the built book. Raises `Dalle2EduError` if there is no book, or the
    port is not free.
    """
    if not (site / "index.html").is_file():
        raise Dalle2EduError("there is no book to show yet: make book SERVE=0")
    try:
        return ThreadingHTTPServer(
            ("127.0.0.1", port), partial(Book, directory=str(site))
        )
    except OSError as error:
        raise Dalle2EduError(
            f"port {port} can't be used ({error.strerror}): make book PORT={port + 1}"
        ) from None


def main(port: str) -> int:
    try:
        book = server(_number(port))
    except Dalle2EduError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"The book: http://localhost:{book.server_port}/    (Ctrl+C ends it)",
        flush=True,
    )
    try:
        book.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


def _number(port: str) -> int:
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise Dalle2EduError(f"PORT is a number from 1 to 65535, not {port!r}")
    return int(port)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
