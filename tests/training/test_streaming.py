"""Data that do not fit in memory: killed and resumed, in one process and in two,
sharded or not; embeddings on disk.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch
from stream_task import run
from torch import Tensor

from dalle2_edu.data import shapes, shards
from dalle2_edu.data.stream import Stream
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes.embedded import Embedded, Streamed, embed
from dalle2_edu.recipes.encoded import Encoded, encode
from dalle2_edu.text2image.clip import Clip
from dalle2_edu.training import load_checkpoint

HERE = Path(__file__).parent
COUNTS = (7, 5, 6)
STEPS = 9  # of four: two epochs of eighteen


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three shards of pictures whose captions are their numbers."""
    folder, number = tmp_path_factory.mktemp("shards"), 0
    for which, count in enumerate(COUNTS):
        images = torch.randint(
            256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(which)
        ).to(torch.uint8)
        shards.write(
            folder / f"set-{which}.tar",
            images,
            [[str(number + i)] for i in range(count)],
        )
        number += count
    return f"{folder}/set-{{0..2}}.tar"


def seen(out: Path, ranks: int) -> list[int]:
    """What all processes saw, step by step."""
    diaries = [
        (out / f"seen-{rank}.txt").read_text().splitlines() for rank in range(ranks)
    ]
    return [
        int(name)
        for step in zip(*diaries, strict=True)
        for share in step
        for name in share.split()
    ]


def weights(out: Path) -> dict[str, Tensor]:
    return load_checkpoint(out / f"checkpoint/step-{STEPS:08d}").tensors["ema"]


def test_two_processes_killed_within_an_epoch_see_every_sample_once(
    numbered: str, tmp_path: Path
) -> None:
    run(numbered, str(tmp_path / "one"), STEPS)
    kinds = {"ddp": False, "fsdp": True}
    jobs = [
        {"shards": numbered, "out": str(tmp_path / name), "steps": steps, "fsdp": fsdp}
        for name, fsdp in kinds.items()
        for steps in (3, STEPS)  # stopped after 12 of 18 samples, then gone on with
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            "--master-addr=127.0.0.1",
        ]
        + [f"--master-port={port}", str(HERE / "stream_task.py"), json.dumps(jobs)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    alone = seen(tmp_path / "one", 1)
    assert sorted(alone[:18]) == sorted(alone[18:]) == list(range(18))
    assert alone[:18] != alone[18:]
    for name in kinds:
        assert seen(tmp_path / name, 2) == alone, name
        theirs, own = weights(tmp_path / name), weights(tmp_path / "one")
        assert theirs.keys() == own.keys()
        for part, tensor in own.items():
            torch.testing.assert_close(
                theirs[part], tensor, rtol=1e-4, atol=1e-5, msg=f"{name}: {part}"
            )


def test_one_process_is_not_sharded(numbered: str, tmp_path: Path) -> None:
    with pytest.raises(Dalle2EduError, match="nproc-per-node 2"):
        run(numbered, str(tmp_path), 1, fsdp=True)


# --- what the priors and decoders learn from ------------------------------------------


@pytest.fixture(scope="module")
def clip() -> Clip:
    torch.manual_seed(0)
    return tiny_models.awake(Clip(tiny_models.CLIP))


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two shards of rendered scenes, whose files keep every pixel."""
    folder, pairs = tmp_path_factory.mktemp("scenes"), shapes.pairs(7, 64)
    for which, part in enumerate((slice(0, 4), slice(4, 7))):
        shards.write(folder / f"{which}.tar", pairs.images[part], pairs.captions[part])
    return str(folder)


@pytest.fixture(scope="module")
def held(captioned: str, clip: Clip) -> Encoded:
    """The same in memory."""
    return encode(shards.pairs(captioned, 64), 32, clip, default_tokenizer())


def drawn(data: Encoded | Streamed | Embedded) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return data.draw(torch.tensor([6, 0, 3, 4, 0]), text_drop=0.4)


def test_streamed_and_embedded_are_what_memory_holds(
    captioned: str, held: Encoded, clip: Clip, tmp_path: Path
) -> None:
    embed(captioned, tmp_path, clip, "hash", default_tokenizer(), 64, 32)
    others = {
        "streamed": Streamed(
            Stream(captioned, 64, progress=False), 32, clip, default_tokenizer()
        ),
        "embedded": Embedded(tmp_path, 32, clip, "hash", default_tokenizer()),
    }
    expected = drawn(held)
    for name, data in others.items():
        assert len(data) == len(held)
        found = drawn(data)
        assert found.keys() == expected.keys()
        for part, tensor in expected.items():  # half precision has three digits
            torch.testing.assert_close(
                found[part], tensor, rtol=0, atol=2e-3, msg=f"{name}: {part}"
            )
        torch.testing.assert_close(
            data.measured()[0], held.measured()[0], rtol=0, atol=2e-3
        )  # seven are all


def test_embedding_goes_on_where_it_stopped(
    captioned: str, clip: Clip, tmp_path: Path
) -> None:
    how = (clip, "hash", default_tokenizer(), 64, 32)
    first, second = embed(captioned, tmp_path, *how)
    second.unlink()
    kept = first.stat().st_mtime_ns
    embed(captioned, tmp_path, *how)
    assert second.is_file() and first.stat().st_mtime_ns == kept
    assert not list(tmp_path.glob("*.part"))


def test_another_clips_embeddings_are_refused(
    captioned: str, clip: Clip, tmp_path: Path
) -> None:
    embed(captioned, tmp_path, clip, "hash", default_tokenizer(), 64, 32)
    with pytest.raises(Dalle2EduError, match=r"000000.*clip 'hash', not 'another'"):
        Embedded(tmp_path, 32, clip, "another", default_tokenizer())


def test_a_damaged_file_of_embeddings_is_named(
    captioned: str, clip: Clip, tmp_path: Path
) -> None:
    first, _ = embed(captioned, tmp_path, clip, "hash", default_tokenizer(), 64, 32)
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(Dalle2EduError, match="000000"):
        Embedded(tmp_path, 32, clip, "hash", default_tokenizer())
