"""`dalle2-edu draw`: a picture from words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalle2_edu.cli.options import Device, Guidance, Seed, open_pipeline, slug, writing

if TYPE_CHECKING:
    from dalle2_edu.unclip.pipeline import Stages


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
    device: Device = "auto",
) -> None:
    """Draw a picture from words.

    CLIP reads the prompt; the prior imagines the embedding of a picture that it could
    describe; the decoder paints 32 x 32 pixels from that embedding, out of pure noise;
    two upsamplers make them 64 x 64 and 128 x
    128. You get the picture, and a sheet that shows each of these steps. Takes some
         seconds on
         a laptop.

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
    pipeline = open_pipeline(prompt, domain, device, prior)
    settings = {
        name: value for name, value in wanted.items() if value is not None
    }  # else the pipeline's own
    with writing(out):
        out.mkdir(
            parents=True, exist_ok=True
        )  # before the drawing, so that a bad folder costs no time
    stages = pipeline.stages(
        [prompt], seed=seed, negative_prompt=negative_prompt, **settings
    )
    save_drawing(stages, out, slug(prompt))


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
