"""The command line: `dalle2-edu draw | vary | blend | edit | inpaint | train | recipes | evaluate | zoo | data`.

Each command is a thin layer: it checks what was typed, calls the one function of the package that does the
work, and says where the result lies. Read it to see which function that is.

Two habits make it kind to a beginner. Every mistake that you can mend ends in one line on stderr and exit
code 2, with no traceback (`main`). And PyTorch, which takes seconds to import, is imported by the commands
that need it, so that `--help` answers at once.

The help text of a command is its docstring. A line with a lone "\\b" keeps the line breaks of the paragraph
after it.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from dalle2_edu.errors import Dalle2EduError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from torch import Tensor

    from dalle2_edu.unclip.pipeline import Stages, UnCLIP
    from dalle2_edu.zoo import Card

Precision = Literal["no", "bf16"]
Logger = Literal["csv", "tensorboard"]
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended: 128 + signal 2


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
zoo_app = group("The trained models: what they are, whether they are whole, how to make them anew.")
data_app = group("The pictures that the models learn from.")
app.add_typer(zoo_app, name="zoo")
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the command line; a mistake that the reader can mend becomes one line and exit code 2."""
    warnings.formatwarning = lambda message, *_: f"dalle2-edu: {message}\n"  # what it says, not where it was said
    try:
        app()
    except Dalle2EduError as error:
        print(f"dalle2-edu: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


# --- options that several commands share --------------------------------------------------------------------

Seed = Annotated[int, typer.Option(help="Where the noise starts: the same seed gives the same picture.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")]
Tier = Annotated[
    str,
    typer.Option(
        envvar="DALLE2_EDU_TIER",
        help="smoke: seconds, to see that it runs. cpu: minutes to hours on a laptop. gpu: for one GPU.",
    ),
]
MixedPrecision = Annotated[
    str | None, typer.Option(help="no or bf16: the numbers to compute in. [default: the recipe's own]")
]
Guidance = Annotated[
    float | None, typer.Option(help="How far to follow the words: 1 is off. [default: the model's own]")
]


def choose(kind: str, name: str, known: Sequence[str]) -> str:
    """Return `name` if it is known; otherwise raise Dalle2EduError with the list of those that are."""
    if name not in known:
        raise Dalle2EduError(f'There is no {kind} "{name}"; choose one of: {", ".join(known)}.')
    return name


def find_device(name: str) -> str:
    """Resolve "auto" to "cuda" or "cpu"; raises Dalle2EduError for a device that PyTorch can't reach."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):
        raise Dalle2EduError(f'PyTorch can\'t use the device "{name}" here; try --device cpu.') from None
    return name


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors while writing `path` (a full disk, no permission) into one clear line."""
    try:
        yield
    except OSError as error:
        raise Dalle2EduError(f"Could not write {path}: {error.strerror or error}.") from error


# --- draw ---------------------------------------------------------------------------------------------------


@app.command()
def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw, in English or Chinese.")],
    domain: Annotated[str | None, typer.Option(help="emoji or shapes. [default: what the prompt suggests]")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("out"),
    guidance_scale: Guidance = None,
    prior_steps: Annotated[int | None, typer.Option(help="Denoising steps of the prior.")] = None,
    decoder_steps: Annotated[int | None, typer.Option(help="Denoising steps of the decoder.")] = None,
    upsampler_steps: Annotated[int | None, typer.Option(help="Denoising steps of each upsampler.")] = None,
    device: Device = "auto",
) -> None:
    """Draw a picture from words.

    CLIP reads the prompt; the prior imagines the embedding of a picture that it could describe; the decoder
    paints 32 x 32 pixels from that embedding, out of pure noise; two upsamplers make them 64 x 64 and 128 x
    128. You get the picture, and a sheet that shows each of these steps. Takes some seconds on a laptop.

    \b
    Example:
      dalle2-edu draw "smiling cat" --seed 7
      out/smiling-cat.png
      out/smiling-cat_steps.png
    """
    if not prompt.strip():
        raise Dalle2EduError('The prompt is empty; say what to draw, for example: dalle2-edu draw "rocket".')
    wanted: dict[str, Any] = {
        "guidance_scale": guidance_scale,
        "prior_steps": prior_steps,
        "decoder_steps": decoder_steps,
        "upsampler_steps": upsampler_steps,
    }
    pipeline = open_pipeline(prompt, domain, device)
    settings = {name: value for name, value in wanted.items() if value is not None}  # else the pipeline's own
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)  # before the drawing, so that a bad folder costs no time
    stages = pipeline.text_to_image([prompt], seed=seed, return_stages=True, **settings)
    save_drawing(stages, out, slug(prompt))


def open_pipeline(prompt: str, domain: str | None, device: str) -> UnCLIP:
    """The trained pipeline of `domain`, or of the one that suits the prompt."""
    from dalle2_edu.unclip.pipeline import UnCLIP, pick_domain

    domain = choose("domain", domain or pick_domain(prompt), picture_domains())
    return UnCLIP.from_zoo(domain, device=find_device(device))


def picture_domains() -> list[str]:
    """The domains that draw: those of the zoo that have a decoder."""
    from dalle2_edu import zoo

    return [domain for domain, parts in zoo.known().items() if "decoder" in parts]


def slug(prompt: str, longest: int = 48) -> str:
    """A file name for a prompt: its letters and digits of any language, joined by hyphens.

    "Smiling cat!" -> "smiling-cat", "一个红色的圆形" stays as it is, and "?" -> "picture".
    """
    words = re.findall(r"\w+", prompt.lower())
    return "-".join(words)[:longest].strip("-_") or "picture"


def save_drawing(stages: Stages, out: Path, name: str) -> None:
    """Write <name>.png and the contact sheet <name>_steps.png into `out` and print their paths."""
    from dalle2_edu.unclip.sheet import contact_sheet, to_pil

    picture, sheet = out / f"{name}.png", out / f"{name}_steps.png"
    with writing(picture):
        to_pil(stages.images[0]).save(picture)
        contact_sheet(stages, sheet)
    print(picture, sheet, sep="\n")


# --- vary, blend, edit, inpaint: what starts from a picture --------------------------------------------------------

PictureFile = Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file of any size; its middle square is used.")]
Out = Annotated[Path, typer.Option(help="The folder to write into.")]
Domain = Annotated[str, typer.Option(help="emoji or shapes: the decoder that knows pictures of this kind.")]
WordsDomain = Annotated[str | None, typer.Option(help="emoji or shapes. [default: what the words suggest]")]
DecoderSteps = Annotated[
    int, typer.Option(help="Denoising steps of the decoder; more follow the picture more closely.")
]


@app.command()
def vary(
    picture: PictureFile,
    n: Annotated[int, typer.Option(help="How many variations.")] = 4,
    eta: Annotated[
        float, typer.Option(help="Fresh noise in each step: 0 gives the picture back, 1 varies most.")
    ] = 1.0,
    domain: Domain = "emoji",
    seed: Seed = 0,
    decoder_steps: DecoderSteps = 50,
    out: Out = Path("out"),
    device: Device = "auto",
) -> None:
    """Draw more pictures of what a picture shows.

    CLIP sees what the picture is of; everything else is the noise that the decoder would start from to paint
    exactly this picture (DDIM inversion). Keep the first and disturb the second, and you get the same thing
    once more: another pose, other places, other details.

    \b
    Example:
      dalle2-edu vary cat.png --n 6 --eta 0.8
      out/cat_vary_1.png ... out/cat_vary_6.png
      out/cat_vary.png                            all of them on one sheet
    """
    image = open_file(picture)
    pipeline = open_editor(domain, device, out)
    images = pipeline.variations(image, n=n, eta=eta, seed=seed, decoder_steps=decoder_steps)
    titles = [f"variation {i + 1}" for i in range(n)]
    save_edit(out, f"{slug(picture.stem)}_vary", [image], [picture.name], images, titles)


@app.command()
def blend(
    first: PictureFile,
    second: PictureFile,
    steps: Annotated[int, typer.Option(help="How many pictures, both ends counted.")] = 7,
    fix_noise: Annotated[
        bool, typer.Option("--fix-noise", help="One noise for all: only the meaning moves, the ends are no copies.")
    ] = False,
    domain: Domain = "emoji",
    seed: Seed = 0,
    decoder_steps: DecoderSteps = 50,
    out: Out = Path("out"),
    device: Device = "auto",
) -> None:
    """Walk from one picture to another.

    Both are turned into what CLIP sees and the noise that paints the rest. The walk follows the arc between
    them on the sphere (slerp), as a straight line would cut through the inside, where no picture lives.

    \b
    Example:
      dalle2-edu blend cat.png rocket.png --steps 5
      out/cat_rocket_blend_1.png ... out/cat_rocket_blend_5.png
      out/cat_rocket_blend.png                                    all of them on one sheet
    """
    ends = [open_file(first), open_file(second)]
    pipeline = open_editor(domain, device, out)
    images = pipeline.interpolate(
        ends[0], ends[1], steps=steps, fix_noise=fix_noise, seed=seed, decoder_steps=decoder_steps
    )
    titles = [f"{i / (steps - 1):.0%} of the way" for i in range(steps)]
    name = f"{slug(first.stem)}_{slug(second.stem)}_blend"
    save_edit(out, name, ends, [first.name, second.name], images, titles)


@app.command()
def edit(
    picture: PictureFile,
    source: Annotated[str, typer.Argument(help='What it shows now, in words; "" to leave that open.')],
    target: Annotated[str, typer.Argument(help="What it should show.")],
    steps: Annotated[int, typer.Option(help="How many pictures, the first one unchanged.")] = 6,
    max_theta: Annotated[
        float, typer.Option(help="How far to go at the end: 0.25 to 0.5 in the paper; 1 forgets the picture.")
    ] = 0.4,
    domain: WordsDomain = None,
    seed: Seed = 0,
    decoder_steps: DecoderSteps = 50,
    out: Out = Path("out"),
    device: Device = "auto",
) -> None:
    """Change a picture by words: from what it shows to what it should show.

    The difference of the two texts is a direction in the space of CLIP. The picture's embedding is turned
    towards it step by step, while the noise that holds pose and details stays.

    \b
    Example:
      dalle2-edu edit heart.png "red heart" "blue heart"
      out/heart_blue-heart_1.png ... out/heart_blue-heart_6.png
      out/heart_blue-heart.png                                    all of them on one sheet
    """
    image = open_file(picture)
    pipeline = open_editor(domain, device, out, words=target)
    images = pipeline.text_diff(
        image, source, target, steps=steps, max_theta=max_theta, seed=seed, decoder_steps=decoder_steps
    )
    titles = [f"theta {max_theta * i / (steps - 1):.2f}" for i in range(steps)]
    save_edit(out, f"{slug(picture.stem)}_{slug(target)}", [image], [picture.name], images, titles)


@app.command()
def inpaint(
    picture: PictureFile,
    prompt: Annotated[str, typer.Argument(help="What the whole picture should be of.")],
    mask: Annotated[
        Path | None, typer.Option(help="A picture, white where to paint. [default: where PICTURE is transparent]")
    ] = None,
    n: Annotated[int, typer.Option(help="How many attempts.")] = 3,
    domain: WordsDomain = None,
    seed: Seed = 0,
    guidance_scale: Annotated[float, typer.Option(help="How far to follow the words: 1 is off.")] = 2.0,
    decoder_steps: DecoderSteps = 50,
    out: Out = Path("out"),
    device: Device = "auto",
) -> None:
    """Paint a part of a picture anew; every other pixel stays as it is.

    Mark the part by making it transparent, or white in a mask of its own. At each step the known part is put
    in place, noised as much as the step; the walk goes back up and down again a few times, so that old and
    new come to fit (RePaint). "As it is" speaks of the picture at the size that is drawn, 128 x 128.

    \b
    Example:
      dalle2-edu inpaint cat.png "cat with sunglasses" --mask eyes.png
      out/cat_inpaint_1.png ... out/cat_inpaint_3.png
      out/cat_inpaint.png                              all of them on one sheet
    """
    image = open_file(picture)
    hole = find_mask(picture, image, mask)
    pipeline = open_editor(domain, device, out, words=prompt)
    images = pipeline.inpaint(
        image, hole, prompt, n=n, seed=seed, guidance_scale=guidance_scale, decoder_steps=decoder_steps
    )
    before, titles = [picture.name, "white is painted"], [f"attempt {i + 1}" for i in range(n)]
    save_edit(out, f"{slug(picture.stem)}_inpaint", [image, hole], before, images, titles)


def open_file(path: Path) -> PILImage:
    """The picture in a file; raises Dalle2EduError where there is none."""
    from dalle2_edu.unclip.pictures import open_picture

    return open_picture(path)


def find_mask(picture: Path, image: PILImage, mask: Path | None) -> PILImage:
    """White where to paint: the mask's file, or where the picture is transparent."""
    from dalle2_edu.unclip.pictures import transparency_mask

    hole = open_file(mask) if mask is not None else transparency_mask(image)
    if hole is None:
        raise Dalle2EduError(
            f"{picture} has no transparent part: say where to paint, --mask FILE with that part white."
        )
    return hole


def open_editor(domain: str | None, device: str, out: Path, words: str = "") -> UnCLIP:
    """The pipeline for an edit, and a folder for its result, made first: a bad folder then costs no time."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    return open_pipeline(words, domain, device)


def save_edit(
    out: Path, name: str, given: list[PILImage], given_titles: list[str], images: Tensor, titles: list[str]
) -> None:
    """Write <name>_1.png, ... and the sheet <name>.png, which shows what was given first; print the paths."""
    import torch

    from dalle2_edu.unclip.pictures import as_pictures
    from dalle2_edu.unclip.sheet import picture_grid, to_pil

    files = [out / f"{name}_{i + 1}.png" for i in range(len(images))]
    before = [as_pictures(image, images.shape[-1]) for image in given]
    with writing(out / f"{name}.png"):
        for image, file in zip(images, files, strict=True):
            to_pil(image).save(file)
        everything = torch.cat([*before, images.cpu()])
        sheet = picture_grid([*given_titles, *titles], everything, out / f"{name}.png", columns=min(len(everything), 9))
    print(*files, sheet, sep="\n")


# --- train --------------------------------------------------------------------------------------------------


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="What to train; `dalle2-edu recipes` lists the names.")],
    tier: Tier = "cpu",
    out: Annotated[Path | None, typer.Option(help="The run's folder. [default: runs/<recipe>-<tier>]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from its last checkpoint.")] = False,
    data: Annotated[
        str | None, typer.Option(help="Your own pictures: a folder, or WebDataset shards (path, glob, URL).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="How many updates. [default: the tier's]")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes, with a checkpoint.")] = None,
    mixed_precision: MixedPrecision = None,
    logger: Annotated[str, typer.Option(help="csv or tensorboard: how the log is written.")] = "csv",
) -> None:
    """Train one model of the pipeline.

    A recipe says which model, on which data, with which numbers; the tier says how big. While it runs it
    writes checkpoints, a log and, for models that draw, grids of samples into its folder. Stop it whenever
    you like, even with `kill -9`: with --resume it goes on as if nothing had happened.

    \b
    Example:
      dalle2-edu train emoji-decoder --tier smoke
      accelerate launch --num_processes 2 -m dalle2_edu.cli train emoji-decoder --tier gpu
    """
    from dalle2_edu.training import recipes

    checkpoint = recipes.run(
        choose("recipe", recipe, list(recipes.RECIPES)),
        choose("tier", tier, recipes.TIERS),
        out=out,
        resume=resume,
        data=data,
        max_minutes=max_minutes,
        steps=steps,
        mixed_precision=choose_precision(mixed_precision),
        logger=cast(Logger, choose("logger", logger, get_args(Logger))),
    )
    print(checkpoint)


def choose_precision(name: str | None) -> Precision | None:
    """The precision of that name, or None where none is asked for and the recipe decides."""
    return None if name is None else cast(Precision, choose("precision", name, get_args(Precision)))


@app.command("recipes")
def list_recipes() -> None:
    """List what can be trained, in the order in which one needs the other.

    \b
    Example:
      dalle2-edu recipes
    """
    from dalle2_edu.training import recipes

    for name, recipe in recipes.RECIPES.items():
        print(f"{name:16}{recipe.teaches}")


# --- evaluate -----------------------------------------------------------------------------------------------


@app.command()
def evaluate(
    domain: Annotated[str, typer.Argument(help="shapes or emoji.")],
    pictures: Annotated[int, typer.Option(help="How many pictures to draw, a multiple of 4.")] = 200,
    seed: Seed = 0,
    guidance_scale: Guidance = None,
    batch_size: Annotated[int, typer.Option(help="Pictures drawn together; the result is the same.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers to this JSON file.")] = None,
    into_card: Annotated[bool, typer.Option("--into-card", help="Also quote them on the decoder's card.")] = False,
    device: Device = "auto",
) -> None:
    """Measure how good a trained pipeline is.

    Draws pictures of prompts that nobody picked by hand, half of them English and half Chinese, and asks
    judges that had no part in the training: for shapes, a classifier that reads each attribute off the
    picture; for emoji, a second CLIP that looks for the right caption among 100. Prints a table, with real
    pictures' numbers beside it.

    \b
    Example:
      dalle2-edu evaluate shapes
    """
    choose("domain", domain, picture_domains())
    from dalle2_edu import zoo
    from dalle2_edu.evaluation import report

    result = report.evaluate(
        domain,
        pictures=pictures,
        seed=seed,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        out=out,
        device=find_device(device),
    )
    if into_card:
        zoo.quote(domain, "decoder", report.headline(result))


# --- zoo ----------------------------------------------------------------------------------------------------


@zoo_app.command("list")
def zoo_list() -> None:
    """Show every trained model, what its card says, and which are missing.

    The card lies beside the weights as JSON; this prints the short of it. A domain's prior and decoder
    belong together; `shared` parts serve both.

    \b
    Example:
      dalle2-edu zoo list
    """
    from dalle2_edu import zoo

    cards = zoo.cards()
    print(f"{'domain':8}{'part':15}{'tier':7}{'steps':>8}{'minutes':>9}  {'trained':12}numbers")
    for domain, parts in zoo.known().items():
        for part in parts:
            print(f"{domain:8}{part:15}" + card_line(cards.get((domain, part))))


def card_line(card: Card | None) -> str:
    """The columns of `zoo list` that come from a card, or a word for a model that is not here."""
    if card is None:
        return "not here"
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items())
    return f"{card.tier:7}{card.steps:>8}{card.minutes:>9.0f}  {card.date:12}{numbers}".rstrip()


@zoo_app.command("verify")
def zoo_verify() -> None:
    """Check that every model is whole: its hash, its names, its shapes.

    Loads each one just as drawing would and throws it away again. The exit code is 2 if any is missing or
    damaged.

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
        raise Dalle2EduError(f"Missing or damaged: {bad} of the {len(everything)} models in {zoo.folder()}.")


@zoo_app.command("train")
def zoo_train(
    tier: Tier = "cpu",
    runs: Annotated[Path | None, typer.Option(help="The folder of the runs. [default: runs/zoo-<tier>]")] = None,
    into: Annotated[Path | None, typer.Option(help="The zoo to fill. [default: <runs>/zoo]")] = None,
    mixed_precision: MixedPrecision = None,
) -> None:
    """Train every model again, one after the other, into a zoo of your own.

    Later models need earlier ones (the prior learns CLIP's embeddings), so each is published as soon as it
    is done. The zoo that ships with the book stays as it is. Interrupt it and call it again: it goes on
    where it was.

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
    os.environ["DALLE2_EDU_ZOO"] = str(into)  # where `publish` writes, and where later recipes load from
    for place, recipe in enumerate(recipes.RECIPES, start=1):
        print(f"[{place}/{len(recipes.RECIPES)}] {recipe}")
        run_dir = runs / recipe
        recipes.run(recipe, tier, out=run_dir, resume=run_dir.exists(), mixed_precision=precision)
        recipes.publish(run_dir)
    print(f'Done. To draw with them: DALLE2_EDU_ZOO={into} dalle2-edu draw "rocket"')


@zoo_app.command("publish")
def zoo_publish(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run, such as runs/emoji-decoder-gpu.")],
    notes: Annotated[str, typer.Option(help="What a user of the weights ought to know.")] = "",
) -> None:
    """Put the weights of a run into the zoo, with their card.

    Takes the run's averaged weights (EMA), rounds them to half precision and writes the card: recipe,
    minutes, numbers, hash. The model that was there is replaced. Set DALLE2_EDU_ZOO to publish into a
    folder of your own.

    \b
    Example:
      dalle2-edu zoo publish runs/emoji-decoder-gpu
    """
    if not run_dir.is_dir():
        raise Dalle2EduError(f"There is no run in {run_dir}; train one first: dalle2-edu train <recipe>.")
    from dalle2_edu.training import recipes

    print(recipes.publish(run_dir, notes=notes))


GALLERY = {
    "emoji": (
        *("rocket", "cat face", "smiling face with sunglasses", "red apple", "penguin", "sunflower"),
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


@zoo_app.command("gallery")
def zoo_gallery(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("out/gallery.png"),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw the same prompts in both languages with both pipelines: the picture in the README.

    The prompts were chosen before any picture was seen and stand in cli.py; nothing is drawn twice to be picked from.

    \b
    Example:
      dalle2-edu zoo gallery --out out/gallery.png
    """
    import torch

    from dalle2_edu.unclip.pipeline import UnCLIP
    from dalle2_edu.unclip.sheet import picture_grid

    drawn = [
        UnCLIP.from_zoo(domain, device=find_device(device)).text_to_image(prompts, seed=seed)
        for domain, prompts in GALLERY.items()
    ]
    prompts = [prompt for group in GALLERY.values() for prompt in group]
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        print(picture_grid(prompts, torch.cat(drawn).cpu(), out))


# --- data ---------------------------------------------------------------------------------------------------


@data_app.command("emoji")
def data_emoji(
    out: Annotated[Path | None, typer.Option(help="The shard to write. [default: the one in the package]")] = None,
    font: Annotated[Path | None, typer.Option(help="NotoColorEmoji.ttf. [default: where Debian puts it]")] = None,
) -> None:
    """Build the emoji data set again from the font.

    Draws each emoji of Debian's fonts-noto-color-emoji at 128 x 128 pixels, names it in both languages and
    packs all of them into one WebDataset shard. You don't need this to train: the shard ships with the
    book.

    \b
    Example:
      apt install fonts-noto-color-emoji
      dalle2-edu data emoji --out my_emoji.tar
    """
    from dalle2_edu.data import emoji

    target = out or emoji.SHARD
    with writing(target):
        count = emoji.build(target, font or emoji.FONT)
    print(f"{count} emoji, {target.stat().st_size / 1e6:.1f} MB: {target}")


if __name__ == "__main__":
    main()
