"""Whatever is in a file: its reader gives an answer or one line, and nothing else comes
out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mutations import mutations
from PIL import Image

from dalle2_edu.data import shards
from dalle2_edu.data.stream import Stream, count_samples
from dalle2_edu.data.text import SHIPPED, Tokenizer
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import read_json, read_text

pytestmark = pytest.mark.filterwarnings("ignore")

TABLES = {
    "captions.csv": 'file_name,caption\na.png,a cat\nb.png,"a dog, left"\na.png,二\n',
    "captions.tsv": "a.png\ta cat\tanother cat\nb.png\ta dog\n",
    "captions.jsonl": '{"file_name": "a.png", "caption": "a cat"}\n'
    '{"image": "b.png", "captions": ["a dog", "狗"]}\n',
}


def attempt(read: Callable[[], Any]) -> None:
    """Read; a refusal must be one line."""
    try:
        read()
    except Dalle2EduError as error:
        if "\n" in str(error):
            pytest.fail(f"more than a line: {error}")


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 5), "teal").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gbk"])
def test_damaged_tables(name: str, encoding: str, tmp_path: Path) -> None:
    for picture in ("a.png", "b.png"):
        (tmp_path / picture).write_bytes(png())
    for data in mutations(TABLES[name].encode(encoding), 60):
        (tmp_path / name).write_bytes(data)
        attempt(lambda: shards.pairs(tmp_path, 4))


def test_damaged_captions_beside_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    for data in mutations("a cat\n一只猫\n".encode("utf-8-sig"), 60):
        (tmp_path / "a.txt").write_bytes(data)
        attempt(lambda: shards.pairs(tmp_path, 4))


def test_damaged_shards(tmp_path: Path) -> None:
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    shards.write(
        tmp_path / "whole.tar", images, [["a cat"], ["一只猫"], ["a dog", "dogs"]]
    )
    for data in mutations((tmp_path / "whole.tar").read_bytes(), 120):
        (tmp_path / "a.tar").write_bytes(data)
        attempt(lambda: shards.pairs(tmp_path / "a.tar", 4))


def test_damaged_shards_as_a_stream(tmp_path: Path) -> None:
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    shards.write(
        tmp_path / "whole.tar", images, [["a cat"], ["一只猫"], ["a dog", "dogs"]]
    )

    def read() -> None:
        stream = Stream(str(tmp_path / "a.tar"), 4, progress=False)
        stream.take(torch.arange(len(stream)))

    for data in mutations((tmp_path / "whole.tar").read_bytes(), 40):
        (tmp_path / "a.tar").write_bytes(data)
        attempt(read)


@pytest.mark.parametrize("stats", ["whole.json", "a_stats.json"])
def test_damaged_counts(stats: str, tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    shards.write(tmp_path / "a.tar", images, [["a cat"]])
    url = str(tmp_path / "a.tar")
    whole = json.dumps({url: 1, "successes": 1})
    for data in mutations(whole.encode(), 60):
        (tmp_path / stats).write_bytes(data)
        attempt(lambda: count_samples([url], tmp_path / "whole.json", progress=False))
        if stats != "whole.json":
            (tmp_path / "whole.json").unlink(missing_ok=True)


def test_damaged_text_and_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for data in mutations('{"steps": [1, 2.5, null], "名": "猫"}'.encode(), 200):
        file.write_bytes(data)
        attempt(lambda: read_text(file))
        attempt(lambda: read_json(file))


def test_damaged_tokenizers(tmp_path: Path) -> None:
    for data in mutations(SHIPPED.read_bytes(), 6):
        (tmp_path / "t.json").write_bytes(data)
        attempt(lambda: Tokenizer.load(tmp_path / "t.json"))


def test_a_name_with_line_breaks_and_signals_is_shown_on_one_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "a\n\x1b[31mred.png").write_bytes(b"no picture")
    with pytest.raises(Dalle2EduError, match="red.png") as caught:
        shards.pairs(tmp_path, 4)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["", ".", "no/such.json", "\0", "a" * 5000])
def test_names_that_no_file_has(name: str) -> None:
    for read in (
        read_text,
        read_json,
        Tokenizer.load,
        lambda path: shards.pairs(path, 4),
    ):
        with pytest.raises(Dalle2EduError):
            read(name)
