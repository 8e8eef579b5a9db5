"""Shards and folders: the same pictures from everywhere, bad ones counted, mistakes told in one
line.
"""

import functools
import http.server
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dalle2_edu.data import shards
from dalle2_edu.errors import Dalle2EduError

COLOURS = ["red", "lime", "blue", "white", "black", "yellow"]


def colour(name: str, size: int = 16) -> torch.Tensor:
    return shards.to_square(Image.new("RGB", (size, size), name), size)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            shards.add_file(tar, name, data)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of two pictures each: train-0.tar, train-1.tar, train-2.tar."""
    for number in range(3):
        names = COLOURS[2 * number : 2 * number + 2]
        images = torch.stack([colour(name) for name in names])  # (2, 3, 16, 16)
        shards.write(
            tmp_path / f"train-{number}.tar", images, [[name, f"{name} 色"] for name in names]
        )
    return tmp_path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("train-1.tar", COLOURS[2:4]),
        ("train-*.tar", COLOURS),
        ("train-{0..1}.tar", COLOURS[:4]),
        ("", COLOURS),
    ],
    ids=["path", "glob", "braces", "folder of shards"],
)
def test_what_was_written_is_read(folder: Path, source: str, found: list[str]) -> None:
    pairs = shards.pairs(str(folder / source), 8)
    assert pairs.captions == [[name, f"{name} 色"] for name in found]
    assert pairs.skipped == 0
    expected = torch.stack([colour(name, 8) for name in found])
    assert (pairs.images.int() - expected.int()).abs().max() <= 8  # WebP loses a little


def test_limit(folder: Path) -> None:
    assert shards.pairs(folder / "train-0.tar", 8, limit=1).captions == [["red", "red 色"]]


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads URLs through curl")
def test_url(server: str) -> None:
    assert len(shards.pairs(f"{server}/train-{{0..2}}.tar", 8)) == 6
    assert len(shards.pairs(f"{server}/train-0.tar", 8, limit=1)) == 1
    with pytest.raises(Dalle2EduError, match="none.tar as a tar shard"):
        shards.pairs(f"{server}/none.tar", 8)


def test_url_without_curl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(Dalle2EduError, match="curl"):
        shards.pairs("http://127.0.0.1:9/a.tar", 8)


def test_the_ways_captions_come(tmp_path: Path) -> None:
    picture = png(Image.new("RGB", (4, 4)))
    path = tar_of(
        tmp_path / "a.tar",
        {
            "a/0.png": picture,
            "a/0.json": json.dumps({"caption": "one", "url": "x"}).encode(),
            "a/1.JPG": picture,
            "a/1.txt": "二\n".encode(),
            "a/2.png": picture,
            "a/2.json": b'{"caption": null}',
            "a/2.txt": b"three",
            "README": b"not a sample",
        },
    )
    assert shards.pairs(path, 4).captions == [["one"], ["二"], ["three"]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", 'file_name,caption\na.png,"red, plain",红\nb.png,blue\n'),
        ("captions.tsv", "a.png\tred, plain\nb.png\tblue\na.png\t红\n"),
        (
            "captions.jsonl",
            (
                '{"file": "a.png", "captions": ["red, plain", "红"]}\n\n{"image": "b.png",'
                ' "text": "blue"}\n'
            ),
        ),
        (None, ""),
    ],
)
def test_folder_of_pictures(tmp_path: Path, name: str | None, text: str) -> None:
    Image.new("RGB", (9, 5), "red").save(tmp_path / "a.png")
    Image.new("RGB", (5, 9), "blue").save(tmp_path / "b.png")
    if name:
        (tmp_path / name).write_text(text, encoding="utf-8")
    else:
        (tmp_path / "a.txt").write_text("red, plain", encoding="utf-8")
        (tmp_path / "b.txt").write_text("blue", encoding="utf-8")
    pairs = shards.pairs(tmp_path, 4)
    assert pairs.captions == [["red, plain", "红"] if name else ["red, plain"], ["blue"]]
    assert pairs.images[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]


def many(tmp_path: Path, bad: dict[int, bytes]) -> Path:
    picture = png(Image.new("RGB", (4, 4)))
    files = {}
    for number in range(200):
        files[f"{number:03d}.png"] = bad.get(number, picture)
        files[f"{number:03d}.txt"] = b"black"
    return tar_of(tmp_path / "many.tar", files)


def test_a_bad_picture_is_named_left_out_and_counted(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="left out 007.png in .*many.tar"):
        pairs = shards.pairs(many(tmp_path, {7: b"no picture"}), 4)
    assert (len(pairs), pairs.skipped) == (199, 1)


@pytest.mark.filterwarnings("ignore:left out")
def test_too_many_bad_pictures(tmp_path: Path) -> None:
    half = png(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    )[:5000]
    with pytest.raises(Dalle2EduError, match=r"^3 of 200 .*003.png.*004.png.*005.png"):
        shards.pairs(many(tmp_path, {3: b"", 4: half, 5: b"\x89PNG"}), 4)


@pytest.mark.filterwarnings("ignore:left out")
def test_mistakes_are_told_in_one_line(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "empty" / "a.png")
    tar_of(tmp_path / "nothing.tar", {"a.txt": b"text alone"})
    (tmp_path / "no.tar").write_bytes(b"this is no tar file" * 100)
    cut = tmp_path / "cut.tar"
    cut.write_bytes((folder / "train-0.tar").read_bytes()[:2000])
    for source, message in {
        "missing.tar": "there is no data at",
        "missing-*.tar": "there is no data at",
        "train-{2..3}.tar": "there is no data at .*train-3",
        "{a": "a brace is open",
        "empty": "without a caption",
        "nothing.tar": "holds no pictures",
        "no.tar": "as a tar shard",
        "cut.tar": "as a tar shard",
    }.items():
        with pytest.raises(Dalle2EduError, match=message) as error:
            shards.pairs(tmp_path / source, 4)
        assert "\n" not in str(error.value)
    with pytest.raises(Dalle2EduError, match="there is no data at ''"):
        shards.pairs("", 4)
    with pytest.raises(Dalle2EduError, match="at least 1"):
        shards.pairs(folder, 0)
    with pytest.raises(Dalle2EduError, match="uint8"):
        shards.write(tmp_path / "x.tar", torch.zeros(1, 3, 4, 4), [["a"]])
    (tmp_path / "empty" / "captions.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(Dalle2EduError, match="line 1: expected"):
        shards.pairs(tmp_path / "empty", 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_any_mode(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    else:
        image = Image.new("RGB", (8, 8), "white").convert(mode)
    assert (shards.to_square(image, 4) == 255).all()


def test_transparency_rotation_and_crop() -> None:
    assert (shards.to_square(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), 4) == 255).all()

    striped = Image.new("RGB", (12, 4), "red")
    striped.paste("blue", (4, 0, 8, 4))
    middle = shards.to_square(striped, 4)
    assert middle.flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 255]  # nothing but blue

    lying = Image.new("RGB", (8, 8), "black")
    lying.paste("white", (0, 0, 8, 4))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me a quarter to the right"
    file = io.BytesIO()
    lying.save(file, "JPEG", exif=exif, quality=95)
    turned = shards.decode(file.getvalue(), 8)
    assert turned[:, :, 0].max() < 30
    assert turned[:, :, -1].min() > 225


def test_downsampling_is_antialiased() -> None:
    lines = np.zeros((64, 64), np.uint8)
    lines[:, ::4] = (
        # one white column in four: without antialiasing, all white or all black at a quarter
        255
    )
    small = shards.to_square(Image.fromarray(lines), 16)
    assert (small[:, :, 2:-2].float() - 63.75).abs().max() < 8
