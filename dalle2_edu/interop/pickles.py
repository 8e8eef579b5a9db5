"""PyTorch's own weight files, read without ever running them.

A `.pt`, `.ckpt` or `.pkl` file is a pickle, and a pickle is a small program: "call this
function with these arguments, and set these attributes". Python's own reader obeys,
whoever wrote the file. This one knows a dozen harmless instructions, those
that rebuild tensors and plain containers. Every other name in the file becomes a
*stand-in*: an object that keeps what it is given and does nothing. So a file may say
`os.system("...")`, and gets a stand-in called `os.system` with one argument.

A pickled module is then a tree of stand-ins that hold the tensors: `tensors_in` walks
over it and gives them the names that `module.state_dict()` would.

Three layouts are read:

    zip            since PyTorch 1.6: data.pkl, and each storage as a separate file, mapped
    TorchScript    the same with code beside it, which is not looked at (OpenAI's CLIP)
    legacy         before 1.6: several pickles one after the other, then the storages

Chapter 24 uses this file.
"""

from __future__ import annotations

import functools
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

# the first number in a file of before PyTorch 1.6
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DEEPEST = 64  # modules inside modules
# visited in search of tensors: a few bytes can stand for any number
MOST_ENTRIES = 1_000_000
LARGEST_PICKLE = 1 << 30  # bytes: without its storages a checkpoint's pickle is small

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGES.values()}


class StandIn:
    """An object of a class that is not imported: it keeps what the file gives it."""

    known_as = "?"  # module and name, as the file says them

    arguments: tuple[Any, ...]
    attributes: dict[str, Any]
    items: list[Any]

    def __new__(cls, *arguments: Any, **_: Any) -> StandIn:
        made = super().__new__(cls)  # pickles make objects without calling __init__
        made.arguments = arguments
        made.attributes = {}
        made.items = []
        return made

    def __setstate__(self, state: Any) -> None:
        # (__dict__, slots) or __dict__
        parts = state if isinstance(state, tuple) else (state,)  # pickle's two forms
        for part in parts:
            if isinstance(part, dict):
                named = {str(name): value for name, value in part.items()}
                self.attributes.update(named)

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Any) -> None:
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.attributes[str(key)] = value

    # a call in the file: nothing happens
    def __call__(self, *arguments: Any, **named: Any) -> StandIn:
        return self

    # by identity: the attributes may change
    def __hash__(self) -> int:
        return id(self)


def stand_in(module: str, name: str) -> type[StandIn]:
    """A new class for each name, so that nothing that a file sets is shared."""
    return type("StandIn", (StandIn,), {"known_as": f"{module}.{name}"})


@dataclass(frozen=True)
class StorageType:
    """What stands for `torch.FloatStorage` and its like."""

    dtype: torch.dtype


def rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *_: Any, **__: Any
) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`: a view of a storage; raises ValueError for one
    that lies outside of it.
    """
    if not isinstance(storage, Tensor):
        raise ValueError("a tensor without its storage")
    numbers = (offset, *size, *stride)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor with sizes that are no numbers")
    # the highest place that the view touches
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(storage):
        raise ValueError("a tensor that reaches beyond its storage")
    return storage.as_strided(size, stride, offset)


def rebuild_parameter(data: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_parameter`: the tensor itself is all that is wanted."""
    return data


def encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, with which old pickles write bytes."""
    return str(text).encode("latin1")


FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): encode,
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
}


class InertUnpickler(pickle.Unpickler):
    """Reads a pickle in which nothing but tensors and containers comes to life."""

    def __init__(
        self, file: BinaryIO, storage: Callable[[str, torch.dtype, int], Tensor]
    ):
        super().__init__(file, encoding="latin1")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): tuple,
            ("builtins", "set"): set,
            ("__builtin__", "set"): set,
        }
        if (module, name) in known:
            return known[module, name]
        if (module, name) in FUNCTIONS:
            # a new one for each mention: a file may set attributes on it, and would
            # otherwise change ours for the rest of the program
            return functools.partial(FUNCTIONS[module, name])
        if module in ("torch", "torch.storage", "torch.cuda") and name in STORAGES:
            return StorageType(STORAGES[name])
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        return stand_in(module, name)  # harmless, whatever its name

    def persistent_load(self, saved: Any) -> Any:
        """A storage: ("storage", type, key, device, numbers), with a view's data behind
        it.
        """
        if not (isinstance(saved, tuple) and saved):
            raise pickle.UnpicklingError("an unknown reference")
        if saved[0] == "module":  # legacy files bring a class with its source text
            return saved[1] if len(saved) > 1 else stand_in("?", "?")
        known = saved[0] == "storage" and len(saved) >= 5
        if not known or not isinstance(saved[1], StorageType):
            raise pickle.UnpicklingError("an unknown reference")
        key = saved[2]
        count = saved[4]  # of numbers, not bytes
        if type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a storage of no size")
        whole = self.storage(str(key), saved[1].dtype, count)
        view = saved[5] if len(saved) > 5 else None
        # legacy: a part of a larger storage
        if isinstance(view, tuple) and len(view) == 3:
            _, start, length = view
            return whole[int(start) : int(start) + int(length)]
        return whole


# --- the three layouts ----------------------------------------------------------------


def load_inert(path: Path) -> Any:
    """What a file of PyTorch's holds, with stand-ins for everything but tensors and
    containers.

    Raises ValueError, with the reason, for what is no such file or is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            return _load_zip(path)
        with path.open("rb") as file:
            return _load_legacy(file)
    except ValueError:
        raise
    except (MemoryError, RecursionError) as error:
        raise ValueError(f"it asks for too much ({type(error).__name__})") from error
    # a damaged pickle fails in as many ways as there are bytes
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"it was cut off or is no weights file ({reason})") from error


def _load_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        names = [
            record for record in records if record.rpartition("/")[2] == "data.pkl"
        ]
        name = names[0] if names else None
        if name is None:
            raise ValueError("a zip file without data.pkl: not one of PyTorch's")
        if records[name].file_size > LARGEST_PICKLE:
            raise ValueError("its pickle is too large")
        folder = name.removesuffix("data.pkl")
        size = path.stat().st_size
        mapped: Any = torch.UntypedStorage.from_file(str(path), False, size)
        found: dict[str, Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            record = f"{folder}data/{key}"
            if record not in found:
                if record not in records:
                    raise ValueError(f"the storage {record} is missing")
                found[record] = _record(archive, records[record], mapped, dtype, count)
            return found[record]

        return InertUnpickler(io.BytesIO(archive.read(name)), storage).load()


def _record(
    archive: zipfile.ZipFile,
    record: zipfile.ZipInfo,
    mapped: torch.UntypedStorage,
    dtype: torch.dtype,
    count: int,
) -> Tensor:
    """A storage as a flat tensor (count,): mapped where it is stored as it is."""
    size = count * dtype.itemsize
    if record.file_size < size:
        raise ValueError(f"the storage {record.filename} was cut off")
    if record.compress_type != zipfile.ZIP_STORED:  # PyTorch never compresses
        if record.file_size > LARGEST_PICKLE:
            raise ValueError(
                f"the storage {record.filename} is compressed and too large"
            )
        data = bytearray(archive.read(record))
        if not count:
            return torch.empty(0)  # `frombuffer` refuses an empty buffer
        return torch.frombuffer(data, dtype=dtype, count=count)
    # the header before the data may be longer than the archive's list says
    with open(str(archive.filename), "rb") as file:
        file.seek(record.header_offset)
        header = file.read(30)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = record.header_offset + 30 + name_length + extra_length
    if start + size > mapped.nbytes():
        raise ValueError(f"the storage {record.filename} was cut off")
    tensor = torch.empty(0, dtype=dtype)
    return tensor.set_(mapped[start : start + size], 0, (count,), (1,))  # type: ignore[call-overload]


def _load_legacy(file: BinaryIO) -> Any:
    waiting: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in waiting:
            if count * dtype.itemsize > _bytes_left(file):
                # before the memory is asked for
                raise ValueError("a storage that is larger than the file")
            waiting[key] = torch.empty(count, dtype=dtype)
        return waiting[key]

    def load() -> Any:
        return InertUnpickler(file, storage).load()

    if load() != LEGACY_MAGIC:
        raise ValueError("it is no weights file of PyTorch's")
    load()  # the protocol's version
    load()  # the machine's byte order
    found = load()
    for key in load():  # in the order of the file
        tensor = waiting[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        if count != len(tensor):
            raise ValueError("a storage of another size than its tensor")
        data = bytearray(file.read(count * tensor.dtype.itemsize))
        if len(data) != count * tensor.dtype.itemsize:
            raise ValueError("it was cut off")
        if count:  # `frombuffer` refuses an empty buffer
            tensor.copy_(torch.frombuffer(data, dtype=tensor.dtype))
    return found


def _bytes_left(file: BinaryIO) -> int:
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end - here


# --- the tensors in it ----------------------------------------------------------------


def tensors_in(found: Any) -> dict[str, Tensor]:
    """The tensors of what `load_inert` gave, named as `state_dict()` names them.

    A pickled module's parameters and buffers, a TorchScript module's attributes, and
    the entries of dicts. Raises ValueError where there are none.
    """
    tensors: dict[str, Tensor] = {}
    visited = 0
    waiting = [(found, "", 0)]  # (part, its name, how deep it lies)
    while waiting:
        part, prefix, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError("its modules are nested too deep")
        for name, value in _entries(part).items():
            visited += 1
            if visited > MOST_ENTRIES:
                raise ValueError("it has too many entries")
            if isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, (StandIn, dict)):
                waiting.append((value, f"{prefix}{name}.", depth + 1))
    if not tensors:
        raise ValueError("it holds no named tensors")
    return tensors


def _entries(part: Any) -> dict[Any, Any]:
    """What a dict or a module's stand-in holds, by name."""
    if isinstance(part, dict):
        return part
    if not isinstance(part, StandIn):
        return {}
    inside = part.attributes
    # where `nn.Module` keeps what it holds
    groups = [inside.get(name) for name in ("_parameters", "_buffers", "_modules")]
    found: dict[Any, Any] = {}
    for group in groups:
        if isinstance(group, dict):
            found |= group
    return found or inside  # TorchScript keeps all of them side by side
