"""The report: what `dalle2-edu evaluate <domain>` measures and prints, and what the zoo's cards
quote.

The idea: draw prompts that nobody picked by hand, let the whole pipeline draw them, and ask
judges that took no part in its training. Every number has a real picture's number beside it,
because a judge errs too:

    shapes  the oracle's verdict on each attribute, on compositions seen and never seen | on real renders
    emoji   the rank of the right caption among 100, in English and in Chinese          | of the real emoji
    both    the Fréchet distance from generated to real pictures                        | from real to real

Half of the prompts are English and half Chinese. One seed decides everything: prompts, noise,
distractors. The default of 200 pictures (100 seen and 100 held-out compositions of shapes; 100
English and 100 Chinese emoji) is what 2 cores draw in about 5 minutes at 1.5 s a picture. The
paper's verdicts come from 1,000 comparisons each (2204.06125, Table 1 and appendix B). With
100, read the intervals and not the decimals.

Chapter 20 uses this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dalle2_edu import zoo
from dalle2_edu.data import emoji, shapes
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import alignment, intervals
from dalle2_edu.evaluation.frechet import frechet_distance, frechet_error
from dalle2_edu.evaluation.intervals import Measure
from dalle2_edu.evaluation.oracle import ALL_RIGHT, Oracle, marks
from dalle2_edu.text2image.clip import Clip
from dalle2_edu.unclip.pipeline import UnCLIP

DOMAINS = ("shapes", "emoji")
PICTURE_SIZE = 128
REFERENCE = 1000  # real pictures that stand for "the real distribution"
FIRST = "right caption first of 100, %"
FRECHET = "Fréchet distance to other real pictures, x 1000"
HEADLINES = (ALL_RIGHT, FIRST, FRECHET)
CHUNK = 100  # real pictures rendered or decoded at a time: 20 MB


@dataclass(frozen=True)
class Models:
    """The pipeline on trial and its judges; the oracle knows shapes only."""

    pipeline: UnCLIP
    judge: Clip
    tokenize: alignment.Tokenize
    oracle: Oracle | None = None
    device: str = "cpu"


def load_models(domain: str, device: str = "cpu") -> Models:
    """The shipped pipeline of a domain and the shipped judges."""
    oracle = zoo.load("shapes", "oracle", device) if domain == "shapes" else None
    judge = zoo.load("shared", "judge", device)
    return Models(
        UnCLIP.from_zoo(domain, device=device), judge, default_tokenizer(), oracle, device
    )


def evaluate(
    domain: str,
    pictures: int = 200,
    seed: int = 0,
    guidance_scale: float | None = None,
    batch_size: int = 16,
    out: str | Path | None = None,
    device: str = "cpu",
    models: Models | None = None,
) -> dict[str, Any]:
    """Measure a domain's pipeline, print the table, and return it as a dict of JSON values (see
    `table`).

    `pictures` is the number generated, a multiple of 4; `guidance_scale` None leaves the
    pipeline's own; `out` also writes the dict to a file. `models` replaces the shipped ones.
    The same seed gives the same numbers, whatever `batch_size`. Raises Dalle2EduError for an
    unknown domain, a number of pictures that can't be halved twice, and a bad batch size."""
    _check(domain, pictures, batch_size, out)
    models = models or load_models(domain, device)
    plan = Plan(pictures, seed, guidance_scale, batch_size)
    tables = (evaluate_shapes if domain == "shapes" else evaluate_emoji)(models, plan)
    report = {"domain": domain, **asdict(plan), "tables": tables}
    print(format_report(report))
    if out is not None:
        Path(out).write_text(
            json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return report


def _check(domain: str, pictures: int, batch_size: int, out: str | Path | None) -> None:
    if domain not in DOMAINS:
        raise Dalle2EduError(f"Unknown domain {domain!r}; choose one of: {', '.join(DOMAINS)}.")
    if pictures < 8 or pictures % 4:
        raise Dalle2EduError(
            f"Can't halve {pictures} pictures twice; ask for a multiple of 4, at least 8."
        )
    if batch_size < 1:
        raise Dalle2EduError(f"A batch size of {batch_size} draws nothing; use 1 or more.")
    if (
        out is not None and not Path(out).absolute().parent.is_dir()
    ):  # better now than after five minutes
        raise Dalle2EduError(
            f"Can't write {out}: there is no folder {Path(out).parent}; make it first."
        )


@dataclass(frozen=True)
class Plan:
    """How many pictures to draw, and how."""

    pictures: int
    seed: int
    guidance_scale: float | None
    batch_size: int


def draw(models: Models, prompts: Sequence[str], plan: Plan) -> Tensor:
    """The pipeline's pictures of B prompts, (B, 3, 128, 128) in [-1, 1]; picture i has seed
    plan.seed + i.
    """
    guidance: dict[str, Any] = (
        {} if plan.guidance_scale is None else {"guidance_scale": plan.guidance_scale}
    )
    drawn = []
    for start in tqdm(range(0, len(prompts), plan.batch_size), desc="drawing", unit="batch"):
        batch = list(prompts[start : start + plan.batch_size])
        seeds = [plan.seed + start + i for i in range(len(batch))]
        images = models.pipeline.text_to_image(batch, seeds, progress=False, **guidance)
        drawn.append(images.float().cpu())
    return torch.cat(drawn)


# ---- shapes ----


def evaluate_shapes(models: Models, plan: Plan) -> list[dict[str, Any]]:
    """Attributes right on seen and held-out compositions, beside real renders; then
    closeness.
    """
    each = plan.pictures // 2
    asked = {split: sample_split(split, each, plan.seed) for split in ("seen", "held_out")}
    prompts = [
        text for scenes in asked.values() for text in bilingual_captions(scenes, plan.seed)
    ]
    images = draw(models, prompts, plan)  # (pictures, 3, 128, 128), the seen compositions first
    twins = render_all(
        join([asked["seen"], asked["held_out"]])
    )  # the prompts' own scenes, by the renderer
    fresh = join(
        [sample_split(split, REFERENCE // 2, plan.seed + 1) for split in asked]
    )  # none of the above
    others = render_all(fresh)
    verdicts = {
        "seen": by_language(verdict(models, images[:each], asked["seen"])),
        "held-out": by_language(verdict(models, images[each:], asked["held_out"])),
        "real renders": verdict(models, others, fresh),
    }
    return [attribute_table(verdicts), closeness_table(models, prompts, images, twins, others)]


def sample_split(split: str, count: int, seed: int) -> shapes.Scenes:
    """Scenes of "seen" or "held_out" compositions, by a seed."""
    return shapes.sample_scenes(count, torch.Generator().manual_seed(seed), split)


def join(parts: Sequence[shapes.Scenes]) -> shapes.Scenes:
    """Several batches of scenes as one."""
    factors = {
        name: torch.cat([part.factors[name] for part in parts]) for name in shapes.FACTORS
    }
    return shapes.Scenes(factors, torch.cat([part.jitter for part in parts]))


def bilingual_captions(scenes: shapes.Scenes, seed: int) -> list[str]:
    """Captions that name every attribute: the scenes' first half in English, the second half in
    Chinese.
    """
    half = len(scenes) // 2
    generator = torch.Generator().manual_seed(seed)
    english = shapes.captions(scenes[:half], "en", generator)
    return english + shapes.captions(scenes[half:], "zh", generator)


def render_all(scenes: shapes.Scenes) -> Tensor:
    """Real pictures of the scenes, (B, 3, 128, 128) in [-1, 1]."""
    starts = range(0, len(scenes), CHUNK)
    return torch.cat(
        [shapes.render(scenes[start : start + CHUNK], PICTURE_SIZE) for start in starts]
    )


def verdict(models: Models, images: Tensor, scenes: shapes.Scenes) -> dict[str, Tensor]:
    """What the oracle finds right, row name -> bool (scenes that count,): attributes, all, all
    by kind.
    """
    assert models.oracle is not None
    predicted = models.oracle.predict(images.to(models.device))
    right = marks({name: values.cpu() for name, values in predicted.items()}, scenes)
    for value, kind in enumerate(shapes.FACTORS["kind"]):
        of_kind = right[ALL_RIGHT][scenes.factors["kind"] == value]
        if len(of_kind):  # no sign is ever held out
            right[f"{ALL_RIGHT}, kind {kind}"] = of_kind
    return right


def by_language(right: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds a row for each language's half of the prompts, in the order of
    `bilingual_captions`.
    """
    half = len(right[ALL_RIGHT]) // 2
    english, chinese = right[ALL_RIGHT][:half], right[ALL_RIGHT][half:]
    return {
        **right,
        f"{ALL_RIGHT}, English prompts": english,
        f"{ALL_RIGHT}, Chinese prompts": chinese,
    }


def attribute_table(verdicts: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """One row an attribute and one for each way of counting all right; one column a kind of
    picture.
    """
    names = [
        *shapes.FACTORS,
        *dict.fromkeys(name for right in verdicts.values() for name in right),
    ]
    rows = {
        name: [
            intervals.share(right[name]) if name in right else None
            for right in verdicts.values()
        ]
        for name in dict.fromkeys(names)
    }
    return table("right, %", list(verdicts), rows)


# ---- emoji ----


def evaluate_emoji(models: Models, plan: Plan) -> list[dict[str, Any]]:
    """Rank of the right name among 100 in both languages, the real pictures' as a ceiling; then
    closeness.

    Every prompt is an emoji's name and nothing else. An emoji is asked for in one language
    only, so that the generated set is as varied as it can be."""
    everyone = emoji.load()
    most = len(everyone) // 8 * 4  # half of them: the other half is the reference
    if plan.pictures > most:
        raise Dalle2EduError(
            f"There are {len(everyone)} emoji; ask for at most {most} of them."
        )
    order = torch.randperm(len(everyone), generator=torch.Generator().manual_seed(plan.seed))
    chosen, rest = order[: plan.pictures], order[plan.pictures :][:REFERENCE]
    half = plan.pictures // 2
    languages = {"en": chosen[:half].tolist(), "zh": chosen[half:].tolist()}
    prompts = [everyone[i].en for i in languages["en"]] + [
        everyone[i].zh for i in languages["zh"]
    ]
    images = draw(models, prompts, plan)
    real = emoji.pairs(PICTURE_SIZE).images
    twins, others = to_unit(real[chosen]), to_unit(real[rest])
    drawn = ranks(models, images, everyone, languages, plan.seed)
    ceiling = ranks(models, twins, everyone, languages, plan.seed)
    return [
        retrieval_table(drawn, ceiling),
        closeness_table(models, prompts, images, twins, others),
    ]


def to_unit(images: Tensor) -> Tensor:
    """Bytes 0..255 as numbers in [-1, 1]."""
    return images.float() / 127.5 - 1


def ranks(
    models: Models,
    images: Tensor,
    everyone: list[emoji.Emoji],
    languages: dict[str, list[int]],
    seed: int,
) -> dict[str, Tensor]:
    """Rank of each picture's own name among 100 of its language, language -> int64 (half,);
    English first.
    """
    image_emb = embed_images(models, images)
    captions = [each.captions for each in everyone]
    found = {}
    for (language, chosen), own in zip(languages.items(), image_emb.chunk(2), strict=True):
        names = [getattr(each, language) for each in everyone]
        wrong = alignment.choose_distractors(names, captions, chosen, seed=seed)  # (half, 99)
        needed = sorted({*chosen, *wrong.flatten().tolist()})
        text_emb = torch.zeros(len(names), own.shape[1])  # (names, D), filled where needed
        text_emb[needed] = embed_texts(models, [names[i] for i in needed])
        found[language] = alignment.retrieval_ranks(own, text_emb[chosen], text_emb[wrong])
    return found


def embed_images(models: Models, images: Tensor) -> Tensor:
    """The judge's image embeddings, (B, D) on the CPU."""
    return alignment.embed_images(models.judge, images.to(models.device)).cpu()


def embed_texts(models: Models, texts: Sequence[str]) -> Tensor:
    """The judge's text embeddings, (B, D) on the CPU."""
    return alignment.embed_texts(models.judge, models.tokenize, texts, models.device).cpu()


def retrieval_table(drawn: dict[str, Tensor], ceiling: dict[str, Tensor]) -> dict[str, Any]:
    """Share of first ranks and median rank, generated and real, in either language and in
    both.
    """

    def row(
        measure: Callable[[Tensor], Measure], found: dict[str, Tensor]
    ) -> list[Measure | None]:
        return [
            measure(part)
            for part in (found["en"], found["zh"], torch.cat(list(found.values())))
        ]

    def first(found: Tensor) -> Measure:
        return intervals.share(found == 1)

    rows = {
        FIRST: row(first, drawn),
        "  on the real pictures (ceiling)": row(first, ceiling),
        "median rank of the right caption": row(intervals.median, drawn),
        "  on the real pictures": row(intervals.median, ceiling),
    }
    return table("retrieval by the judge", ["English", "Chinese", "both"], rows)


# ---- both ----


def closeness_table(
    models: Models, prompts: list[str], images: Tensor, twins: Tensor, others: Tensor
) -> dict[str, Any]:
    """CLIP score and Fréchet distance, of the generated pictures beside real ones.

    `twins` are real pictures of the same prompts, as many as `images`; `others` are further
    real pictures, to which both are compared. So the floor, twins to others, has the same
    number of pictures and the same bias as what it stands under."""
    text_emb = embed_texts(models, prompts)
    generated, real, reference = (
        embed_images(models, each) for each in (images, twins, others)
    )
    rows: dict[str, list[Measure | None]] = {
        "CLIP score": [
            intervals.mean(alignment.clip_score(each, text_emb)) for each in (generated, real)
        ],
        FRECHET: [
            frechet(generated, reference),
            frechet(real, reference),
        ],
    }
    return table("by the judge", ["generated", "real"], rows)


def frechet(features: Tensor, reference: Tensor) -> Measure | None:
    """The distance times 1000 (embeddings have length 1, so it is small); None for too few
    pictures.
    """
    if len(features) <= features.shape[1]:
        return None
    value = 1000 * frechet_distance(reference, features)
    half = 1000 * intervals.Z_95 * frechet_error(reference, features)
    return Measure(value, max(0.0, value - half), value + half, len(features))


# ---- the table ----


def headline(report: dict[str, Any]) -> dict[str, float]:
    """The numbers that a zoo card quotes, "row, column" -> value."""
    return {
        f"{name}, {column}": round(cell["value"], 1)
        for one in report["tables"]
        for name, row in one["rows"].items()
        for column, cell in zip(one["columns"], row, strict=True)
        if cell is not None and name in HEADLINES
    }


def table(
    title: str, columns: list[str], rows: Mapping[str, Sequence[Measure | None]]
) -> dict[str, Any]:
    """A table as JSON values: its title, its columns, and for each row one measure (or null) a
    column.
    """
    cells = {
        name: [None if each is None else asdict(each) for each in row]
        for name, row in rows.items()
    }
    return {"title": title, "columns": columns, "rows": cells}


def format_report(report: dict[str, Any]) -> str:
    """The report as plain text: value, 95% interval and number of pictures in each cell."""
    scale = (
        "" if report["guidance_scale"] is None else f", guidance {report['guidance_scale']:g}"
    )
    head = f"{report['domain']}: {report['pictures']} pictures, seed {report['seed']}{scale}"
    head += "; each number with its [95% interval] and how many pictures it is of"
    return "\n\n".join([head, *(format_table(each) for each in report["tables"])])


def format_table(one: dict[str, Any]) -> str:
    """One table, its columns aligned."""
    lines = [[one["title"], *one["columns"]]]
    lines += [[name, *(format_cell(each) for each in row)] for name, row in one["rows"].items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def format_cell(measure: dict[str, float] | None) -> str:
    """Value, interval and number of pictures; a dash where there is none."""
    if measure is None:
        return "-"
    return (
        f"{measure['value']:.1f} [{measure['low']:.1f}, {measure['high']:.1f}] {measure['n']}"
    )
