"""PyTorch's files, read without running them: the same tensors as torch.load, and no
code.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from dalle2_edu.cli import app
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.interop.pickles import InertUnpickler, encode, load_inert, tensors_in
from dalle2_edu.interop.released import load_glide_network
from dalle2_edu.interop.weights import open_network, open_weights


class Net(nn.Module):
    """Nested modules, a buffer, a half-precision weight, and two names for one
    tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.narrow = nn.Parameter(torch.randn(2, 3).half().T)  # not contiguous
        self.tied = self.body[0].weight


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), (
            name
        )


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("kind", ["state dict", "checkpoint", "module"])
def test_the_tensors_are_those_of_torch(tmp_path: Path, layout: str, kind: str) -> None:
    net = Net()
    saved: Any = {
        "state dict": net.state_dict(),
        "checkpoint": {
            "state_dict": net.state_dict(),
            "epoch": 3,
            "device": torch.device("cpu"),
        },
        "module": net,
    }[kind]
    path = tmp_path / "net.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=layout == "zip")
    found = open_weights(path)
    tensors = found["state_dict"] if kind == "checkpoint" else found
    same({name: tensors[name] for name in tensors}, dict(net.state_dict()))


def test_a_module_whose_code_is_not_installed(tmp_path: Path, monkeypatch) -> None:
    package = types.ModuleType("nowhere")
    monkeypatch.setitem(sys.modules, "nowhere", package)
    package.Net = Net
    monkeypatch.setattr(Net, "__module__", "nowhere")
    torch.save(Net(), tmp_path / "net.pkl")
    monkeypatch.delitem(sys.modules, "nowhere")
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "net.pkl")])
    assert done.exit_code == 0, done.output
    same(load_file(tmp_path / "net.safetensors"), dict(Net().state_dict()))
    # readable by others, as usual
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o044


def test_torchscript_is_read_without_its_code(tmp_path: Path) -> None:
    net = Net().eval()
    scripted = torch.jit.trace(net.stem, torch.zeros(1, 3, 8, 8))
    scripted.save(str(tmp_path / "net.pt"))
    same(dict(open_weights(tmp_path / "net.pt")), dict(net.stem.state_dict()))


def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in Net().state_dict().items()}
    torch.save(state, tmp_path / "net.pt")
    assert open_weights(tmp_path / "net.pt").keys() == Net().state_dict().keys()


class Runs:
    """Unpickled by Python, it calls a function with arguments."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile(trap: Path) -> dict[str, Any]:
    return {
        "a command": Runs(os.system, f"touch {trap}"),
        "eval": Runs(eval, f"open({str(trap)!r}, 'w')"),
        "open": Runs(open, str(trap), "w"),
        "an attribute": Runs(getattr, Runs(__import__, "os"), "system"),
        "inside a dict": {"state_dict": OrderedDict(a=Runs(os.mkdir, str(trap)))},
        "as a storage": [torch.zeros(2), Runs(exec, f"open({str(trap)!r}, 'w')")],
    }


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("kind", list(hostile(Path("x"))))
def test_nothing_in_a_file_is_run(tmp_path: Path, layout: str, kind: str) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / "net.pt"
    torch.save(
        hostile(trap)[kind], path, _use_new_zipfile_serialization=layout == "zip"
    )
    load_inert(path)  # stand-ins, and no complaint
    assert not trap.exists()


def test_a_file_cannot_change_the_reader(tmp_path: Path) -> None:
    """A pickle may set attributes on a function that it named."""
    before = (encode.__defaults__, encode.__doc__)
    state = pickle.dumps(
        (None, {"__defaults__": ("utf-16",), "__doc__": "changed"}), protocol=0
    )
    # b: set this state
    attack = b"c_codecs\nencode\n" + state.removesuffix(b".") + b"b."
    with contextlib.suppress(Exception):
        InertUnpickler(io.BytesIO(attack), lambda *_: torch.zeros(1)).load()
    assert (encode.__defaults__, encode.__doc__) == before


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ([torch.zeros(2)], "a list and no tensors"),
        (torch.zeros(2), "a Tensor and no tensors"),
    ],
)
def test_what_has_no_names(tmp_path: Path, saved: Any, says: str) -> None:
    torch.save(saved, tmp_path / "net.pt")
    with pytest.raises(
        Dalle2EduError, match=rf"net\.pt can't be read: it holds {says}"
    ):
        open_weights(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"no weights at all", "cut off or is no weights file"),
        (b"PK\x05\x06" + bytes(18), "a zip file without data.pkl"),
    ],
)
@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_what_is_no_weights_file(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    if name.endswith(".safetensors") and not says.startswith(("it is", "git")):
        says = "can't be read"
    with pytest.raises(Dalle2EduError, match=f"{name} .*{says}"):
        open_weights(tmp_path / name)


def test_a_network_in_a_checkpoint(tmp_path: Path) -> None:
    net = Net().state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in net.items()}
    torch.save(
        {"epoch": 3, "optimizer": {"lr": 1.0}, "state_dict": wrapped}, tmp_path / "a.pt"
    )
    assert set(open_network(tmp_path / "a.pt")) == set(net)
    torch.save({**net, "step": 7}, tmp_path / "a.pt")
    assert set(open_network(tmp_path / "a.pt")) == set(net)
    for without in ({"epoch": 3, "notes": "x"}, {"state_dict": 5, "epoch": 3}):
        torch.save(without, tmp_path / "a.pt")
        with pytest.raises(
            Dalle2EduError, match="a.pt holds no network; its entries.*epoch"
        ):
            open_network(tmp_path / "a.pt")


def test_a_key_without_a_place_is_told_with_the_file(tmp_path: Path) -> None:
    torch.save({"someone.elses.weight": torch.zeros(3)}, tmp_path / "base.pt")
    with pytest.raises(
        Dalle2EduError, match="base.pt holds another network.*someone.elses"
    ):
        load_glide_network(tmp_path)


def test_convert_says_what_is_wrong(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "net.pt")
    torch.save(Net().state_dict(), tmp_path / "good.pt")
    (tmp_path / "folder").mkdir()
    cases = {
        ("net.pt",): "its entries are epoch, names",
        ("good.pt", "--out", "folder"): "folder is a folder",
        ("good.pt", "--out", "/dev/null"): "no ordinary file",
        ("missing.pt",): "There is no file",
    }
    for words, says in cases.items():
        paths = [
            word if word.startswith(("-", "/")) else str(tmp_path / word)
            for word in words
        ]
        done = CliRunner().invoke(app, ["convert", *paths])
        assert isinstance(done.exception, Dalle2EduError) and says in str(
            done.exception
        )
    deep = tmp_path / "new" / "good.safetensors"
    done = CliRunner().invoke(
        app, ["convert", str(tmp_path / "good.pt"), "--out", str(deep)]
    )
    assert done.exit_code == 0 and len(load_file(deep)) == len(Net().state_dict())


def test_damaged_files_give_an_answer_or_one_line(tmp_path: Path) -> None:
    """Four hundred files, each with some bytes changed or its end cut off."""
    luck = random.Random(0)
    originals = []
    for new in (True, False):
        file = io.BytesIO()
        torch.save(Net().state_dict(), file, _use_new_zipfile_serialization=new)
        originals.append(file.getvalue())
    path = tmp_path / "net.pt"
    for _ in range(400):
        data = bytearray(luck.choice(originals))
        for _ in range(luck.randint(1, 8)):
            data[luck.randrange(len(data))] = luck.randrange(256)
        if luck.random() < 0.3:
            data = data[: luck.randrange(len(data))]
        path.write_bytes(data)
        with contextlib.suppress(Dalle2EduError):  # anything else would end the test
            assert isinstance(open_weights(path), dict)


def test_a_bomb_of_nested_modules(tmp_path: Path) -> None:
    deep: dict[str, Any] = {"weight": torch.zeros(1)}
    for _ in range(100):
        deep = {"next": deep}
    with pytest.raises(ValueError, match="nested too deep"):
        tensors_in(deep)
    laughs: dict[str, Any] = {"weight": torch.zeros(1)}
    for _ in range(60):
        laughs = {"one": laughs, "two": laughs}  # 2^60 entries in a few hundred bytes
    with pytest.raises(ValueError, match="too many entries"):
        tensors_in(laughs)
    (tmp_path / "net.pt").write_bytes(pickle.dumps([1, 2, 3], protocol=2))
    with pytest.raises(Dalle2EduError, match="no weights file"):
        open_weights(tmp_path / "net.pt")
