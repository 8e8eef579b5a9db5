"""Checkpoints: what is written comes back, damage is refused by name, a full disk harms
nothing.
"""

import errno
import json
from pathlib import Path

import pytest
import torch

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training import checkpoints
from dalle2_edu.training.checkpoints import (
    latest_checkpoint,
    latest_state,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(
        folder, {"step": step}, {"model": {"w": torch.full((1000,), float(step))}}
    )


def test_round_trip_keeps_the_two_newest(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        path = save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000020",
        "step-00000030",
    ]
    checkpoint = load_checkpoint(path)
    assert checkpoint.step == 30
    assert torch.equal(checkpoint.weights["w"], torch.full((1000,), 30.0))


def test_tied_and_strided_weights_can_be_saved(tmp_path: Path) -> None:
    tensor = torch.randn(4, 6)
    path = save_checkpoint(
        tmp_path, {"step": 1}, {"model": {"a": tensor, "tied": tensor, "t": tensor.t()}}
    )
    tensors = load_checkpoint(path).tensors["model"]
    assert torch.equal(tensors["a"], tensors["tied"])
    assert torch.equal(tensors["t"], tensor.t())


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "remove"])
def test_damage_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, file: str, harm: str
) -> None:
    save(tmp_path, 10)
    damaged = save(tmp_path, 20) / file
    damaged.write_bytes(
        damaged.read_bytes()[:-20]
    ) if harm == "cut" else damaged.unlink()
    with pytest.raises(Dalle2EduError, match=file):
        load_checkpoint(damaged.parent)
    with pytest.warns(UserWarning, match=file):
        assert latest_checkpoint(tmp_path).step == 10
    save(tmp_path, 20)  # the run comes here again and replaces it
    assert latest_checkpoint(tmp_path).step == 20


@pytest.mark.parametrize(
    "state",
    [
        [],
        {"step": 10},
        {"step": "10", "sha256": {}},
        {"step": True, "sha256": {}},
        {"step": -1, "sha256": {}},
        {"step": 11, "sha256": {}},  # of another folder
        {"step": 10, "sha256": []},
        {"step": 10, "sha256": {"../../secret.safetensors": "0"}},
        {"step": 10, "sha256": {"state.json": "0"}},
        {"step": 10, "sha256": {"model.safetensors": 5}},
    ],
    ids=json.dumps,
)
def test_a_tampered_state_is_named(tmp_path: Path, state: object) -> None:
    file = save(tmp_path, 10) / "state.json"
    file.write_text(json.dumps(state))
    with pytest.raises(Dalle2EduError, match=r"state\.json"):
        load_checkpoint(file.parent)
    assert latest_state(tmp_path) is None


def test_others_may_read_a_checkpoint(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    for file in folder.iterdir():
        assert file.stat().st_mode == ordinary.stat().st_mode, file


def test_one_flipped_bit_is_seen(tmp_path: Path) -> None:
    file = save(tmp_path, 10) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    # There is none before it to fall back on.
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(Dalle2EduError, match="damaged"),
    ):
        latest_checkpoint(tmp_path)


def test_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10)

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "_sync", full)
    with pytest.raises(Dalle2EduError, match="No space left on device") as caught:
        save(tmp_path, 20)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [
        "step-00000010"
    ]  # and the half-written one gave its room back
    assert latest_checkpoint(tmp_path).step == 10


def test_a_file_too_large_for_the_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    save(tmp_path, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (2000, hard)
    )  # the system itself stops the write half-way
    try:
        with pytest.raises(Dalle2EduError, match="Could not save"):
            save(tmp_path, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]


def test_state_is_json_with_a_hash_for_each_file(tmp_path: Path) -> None:
    state = json.loads((save(tmp_path, 10) / "state.json").read_text())
    assert state["step"] == 10
    assert list(state["sha256"]) == ["model.safetensors"]


def test_optimizer_state_comes_back_in_its_memory_layout() -> None:
    model = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    first, second = (
        torch.optim.AdamW(model.parameters(), fused=True) for _ in range(2)
    )
    model(torch.randn(1, 2, 5, 5)).sum().backward()
    first.step()
    tensors = {
        name: t.contiguous() for name, t in optimizer_tensors(model, first).items()
    }
    restore_optimizer(model, second, tensors)
    for parameter in model.parameters():
        for key, value in first.state[parameter].items():
            assert torch.equal(second.state[parameter][key], value)
            assert second.state[parameter][key].stride() == value.stride()
