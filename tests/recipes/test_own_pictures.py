"""From a folder of pictures to a drawing, by the commands that the book gives."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from dalle2_edu import cli, zoo
from dalle2_edu.data import shapes
from dalle2_edu.recipes import diffusion, unclip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader works: twenty pictures, each with its caption beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unclip, "GRID", 2)
    monkeypatch.setattr(diffusion, "GRID", 2)
    pairs = shapes.pairs(20, 128)
    pictures = tmp_path / "my_pictures"
    pictures.mkdir()
    for i, (image, captions) in enumerate(
        zip(pairs.images, pairs.captions, strict=True)
    ):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(captions[0], encoding="utf-8")
    return tmp_path


def command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader types after `dalle2-edu`."""
    monkeypatch.setattr(sys, "argv", ["dalle2-edu", *line.split()])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert not leaving.value.code, line


# name -> the weights that it starts from
NETWORKS = {
    "clip": "shared/clip",
    "pets-prior": "emoji/prior",
    "pets-decoder": "emoji/decoder",
    "upsampler-64": "shared/upsampler_64",
    "upsampler-128": "shared/upsampler_128",
}


def test_a_folder_becomes_a_drawing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "--tier smoke --steps 1 --mixed-precision no"
    for name, start in NETWORKS.items():
        wanted = f"--data my_pictures --from {start} --out runs/{name} {small}"
        command(f"--zoo my_zoo train {name} {wanted}", monkeypatch)
        command(f"zoo publish runs/{name} --into my_zoo", monkeypatch)
    steps = "--prior-steps 1 --decoder-steps 1"
    command(f"--zoo my_zoo draw rocket --domain pets {steps} --device cpu", monkeypatch)

    with Image.open("out/rocket.png") as picture:
        assert picture.size == (128, 128)
        assert len(set(picture.convert("L").getdata())) > 10  # something is on it
    with zoo.at(Path("my_zoo")):
        assert zoo.known() == {
            "pets": ("decoder", "prior"),
            "shared": ("clip", "upsampler_128", "upsampler_64"),
        }
        mine = zoo.cards()
    assert {card.data_licence for card in mine.values()} == {
        "the reader's own pictures"
    }
    assert mine["pets", "prior"].clip == mine["shared", "clip"].sha256
    # it has learned
    assert mine["shared", "clip"].sha256 != zoo.card("shared", "clip").sha256
