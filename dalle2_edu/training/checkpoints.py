"""Checkpoints that survive: the power cut, the full disk, the `kill -9`.

A training run of hours is worth a few careful lines. The idea in five:

1. Each checkpoint is a separate folder, `checkpoint/step-00000500/`. It is written
   under a temporary name, forced onto the disk with `fsync`, and then *renamed*. A
   rename is atomic: after a crash the folder is there whole, or not at all, never half.
2. An old checkpoint goes only after the new one has its name: at every moment at least
   one is whole.
3. Tensors are safetensors, everything else is JSON. Python's `pickle`, which
   `torch.save` uses, runs code when it is read; a checkpoint from a stranger must not
   be able to do that.
4. `state.json` holds each file's SHA-256. A file that was cut off or altered is refused
   by name, and the checkpoint before it is used.
5. There is no random state in here, because there is none to keep: the loop draws every
   random number from (seed, step), see `order.py`.

    step-00000500/
        model.safetensors       the weights as trained
        ema.safetensors         their moving average: what you sample from
        optimizer.safetensors   Adam's two moments and step count, named "<parameter>/exp_avg" and so on
        state.json              step, config, metadata, numbers of the run, hashes

Chapter 08 opens one of these folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training.sharding import fill

KEPT = 2  # the newest, and the one before it in case the disk damages the newest
PREFIX = "step-"
UNFINISHED = ".unfinished-"  # a name that no reader takes for a checkpoint

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read back and verified: its folder, the JSON state, and its
    tensors (on the CPU).
    """

    path: Path
    state: dict[str, Any]
    tensors: dict[str, Tensors]  # "model", "ema", "optimizer" -> name -> tensor

    @property
    def step(self) -> int:
        """How many updates the model has had."""
        return int(self.state["step"])

    @property
    def weights(self) -> Tensors:
        """The weights to sample from: the moving average, or the plain weights of a run
        that kept none.
        """
        return self.tensors.get("ema") or self.tensors["model"]


# --- writing --------------------------------------------------------------------------


def save_checkpoint(
    folder: Path, state: dict[str, Any], tensors: dict[str, Tensors]
) -> Path:
    """Write `folder/step-<state["step"]>/`, return its path. A crash at any moment
    leaves a whole checkpoint.

    Raises `Dalle2EduError` in one line when it can't be written (a full disk, say).
    Older checkpoints are then untouched, and what was half written is removed.
    """
    final = folder / f"{PREFIX}{state['step']:08d}"
    unfinished = folder / f"{UNFINISHED}{final.name}"
    with disk_errors(f"the checkpoint {final}", "Older checkpoints are untouched."):
        try:
            _write_files(unfinished, state, tensors)
            # only there if it was damaged, and the run fell back and came here again
            _discard(final)
            unfinished.rename(final)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)  # a full disk needs the room
            raise
        # the new name itself must reach the disk before an old checkpoint goes
        _sync(folder)
        _prune(folder, newest=state["step"])
    return final


def _write_files(
    folder: Path, state: dict[str, Any], tensors: dict[str, Tensors]
) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
    folder.mkdir(parents=True)
    hashes = {}
    for part, named in tensors.items():
        file = folder / f"{part}.safetensors"
        file.touch()  # with the rights that new files get here
        readers = file.stat().st_mode  # safetensors would let the owner alone read it
        # A copy of each tensor: safetensors refuses tied weights (two names, one
        # storage) and odd strides.
        copies = {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()
        }
        save_file({name: tensor.contiguous() for name, tensor in copies.items()}, file)
        file.chmod(readers)
        hashes[file.name] = _sha256(file)
        _sync(file)
    text = json.dumps({**state, "sha256": hashes}, indent=1)
    (folder / "state.json").write_text(text, encoding="utf-8")
    _sync(folder / "state.json")
    _sync(folder)


def _prune(folder: Path, newest: int) -> None:
    """Keep `newest` and the `KEPT` - 1 before it. A later step can only be a damaged
    one, left behind.
    """
    # newest first
    earlier = [path for path in _listed(folder) if _step_of(path) <= newest]
    for path in set(_listed(folder)) - set(earlier[:KEPT]):
        _discard(path)


def _discard(path: Path) -> None:
    """Remove a checkpoint. Its name goes first, in one atomic rename: no half-removed
    one is ever read.
    """
    if path.exists():
        doomed = path.with_name(f"{UNFINISHED}old-{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run was in the middle of writing or removing."""
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until `path` (a file, or a folder's list of names) is on the disk and not
    only in memory.
    """
    if path.is_dir() and os.name == "nt":
        # Windows has no handle of a folder to sync; its file system journals the names
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(what: str, then: str = "") -> Iterator[None]:
    """Turn the system's errors while writing `what` into one clear line; `then` says
    what remains.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Dalle2EduError(
            f"Could not save {what}: {reason}. {then} Mend that, then go on with --resume."
        ) from error


# --- reading --------------------------------------------------------------------------


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run's `checkpoint/` folder, or None if there is
    none yet.

    A damaged one is passed over with a warning that names the file. Raises
    `Dalle2EduError` if all are.
    """
    damage: Dalle2EduError | None = None
    for path in _listed(folder):
        try:
            return load_checkpoint(path)
        except Dalle2EduError as error:
            warnings.warn(f"{error} Trying the checkpoint before it.", stacklevel=2)
            damage = damage or error  # the newest one's, if all are damaged
    if damage:
        raise damage
    return None


def latest_state(folder: Path) -> dict[str, Any] | None:
    """The JSON of the newest checkpoint that has one, without its tensors; None if
    there is none.
    """
    for path in _listed(folder):
        try:
            return _read_state(path / "state.json")
        except Dalle2EduError:
            continue  # `latest_checkpoint` will name it
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder. Raises `Dalle2EduError`, naming the file, if one is
    missing or altered.
    """
    state = _read_state(path / "state.json")
    tensors = {}
    for name, expected in state["sha256"].items():
        file = path / name
        if not file.is_file():
            raise Dalle2EduError(f"The checkpoint file {file} is missing.")
        if (found := _sha256(file)) != expected:
            raise Dalle2EduError(
                f"The checkpoint file {file} is damaged: SHA-256 {found}, not {expected}."
            )
        tensors[file.stem] = _read_tensors(file)
    return Checkpoint(path, state, tensors)


def _read_tensors(file: Path) -> Tensors:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise Dalle2EduError(f"{file} is no safetensors file ({error}).") from error


def _read_state(file: Path) -> dict[str, Any]:
    damaged = Dalle2EduError(f"The checkpoint file {file} is missing or damaged.")
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        hashes = state["sha256"]
        right = type(state["step"]) is int and all(map(_is_part, hashes.items()))
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise damaged from error
    if not right or file.parent.name != f"{PREFIX}{state['step']:08d}":
        raise damaged
    return state


def _is_part(entry: tuple[Any, Any]) -> bool:
    """Whether a file's name and hash are such as `save_checkpoint` writes."""
    name, digest = entry
    plain = Path(name).name == name  # no folder in it: a file of the checkpoint alone
    return plain and name.endswith(".safetensors") and type(digest) is str


def _listed(folder: Path) -> list[Path]:
    """The checkpoint folders, newest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if _step_of(path) >= 0]
    return sorted(found, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    digits = path.name.removeprefix(PREFIX)
    return int(digits) if digits.isdecimal() else -1  # no checkpoint


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):  # 1 MiB at a time
            digest.update(block)
    return digest.hexdigest()


# --- the optimizer as plain tensors ---------------------------------------------------


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """Adam's state, named by parameter: `"conv.weight/exp_avg"` and so on. A frozen
    parameter has none.
    """
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Tensors
) -> None:
    """Put back what `optimizer_tensors` took out: each moment in its parameter's device
    and memory layout.
    """
    parameters = dict(model.named_parameters())
    for full_name, value in tensors.items():
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        moment = value.shape == parameter.shape  # the step count has no shape
        if moment:
            like = torch.empty_like(parameter, requires_grad=False)
        else:
            like = value.to(parameter.device, copy=True)
        fill(like, value)
        optimizer.state[parameter][key] = like
