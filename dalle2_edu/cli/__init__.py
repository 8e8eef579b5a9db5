"""The command line: `dalle2-edu draw | vary | blend | edit | inpaint | train | evaluate
| trial | seams | diagnose | zoo | ...`.

Each command is a thin layer: it checks what was typed, calls the one function of the
package that does the work, and says where the result lies. Read it to see which
function that is; a file here holds the commands of one kind.

Two habits make it kind to a beginner. Every mistake that you can mend ends in one line
on stderr and exit code 2, with no traceback (`main`). And PyTorch, which takes seconds
to import, is imported by the commands that need it, so that `--help` answers at once.

The help text of a command is its docstring. A line with a lone "\\b" keeps the line
breaks of the paragraph after it.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

# PyTorch reads this when it is loaded: threads that wait for work then sleep. Spinning
# threads take the processor from each other when other programs run beside this one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from dalle2_edu.cli import converting, data, drawing, editing, judging, training, zoo
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import printable

# what a shell reports for a program that Ctrl-C ended: 128 + signal 2
INTERRUPTED = 130


def group(explanation: str) -> typer.Typer:
    """A command with commands of its own, with plain help and plain tracebacks."""
    return typer.Typer(
        help=explanation,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = group(
    """A miniature DALL·E 2 that you can read, run and train.

    \b
    Start here:
      dalle2-edu draw "rocket"          a picture from words
      dalle2-edu draw "一个红色的圆形"    in Chinese as well
      dalle2-edu vary cat.png           more pictures like one you have
      dalle2-edu zoo list               the trained models, and how good they are
    """
)
zoo_app = group(
    "The trained models: what they are, whether they are whole, how to make them anew."
)
data_app = group("The pictures that the models learn from.")


@app.callback()
def for_all_commands(
    context: typer.Context,
    zoo_folder: Annotated[
        Path | None,
        typer.Option(
            "--zoo",
            help="The folder of trained models to load from and publish into; before the"
            " command. [default: DALLE2_EDU_ZOO, or the one in the package]",
        ),
    ] = None,
) -> None:
    if zoo_folder:
        from dalle2_edu import zoo as models

        models.use(zoo_folder)
        context.call_on_close(lambda: models.use(None))


app.add_typer(zoo_app, name="zoo")
app.add_typer(data_app, name="data")

for command in (
    drawing.draw,
    editing.vary,
    editing.blend,
    editing.edit,
    editing.inpaint,
    training.train,
):
    app.command()(command)
app.command("recipes")(training.list_recipes)
app.command()(judging.evaluate)
app.command()(judging.trial)
app.command()(judging.seams)
app.command()(judging.diagnose)
app.command()(converting.convert)
zoo_app.command("list")(zoo.zoo_list)
zoo_app.command("verify")(zoo.zoo_verify)
zoo_app.command("train")(zoo.zoo_train)
zoo_app.command("publish")(zoo.zoo_publish)
zoo_app.command("gallery")(zoo.zoo_gallery)
data_app.command("emoji")(data.data_emoji)
data_app.command("embed")(data.data_embed)


def main() -> None:
    """Run the command line; a mistake that the reader can mend becomes one line and
    exit code 2.
    """
    # Read when torch is loaded, so set before: threads that wait spin by default, and
    # on a busy machine they keep the others from working.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = lambda message, *_: (
        f"dalle2-edu: {printable(str(message))}\n"
    )  # what it says, not where it was said
    try:
        app()
    except Dalle2EduError as error:
        print(f"dalle2-edu: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
