"""The readers, `--help` and the book's page name the same layouts of one's own data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dalle2_edu import cli
from dalle2_edu.data import layouts, shards
from dalle2_edu.data.sources import tar_files

BOOK = Path(__file__).parents[2] / "book"
IN_BACKTICKS = re.compile("`([^`]+)`")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_names_what_is_read(language):
    page = (BOOK / language / "own_pictures.md").read_text(encoding="utf-8")
    section = page.split("\n## ")[1]
    before, table, after = re.split(r"\n\n(?=\|)|(?<=\|)\n\n", section, maxsplit=2)
    kinds = IN_BACKTICKS.findall(before)
    assert sorted(kinds) == sorted(f".{kind}" for kind in layouts.PICTURES)

    rows = table.splitlines()[2:]
    first_cells = [row.split("|")[1] for row in rows]
    files = [set(IN_BACKTICKS.findall(cell)) for cell in first_cells]
    beside = {"cat.png", f"cat{layouts.BESIDE}"}
    assert files == [*({name} for name in layouts.CAPTION_FILES), beside]
    fields = IN_BACKTICKS.findall(rows[0].split("|")[2])
    assert fields == [*layouts.FILE_FIELDS, *layouts.CAPTION_FIELDS]

    named = {text.strip("'") for text in IN_BACKTICKS.findall(after)}
    assert {layouts.SHARDS["a glob"], layouts.SHARDS["a brace range"]} <= named


@pytest.mark.parametrize("command", [["train"], ["data", "embed"]])
def test_help_names_what_is_read(command):
    answer = CliRunner().invoke(cli.app, [*command, "--help"])
    text = " ".join(answer.output.split())  # as if it were one long line
    wanted = [*layouts.SHARDS]
    if command == ["train"]:
        wanted += [*layouts.PICTURES, *layouts.CAPTION_FILES, layouts.BESIDE]
    assert not [name for name in wanted if name not in text]


def test_each_way_to_name_shards_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    Path("shards").mkdir()
    for folder in (".", "shards"):
        for number in range(100):
            shards.write(f"{folder}/shards-{number:03d}.tar", images, [["grey"]])
    counts = {
        way: len(tar_files(example.rstrip("/")))
        for way, example in layouts.SHARDS.items()
    }
    assert counts == {
        "a tar file": 1,
        "a folder of them": 100,
        "a glob": 100,
        "a brace range": 100,
        "an address": 1,
    }
