"""A chapter in both languages for the tests of the book's tools."""

from pathlib import Path

import pytest
from small_notebooks import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
