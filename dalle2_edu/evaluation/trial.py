"""The prior on trial: one decoder, and six answers to the question which image embedding it
should paint from.

The idea: does DALL·E 2 need a prior at all? Everything else stays as it is (captions, seeds,
decoder, upsamplers, guidance); only what stands in the place of the image embedding changes, as
in figure 8 of unCLIP (2204.06125):

    (a) the caption only        the learned null embedding: what the text path alone can do
    (b) the text embedding      it lies in the same space, so why not? But where texts lie no pictures do
    (c) a regression            the mean of all embeddings that the caption could have
    (d) the AR prior            a draw, code by code
    (e) the diffusion prior     a draw, out of noise; of two the one nearer to the text
    (f) the true embedding      what CLIP says of a real picture of the caption: the best that any prior could do

Each is judged by who took no part in the training: the oracle (shapes: share of pictures with
everything right), the second CLIP (share with the right caption first of 100; Fréchet distance
to real pictures), and

    diversity     100 x the mean of 1 - cos(u, v) over all pairs of 4 pictures of one caption, u and v the judge's
                  embeddings, averaged over captions: 0 if a caption always gives the same picture

More diversity is no merit by itself: noise is diverse. Read it beside the other columns. The
same table follows for the strength of guidance on the prior (section 5.5: it hurts, so the
paper guides only the decoder) and on the decoder.

Chapter 18 uses this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dalle2_edu import zoo
from dalle2_edu.data import emoji, shapes
from dalle2_edu.drawing.grids import labelled_grid
from dalle2_edu.drawing.run import Run
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import intervals, report
from dalle2_edu.evaluation.intervals import Measure
from dalle2_edu.evaluation.oracle import ALL_RIGHT
from dalle2_edu.evaluation.report import DOMAINS, FIRST, FRECHET, Models, format_table, table
from dalle2_edu.text2image.clip import TextEncoding
from dalle2_edu.unclip.pipeline import Prior, UnCLIP
from dalle2_edu.unclip.prior import nearest_to_text
from dalle2_edu.zoo import check_same_clip

EACH, DIVERSE = (
    4,
    24,
)  # pictures of one caption, and of how many captions, that diversity is measured on
GUIDANCE = 2.0  # the decoder's, unless it is what is being tried
SCALES = (1.0, 2.0, 4.0)
STRANGERS = 150  # scenes that nobody asked for, to take wrong captions from
SHOWN = 8  # columns of the picture grid
DIVERSITY = "diversity of a caption's pictures, x 100"
RIGHT = f"{ALL_RIGHT}, %"
REAL = "real pictures"
TITLE = "the prior on trial"

PAPER = """\
The paper's own numbers (unCLIP, arXiv 2204.06125). They are other models, data and judges: compare the order, not the
size.
  section 5.1   FID of small models, lower is better: 16.55 with the text embedding fed to the decoder as it is, as in
                (b); 7.99 with the whole stack, prior and decoder, as in (e); 9.16 with a decoder trained on text
                embeddings in place of the image's, which has no row here. People preferred the stack to that decoder
                in 57.0% +- 3.1% (photorealism) and 53.1% +- 3.1% (caption) of the comparisons.
  table 2       MS-COCO zero-shot FID: 10.63 with the AR prior, as in (d); 10.39 with the diffusion prior, as in (e).
  section 5.5   guidance on the prior made the results worse; only the decoder is guided."""


# --- what is asked for ------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """A scene's names, as an `emoji.Emoji` has them."""

    en: str
    zh: str

    @property
    def captions(self) -> list[str]:
        return [self.en, self.zh]


@dataclass(frozen=True)
class Exam:
    """The captions, English first, and what a good answer looks like.

    languages: which of `everyone` is asked for in which language. twins (n, 3, 128, 128) are
    real pictures of the same captions, others further real pictures, scenes what the oracle
    should find (shapes only)."""

    everyone: list[Any]
    languages: dict[str, list[int]]
    twins: Tensor
    others: Tensor
    scenes: shapes.Scenes | None = None

    @property
    def prompts(self) -> list[str]:
        return [
            getattr(self.everyone[i], language)
            for language, each in self.languages.items()
            for i in each
        ]


def shapes_exam(n: int, seed: int) -> Exam:
    """n scenes, seen and never seen compositions by turns, the first half asked for in
    English.
    """
    both = report.join(
        [report.sample_split(split, n // 2, seed) for split in ("seen", "held_out")]
    )
    scenes = both[torch.arange(n).reshape(2, -1).T.flatten()]  # seen, held out, seen, ...
    fresh = report.sample_split("seen", max(STRANGERS, report.REFERENCE), seed + 1)
    everyone = report.join([scenes, fresh[:STRANGERS]])
    names = [
        Said(en, zh)
        for en, zh in zip(
            *(shapes.captions(everyone, each) for each in ("en", "zh")), strict=True
        )
    ]
    languages = {"en": list(range(n // 2)), "zh": list(range(n // 2, n))}
    return Exam(
        names,
        languages,
        report.render_all(scenes),
        report.render_all(fresh[: report.REFERENCE]),
        scenes,
    )


def emoji_exam(n: int, seed: int) -> Exam:
    """n emoji by name, the first half in English."""
    everyone = emoji.load()
    if n > len(everyone) // 2:
        raise Dalle2EduError(
            f"There are {len(everyone)} emoji; ask for at most {len(everyone) // 2} of them."
        )
    order = torch.randperm(len(everyone), generator=torch.Generator().manual_seed(seed))
    chosen, rest = order[:n], order[n:][: report.REFERENCE]
    languages = {"en": chosen[: n // 2].tolist(), "zh": chosen[n // 2 :].tolist()}
    real = emoji.pairs(report.PICTURE_SIZE).images
    return Exam(everyone, languages, report.to_unit(real[chosen]), report.to_unit(real[rest]))


# --- who answers ------------------------------------------------------------------------------

Feed = Callable[
    [UnCLIP, TextEncoding, Tensor, Run, int], Tensor
]  # text, true embeddings, run, prior steps -> (B, D)


@dataclass(frozen=True)
class Answer:
    """One row: what is fed to the decoder, or why it can't be."""

    name: str
    feed: Feed | None
    guidance_scale: float = GUIDANCE
    missing: str = ""


def drawn_by(prior: Prior | None = None, scale: float = 1.0) -> Feed:
    """The embeddings that a prior draws; None is the pipeline's own."""

    def feed(unclip: UnCLIP, text: TextEncoding, true: Tensor, run: Run, steps: int) -> Tensor:
        if prior is not None:
            unclip = UnCLIP(
                unclip.clip, prior, unclip.decoder, unclip.upsamplers, unclip.tokenizer
            )
        return nearest_to_text(
            unclip.draw_embeddings(text, run, steps, guidance_scale=scale), text.text_emb
        )

    return feed


def find_rivals(domain: str, device: str) -> dict[str, Prior | str]:
    """The zoo's other priors by part, or a line that says why there is none."""
    return {part: find_rival(domain, part, device) for part in ("regression", "ar_prior")}


def find_rival(domain: str, part: str, device: str) -> Prior | str:
    """One of them."""
    if (domain, part) not in zoo.cards():
        recipe = f"{domain}-{part.replace('_', '-')}"
        return (
            f"the zoo has none yet: `dalle2-edu train {recipe}`, then `dalle2-edu zoo publish`"
            " the run."
        )
    try:
        check_same_clip(domain, (part,))
        return zoo.load(domain, part, device)
    except Dalle2EduError as error:  # of another CLIP, or damaged
        return str(error)


def contenders(rivals: Mapping[str, Prior | str]) -> list[Answer]:
    """The six rows of the trial."""

    def rival(name: str, part: str) -> Answer:
        prior = rivals[part]
        return (
            Answer(name, None, missing=prior)
            if isinstance(prior, str)
            else Answer(name, drawn_by(prior))
        )

    return [
        Answer(
            "(a) the caption only",
            lambda unclip, text, *_: unclip.decoder.null_image_emb.expand_as(text.text_emb),
        ),
        Answer("(b) the text embedding", lambda unclip, text, *_: text.text_emb),
        rival("(c) a regression", "regression"),
        rival("(d) the AR prior", "ar_prior"),
        Answer("(e) the diffusion prior", drawn_by()),
        Answer("(f) the true embedding", lambda unclip, text, true, *_: true),
    ]


def guided(unguided: Answer) -> dict[str, dict[str, Answer]]:
    """Guidance on the diffusion prior and on the decoder, table by table; `unguided` is row
    (e), the usual scales.
    """
    prior = {
        f"{scale:g}": Answer(f"prior guided by {scale:g}", drawn_by(scale=scale))
        for scale in SCALES
    }
    decoder = {
        f"{scale:g}": Answer(f"decoder guided by {scale:g}", drawn_by(), scale)
        for scale in SCALES
    }
    return {
        "guidance on the prior": prior | {"1": unguided},
        "guidance on the decoder": decoder | {f"{GUIDANCE:g}": unguided},
    }


# --- drawing and marking ----------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How many captions, and how to draw."""

    captions: int = 100
    seed: int = 0
    batch_size: int = 16
    prior_steps: int = 25
    decoder_steps: int = 25
    upsampler_steps: int = 10

    def __post_init__(self) -> None:
        if self.captions < 4 or self.captions % 2:
            raise Dalle2EduError(
                f"n is the number of captions, even and at least 4, not {self.captions}."
            )
        if self.batch_size < 1:
            raise Dalle2EduError(
                f"A batch size of {self.batch_size} draws nothing; use 1 or more."
            )

    @property
    def diverse(self) -> list[int]:
        """The captions that are drawn EACH times, spread over both languages."""
        return list(range(0, self.captions, max(1, self.captions // DIVERSE)))[:DIVERSE]


@torch.no_grad()
def draw(
    models: Models, answer: Answer, exam: Exam, places: list[int], seeds: list[int], plan: Plan
) -> Tensor:
    """Pictures of the captions at these places, (len(places), 3, S, S) on the CPU."""
    assert answer.feed is not None
    unclip, drawn, prompts = models.pipeline, [], exam.prompts
    for start in tqdm(range(0, len(places), plan.batch_size), desc=answer.name, unit="batch"):
        some = places[start : start + plan.batch_size]
        run = Run(seeds[start : start + plan.batch_size], unclip.device)
        text = unclip.encode_text([prompts[i] for i in some])
        true = unclip.clip.encode_image(exam.twins[some].to(unclip.device))
        z = answer.feed(unclip, text, true, run, plan.prior_steps)
        small = unclip.paint(z, text, run, plan.decoder_steps, answer.guidance_scale)
        drawn.append(unclip.enlarge(small, run, plan.upsampler_steps)[-1].float().cpu())
    return torch.cat(drawn)


@dataclass(frozen=True)
class Drawn:
    """An answer's pictures: one a caption, (n, 3, S, S), and further ones of some captions, in
    EACH - 1 rounds.
    """

    images: Tensor
    more: list[Tensor] = field(default_factory=list)


def draw_all(models: Models, answer: Answer, exam: Exam, plan: Plan) -> Drawn:
    """Every caption once, and some EACH times; no seed is used twice."""
    n = plan.captions
    images = draw(models, answer, exam, list(range(n)), [plan.seed + i for i in range(n)], plan)
    rounds = [[plan.seed + k * n + i for i in plan.diverse] for k in range(1, EACH)]
    return Drawn(
        images, [draw(models, answer, exam, plan.diverse, seeds, plan) for seeds in rounds]
    )


def mark(
    models: Models, drawn: Drawn, exam: Exam, reference: Tensor, plan: Plan
) -> dict[str, Measure | None]:
    """All measures of an answer's pictures; reference: the judge's embeddings of other real
    pictures.
    """
    found = report.ranks(models, drawn.images, exam.everyone, exam.languages, plan.seed)
    emb = report.embed_images(models, drawn.images)
    measures: dict[str, Measure | None] = {
        FIRST: intervals.share(torch.cat(list(found.values())) == 1),
        FRECHET: report.frechet(emb, reference),
    }
    if exam.scenes is not None:
        right = report.verdict(models, drawn.images, exam.scenes)[ALL_RIGHT]
        measures = {RIGHT: intervals.share(right), **measures}
    if not drawn.more:
        return {**measures, DIVERSITY: None}
    rounds = [emb[plan.diverse], *(report.embed_images(models, each) for each in drawn.more)]
    return {**measures, DIVERSITY: intervals.mean(100 * spread(torch.stack(rounds, dim=1)))}


def spread(emb: Tensor) -> Tensor:
    """1 - cosine, averaged over all pairs of a caption's pictures: unit vectors (B, EACH, D) ->
    (B,).
    """
    pairs = combinations(range(emb.shape[1]), 2)
    return torch.stack([1 - (emb[:, i] * emb[:, j]).sum(dim=1) for i, j in pairs]).mean(dim=0)


# --- the trial --------------------------------------------------------------------------------


def trial(
    domain: str,
    plan: Plan = Plan(),
    sweep: bool = True,
    out: Path | None = None,
    device: str = "cpu",
    models: Models | None = None,
    rivals: Mapping[str, Prior | str] | None = None,
) -> dict[str, Any]:
    """Hold the trial and return it as JSON values; see `format_trial` and `markdown`.

    sweep adds guidance on prior and decoder; out is the picture grid's PNG. models and rivals
    (the other priors by part, or why there is none) replace the zoo's. A row whose weights are
    missing is in the table, empty, and under "missing" with the reason. Raises Dalle2EduError
    for an unknown domain and too many captions."""
    if domain not in DOMAINS:
        raise Dalle2EduError(f"Unknown domain {domain!r}; choose one of: {', '.join(DOMAINS)}.")
    models = models or report.load_models(domain, device)
    exam = (shapes_exam if domain == "shapes" else emoji_exam)(plan.captions, plan.seed)
    answers = contenders(rivals if rivals is not None else find_rivals(domain, device))
    tables = {TITLE: {each.name: each for each in answers}}
    if sweep:
        tables |= guided(next(each for each in answers if each.name.startswith("(e)")))
    pictures, marked = answer_all(models, exam, plan, tables)
    if out is not None:
        places = columns(plan.captions)
        labelled_grid(
            [exam.prompts[i] for i in places],
            {name: each[places] for name, each in pictures.items()},
            out,
        )
    return {
        "domain": domain,
        **asdict(plan),
        "tables": [as_table(title, rows, marked) for title, rows in tables.items()],
        "missing": [f"{each.name}: {each.missing}" for each in answers if each.feed is None],
    }


def answer_all(
    models: Models, exam: Exam, plan: Plan, tables: Mapping[str, Mapping[str, Answer]]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Measure | None]]]:
    """Pictures (n, 3, S, S) and measures of every answer that can be given, and of the real
    pictures, by name.
    """
    reference = report.embed_images(models, exam.others)
    drawn = {
        each.name: draw_all(models, each, exam, plan)
        for each in {
            each.name: each for rows in tables.values() for each in rows.values()
        }.values()
        if each.feed is not None
    }
    drawn[REAL] = Drawn(exam.twins)
    marked = {name: mark(models, each, exam, reference, plan) for name, each in drawn.items()}
    return {name: each.images for name, each in drawn.items()}, marked


def columns(n: int) -> list[int]:
    """Which of n captions the grid shows: as many of the first half, English, as of the second,
    Chinese.
    """
    most = min(SHOWN, n) // 2
    return [*range(most), *range(n // 2, n // 2 + most)]


# --- the table --------------------------------------------------------------------------------


def as_table(
    title: str, rows: Mapping[str, Answer], marked: Mapping[str, Mapping[str, Measure | None]]
) -> dict[str, Any]:
    """`report.table` of these answers, and of the real pictures; an answer that could not be
    given is a row of gaps.
    """
    names = list(marked[REAL])
    gaps: dict[str, Measure | None] = dict.fromkeys(names)
    cells = {
        f"{label} [missing]" if each.feed is None else label: list(
            marked.get(each.name, gaps).values()
        )
        for label, each in rows.items()
    }
    return table(title, names, {**cells, REAL: list(marked[REAL].values())})


def format_trial(result: dict[str, Any], markdown: bool = False) -> str:
    """The tables, what is missing and the paper's numbers, as plain text or as Markdown."""
    head = (
        f"{result['domain']}: {result['captions']} captions, half of them Chinese, seed"
        f" {result['seed']}; "
    )
    head += "each number with its [95% interval] and of how many it is"
    tables = [(markdown_table if markdown else format_table)(each) for each in result["tables"]]
    missing = (
        ["\n".join(["Missing:", *(f"  {line}" for line in result["missing"])])]
        if result["missing"]
        else []
    )
    return "\n\n".join([head, *tables, *missing, PAPER])


def markdown_table(one: dict[str, Any]) -> str:
    """One of the report's tables in Markdown."""
    lines = [[one["title"], *one["columns"]], ["---"] * (1 + len(one["columns"]))]
    lines += [
        [name, *(report.format_cell(each) for each in row)] for name, row in one["rows"].items()
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
