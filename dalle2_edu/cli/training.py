"""`dalle2-edu train | recipes`: make a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer

from dalle2_edu.cli.options import MixedPrecision, Tier, choose, choose_precision
from dalle2_edu.data.layouts import FOLDER_HELP, SHARDS_HELP

Logger = Literal["csv", "tensorboard"]


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="What to train; `dalle2-edu recipes` lists the names. With --data, a domain of"
            " your own: pets-prior, pets-decoder."
        ),
    ],
    tier: Tier = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder. [default: runs/<recipe>-<tier>]"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from its last checkpoint, with the data and steps that it was begun"
            " with.",
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Your own data: {FOLDER_HELP}; {SHARDS_HELP}, of which several are"
            " streamed; or a folder that `data embed` wrote."
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Start from these weights: a part of the zoo (emoji/decoder), the folder of a"
            " run, or a safetensors file.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="How many updates in all. With --resume, a run may become longer: once its"
            " learning rate has begun to fall, the new steps warm up again and have a decay of"
            " their own. [default: the tier's]"
        ),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(help="Stop after so many minutes, with a checkpoint."),
    ] = None,
    mixed_precision: MixedPrecision = None,
    logger: Annotated[
        str, typer.Option(help="csv or tensorboard: how the log is written.")
    ] = "csv",
    fsdp: Annotated[
        bool,
        typer.Option(
            "--fsdp", help="Split the model among the processes, for a large one."
        ),
    ] = False,
) -> None:
    """Train one model of the pipeline.

    A recipe says which model, on which data, with which numbers; the tier says how big.
    While it runs it writes checkpoints, a log and, for models that draw, grids of
    samples into its folder. Stop it whenever you like, even with `kill -9`: with
    --resume it goes on as if nothing had happened.

    To end a decoder's run early on purpose, resume it with 5/4 of the steps that it has
    done: the last fifth is then its cool-down.

    \b
    Example:
      dalle2-edu train emoji-decoder --tier smoke
      dalle2-edu train clip --data my_pictures --from shared/clip
      dalle2-edu train emoji-decoder --resume --steps 12000
      accelerate launch --num_processes 2 -m dalle2_edu.cli train emoji-decoder --tier gpu
    """
    from dalle2_edu.recipes import runs

    checkpoint = runs.run(
        recipe,
        tier,
        out,
        resume=resume,
        data=data,
        start=start,
        max_minutes=max_minutes,
        steps=steps,
        mixed_precision=choose_precision(mixed_precision),
        logger=cast(Logger, choose("logger", logger, get_args(Logger))),
        fsdp=fsdp,
    )
    print(checkpoint)


def list_recipes() -> None:
    """List what can be trained, in the order in which one needs the other.

    \b
    Example:
      dalle2-edu recipes
    """
    from dalle2_edu.recipes import runs

    for name, training in runs.trainings().items():
        print(f"{name:23}{training.recipe.teaches}")
