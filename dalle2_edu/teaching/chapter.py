"""A chapter's first line: `ch = chapter("07")` finds the reader's tier, language and
device.

The tier (environment variable `DALLE2_EDU_TIER`) says how much computing a reader can
spend: "smoke" takes seconds and only shows that the code runs, "cpu" (the default)
minutes on two cores, "gpu" needs a GPU. A chapter takes its numbers by tier:
`ch.pick(smoke=2, cpu=300, gpu=3000)`.

A sentence of the text that reads a number or a figure is held to it by the cell that
measured it: `ch.claim("hides-read", 300 < ratio < 500)`. The name is the id of the text
cell.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

import dalle2_edu
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching import plots
from dalle2_edu.teaching.words import language, words

TIERS = ("smoke", "cpu", "gpu")
PACKAGE = Path(dalle2_edu.__file__).parent
T = TypeVar("T")


@dataclass(frozen=True)
class Chapter:
    """Where a chapter runs: its number, the tier, the reader's language, and the device
    for its tensors.
    """

    number: str
    tier: str
    language: str
    device: torch.device
    # every claim so far: the text cell's id, and whether all its conditions held
    claims: list[tuple[str, bool]] = field(default_factory=list, compare=False)

    def pick(self, smoke: T, cpu: T, gpu: T | None = None) -> T:
        """The tier's value; a chapter that gains nothing from a GPU leaves `gpu` out
        and gets `cpu`'s there.
        """
        by_tier = {"smoke": smoke, "cpu": cpu, "gpu": cpu if gpu is None else gpu}
        return by_tier[self.tier]

    def claim(self, cell_id: str, *conditions: bool | np.bool_ | Tensor) -> None:
        """Holds the text cell `cell_id` to what this cell measured.

        conditions: what must be true for the text to be right; a bool, a NumPy bool or
        a tensor with one truth value each. At the smoke tier a claim is only counted:
        few steps show nothing. Raises Dalle2EduError where a condition is something
        else, and at the cpu and gpu tiers where one is false.
        """
        held = [truth(condition, cell_id) for condition in conditions]
        if not held:
            raise Dalle2EduError(
                words(
                    f'claim("{cell_id}") has no condition: say what must be true',
                    f'claim("{cell_id}") 没有条件：请写明什么必须成立',
                )
            )
        self.claims.append((cell_id, all(held)))
        if self.tier != "smoke" and not all(held):
            raise Dalle2EduError(broken_claim(cell_id, held, self))


# --- Claims ---------------------------------------------------------------------------


def truth(condition: Any, cell_id: str) -> bool:
    """A condition as a bool; raises Dalle2EduError for what is no single truth value.

    A plain number is refused: `claim("x", ratio)` would hold for every ratio but 0.
    """
    if isinstance(condition, bool | np.bool_):
        return bool(condition)
    if (
        isinstance(condition, Tensor)
        and condition.ndim == 0
        and condition.dtype == torch.bool
    ):
        return bool(condition)
    shape = getattr(condition, "shape", None)
    shown = type(condition).__name__ + (f" {tuple(shape)}" if shape is not None else "")
    raise Dalle2EduError(
        words(
            f'claim("{cell_id}") takes single truth values, not a {shown}: compare, and use'
            " .all() or .any() for many values",
            f'claim("{cell_id}") 的条件必须是单个真值，而这里是 {shown}：请写成比较式，'
            "多个值请用 .all() 或 .any()",
        )
    )


def broken_claim(cell_id: str, held: list[bool], here: Chapter) -> str:
    """One line: which sentence, which of its conditions, what to do."""
    place = held.index(False) + 1
    start = first_words(text_of(cell_id, here)) or cell_id
    return words(
        f'the text says more than this run shows: cell "{cell_id}" ("{start}"), condition'
        f" {place} of {len(held)} is false. Mend the experiment or the sentence.",
        f"正文说的超出了这次运行的结果：单元“{cell_id}”（“{start}”），"
        f"{len(held)} 个条件中的第 {place} 个不成立。请改正实验或改正这句话。",
    )


def text_of(cell_id: str, here: Chapter) -> str:
    """The text cell of this id in the reader's notebook; "" where the notebook isn't
    found.
    """
    folder = PACKAGE.parent / "notebooks" / here.language
    for path in folder.glob(f"{here.number}_*.ipynb"):
        for cell in cells_of(path):
            if cell.get("id") == cell_id:
                return "".join(cell.get("source", ""))
    return ""


def cells_of(path: Path) -> Iterator[dict[str, Any]]:
    """The cells of a notebook; none of a file that can't be read (it is being saved,
    say).
    """
    try:
        yield from json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return


def first_words(text: str, most: int = 60) -> str:
    """The beginning of a text in one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most].rstrip() + " …"


# --- Where we are ---------------------------------------------------------------------


def chapter(number: str, seed: int = 0) -> Chapter:
    """Begins a chapter: one line of welcome, all random numbers from `seed`, the book's
    plot style.

    Raises Dalle2EduError for an unknown tier or language, and for the gpu tier where
    there is no GPU.
    """
    show_errors_in_one_line()
    here = Chapter(number, tier := find_tier(), language(), find_device(tier))
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    plots.use_style()
    print(
        words(f"Chapter {number} · tier {tier}", f"第 {number} 章 · 档位 {tier}")
        + f" · {device_name(here.device)}"
    )
    if not inside_repository():
        print(outside_notice())
    return here


def find_tier() -> str:
    """The tier that DALLE2_EDU_TIER names, "cpu" if it names none; raises
    Dalle2EduError for an unknown one.
    """
    tier = os.environ.get("DALLE2_EDU_TIER", "").strip().lower() or "cpu"
    if tier not in TIERS:
        raise Dalle2EduError(
            words(
                f"unknown tier '{tier}' in DALLE2_EDU_TIER: choose {', '.join(TIERS)}, or unset"
                " it for cpu",
                f"DALLE2_EDU_TIER 里的档位“{tier}”不存在：请改为 {'、'.join(TIERS)} 之一，"
                "或删去该变量（默认 cpu）",
            )
        )
    return tier


def find_device(tier: str) -> torch.device:
    """The GPU for the gpu tier, the CPU for the others; raises Dalle2EduError where
    there is no GPU.
    """
    if tier != "gpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Dalle2EduError(
            words(
                "the gpu tier needs a GPU, and PyTorch sees none: set DALLE2_EDU_TIER=cpu, or"
                " install PyTorch for CUDA",
                "gpu 档位需要 CUDA GPU，而 PyTorch 没有找到：请设 DALLE2_EDU_TIER=cpu，或安装"
                " CUDA 版 PyTorch",
            )
        )
    return torch.device("cuda")


def device_name(device: torch.device) -> str:
    """What the reader calls the device: "cpu", or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def inside_repository() -> bool:
    """Whether the notebook runs within the repository whose package it imports."""
    return PACKAGE.parent in (Path.cwd(), *Path.cwd().parents)


def outside_notice() -> str:
    """One line for a notebook that was copied elsewhere: what works and what
    doesn't.
    """
    return words(
        "This notebook is outside the book's repository: everything runs from the installed"
        " package (its weights too), but links to source files won't open. Open it from the"
        " repository's notebooks folder to have them.",
        "本 notebook 不在本书的仓库里：代码和模型权重取自已安装的包，都能运行，"
        "但指向源文件的链接打不开。要用这些链接，请从仓库的 notebooks 文件夹打开。",
    )


def show_errors_in_one_line() -> None:
    """From now on a notebook shows a Dalle2EduError as its one line, with no traceback;
    the cell still fails.
    """
    shell = running_shell()
    if shell is not None:
        shell.set_custom_exc((Dalle2EduError,), one_line)


def one_line(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType,
    tb_offset: int | None = None,
) -> list[str]:
    """IPython's handler for our own errors."""
    lines = [f"{kind.__name__}: {error}"]
    shell._showtraceback(kind, error, lines)
    return lines


def running_shell() -> Any:
    """The IPython shell of a notebook; None in a script or where IPython isn't
    installed.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    find: Callable[[], Any] = get_ipython
    return find()
