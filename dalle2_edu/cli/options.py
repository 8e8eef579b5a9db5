"""What several commands share: their options, how a name is checked, how a pipeline is
opened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer

from dalle2_edu.errors import Dalle2EduError

if TYPE_CHECKING:
    from dalle2_edu.unclip.pipeline import UnCLIP

Precision = Literal["auto", "no", "bf16"]
PriorKind = Literal[
    "prior", "ar_prior", "regression"
]  # as in `unclip.pipeline`, which would import PyTorch

Seed = Annotated[
    int,
    typer.Option(help="Where the noise starts: the same seed gives the same picture."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")]
Tier = Annotated[
    str,
    typer.Option(
        envvar="DALLE2_EDU_TIER",
        help=(
            "smoke: seconds, to see that it runs. cpu: minutes to hours on a laptop. gpu: for"
            " one GPU."
        ),
    ),
]
MixedPrecision = Annotated[
    str | None,
    typer.Option(
        help="auto, no or bf16: what to compute in; auto measures which is faster here."
        " [default: the recipe's own, auto]"
    ),
]


def finite(value: float | None) -> float | None:
    """A number that was typed; "nan" and "inf" are numbers to Python, and draw a black
    picture.
    """
    if value is not None and not math.isfinite(value):
        raise Dalle2EduError(
            f"{value} is no number to compute with: give one such as 2."
        )
    return value


Guidance = Annotated[
    float | None,
    typer.Option(
        help="How far to follow the words: 1 is off. [default: the model's own]",
        callback=finite,
    ),
]


def choose(kind: str, name: str, known: Sequence[str]) -> str:
    """Return `name` if it is known; otherwise raise Dalle2EduError with the list of
    those that are.
    """
    if name not in known:
        raise Dalle2EduError(
            f'There is no {kind} "{name}"; choose one of: {", ".join(known)}.'
        )
    return name


def find_device(name: str) -> str:
    """Resolve "auto" to "cuda" or "cpu"; raises Dalle2EduError for a device that
    PyTorch can't reach.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):
        raise Dalle2EduError(
            f'PyTorch can\'t use the device "{name}" here; try --device cpu.'
        ) from None
    return name


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors while writing `path` (a full disk, no permission) into
    one clear line.
    """
    try:
        yield
    except OSError as error:
        raise Dalle2EduError(
            f"Could not write {path}: {error.strerror or error}."
        ) from error


def choose_precision(name: str | None) -> Precision | None:
    """The precision of that name, or None where none is asked for and the recipe
    decides.
    """
    return (
        None
        if name is None
        else cast(Precision, choose("precision", name, get_args(Precision)))
    )


def open_pipeline(
    prompt: str, domain: str | None, device: str, prior: str = "prior"
) -> UnCLIP:
    """The trained pipeline of `domain`, or of the one that suits the prompt, with this
    prior.
    """
    from dalle2_edu.data.domains import pick_domain
    from dalle2_edu.unclip.pipeline import UnCLIP

    domain = choose("domain", domain or pick_domain(prompt), picture_domains())
    own = cast(PriorKind, choose("prior", prior, get_args(PriorKind)))
    return UnCLIP.from_zoo(domain, device=find_device(device), prior=own)


def picture_domains() -> list[str]:
    """The domains that draw: those of the zoo that have a decoder."""
    from dalle2_edu import zoo

    return [domain for domain, parts in zoo.known().items() if "decoder" in parts]


def slug(prompt: str, longest: int = 48) -> str:
    """A file name for a prompt: its letters and digits of any language, joined by
    hyphens.

    "Smiling cat!" -> "smiling-cat", "一个红色的圆形" stays as it is, and "?" -> "picture".
    """
    words = re.findall(r"\w+", prompt.lower())
    return "-".join(words)[:longest].strip("-_") or "picture"
