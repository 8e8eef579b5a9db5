"""The whole book, built once, and a server that shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import build
import pytest
import serve


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`_build/site` as `make book` makes it, in a folder of its own."""
    output = tmp_path_factory.mktemp("book")
    assert build.main(["--output", str(output)]) == 0, (
        "the book can't be built: see what it says above"
    )
    return output / "site"


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the book is shown: `http://127.0.0.1:41234/`."""
    book = serve.server(0, site)
    threading.Thread(target=book.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{book.server_port}/"
    book.shutdown()
