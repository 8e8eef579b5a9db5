"""`dalle2-edu evaluate | trial | seams | diagnose`: how good the models are, what the
prior is for, how well holes are closed, and where a scene is lost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dalle2_edu.cli.options import (
    Device,
    Guidance,
    Seed,
    choose,
    find_device,
    picture_domains,
    writing,
)
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import atomic_write


def evaluate(
    domain: Annotated[str, typer.Argument(help="shapes or emoji.")],
    pictures: Annotated[
        int, typer.Option(help="How many pictures to draw, a multiple of 4.")
    ] = 200,
    seed: Seed = 0,
    guidance_scale: Guidance = None,
    batch_size: Annotated[
        int, typer.Option(help="Pictures drawn together; the result is the same.")
    ] = 16,
    out: Annotated[
        Path | None, typer.Option(help="Also write the numbers to this JSON file.")
    ] = None,
    into_card: Annotated[
        bool, typer.Option("--into-card", help="Also quote them on the decoder's card.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Measure how good a trained pipeline is.

    Draws pictures of prompts that nobody picked by hand, half of them English and half
    Chinese, and asks judges that had no part in the training: for shapes, a classifier
    that reads each attribute off the picture; for emoji, a second CLIP that looks for
    the right caption among
    100. Prints a table, with real pictures' numbers beside it.

    \b
    Example:
      dalle2-edu evaluate shapes
    """
    choose("domain", domain, picture_domains())
    reserve(out)
    from dalle2_edu import zoo
    from dalle2_edu.evaluation import report

    plan = report.ReportPlan(pictures, seed, guidance_scale, batch_size)
    result = report.evaluate(domain, plan, device=find_device(device))
    print(report.format_report(result))
    if out is not None:
        atomic_write(out, to_json(result))
    if into_card:
        zoo.quote(domain, "decoder", report.headline(result))


def trial(
    domain: Annotated[str, typer.Argument(help="shapes or emoji.")],
    n: Annotated[
        int,
        typer.Option(
            help="How many captions, an even number; each row draws some of them again."
        ),
    ] = 100,
    seed: Seed = 0,
    sweep: Annotated[
        bool, typer.Option(help="Also try guidance on the prior and on the decoder.")
    ] = True,
    batch_size: Annotated[
        int, typer.Option(help="Pictures drawn together; the result is the same.")
    ] = 16,
    out: Annotated[
        Path | None, typer.Option(help="Write a grid of the pictures to this PNG.")
    ] = None,
    numbers: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers to this JSON file.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables in Markdown.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Put the prior on trial: is it worth its place?

    One decoder draws the same captions six times, fed with nothing but the caption,
    with the text embedding, with a regression's, an autoregressive prior's and the
    diffusion prior's answer, and with the embedding of a real picture. Judges that had
    no part in the training mark them. Prints the table, what was missing, and the
    paper's numbers. With 100 captions that is about 1,700 pictures: minutes on a GPU,
    an hour on a laptop.

    \b
    Example:
      dalle2-edu trial shapes --out trial.png
      dalle2-edu trial emoji --n 40 --no-sweep --markdown
    """
    choose("domain", domain, picture_domains())
    reserve(out, numbers)
    from dalle2_edu.evaluation.trial import TrialPlan, format_trial
    from dalle2_edu.evaluation.trial import trial as hold_trial

    plan = TrialPlan(n, seed, batch_size)
    result = hold_trial(domain, plan, sweep=sweep, out=out, device=find_device(device))
    print(format_trial(result, markdown))
    if numbers is not None:
        atomic_write(numbers, to_json(result))


def seams(
    domain: Annotated[str, typer.Argument(help="shapes or emoji.")],
    n: Annotated[int, typer.Option(help="How many pictures, an even number.")] = 24,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write a grid of the pictures to this PNG.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table in Markdown.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Compare the ways to inpaint by the seams that they leave.

    Cuts the same holes into real pictures and closes them three ways: the known pixels
    put in place at each step, the same again and again (RePaint), and shown to networks
    that were taught to inpaint; with the picture's own caption, and with that of the
    next one. Prints how much steeper the hole's edge is than its inside. With 24
    pictures it takes some five minutes on a laptop.

    \b
    Example:
      dalle2-edu seams emoji --out seams.png
    """
    choose("domain", domain, picture_domains())
    reserve(out)
    from dalle2_edu.evaluation.seams import contest
    from dalle2_edu.evaluation.tables import format_table, markdown_table

    found = contest(domain, n, seed, out, find_device(device))
    print((markdown_table if markdown else format_table)(found))


def diagnose(
    domain: Annotated[
        str, typer.Argument(help="shapes: only there the truth is known.")
    ] = "shapes",
    scenes: Annotated[
        int, typer.Option(help="How many scenes of seen and of held-out compositions.")
    ] = 100,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Also write the numbers to this JSON file.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table in Markdown.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Find out where the scene is lost: in CLIP, prior, decoder or upsamplers.

    Feeds each network with the truth and asks what is left of the scene behind it; a
    small probe reads the embeddings, the oracle the pictures. Where a row falls, the
    scene is lost. With 100 scenes it takes some ten minutes on a laptop.

    \b
    Example:
      dalle2-edu diagnose shapes --scenes 40
    """
    choose("domain", domain, ["shapes"])
    reserve(out)
    from dalle2_edu.evaluation import diagnosis
    from dalle2_edu.evaluation.tables import format_table, markdown_table

    plan = diagnosis.DiagnosisPlan(scenes, seed)
    found = diagnosis.diagnose(plan, find_device(device))
    print((markdown_table if markdown else format_table)(found))
    if out is not None:
        atomic_write(out, to_json(found))


def reserve(*paths: Path | None) -> None:
    """Make sure that files can be written there: better now than after minutes of
    drawing.
    """
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise Dalle2EduError(f"{path} is a folder: name a file to write to.")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def to_json(result: dict[str, Any]) -> str:
    """The text of a JSON file, readable by people too."""
    return json.dumps(result, indent=2, ensure_ascii=False) + "\n"
