"""`dalle2-edu convert`: a pickled module, which you trust, to safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dalle2_edu.cli.options import writing
from dalle2_edu.errors import Dalle2EduError


def convert(
    file: Annotated[
        Path,
        typer.Argument(help="The pickled module, for instance encoder.pkl of DALL·E's dVAE."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write; the same name with .safetensors if not given."),
    ] = None,
    i_trust_this_file: Annotated[
        bool,
        typer.Option(
            "--i-trust-this-file", help="Unpickle it, which runs whatever code it holds."
        ),
    ] = False,
) -> None:
    """Turn a pickled module into safetensors, which only hold numbers.

    Reading a pickle can run any code, with your rights. Everything else in this book refuses
    to; this command does it once, for a file whose origin you know, and only if you say so. The
    module's own code must be installed: for the dVAE that is `pip install DALL-E`.

    \b
    Example:
      dalle2-edu convert encoder.pkl --i-trust-this-file
    """
    if not file.is_file():
        raise Dalle2EduError(f"There is no file {file}.")
    if not i_trust_this_file:
        raise Dalle2EduError(
            f"{file} is read by unpickling, which runs whatever code is in it. If you trust"
            " where it came from, add --i-trust-this-file."
        )
    import torch
    from safetensors.torch import save_file

    try:
        module = torch.load(file, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise Dalle2EduError(
            f"{file} needs the package of its classes ({error}); for DALL·E's dVAE: pip install"
            " DALL-E"
        ) from error
    except Exception as error:  # a pickle can fail in as many ways as it can do harm
        raise Dalle2EduError(
            f"{file} can't be unpickled ({type(error).__name__}: {error})."
        ) from error
    tensors = module.state_dict() if isinstance(module, torch.nn.Module) else module
    target = out or file.with_suffix(".safetensors")
    with writing(target):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, target)
    print(f"{len(tensors)} tensors: {target}")
