"""`dalle2-edu vary | blend | edit | inpaint`: what starts from a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer

from dalle2_edu.cli.options import (
    Device,
    Seed,
    choose,
    finite,
    open_pipeline,
    slug,
    writing,
)
from dalle2_edu.errors import Dalle2EduError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from torch import Tensor

    from dalle2_edu.unclip.pipeline import UnCLIP

# as in `unclip.inpainting`, which would import PyTorch
Method = Literal["finetuned", "replace"]
PictureFile = Annotated[
    Path,
    typer.Argument(
        help="A PNG, JPEG or WebP file of any size; its middle square is used."
    ),
]
Out = Annotated[Path, typer.Option(help="The folder to write into.")]
Domain = Annotated[
    str,
    typer.Option(help="emoji or shapes: the decoder that knows pictures of this kind."),
]
WordsDomain = Annotated[
    str | None, typer.Option(help="emoji or shapes. [default: what the words suggest]")
]
DecoderSteps = Annotated[
    int,
    typer.Option(
        help="Denoising steps of the decoder; more follow the picture more closely."
    ),
]


def vary(
    picture: PictureFile,
    n: Annotated[int, typer.Option(help="How many variations.")] = 4,
    eta: Annotated[
        float,
        typer.Option(
            help="Fresh noise in each step: 0 gives the picture back, 1 varies most."
        ),
    ] = 1.0,
    domain: Domain = "emoji",
    seed: Seed = 0,
    decoder_steps: DecoderSteps = 50,
    out: Out = Path("out"),
    device: Device = "auto",
) -> None:
    """Draw more pictures of what a picture shows.

    CLIP sees what the picture is of; everything else is the noise that the decoder
    would start from to paint exactly this picture (DDIM inversion). Keep the first and
    disturb the second, and you get the same thing once more: another pose, other
    places, other details.

    \b
    Example:
      dalle2-edu vary cat.png --n 6 --eta 0.8
      out/cat_vary_1.png ... out/cat_vary_6.png
      out/cat_vary.png                            all of them on one sheet
    """
    from dalle2_edu.unclip import edits

    image = open_file(picture)
    unclip = open_editor(domain, device, out)
    latents = edits.variations(unclip.invert(image, decoder_steps=decoder_steps), n=n)
    images = unclip.decode(latents, eta=eta, seed=seed, decoder_steps=decoder_steps)
    titles = [f"variation {i + 1}" for i in range(n)]
    save_edit(
        out, f"{slug(picture.stem)}_vary", [image], [picture.name], images, titles
    )


def blend(
    first: PictureFile,
    second: PictureFile,
    steps: Annotated[
        int, typer.Option(help="How many pictures, both ends counted.")
    ] = 7,
    fix_noise: Annotated[
        bool,
        typer.Option(
            "--fix-noise",
            help="One noise for all: only the meaning moves, the ends are no copies.",
        ),
    ] = False,
    domain: Domain = "emoji",
    seed: Seed = 0,
    decoder_steps: DecoderSteps = 50,
    out: Out = Path("out"),
    device: Device = "auto",
) -> None:
    """Walk from one picture to another.

    Both are turned into what CLIP sees and the noise that paints the rest. The walk
    follows the arc between them on the sphere (slerp), as a straight line would cut
    through the inside, where no picture lives.

    \b
    Example:
      dalle2-edu blend cat.png rocket.png --steps 5
      out/cat_rocket_blend_1.png ... out/cat_rocket_blend_5.png
      out/cat_rocket_blend.png                                    all of them on one sheet
    """
    from dalle2_edu.unclip import edits

    ends = [open_file(first), open_file(second)]
    unclip = open_editor(domain, device, out)
    latents = edits.interpolate(
        unclip.invert(ends[0], decoder_steps=decoder_steps),
        unclip.invert(ends[1], decoder_steps=decoder_steps),
        steps=steps,
        x_T=unclip.draw_noise([seed]) if fix_noise else None,
    )
    # one seed for all: the upsamplers' detail should not flicker
    images = unclip.decode(latents, seed=[seed] * steps, decoder_steps=decoder_steps)
    titles = [f"{i / (steps - 1):.0%} of the way" for i in range(steps)]
    name = f"{slug(first.stem)}_{slug(second.stem)}_blend"
    save_edit(out, name, ends, [first.name, second.name], images, titles)


def edit(
    picture: PictureFile,
    source: Annotated[
        str, typer.Argument(help='What it shows now, in words; "" to leave that open.')
    ],
    target: Annotated[str, typer.Argument(help="What it should show.")],
    steps: Annotated[
        int, typer.Option(help="How many pictures, the first one unchanged.")
    ] = 6,
    max_theta: Annotated[
        float,
        typer.Option(
            help="How far to go at the end: 0.25 to 0.5 in the paper; 1 forgets the picture."
        ),
    ] = 0.4,
    domain: WordsDomain = None,
    seed: Seed = 0,
    decoder_steps: DecoderSteps = 50,
    out: Out = Path("out"),
    device: Device = "auto",
) -> None:
    """Change a picture by words: from what it shows to what it should show.

    The difference of the two texts is a direction in the space of CLIP. The picture's
    embedding is turned towards it step by step, while the noise that holds pose and
    details stays.

    \b
    Example:
      dalle2-edu edit heart.png "red heart" "blue heart"
      out/heart_blue-heart_1.png ... out/heart_blue-heart_6.png
      out/heart_blue-heart.png                                    all of them on one sheet
    """
    from dalle2_edu.unclip import edits

    image = open_file(picture)
    unclip = open_editor(domain, device, out, words=target)
    direction = unclip.words_direction(source, target)
    latent = unclip.invert(image, decoder_steps=decoder_steps)
    latents = edits.text_diff(latent, direction, steps=steps, max_theta=max_theta)
    # one seed for all: the upsamplers' detail should not flicker
    images = unclip.decode(latents, seed=[seed] * steps, decoder_steps=decoder_steps)
    titles = [f"theta {max_theta * i / (steps - 1):.2f}" for i in range(steps)]
    save_edit(
        out,
        f"{slug(picture.stem)}_{slug(target)}",
        [image],
        [picture.name],
        images,
        titles,
    )


def inpaint(
    picture: PictureFile,
    prompt: Annotated[str, typer.Argument(help="What the whole picture should be of.")],
    mask: Annotated[
        Path | None,
        typer.Option(
            help=(
                "A picture, white where to paint, or transparent there. [default: where PICTURE"
                " is transparent]"
            )
        ),
    ] = None,
    n: Annotated[int, typer.Option(help="How many attempts.")] = 3,
    domain: WordsDomain = None,
    seed: Seed = 0,
    guidance_scale: Annotated[
        float,
        typer.Option(help="How far to follow the words: 1 is off.", callback=finite),
    ] = 2.0,
    decoder_steps: DecoderSteps = 50,
    how: Annotated[
        str | None,
        typer.Option(
            help=(
                "finetuned or replace. [default: finetuned, if the zoo has a decoder that was"
                " taught to]"
            )
        ),
    ] = None,
    out: Out = Path("out"),
    device: Device = "auto",
) -> None:
    """Paint a part of a picture anew; every other pixel stays as it is.

    Mark the part by making it transparent, in PICTURE itself or in a copy of it that is
    the mask, as for DALL·E 2's own API; or give a mask without transparency, white
    where to paint. A mask that has both, white and transparent parts, is refused. A
    decoder that was taught to inpaint is shown the known part. Any other has it put in
    place at each step, noised as much as the step; the walk goes back up and down again
    a few times, so that old and new come to fit (RePaint). "As it is" speaks of the
    picture at the size that is drawn, 128 x 128.

    \b
    Example:
      dalle2-edu inpaint cat.png "cat with sunglasses" --mask eyes.png
      out/cat_inpaint_1.png ... out/cat_inpaint_3.png
      out/cat_inpaint.png                              all of them on one sheet
    """
    method = None
    if how is not None:
        method = cast(Method, choose("way to inpaint", how, get_args(Method)))
    from dalle2_edu.unclip import inpainting

    image = open_file(picture)
    hole = find_mask(picture, image, mask)
    unclip = open_editor(domain, device, out, words=prompt)
    images = inpainting.inpaint(
        unclip,
        image,
        hole,
        prompt,
        n=n,
        seed=seed,
        guidance_scale=guidance_scale,
        decoder_steps=decoder_steps,
        method=method,
    )
    before, titles = (
        [picture.name, "white is painted"],
        [f"attempt {i + 1}" for i in range(n)],
    )
    save_edit(
        out, f"{slug(picture.stem)}_inpaint", [image, hole], before, images, titles
    )


def open_file(path: Path) -> PILImage:
    """The picture in a file; raises Dalle2EduError where there is none."""
    from dalle2_edu.drawing.pictures import open_picture

    return open_picture(path)


def find_mask(picture: Path, image: PILImage, mask: Path | None) -> PILImage:
    """White where to paint: as the mask's file says, or where the picture is
    transparent.
    """
    from dalle2_edu.drawing.pictures import black_and_white, transparency_mask

    hole = black_and_white(mask) if mask is not None else transparency_mask(image)
    if hole is None:
        raise Dalle2EduError(
            f"{picture} has no transparent part: say where to paint, --mask FILE with that part"
            " white."
        )
    return hole


def open_editor(domain: str | None, device: str, out: Path, words: str = "") -> UnCLIP:
    """The pipeline for an edit, and a folder for its result, made first: a bad folder
    then costs no time.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    return open_pipeline(words, domain, device)


def save_edit(
    out: Path,
    name: str,
    given: list[PILImage],
    given_titles: list[str],
    images: Tensor,
    titles: list[str],
) -> None:
    """Write <name>_1.png, ... and the sheet <name>.png, which shows what was given
    first; print the paths.
    """
    import torch

    from dalle2_edu.drawing.grids import picture_grid, to_pil
    from dalle2_edu.drawing.pictures import as_pictures, save_png

    files = [out / f"{name}_{i + 1}.png" for i in range(len(images))]
    before = [as_pictures(image, images.shape[-1]) for image in given]
    with writing(out / f"{name}.png"):
        for image, file in zip(images, files, strict=True):
            save_png(to_pil(image), file)
        everything = torch.cat([*before, images.cpu()])
        sheet = picture_grid(
            [*given_titles, *titles],
            everything,
            out / f"{name}.png",
            columns=min(len(everything), 9),
        )
    print(*files, sheet, sep="\n")
