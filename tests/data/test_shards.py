"""Shards and folders: the same pictures from everywhere, bad ones counted, mistakes
told in one line.
"""

import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dalle2_edu.data import pictures, shards
from dalle2_edu.data.stream import Stream
from dalle2_edu.errors import Dalle2EduError

COLOURS = ["red", "lime", "blue", "white", "black", "yellow"]


def colour(name: str, size: int = 16) -> torch.Tensor:
    return pictures.to_square(Image.new("RGB", (size, size), name), size)


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
            tmp_path / f"train-{number}.tar",
            images,
            [[name, f"{name} 色"] for name in names],
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
    assert shards.pairs(folder / "train-0.tar", 8, limit=1).captions == [
        ["red", "red 色"]
    ]


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


def test_url(server: str) -> None:
    assert len(shards.pairs(f"{server}/train-{{0..2}}.tar", 8)) == 6
    assert len(shards.pairs(f"{server}/train-0.tar", 8, limit=1)) == 1
    with pytest.raises(
        Dalle2EduError, match=r"can't fetch .*none.tar .*(Not Found|not found)"
    ):
        shards.pairs(f"{server}/none.tar", 8)


def test_other_addresses_go_through_fsspec(folder: Path) -> None:
    assert len(shards.pairs(f"file://{folder}/train-0.tar", 8)) == 2
    with pytest.raises(Dalle2EduError, match="can't fetch nosuch://a.tar"):
        shards.pairs("nosuch://a.tar", 8)


def test_pictures_whose_names_have_dots(tmp_path: Path) -> None:
    files = {}
    for day, caption in (("22.05", "may"), ("22.06", "june")):
        files[f"{day}.png"] = png(Image.new("RGB", (4, 4)))
        files[f"{day}.txt"] = caption.encode()
    files |= {
        "7.png": files["22.05.png"],
        "7.mask.png": b"not the picture",
        "7.txt": b"seven",
    }
    path = tar_of(tmp_path / "a.tar", files)
    assert shards.pairs(path, 4).captions == [["may"], ["june"], ["seven"]]
    assert len(Stream(str(path), 4, progress=False)) == 3


@pytest.mark.parametrize(
    ("data", "captions"),
    [
        ("猫\n狗\n".encode(), [["猫", "狗"]]),  # a caption on each line
        ("猫".encode("utf-16"), [["猫"]]),  # what PowerShell's > writes: it has a mark
        ("猫".encode("utf-8-sig"), [["猫"]]),
        ("红色的猫".encode("gbk"), "UTF-8"),  # would be noise
    ],
)
def test_text_is_read_as_what_it_is(
    tmp_path: Path, data: bytes, captions: object
) -> None:
    picture = png(Image.new("RGB", (4, 4)))
    tar = tar_of(tmp_path / "a.tar", {"a.png": picture, "a.txt": data})
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "a.png").write_bytes(picture)
    (tmp_path / "folder" / "deep" / "a.txt").write_bytes(data)
    for source in (tar, tmp_path / "folder"):
        if isinstance(captions, list):
            assert shards.pairs(source, 4).captions == captions
        else:
            with (
                pytest.warns(UserWarning, match="UTF-8"),
                pytest.raises(Dalle2EduError, match=captions),
            ):
                shards.pairs(source, 4)


@pytest.mark.parametrize(
    "record",
    [
        b"5",
        b"true",
        b"NaN",
        b"[" * 200_000,
        b'{"captions": 5}',
        b'{"captions": [1, null]}',
        b"\xff",
    ],
)
@pytest.mark.filterwarnings("ignore:left out")
def test_a_strange_record_is_one_bad_sample(tmp_path: Path, record: bytes) -> None:
    picture = png(Image.new("RGB", (4, 4)))
    files = {}
    for number in range(120):
        files[f"{number:03d}.png"] = picture
        files[f"{number:03d}.json"] = record if number == 7 else b'{"caption": "black"}'
    path = tar_of(tmp_path / "a.tar", files)
    assert shards.pairs(path, 4).skipped == 1
    drawn = Stream(str(path), 4, progress=False).take(torch.tensor([6, 7]))
    assert drawn[1] == [["black"], ["black"]]


@pytest.mark.filterwarnings("ignore:left out")
def test_a_table_as_other_programs_write_it(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number in range(200):
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / f"{number}.png")
    lines = ["filepath\ttitle"] + [
        f"train\\{number}.png\tblack" for number in range(200)
    ]
    lines[9] = "train/8.png\t" + "x" * (1 << 21)  # longer than a field may be
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    pairs = shards.pairs(tmp_path, 4)
    assert (len(pairs), pairs.skipped, pairs.captions[0]) == (199, 1, ["black"])
    (tmp_path / "captions.csv").write_bytes("a.png,红色的猫".encode("gbk"))
    with pytest.raises(
        Dalle2EduError, match="captions.csv can't be read: its text is not UTF-8"
    ):
        shards.pairs(tmp_path, 4)


@pytest.mark.filterwarnings("ignore:left out")
def test_the_share_of_bad_ones_is_told_whatever_batch_comes_last(
    tmp_path: Path,
) -> None:
    """The batch that brings the count over 1% may itself have no bad picture."""
    picture = png(Image.new("RGB", (4, 4)))
    files = {}
    for number in range(200):
        files[f"{number:03d}.png"] = b"bad" if number < 4 else picture
        files[f"{number:03d}.txt"] = b"black"
    stream = Stream(str(tar_of(tmp_path / "a.tar", files)), 4, progress=False)
    for start in range(0, 196, 4):
        stream.take(torch.arange(start, start + 4))
    with pytest.raises(Dalle2EduError, match=r"4 of the first 200 .*such as 003.png"):
        stream.take(torch.arange(196, 200))


def test_a_file_name_is_never_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WebDataset runs what follows "pipe:" in a shell; a downloaded folder may hold
    such names.
    """
    monkeypatch.chdir(tmp_path)
    name = "pipe:touch ran;#.tar"
    shards.write(tmp_path / name, torch.stack([colour("red")]), [["red"]])
    for source in (".", "*.tar", name, str(tmp_path)):
        assert shards.pairs(source, 8).captions == [["red"]]
        assert len(Stream(source, 8, progress=False)) == 1
    with pytest.raises(Dalle2EduError, match="run a command"):
        shards.pairs("pipe:touch ran", 8)
    assert not (tmp_path / "ran").exists()


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
    assert pairs.captions == [
        ["red, plain", "红"] if name else ["red, plain"],
        ["blue"],
    ]
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
        Image.fromarray(
            np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        )
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
        "empty": "it has no caption",
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
    with pytest.raises(Dalle2EduError, match="line 1 .expected"):
        shards.pairs(tmp_path / "empty", 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    else:
        image = Image.new("RGB", (8, 8), "white").convert(mode)
    assert (pictures.to_square(image, 4) == 255).all()


def test_transparency_rotation_and_crop() -> None:
    assert (
        pictures.to_square(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), 4) == 255
    ).all()

    striped = Image.new("RGB", (12, 4), "red")
    striped.paste("blue", (4, 0, 8, 4))
    middle = pictures.to_square(striped, 4)
    # nothing but blue
    assert middle.flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 255]

    lying = Image.new("RGB", (8, 8), "black")
    lying.paste("white", (0, 0, 8, 4))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me a quarter to the right"
    file = io.BytesIO()
    lying.save(file, "JPEG", exif=exif, quality=95)
    turned = pictures.decode(file.getvalue(), 8)
    assert turned[:, :, 0].max() < 30
    assert turned[:, :, -1].min() > 225


def test_downsampling_is_antialiased() -> None:
    lines = np.zeros((64, 64), np.uint8)
    lines[:, ::4] = (
        # one white column in four: without antialiasing, all white or all black at a
        # quarter
        255
    )
    small = pictures.to_square(Image.fromarray(lines), 16)
    assert (small[:, :, 2:-2].float() - 63.75).abs().max() < 8
