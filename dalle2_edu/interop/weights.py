"""Files of released weights, and how they get into a module: one tensor at a time, all
of it or nothing.

A released network has hundreds of millions of numbers. Three habits keep that cheap and
safe:

1. The file is mapped, not read: a tensor comes off the disk when it is asked for
   (`open_weights`).
2. The module is built on the meta device, where tensors have a shape and no memory.
   Each official tensor is moved straight to its device and type and becomes the
   module's (`pour`), so nothing is ever twice in memory.
3. Safetensors, or PyTorch's own files, whose pickle is read without running it
   (`pickles`).

Chapter 24 uses this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import one_line
from dalle2_edu.interop.pickles import StandIn, load_inert, tensors_in

Module = TypeVar("Module", bound=nn.Module)
Source = str | Path
GIB = 2**30


class MappedTensors(Mapping[str, Tensor]):
    """A safetensors file as a dict whose tensors are read when they are asked for."""

    def __init__(self, path: Path):
        self._file = safe_open(path, "pt")  # maps the file, reads its header
        self._keys = list(self._file.keys())

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._keys:
            raise KeyError(key)
        return self._file.get_tensor(key)  # here it comes off the disk

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class Selected(Mapping[str, Tensor]):
    """The tensors whose keys start with a prefix, under their names without it."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str):
        self._tensors = tensors
        self._prefix = prefix
        self._keys = [
            key.removeprefix(prefix) for key in tensors if key.startswith(prefix)
        ]

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


# --- finding and opening --------------------------------------------------------------


def find_file(source: Source, names: Iterable[str], by_hand: str = "") -> Path:
    """The file that `source` means: a file itself, a folder that holds one of `names`,
    or a Hugging Face repository ("owner/name") that does.

    Raises Dalle2EduError if there is none, with the command `by_hand` that fetches it.
    """
    names = list(names)
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                return path / name
        raise Dalle2EduError(
            f"There is no {' or '.join(names)} in {path}.{_hint(by_hand)}"
        )
    if is_hub_name(source):
        return _download(str(source), names, by_hand)
    raise Dalle2EduError(f"There is no file {path}.{_hint(by_hand)}")


def is_hub_name(source: Source) -> bool:
    """Whether this reads like "owner/name" and not like a path."""
    text = str(source)
    one_slash = text.count("/") == 1
    relative = text.startswith((".", "/", "~"))
    return one_slash and not relative and not Path(text).suffix


def _download(repository: str, names: list[str], by_hand: str) -> Path:
    problem: Exception | None = None
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        # no network, no such repository, no such file
        except (OSError, HFValidationError, ValueError) as error:
            problem = error
    folder = repository.split("/")[1]
    by_hand = by_hand or f"hf download {repository} --local-dir {folder}"
    reason = str(problem).splitlines()[0] if problem else "it names no file"
    raise Dalle2EduError(
        f"{repository} could not be fetched ({reason}).{_hint(by_hand)}"
    )


def _hint(by_hand: str) -> str:
    return f" To get it by hand: {by_hand}" if by_hand else ""


# What DistributedDataParallel and torch.compile put in front of all names.
WRAPPERS = ("module.", "_orig_mod.")
# Under which entry a checkpoint may keep its network.
NETWORKS = ("state_dict", "model_state_dict", "model", "network", "ema", "ema_model")


def open_weights(path: Path) -> Mapping[str, Any]:
    """A file's tensors, mapped into memory: safetensors, or a file of PyTorch's.

    A checkpoint with other entries beside its tensors is given as it is, a pickled
    module as its tensors. Nothing in the file is ever run. Raises Dalle2EduError,
    naming the file, for one that was cut off, is empty, is a git-lfs pointer or holds
    no named tensors.
    """
    found = open_object(path)
    try:
        return found if isinstance(found, MappedTensors) else unwrapped(named(found))
    except ValueError as error:
        raise Dalle2EduError(f"{path} can't be read: {one_line(error)}.") from error


def open_network(path: Path) -> Mapping[str, Tensor]:
    """As `open_weights`, but named tensors and nothing else: of a checkpoint with other
    entries those of its network. Raises Dalle2EduError, listing the entries, where
    there is none.
    """
    entries = open_weights(path)
    if isinstance(entries, MappedTensors):
        return entries
    tensors = {
        name: value for name, value in entries.items() if isinstance(value, Tensor)
    }
    if tensors:
        return tensors
    # no tensor among them: the network stands under one of the usual names
    inside = next((entries[name] for name in NETWORKS if name in entries), None)
    try:
        return unwrapped(tensors_in(inside))
    except ValueError as error:
        shown = ", ".join(list(entries)[:8])
        raise Dalle2EduError(
            f"{path} holds no network; its entries are {shown}."
        ) from error


def open_object(path: Path) -> Any:
    """What a weights file holds, whatever it is: a dict, a list of tensors, a stand-in
    of a module. Raises as `open_weights`.
    """
    try:
        start = first_bytes(path)
        if not start:
            raise ValueError("it is empty")
        if start.startswith(b"version https://git-lfs"):
            raise ValueError(
                "it is a pointer of git-lfs, not the file itself: run `git lfs pull`"
            )
        if path.suffix == ".safetensors":
            return MappedTensors(path)
        return load_inert(path)
    except OSError as error:
        raise Dalle2EduError(
            f"{path} can't be read: {error.strerror or error}."
        ) from error
    except SafetensorError as error:
        raise Dalle2EduError(
            f"{path} can't be read: it was cut off or is no safetensors file ({one_line(error)})."
        ) from error
    except ValueError as error:
        raise Dalle2EduError(f"{path} can't be read: {one_line(error)}.") from error


def plain_tensors(path: Path) -> dict[str, Tensor]:
    """All named tensors of a file, none sharing memory with another: what safetensors
    can hold.

    Of a checkpoint the ones under `state_dict`, if there is such an entry. Raises
    Dalle2EduError, naming the file, for one that holds none.
    """
    entries = open_weights(path)
    inside = entries.get("state_dict") if isinstance(entries, dict) else None
    try:
        found = tensors_in(dict(entries) if inside is None else inside)
    except ValueError as error:
        shown = ", ".join(list(entries)[:5])
        raise Dalle2EduError(f"{path}: {error}; its entries are {shown}.") from error
    # tied weights are views of one storage: each gets a copy
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(64)


def named(found: Any) -> Mapping[str, Any]:
    """A checkpoint's entries by name; raises ValueError for a tensor or a list
    alone.
    """
    if isinstance(found, StandIn):
        return tensors_in(found)
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__} and no tensors with names")
    return {str(name): value for name, value in found.items()}


def unwrapped(entries: Mapping[str, Any]) -> Mapping[str, Any]:
    """The names without what wrappers put in front of all of them."""
    for wrapper in WRAPPERS:
        if entries and all(name.startswith(wrapper) for name in entries):
            entries = {
                name.removeprefix(wrapper): value for name, value in entries.items()
            }
    return entries


# --- pouring --------------------------------------------------------------------------


def pour(
    build: Callable[[], Module],
    tensors: Iterable[tuple[str, Tensor]],
    source: Source,
    count: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: bool = False,
    extra: Mapping[str, Tensor] | None = None,
) -> Module:
    """A module built by `build` and filled with `tensors`, (our name, tensor) one after
    the other.

    Tensors of floating point get `dtype`. `extra` are tensors that the file lacks, such
    as statistics from elsewhere. Raises Dalle2EduError, naming the file, the key and
    both shapes, unless every tensor of the module comes exactly once; then no module is
    returned. It also says before it allocates how much memory is missing.
    """
    with torch.device("meta"):  # shapes, no memory
        module = build()
    wanted = module.state_dict()
    check_memory(wanted, dtype, device, source)
    state: dict[str, Tensor] = {}
    incoming = _with(_naming(tensors, source), extra)
    bar = tqdm(incoming, total=count, desc=Path(source).name, disable=not progress)
    for name, tensor in bar:
        _check(name, tensor, wanted, state, source)  # before it is moved
        # whole numbers, such as counts, stay what they are
        kind = dtype if tensor.is_floating_point() else None
        state[name] = tensor.to(device, kind)
    missing = [name for name in wanted if name not in state]
    if missing:
        raise Dalle2EduError(
            f"{source} does not hold this network: {len(missing)} of its {len(wanted)} tensors"
            f" are not there, the first {missing[0]!r} {list(wanted[missing[0]].shape)}."
        )
    module.load_state_dict(state, assign=True)  # the tensors themselves, not copies
    return module.eval()


def _naming(
    tensors: Iterable[tuple[str, Tensor]], source: Source
) -> Iterator[tuple[str, Tensor]]:
    """The tensors; an error over a key that our network has no place for gets the
    file's name.
    """
    try:
        yield from tensors
    except Dalle2EduError as error:
        raise Dalle2EduError(f"{source} holds another network. {error}") from error


def _with(
    tensors: Iterable[tuple[str, Tensor]], extra: Mapping[str, Tensor] | None
) -> Iterator[tuple[str, Tensor]]:
    yield from tensors
    yield from (extra or {}).items()


def _check(
    name: str,
    tensor: Tensor,
    wanted: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: Source,
):
    if name not in wanted:
        raise Dalle2EduError(
            f"{source} holds another network: ours has no place for {name!r}"
            f" {list(tensor.shape)}."
        )
    if name in state:
        raise Dalle2EduError(f"{source} holds another network: {name!r} comes twice.")
    if tensor.shape != wanted[name].shape:
        raise Dalle2EduError(
            f"{source} holds another network: {name!r} should be {list(wanted[name].shape)} but"
            f" is {list(tensor.shape)}."
        )


def check_memory(
    wanted: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: str | torch.device,
    source: Source,
) -> None:
    """Raise Dalle2EduError unless the device has room for these tensors in this
    type.
    """
    needed = 0
    for tensor in wanted.values():
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        needed += prod(tensor.shape) * kind.itemsize
    free = free_memory(torch.device(device))
    if needed > free:
        raise Dalle2EduError(
            f"{source} needs {needed / GIB:.1f} GiB on {device} and {free / GIB:.1f} GiB are"
            " free: take dtype=torch.bfloat16, or another device."
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated there."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def parameter_count(module: nn.Module) -> int:
    """How many numbers the module learned; buffers are not among them."""
    return sum(parameter.numel() for parameter in module.parameters())
