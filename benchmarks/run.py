"""Ours against diffusers (and dalle2-pytorch), on this machine, with the same weights,
taking turns.

    python benchmarks/run.py            under ten minutes on two cores; writes benchmarks/RESULTS.md
    python benchmarks/run.py --quick    half a minute, tiny networks, writes nothing: does it run?

Before anything is timed, the answers are compared: the two sides must compute the same
thing. On a GPU the same command takes bf16, channels-last, `torch.compile` and the
fused optimiser for our side, bf16 for the others.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import diffusers
import drawings
import loading
import lucid
import networks
import peak
import rivals
import torch
import transformers
import tricks
from networks import How, Size, parameters, trainer
from report import Table
from timing import (
    DEVICE,
    ON_GPU,
    Spread,
    convolution_rate,
    machine,
    matrix_rate,
    shown,
    take_turns,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

RESULTS = Path(__file__).parent / "RESULTS.md"
# how far apart the answers of the same weights may lie, as a share of the largest
# number
SAME = 1e-4
# of two pictures in [-1, 1] after 57 steps that each amplify the rounding of the step
# before
SAME_PICTURE = 1e-2
STOCK = How(
    channels_last=False, compiled=False, fused=False
)  # what diffusers' training scripts do
STEPS = {"decoder": "U-Net (decoder)", "prior": "prior"}


class Plan:
    """How much is measured."""

    def __init__(self, quick: bool):
        self.quick = quick
        self.sizes = [networks.TINY] if quick else [networks.SMALL, networks.LARGE]
        self.rounds = {
            networks.TINY.name: 3,
            networks.SMALL.name: 7,
            networks.LARGE.name: 5,
        }
        self.largest = self.sizes[-1]
        self.drawing = networks.TINY_DRAWING if quick else networks.DRAWING
        self.drawing_rounds = 3
        self.pictures = 100 if quick else 1000
        self.product_sizes = (
            (256, 512) if quick else (8192, 16384) if ON_GPU else (1024, 2048, 3072)
        )
        self.channels = (64, 128) if quick else (256, 512)
        self.product_seconds = 0.2 if quick else 1.0
        self.trick_rounds = 3


# --- the ceiling ----------------------------------------------------------------------


Rates = dict[str, dict[str, float]]
KINDS = {"float32": torch.float32, "bf16": torch.bfloat16}


def ceiling(plan: Plan) -> dict[str, dict[str, float]]:
    """The fastest that this machine multiplies and adds, operations a second: for each
    kind of numbers and of work.
    """
    seconds = plan.product_seconds
    return {
        name: {
            "product": matrix_rate(kind, plan.product_sizes, seconds),
            "convolution": convolution_rate(kind, plan.channels, seconds),
        }
        for name, kind in KINDS.items()
    }


def operations(size: Size, part: str) -> int:
    """Floating-point operations of one training step, counted where tensors have shapes
    and no numbers.
    """
    inputs = {
        name: tensor.to("meta")
        for name, tensor in networks.inputs_of(size, part).items()
    }
    with torch.device("meta"):
        network = networks.ours(size, part)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(**inputs).sum().backward()
    return counter.get_total_flops()


# --- (a) a step of training -----------------------------------------------------------


def training(plan: Plan, rates: Rates) -> Table:
    rows = [
        row
        for size in plan.sizes
        for part in STEPS
        for row in training_rows(plan, size, part, rates)
    ]
    if not plan.quick:
        rows += [row for part in STEPS for row in miniature_rows(plan, part, rates)]
    return Table(
        "A step of training",
        "Forward, backward, AdamW; median (quartiles). *diffusers* does as its training"
        " scripts do; *diffusers, our way* has our optimiser (on a GPU also channels-last and"
        " compiled): what is left then is due to the classes. *Difference* is that of the"
        " answers before the first step, as a share of the largest number in them. *Share* is"
        f" that of the ceiling above in {computing()}, be it the product's or the"
        " convolution's.",
        [
            "network",
            "size",
            "side",
            "parameters",
            "batch",
            "a step",
            "ours is",
            "difference",
            "share",
        ],
        rows,
    )


def computing() -> str:
    return "bf16" if ON_GPU else "float32"


def training_rows(
    plan: Plan, size: Size, part: str, rates: Rates
) -> Iterator[list[str]]:
    """The sides of one network at one size, a row each."""
    torch.manual_seed(0)
    inputs = networks.inputs_of(size, part)
    own, their = rivals.matched(size, part)
    apart = rivals.difference(own, their, inputs)
    if apart > SAME:
        raise SystemExit(
            f"{part}, {size.name}: the answers differ by {apart:.1e}, so a comparison means"
            " nothing."
        )
    sides = {
        "ours": (own, How()),
        "diffusers": (their, STOCK),
        "diffusers, our way": (copy.deepcopy(their), How()),
    }
    package, _ = lucid.load()
    if package is not None and size.name in lucid.UNETS:
        sides["dalle2-pytorch"] = (lucid.network(package, size, part), STOCK)
    work = {
        name: trainer(network, inputs, how) for name, (network, how) in sides.items()
    }
    times = take_turns(work, plan.rounds[size.name])
    batch = len(inputs["t"])
    for name, spread in times.items():
        same = "" if name == "dalle2-pytorch" else f"{apart:.0e}"
        ratio = (
            ""
            if name == "ours"
            else f"{spread.median / times['ours'].median:.2f} x as fast"
        )
        part_of = share(size, part, spread, rates) if name != "dalle2-pytorch" else ""
        count = f"{parameters(sides[name][0]) / 1e6:.1f}M"
        yield [
            STEPS[part],
            size.name,
            name,
            count,
            str(batch),
            str(spread),
            ratio,
            same,
            part_of,
        ]


def miniature_rows(plan: Plan, part: str, rates: Rates) -> Iterator[list[str]]:
    """The miniature itself, which diffusers' classes can't be."""
    size, inputs = networks.MINIATURE, networks.inputs_of(networks.MINIATURE, part)
    network = networks.ours(size, part)
    spread = take_turns(
        {"ours": trainer(network, inputs, How())}, plan.rounds[networks.SMALL.name]
    )["ours"]
    count, batch = f"{parameters(network) / 1e6:.1f}M", str(len(inputs["t"]))
    yield [
        STEPS[part],
        size.name,
        "ours",
        count,
        batch,
        str(spread),
        "",
        "",
        share(size, part, spread, rates),
    ]


def share(size: Size, part: str, spread: Spread, rates: Rates) -> str:
    return f"{operations(size, part) / spread.median / max(rates[computing()].values()):.0%}"


# --- (b) a whole drawing --------------------------------------------------------------


def drawing(plan: Plan, folder: Path) -> Table:
    rivals.save_karlo(plan.drawing, folder)
    stock, sharp = drawings.differences(folder)
    if sharp > SAME_PICTURE:
        raise SystemExit(
            f"The two sides' pictures differ by {sharp:.1e}, so a comparison means nothing."
        )
    karlo, theirs = (
        drawings.our_karlo(folder),
        rivals.TheirKarlo(folder, drawings.DTYPE),
    )
    works = {
        "ours": lambda: drawings.draw(karlo),
        "diffusers": drawings.their_work(theirs),
    }
    times = take_turns(works, plan.drawing_rounds)
    ratio = times["diffusers"].median / times["ours"].median
    rows = [
        ["ours", str(times["ours"]), "", ""],
        [
            "diffusers",
            str(times["diffusers"]),
            f"{ratio:.2f} x as fast",
            f"{stock:.0e}; {sharp:.0e}",
        ],
    ]
    return Table(
        "A picture from a text",
        f"A Karlo of {karlo_size(karlo)} million parameters, one picture of {karlo.image_size}"
        " pixels: prior 25 steps with guidance 4, decoder 25 steps with guidance 8, upsampler"
        " 7 steps. diffusers: a plain loop over its parts and `UnCLIPScheduler`, with our"
        " noise. *Difference*: the largest of the two pictures in [-1, 1], first as diffusers"
        " is, with its noise schedule in single precision; then with that schedule in double"
        " precision, as ours and Karlo's own. Random weights amplify each rounding over 57"
        " steps.",
        ["side", "a picture", "ours is", "difference"],
        rows,
    )


def karlo_size(karlo: drawings.Karlo) -> str:
    parts = [karlo.clip, karlo.prior, karlo.decoder, *karlo.upsamplers, karlo.last]
    return f"{sum(map(parameters, parts)) / 1e6:.0f}"


# --- (c) data -------------------------------------------------------------------------


def data(plan: Plan) -> Table:
    loading.check(100)
    n = plan.pictures
    captions = [
        caption for several in loading.our_pictures(n).captions for caption in several
    ]
    our_tokens, usual_tokens = loading.tokenizers()
    works: dict[str, dict[str, Callable[[], object]]] = {
        "pictures: read, decode, resize": {
            "ours": lambda: loading.our_pictures(n),
            "usual": lambda: loading.usual_pictures(n),
        },
        f"texts: tokenize {len(captions)} captions": {
            "ours": lambda: our_tokens(captions),
            "usual": lambda: usual_tokens(captions),
        },
    }
    rows = []
    for name, sides in works.items():
        times = take_turns(sides, plan.trick_rounds)
        per_second = [f"{n / times[side].median:,.0f}" for side in sides]
        rows.append(
            [
                name,
                *per_second,
                f"{times['usual'].median / times['ours'].median:.2f} x as fast",
            ]
        )
    return Table(
        "Data",
        f"Samples a second in one process, {n} emoji of 128 pixels made {loading.SIDE} wide,"
        f" each with some {len(captions) / n:.0f} captions. Usual: webdataset, Pillow,"
        " torchvision's transforms, open_clip's tokenizer. The pictures are equal to one step"
        " of 255.",
        ["work", "ours", "usual", "ours is"],
        rows,
    )


# --- memory, ceiling, tricks ----------------------------------------------------------


def memory(plan: Plan, folder: Path) -> Table:
    jobs = [
        (f"training step, {STEPS[part]}, {plan.largest.name}", part, plan.largest.name)
        for part in STEPS
    ]
    jobs.append(("a picture from a text", "drawing", str(folder)))
    rows = [
        [name, *(str(peak.measured(side, what, which)) for side in ("ours", "theirs"))]
        for name, what, which in jobs
    ]
    return Table(
        "Memory",
        "The most that is held, each side in a process of its own"
        + (", on the GPU." if ON_GPU else "."),
        ["work", "ours", "diffusers"],
        rows,
    )


def ceilings(plan: Plan, rates: Rates) -> Table:
    rows = [
        [name, *(f"{rate / 1e9:,.0f}" for rate in kinds.values())]
        for name, kinds in rates.items()
    ]
    return Table(
        "The machine's ceiling",
        "GFLOP/s: the product of two square matrices, the fastest of"
        f" {listed(plan.product_sizes)} rows; a 3 x 3 convolution, the fastest of"
        f" {listed(plan.channels)} channels.",
        ["numbers", "matrix product", "convolution"],
        rows,
    )


def listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def trick_table(plan: Plan) -> Table:
    gains = [
        tricks.in_training(size, part, trick, plan.trick_rounds)
        for size, part, trick in tried(plan)
    ]
    gains += tricks.in_drawing(plan.drawing.decoder, plan.trick_rounds)
    rows = [
        [
            gain.trick,
            gain.work,
            str(gain.without),
            str(gain.with_it),
            f"{gain.times:.2f}x",
        ]
        for gain in gains
    ]
    return Table(
        "What each trick brings",
        "Ours with and without it, everything else off in training; median (quartiles).",
        ["trick", "work", "without", "with", "faster"],
        rows,
    )


def tried(plan: Plan) -> Iterator[tuple[Size, str, str]]:
    """Every trick on the large decoder; compiling that takes minutes on a small
    machine, so there the small prior is compiled.
    """
    for trick in tricks.IN_TRAINING:
        if trick != "torch.compile" or ON_GPU:
            yield plan.largest, "decoder", trick
        elif not plan.quick:
            yield networks.SMALL, "prior", trick


# --- the command ----------------------------------------------------------------------


def about() -> str:
    _, version = lucid.load()
    gpu = (
        ""
        if ON_GPU
        else "The GPU part of this benchmark was not run: there was no GPU.\n"
    )
    return "\n".join(
        [
            "# Ours beside diffusers and dalle2-pytorch",
            "",
            f"- machine: {machine()}",
            (
                f"- torch {torch.__version__}, diffusers {diffusers.__version__},"
                f" dalle2-pytorch: {version}"
            ),
            f"- {datetime.now(timezone.utc):%d %B %Y, %H:%M} UTC",
            "- command: `make bench`",
            "",
            gpu,
        ]
    )


def tables(plan: Plan) -> Iterator[Table]:
    rates = ceiling(plan)
    yield ceilings(plan, rates)
    yield training(plan, rates)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield drawing(plan, folder)
        yield memory(plan, folder)
    yield data(plan)
    yield trick_table(plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny networks, nothing written: does it run?",
    )
    plan = Plan(parser.parse_args().quick)
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    began, parts = datetime.now(), [about()]
    print(parts[0])
    for table in tables(plan):
        parts.append(str(table))
        print(table, flush=True)
    print(f"{shown((datetime.now() - began).total_seconds())} on {DEVICE}.")
    if not plan.quick:
        RESULTS.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
