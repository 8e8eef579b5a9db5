"""`dalle2-edu convert`: a file of PyTorch's to safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dalle2_edu.errors import Dalle2EduError


def convert(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .pt, .ckpt or .pkl, for instance encoder.pkl of DALL·E's dVAE."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write; the same name with .safetensors if not given."
        ),
    ] = None,
) -> None:
    """Turn a pickled checkpoint or module into safetensors, which only hold numbers.

    A pickle can run any code when Python reads it. This command never runs it: tensors
    and containers are rebuilt, and everything else becomes an inert stand-in. The
    module's own code need not be installed.

    \b
    Example:
      dalle2-edu convert encoder.pkl
    """
    if not file.is_file():
        raise Dalle2EduError(f"There is no file {file}.")
    target = out or file.with_suffix(".safetensors")
    if target.resolve() == file.resolve():
        raise Dalle2EduError(f"{file} is a safetensors file already.")
    from safetensors.torch import save

    from dalle2_edu.files import atomic_write
    from dalle2_edu.interop.weights import plain_tensors

    tensors = plain_tensors(file)
    atomic_write(target, save(tensors))
    print(f"{len(tensors)} tensors: {target}")
