"""`dalle2-edu zoo list | verify | train | publish | gallery`: the trained models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dalle2_edu.cli.options import (
    Device,
    MixedPrecision,
    Seed,
    Tier,
    choose,
    choose_precision,
    find_device,
    writing,
)
from dalle2_edu.errors import Dalle2EduError

if TYPE_CHECKING:
    from dalle2_edu.zoo import Card


def zoo_list() -> None:
    """Show every trained model, what its card says, and which are missing.

    The card lies beside the weights as JSON; this prints the short of it. A domain's prior and
    decoder belong together; `shared` parts serve both.

    \b
    Example:
      dalle2-edu zoo list
    """
    from dalle2_edu import zoo

    cards = zoo.cards()
    print(f"{'domain':8}{'part':16}{'tier':7}{'steps':>8}{'minutes':>9}  {'trained':12}numbers")
    for domain, parts in zoo.known().items():
        for part in parts:
            print(f"{domain:8}{part:16}" + card_line(cards.get((domain, part))))


def card_line(card: Card | None) -> str:
    """The columns of `zoo list` that come from a card, or a word for a model that is not
    here.
    """
    if card is None:
        return "not here"
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items())
    return f"{card.tier:7}{card.steps:>8}{card.minutes:>9.0f}  {card.date:12}{numbers}".rstrip()


def zoo_verify() -> None:
    """Check that every model is whole: its hash, its names, its shapes.

    Loads each one just as drawing would and throws it away again. The exit code is 2 if any is
    missing or damaged.

    \b
    Example:
      dalle2-edu zoo verify
    """
    from dalle2_edu import zoo

    everything = [(domain, part) for domain, parts in zoo.known().items() for part in parts]
    bad = 0
    for domain, part in everything:
        try:
            zoo.load(domain, part)
            print(f"whole  {domain} {part}")
        except Dalle2EduError as error:
            print(f"BAD    {domain} {part}: {error}")
            bad += 1
    if bad:
        raise Dalle2EduError(
            f"Missing or damaged: {bad} of the {len(everything)} models in {zoo.folder()}."
        )


def zoo_train(
    tier: Tier = "cpu",
    runs: Annotated[
        Path | None, typer.Option(help="The folder of the runs. [default: runs/zoo-<tier>]")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="The zoo to fill. [default: <runs>/zoo]")
    ] = None,
    mixed_precision: MixedPrecision = None,
) -> None:
    """Train every model again, one after the other, into a zoo of your own.

    Later models need earlier ones (the prior learns CLIP's embeddings), so each is published as
    soon as it is done. The zoo that ships with the book stays as it is. Interrupt it and call
    it again: it goes on where it was.

    \b
    Example:
      dalle2-edu zoo train --tier smoke
      DALLE2_EDU_ZOO=runs/zoo-smoke/zoo dalle2-edu draw "rocket"
    """
    from dalle2_edu.training import recipes

    choose("tier", tier, recipes.TIERS)
    precision = choose_precision(mixed_precision)
    runs = runs or Path("runs") / f"zoo-{tier}"
    into = into or runs / "zoo"
    os.environ["DALLE2_EDU_ZOO"] = str(
        into
    )  # where `publish` writes, and where later recipes load from
    for place, recipe in enumerate(recipes.RECIPES, start=1):
        print(f"[{place}/{len(recipes.RECIPES)}] {recipe}")
        run_dir = runs / recipe
        recipes.run(
            recipe, tier, out=run_dir, resume=run_dir.exists(), mixed_precision=precision
        )
        recipes.publish(run_dir)
    print(f'Done. To draw with them: DALLE2_EDU_ZOO={into} dalle2-edu draw "rocket"')


def zoo_publish(
    run_dir: Annotated[
        Path, typer.Argument(help="The folder of a run, such as runs/emoji-decoder-gpu.")
    ],
    notes: Annotated[str, typer.Option(help="What a user of the weights ought to know.")] = "",
) -> None:
    """Put the weights of a run into the zoo, with their card.

    Takes the run's averaged weights (EMA), rounds them to half precision and writes the card:
    recipe, minutes, numbers, hash. The model that was there is replaced. Set DALLE2_EDU_ZOO to
    publish into a folder of your own.

    \b
    Example:
      dalle2-edu zoo publish runs/emoji-decoder-gpu
    """
    if not run_dir.is_dir():
        raise Dalle2EduError(
            f"There is no run in {run_dir}; train one first: dalle2-edu train <recipe>."
        )
    from dalle2_edu.training import recipes

    print(recipes.publish(run_dir, notes=notes))


GALLERY = {
    "emoji": (
        *(
            "rocket",
            "cat face",
            "smiling face with sunglasses",
            "red apple",
            "penguin",
            "sunflower",
        ),
        *("火箭", "猫脸", "墨镜笑脸", "红苹果", "企鹅", "向日葵"),
    ),
    "shapes": (
        "a large red circle on the left, on a light blue background",
        "a small green star in the middle",
        "a blue square to the left of a yellow heart",
        "a striped purple triangle above an orange diamond",
        'a sign that says "CAT"',
        "a pink ring and a black cross",
        "一个红色的大圆形在左边，浅蓝色背景",
        "中间有一颗绿色的小星星",
        "蓝色正方形在黄色爱心的左边",
        "紫色条纹三角形在橙色菱形的上方",
        "一块写着“CAT”的牌子",
        "粉色圆环和黑色十字",
    ),
}


def zoo_gallery(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("out/gallery.png"),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw the same prompts in both languages with both pipelines: the picture in the README.

    The prompts were chosen before any picture was seen and stand in dalle2_edu/cli/zoo.py;
    nothing is drawn twice to be picked from.

    \b
    Example:
      dalle2-edu zoo gallery --out out/gallery.png
    """
    import torch

    from dalle2_edu.drawing.grids import picture_grid
    from dalle2_edu.unclip.pipeline import UnCLIP

    drawn = [
        UnCLIP.from_zoo(domain, device=find_device(device)).text_to_image(prompts, seed=seed)
        for domain, prompts in GALLERY.items()
    ]
    prompts = [prompt for group in GALLERY.values() for prompt in group]
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        print(picture_grid(prompts, torch.cat(drawn).cpu(), out))
