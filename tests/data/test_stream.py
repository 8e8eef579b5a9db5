"""Shards read in any order: what is read, in which order, and what a bad shard or
picture does.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
import webdataset
from PIL import Image

from dalle2_edu.data import shards, stream
from dalle2_edu.data.stream import MIXED, Stream, count_samples
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training.order import ShardOrder


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return str(path)


def red(n: int) -> dict[str, bytes]:
    """n samples whose red is their number, captioned with it."""
    return {
        name: data
        for i in range(n)
        for name, data in ((f"{i:03}.png", png((i, 0, 0))), (f"{i:03}.txt", b"%d" % i))
    }


# --- what is read ---------------------------------------------------------------------


def test_it_reads_what_webdataset_reads(tmp_path: Path) -> None:
    files = {
        "LICENSE": b"a file beside the samples",
        "a/0.v1.png": png((1, 2, 3)),
        "a/0.v1.json": json.dumps({"caption": "one"}).encode(),
        "a/1.JPG": png((4, 5, 6)),
        "a/1.txt": b"two",
        "a/1.npy": b"not read",
        "b/0.txt": b"no picture",
    }
    path = write_tar(tmp_path / "x.tar", files)
    theirs = webdataset.WebDataset([path], shardshuffle=False, empty_check=False)
    groups = [
        {**parts}
        for parts in theirs
        if any("png" in k.lower() or "jpg" in k.lower() for k in parts)
    ]
    pictures = [
        next(parts[k] for k in parts if k.lower().endswith(("png", "jpg")))
        for parts in groups
    ]
    shard = stream.open_shard(path)
    assert [sample.data for sample in shard] == pictures
    assert [sample.captions for sample in shard] == [["one"], ["two"]]
    assert [sample.data for sample in shards.samples_in_shards([path])] == pictures


def test_any_order_over_several_shards(tmp_path: Path) -> None:
    for which in range(3):
        write_tar(
            tmp_path / f"{which}.tar",
            {f"{which}{name}": data for name, data in red(3 + which).items()},
        )
    both = Stream(f"{tmp_path}/{{0..2}}.tar", 6, progress=False)
    assert both.counts == [3, 4, 5] and len(both) == 12
    both.prefetch(torch.tensor([11, 3]))
    images, captions = both.take(torch.tensor([11, 0, 3, 6, 11]))
    assert images[:, 0, 0, 0].tolist() == [4, 0, 0, 3, 4]
    assert captions == [["4"], ["0"], ["0"], ["3"], ["4"]]
    assert torch.equal(both[torch.tensor([11])], images[:1])


def test_counts_are_kept_and_img2datasets_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_tar(tmp_path / f"{i}.tar", red(2)) for i in range(2)]
    (tmp_path / "1_stats.json").write_text('{"count": 9, "successes": 7}')
    notes = tmp_path / "run/shards.json"
    assert count_samples(paths, notes) == [2, 7]
    monkeypatch.setattr(stream, "open_shard", None)  # would be called to count
    assert count_samples(paths, notes) == [2, 7]


def test_shards_behind_an_address_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "far.tar", red(3))
    far = Stream(f"file://{path}", 6, progress=False)
    assert far[torch.tensor([2])][0, 0, 0, 0] == 2
    monkeypatch.setenv("DALLE2_EDU_CACHE", str(tmp_path / "cache"))
    stream.open_shard(f"file://{path}")
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".tar"]
    Path(path).unlink()
    assert len(stream.open_shard(f"file://{path}")) == 3  # from the cache


# --- in which order -------------------------------------------------------------------


def order(counts: list[int], batch_size: int = 7, seed: int = 0) -> ShardOrder:
    return ShardOrder(
        counts,
        batch_size,
        lambda *parts: torch.Generator().manual_seed(hash((seed, *map(str, parts)))),
    )


def test_every_epoch_has_every_sample_once() -> None:
    counts = [5, 0, 9, 3] * 11
    size, each = sum(counts), order(counts)
    steps = 2 * size // 7 + 1
    places = torch.cat([each(step) for step in range(steps)])
    first, second = places[:size].tolist(), places[size : 2 * size].tolist()
    assert sorted(first) == sorted(second) == list(range(size)) and first != second


def test_a_step_is_a_function_of_the_step() -> None:
    counts = [5, 9, 3] * 11
    forwards = order(counts)
    steps = [forwards(step) for step in range(60)]
    assert all(torch.equal(order(counts)(step), steps[step]) for step in (59, 0, 31))
    assert not torch.equal(order(counts, seed=1)(0), steps[0])


def test_only_a_few_shards_are_open_at_a_time() -> None:
    counts = [10] * (4 * MIXED)
    each = order(counts, batch_size=10 * MIXED)
    windows = [set((each(step) // 10).tolist()) for step in range(4)]
    assert all(len(window) == MIXED for window in windows)
    assert set.union(*windows) == set(range(4 * MIXED))
    assert not torch.equal(each(0), each(0).sort().values)


# --- bad input ------------------------------------------------------------------------


def test_a_bad_picture_is_replaced_and_named(tmp_path: Path) -> None:
    files = {**red(200), "007.png": b"not a picture"}
    one = Stream(write_tar(tmp_path / "x.tar", files), 6, progress=False)
    with pytest.warns(UserWarning, match=r"left out 007\.png in .*x\.tar"):
        images, captions = one.take(torch.arange(200))
    assert captions[7] == ["8"] and images[7, 0, 0, 0] == 8 and len(images) == 200


@pytest.mark.filterwarnings("ignore:left out")
def test_many_bad_pictures_stop_it(tmp_path: Path) -> None:
    files = {
        name: data
        for name, data in red(200).items()
        if name not in ("003.txt", "100.txt", "150.txt")
    }
    one = Stream(write_tar(tmp_path / "x.tar", files), 6, progress=False)
    with pytest.raises(Dalle2EduError, match=r"3 of the first 200 .* no caption"):
        one.take(torch.arange(200))


def test_a_shard_that_is_cut_off_or_changed_is_named(tmp_path: Path) -> None:
    path = Path(write_tar(tmp_path / "x.tar", red(5)))
    notes = tmp_path / "shards.json"
    count_samples([str(path)], notes)
    write_tar(path, red(4))
    with pytest.raises(
        Dalle2EduError, match=r"x\.tar holds 4 samples, and 5 were counted"
    ):
        Stream(str(path), 6, notes, progress=False)[torch.tensor([0])]
    path.write_bytes(b"no tar" * 200)
    with pytest.raises(Dalle2EduError, match=r"can't read .*x\.tar as a tar shard"):
        Stream(str(path), 6, progress=False)


@pytest.mark.parametrize("source", ["nothing-{0..2}.tar", "."])
def test_what_names_no_shards(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Dalle2EduError, match="tar"):
        Stream(source, 6)


def test_an_address_that_gives_nothing(tmp_path: Path) -> None:
    with pytest.raises(Dalle2EduError, match="can't"):
        stream.open_shard(f"file://{tmp_path}/nothing.tar")
