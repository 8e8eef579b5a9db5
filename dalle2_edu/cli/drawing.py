"""`dalle2-edu draw`: a picture from words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalle2_edu.cli.options import (
    Device,
    Guidance,
    Seed,
    choose,
    find_device,
    open_pipeline,
    slug,
    writing,
)
from dalle2_edu.errors import Dalle2EduError

if TYPE_CHECKING:
    from dalle2_edu.baselines.dalle1 import Dalle1
    from dalle2_edu.unclip.pipeline import Stages

MODELS = ("unclip", "dalle1")


def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw, in English or Chinese.")],
    domain: Annotated[
        str | None,
        typer.Option(help="emoji or shapes. [default: what the prompt suggests]"),
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("out"),
    guidance_scale: Guidance = None,
    negative_prompt: Annotated[
        str, typer.Option(help="What guidance leads away from: what not to draw.")
    ] = "",
    prior_steps: Annotated[
        int | None, typer.Option(help="Denoising steps of the prior.")
    ] = None,
    decoder_steps: Annotated[
        int | None, typer.Option(help="Denoising steps of the decoder.")
    ] = None,
    upsampler_steps: Annotated[
        int | None, typer.Option(help="Denoising steps of each upsampler.")
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            help="prior (diffusion), ar_prior or regression: who imagines it."
        ),
    ] = "prior",
    model: Annotated[
        str, typer.Option(help="unclip (DALL·E 2) or dalle1 (DALL·E 1).")
    ] = "unclip",
    device: Device = "auto",
) -> None:
    """Draw a picture from words.

    CLIP reads the prompt; the prior imagines the embedding of a picture that it could
    describe; the decoder paints 32 x 32 pixels from that embedding, out of pure noise;
    two upsamplers make them 64 x 64 and 128 x 128. You get the picture, and a sheet
    that shows each of these steps. Takes some seconds on a laptop.

    With --model dalle1 a transformer writes the picture's codes one after the other
    behind the caption, and you get the picture alone, at 32 x 32.

    \b
    Example:
      dalle2-edu draw "smiling cat" --seed 7
      out/smiling-cat.png
      out/smiling-cat_steps.png
    """
    from dalle2_edu.data.prompts import required_prompt

    prompt = required_prompt(prompt)
    wanted: dict[str, Any] = {
        "guidance_scale": guidance_scale,
        "prior_steps": prior_steps,
        "decoder_steps": decoder_steps,
        "upsampler_steps": upsampler_steps,
    }
    settings = {
        name: value for name, value in wanted.items() if value is not None
    }  # else the pipeline's own
    if choose("model", model, MODELS) == "dalle1":
        refuse_unclip_s(settings, prior, negative_prompt)
        writer = open_dalle1(prompt, domain, device)
        make_folder(out)
        save_picture(writer, prompt, seed, out / f"{slug(prompt)}.png")
        return
    pipeline = open_pipeline(prompt, domain, device, prior)
    make_folder(out)
    if negative_prompt:
        settings["negative_prompt"] = negative_prompt
    stages = pipeline.stages([prompt], seed=seed, **settings)
    save_drawing(stages, out, slug(prompt))


def make_folder(out: Path) -> None:
    """Make the folder before the drawing, so that a bad one costs no time."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def refuse_unclip_s(settings: dict[str, Any], prior: str, negative_prompt: str) -> None:
    """Raise Dalle2EduError for options that DALL·E 1 has no use for."""
    given = list(settings)
    if prior != "prior":
        given.append("prior")
    if negative_prompt:
        given.append("negative_prompt")
    if given:
        option = given[0].replace("_", "-")
        raise Dalle2EduError(
            f"--{option} belongs to unclip, and DALL·E 1 has no such stage: leave it out."
        )


def open_dalle1(prompt: str, domain: str | None, device: str) -> Dalle1:
    """The trained DALL·E 1 of `domain`; else of the one that suits the prompt, or of
    the one that there is.
    """
    from dalle2_edu.baselines.dalle1 import Dalle1, drawn_domains
    from dalle2_edu.data.domains import pick_domain

    known = drawn_domains()
    if not known:
        raise Dalle2EduError(
            "The zoo has no DALL·E 1 yet: `dalle2-edu train shapes-dalle1`, then"
            " `dalle2-edu zoo publish` the run."
        )
    if domain is None:
        suits = pick_domain(prompt)
        domain = suits if suits in known else known[0]
    own = choose("domain for dalle1", domain, known)
    return Dalle1.from_zoo(own, device=find_device(device))


def save_picture(writer: Dalle1, prompt: str, seed: int, picture: Path) -> None:
    """Draw, write the picture and print its path."""
    from dalle2_edu.drawing.grids import to_pil
    from dalle2_edu.drawing.pictures import save_png

    drawn = writer.text_to_image([prompt], seed=seed)
    with writing(picture):
        save_png(to_pil(drawn[0]), picture)
    print(picture)


def save_drawing(stages: Stages, out: Path, name: str) -> None:
    """Write <name>.png and the contact sheet <name>_steps.png into `out` and print
    their paths.
    """
    from dalle2_edu.drawing.grids import to_pil
    from dalle2_edu.drawing.pictures import save_png
    from dalle2_edu.unclip.sheet import contact_sheet

    picture, sheet = out / f"{name}.png", out / f"{name}_steps.png"
    with writing(picture):
        save_png(to_pil(stages.images[0]), picture)
        contact_sheet(stages, sheet)
    print(picture, sheet, sep="\n")
