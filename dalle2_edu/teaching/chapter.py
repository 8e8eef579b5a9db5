"""A chapter's first line: `ch = chapter("07")` finds the reader's tier, language and device.

The tier (environment variable `DALLE2_EDU_TIER`) says how much computing a reader can spend:
"smoke" takes seconds and only shows that the code runs, "cpu" (the default) minutes on two
cores, "gpu" needs a GPU. A chapter takes its numbers by tier: `ch.pick(smoke=2, cpu=300,
gpu=3000)`."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch

import dalle2_edu
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching import plots
from dalle2_edu.teaching.words import language, words

TIERS = ("smoke", "cpu", "gpu")
PACKAGE = Path(dalle2_edu.__file__).parent
T = TypeVar("T")


@dataclass(frozen=True)
class Chapter:
    """Where a chapter runs: its number, the tier, the reader's language, and the device for its
    tensors.
    """

    number: str
    tier: str
    language: str
    device: torch.device

    def pick(self, smoke: T, cpu: T, gpu: T | None = None) -> T:
        """The tier's value; a chapter that gains nothing from a GPU leaves `gpu` out and gets
        `cpu`'s there.
        """
        by_tier = {"smoke": smoke, "cpu": cpu, "gpu": cpu if gpu is None else gpu}
        return by_tier[self.tier]


def chapter(number: str, seed: int = 0) -> Chapter:
    """Begins a chapter: one line of welcome, all random numbers from `seed`, the book's plot
    style.

    Raises Dalle2EduError for an unknown tier or language, and for the gpu tier where there is
    no GPU."""
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
    """The tier that DALLE2_EDU_TIER names, "cpu" if it names none; raises Dalle2EduError for an
    unknown one.
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
    """The GPU for the gpu tier, the CPU for the others; raises Dalle2EduError where there is no
    GPU.
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
    """One line for a notebook that was copied elsewhere: what works and what doesn't."""
    return words(
        "This notebook is outside the book's repository: everything runs from the installed"
        " package (its weights too), but links to source files won't open. Open it from the"
        " repository's notebooks folder to have them.",
        "本 notebook 不在本书的仓库里：代码和模型权重取自已安装的包，都能运行，"
        "但指向源文件的链接打不开。要用这些链接，请从仓库的 notebooks 文件夹打开。",
    )


def show_errors_in_one_line() -> None:
    """From now on a notebook shows a Dalle2EduError as its one line, with no traceback; the
    cell still fails.
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
    """The IPython shell of a notebook; None in a script or where IPython isn't installed."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    find: Callable[[], Any] = get_ipython
    return find()
