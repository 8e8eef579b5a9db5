"""`dalle2-edu zoo list | verify | train | publish | gallery`: the trained models."""

from __future__ import annotations

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

    The card lies beside the weights as JSON; this prints the short of it. A domain's
    prior and decoder belong together; `shared` parts serve both.

    \b
    Example:
      dalle2-edu zoo list
    """
    from dalle2_edu import zoo

    cards = zoo.cards()
    print(
        f"{'domain':8}{'part':23}{'tier':7}{'steps':>8}{'minutes':>9}  {'trained':12}numbers"
    )
    for domain, part in expected():
        print(f"{domain:8}{part:23}" + card_line(cards.get((domain, part))))


def expected() -> list[tuple[str, str]]:
    """The parts that a recipe makes, and those that are here besides: (domain,
    part).
    """
    from dalle2_edu import zoo
    from dalle2_edu.recipes import runs

    made = [(training.domain, training.part) for training in runs.trainings().values()]
    return made + [place for place in zoo.cards() if place not in made]


def card_line(card: Card | None) -> str:
    """The columns of `zoo list` that come from a card, or a word for a model that is
    not here.
    """
    if card is None:
        return "not here"
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items())
    return f"{card.tier:7}{card.steps:>8}{card.minutes:>9.0f}  {card.date:12}{numbers}".rstrip()


def zoo_verify() -> None:
    """Check that every model is whole: its hash, its names, its shapes.

    Loads each one just as drawing would and throws it away again. The exit code is 2 if
    any is missing or damaged.

    \b
    Example:
      dalle2-edu zoo verify
    """
    from dalle2_edu import zoo

    everything = expected()
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
        Path | None,
        typer.Option(help="The folder of the runs. [default: runs/zoo-<tier>]"),
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="The zoo to fill. [default: <runs>/zoo]")
    ] = None,
    at_once: Annotated[
        int,
        typer.Option(
            help="How many models to train side by side, with one thread each. On two cores, 2"
            " finish sooner than one after the other with two threads."
        ),
    ] = 1,
    estimate: Annotated[
        bool,
        typer.Option(help="First measure, in some minutes, how long it will take."),
    ] = True,
    mixed_precision: MixedPrecision = None,
) -> None:
    """Train every model again, into a zoo of your own.

    Later models need earlier ones (the prior learns CLIP's embeddings), so each is
    published as soon as it is done. The zoo that ships with the book stays as it is.
    Interrupt it and call it again: it goes on where it was.

    \b
    Example:
      dalle2-edu zoo train --tier smoke
      dalle2-edu zoo train --at-once 2
      dalle2-edu --zoo runs/zoo-smoke/zoo draw "rocket"
    """
    from dalle2_edu.recipes import whole_zoo

    choose("tier", tier, ("smoke", "cpu", "gpu"))
    runs = runs or Path("runs") / f"zoo-{tier}"
    into = into or runs / "zoo"
    plan = whole_zoo.Plan(tier, runs, into, choose_precision(mixed_precision))
    if estimate and tier != "smoke":
        whole_zoo.print_estimate(plan, at_once)
    whole_zoo.train_all(plan, at_once)
    print(f'Done. To draw with them: dalle2-edu --zoo {into} draw "rocket"')


def zoo_publish(
    run_dir: Annotated[
        Path,
        typer.Argument(help="The folder of a run, such as runs/emoji-decoder-gpu."),
    ],
    notes: Annotated[
        str, typer.Option(help="What a user of the weights ought to know.")
    ] = "",
    into: Annotated[
        Path | None,
        typer.Option(
            help="The zoo to put it into, made if it is missing. [default: the zoo]"
        ),
    ] = None,
) -> None:
    """Put the weights of a run into the zoo, with their card.

    Takes the run's averaged weights (EMA), rounds them to half precision and writes the
    card: recipe, minutes, numbers, hash. The model that was there is replaced, so
    publish your own models into a folder of your own.

    \b
    Example:
      dalle2-edu zoo publish runs/emoji-decoder-gpu --into my_zoo
      dalle2-edu --zoo my_zoo draw "rocket"
    """
    from dalle2_edu import zoo
    from dalle2_edu.recipes import runs

    with zoo.at(into or zoo.folder()):
        print(runs.publish(run_dir, notes=notes))


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
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path(
        "out/gallery.png"
    ),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw the same prompts in both languages with both pipelines: the picture in the
    README.

    The prompts were chosen before any picture was seen and stand in
    dalle2_edu/cli/zoo.py; nothing is drawn twice to be picked from.

    \b
    Example:
      dalle2-edu zoo gallery --out out/gallery.png
    """
    import torch

    from dalle2_edu.drawing.grids import picture_grid
    from dalle2_edu.unclip.pipeline import UnCLIP

    drawn = [
        UnCLIP.from_zoo(domain, device=find_device(device)).text_to_image(
            prompts, seed=seed
        )
        for domain, prompts in GALLERY.items()
    ]
    prompts = [prompt for group in GALLERY.values() for prompt in group]
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        print(picture_grid(prompts, torch.cat(drawn).cpu(), out))
