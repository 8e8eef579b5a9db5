"""`make book`, last step: show `_build/site` on this machine, to this machine alone.

python book/tools/serve.py 8000
"""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dalle2_edu.errors import Dalle2EduError

SITE = Path(__file__).resolve().parents[2] / "_build" / "site"


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing of a page that was found."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if str(code).startswith(("4", "5")):
            super().log_request(code, size)


def server(port: int, site: Path = SITE) -> ThreadingHTTPServer:
    """A server of the built book. Raises `Dalle2EduError` if there is no book, or the port is
    not free.
    """
    if not (site / "index.html").is_file():
        raise Dalle2EduError("there is no book to show yet: make book SERVE=0")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=str(site)))
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
    print(f"The book: http://localhost:{book.server_port}/    (Ctrl+C ends it)", flush=True)
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
