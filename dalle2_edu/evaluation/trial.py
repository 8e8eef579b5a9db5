"""The prior on trial: one decoder, and six answers to the question which image
embedding it should paint from.

The idea: does DALL·E 2 need a prior at all? Everything else stays as it is (captions,
seeds, decoder, upsamplers, guidance); only what stands in the place of the image
embedding changes, as in figure 8 of unCLIP (2204.06125):

    (a) the caption only        the learned null embedding: what the text path alone can do
    (b) the text embedding      it lies in the same space; but where texts lie, no pictures do
    (c) a regression            the mean of all embeddings that the caption could have
    (d) the AR prior            a draw, code by code
    (e) the diffusion prior     a draw, out of noise; of two the one nearer to the text
    (f) the true embedding      CLIP's, of a real picture of the caption: the best possible prior

Each is judged by who took no part in the training: the oracle (shapes: share of
pictures with everything right), the second CLIP (share with the right caption first of
100; Fréchet distance to real pictures), and

    diversity     100 x the mean of 1 - cos(u, v) over all pairs of 4 pictures of one caption, u
                  and v the judge's embeddings, averaged over captions: 0 if a caption always
                  gives the same picture

More diversity is no merit by itself: noise is diverse. Read it beside the other
columns. The same table follows for the strength of guidance on the prior (section 5.5:
it hurts, so the paper guides only the decoder) and on the decoder.

Chapter 18 uses this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dalle2_edu import zoo
from dalle2_edu.data.domains import DOMAINS
from dalle2_edu.drawing.grids import labelled_grid
from dalle2_edu.drawing.run import DrawingRun
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import intervals
from dalle2_edu.evaluation.exams import Exam, make_exam
from dalle2_edu.evaluation.intervals import Measure
from dalle2_edu.evaluation.judges import (
    FIRST,
    FRECHET,
    Judges,
    attributes_right,
    caption_ranks,
    frechet,
    load_judges,
)
from dalle2_edu.evaluation.oracle import ALL_RIGHT
from dalle2_edu.evaluation.tables import format_table, markdown_table, table
from dalle2_edu.text2image.clip import TextEncoding
from dalle2_edu.unclip.pipeline import Prior, UnCLIP
from dalle2_edu.unclip.prior import nearest_to_text

PER_CAPTION = 4  # pictures of one caption that diversity is measured on
DIVERSE = 24  # captions that diversity is measured on
GUIDANCE = 2.0  # the decoder's, unless it is what is being tried
SCALES = (1.0, 2.0, 4.0)  # of guidance, in the two further tables
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

# --- who answers ----------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What an answer may look at: the pipeline, the texts, the embeddings of real
    pictures of the captions, (B, D), which only row (f) uses, the seeds, and the
    prior's steps.
    """

    unclip: UnCLIP
    text: TextEncoding  # the captions, as CLIP encodes them
    true_emb: Tensor  # (B, D), for row (f) only
    run: DrawingRun
    prior_steps: int


Feed = Callable[[Question], Tensor]  # -> the image embeddings for the decoder, (B, D)


@dataclass(frozen=True)
class Answer:
    """One row: what is fed to the decoder, or why it can't be."""

    name: str
    feed: Feed | None  # None: its weights are missing
    guidance_scale: float = GUIDANCE
    missing: str = ""  # why they are missing


def null_embedding(question: Question) -> Tensor:
    """Row (a): the learned vector that stands for no embedding."""
    text_emb = question.text.text_emb
    return question.unclip.decoder.null_image_emb.expand_as(text_emb)


def text_embedding(question: Question) -> Tensor:
    """Row (b)."""
    return question.text.text_emb  # (B, D): it has the image embedding's size and space


def true_embedding(question: Question) -> Tensor:
    """Row (f)."""
    return question.true_emb


def drawn_by(prior: Prior | None = None, scale: float = 1.0) -> Feed:
    """The embeddings that a prior draws, guided by `scale`; None is the pipeline's own
    prior.
    """

    def feed(question: Question) -> Tensor:
        unclip = question.unclip
        if prior is not None:
            # everything but the prior stays
            unclip = UnCLIP(
                unclip.clip, prior, unclip.decoder, unclip.upsamplers, unclip.tokenizer
            )
        candidates = unclip.draw_embeddings(
            question.text,
            question.run,
            steps=question.prior_steps,
            guidance_scale=scale,
        )
        # the paper's selection: of two candidates the one nearer to the text
        return nearest_to_text(candidates, question.text.text_emb)

    return feed


def find_rivals(domain: str, device: str) -> dict[str, Prior | str]:
    """The zoo's other priors by part, or a line that says why there is none."""
    return {
        part: find_rival(domain, part, device) for part in ("regression", "ar_prior")
    }


def find_rival(domain: str, part: str, device: str) -> Prior | str:
    """One of them."""
    if (domain, part) not in zoo.cards():
        train = f"dalle2-edu train {domain}-{part.replace('_', '-')}"
        return (
            f"the zoo has none yet: `{train}`, then `dalle2-edu zoo publish` the run."
        )
    try:
        # a prior of another CLIP draws in a space that the decoder does not know
        zoo.check_same_clip(domain, (part,))
        return zoo.load(domain, part, device)
    except Dalle2EduError as error:  # of another CLIP, or damaged
        return str(error)


def contenders(rivals: Mapping[str, Prior | str]) -> list[Answer]:
    """The six rows of the trial."""

    def rival(name: str, part: str) -> Answer:
        prior = rivals[part]
        if isinstance(prior, str):
            return Answer(name, feed=None, missing=prior)
        return Answer(name, drawn_by(prior))

    return [
        Answer("(a) the caption only", null_embedding),
        Answer("(b) the text embedding", text_embedding),
        rival("(c) a regression", "regression"),
        rival("(d) the AR prior", "ar_prior"),
        Answer("(e) the diffusion prior", drawn_by()),
        Answer("(f) the true embedding", true_embedding),
    ]


@dataclass(frozen=True)
class Bench:
    """A table's answers: its title, and label -> answer."""

    title: str
    answers: dict[str, Answer]


def guided(unguided: Answer) -> list[Bench]:
    """Guidance on the diffusion prior and on the decoder; `unguided` is row (e), which
    has the usual scales.
    """
    prior = {}
    decoder = {}
    for scale in SCALES:
        label = f"{scale:g}"
        prior[label] = Answer(f"prior guided by {label}", drawn_by(scale=scale))
        decoder[label] = Answer(
            f"decoder guided by {label}", drawn_by(), guidance_scale=scale
        )
    # scale 1 on the prior, and GUIDANCE on the decoder, are row (e): drawn once
    prior["1"] = unguided
    decoder[f"{GUIDANCE:g}"] = unguided
    return [
        Bench("guidance on the prior", prior),
        Bench("guidance on the decoder", decoder),
    ]


# --- drawing and marking --------------------------------------------------------------


@dataclass(frozen=True)
class TrialPlan:
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
        """The captions that are drawn PER_CAPTION times, spread over both languages."""
        step = max(1, self.captions // DIVERSE)  # 4 for 100 captions
        return list(range(0, self.captions, step))[:DIVERSE]


@torch.no_grad()
def draw(
    unclip: UnCLIP,
    answer: Answer,
    exam: Exam,
    places: list[int],
    seeds: list[int],
    plan: TrialPlan,
) -> Tensor:
    """Pictures of the captions at these places, (len(places), 3, S, S) on the CPU."""
    assert answer.feed is not None  # such rows are left out before
    prompts = exam.prompts
    drawn = []
    size = plan.batch_size
    for start in tqdm(range(0, len(places), size), desc=answer.name, unit="batch"):
        batch = places[start : start + size]
        run = DrawingRun(seeds[start : start + size], unclip.device)
        text = unclip.encode_text([prompts[place] for place in batch])
        # only row (f) looks at the twins: real pictures of the same captions
        true_emb = unclip.clip.encode_image(exam.twins[batch].to(unclip.device))
        # (B, D)
        z_i = answer.feed(Question(unclip, text, true_emb, run, plan.prior_steps))
        small = unclip.paint(  # (B, 3, 32, 32)
            z_i,
            text,
            run,
            steps=plan.decoder_steps,
            guidance_scale=answer.guidance_scale,
        )
        large = unclip.enlarge(small, run, steps=plan.upsampler_steps)[-1]
        drawn.append(large.float().cpu())
    return torch.cat(drawn)


@dataclass(frozen=True)
class Gallery:
    """An answer's pictures: one a caption, (n, 3, S, S), and further ones of some
    captions, in PER_CAPTION - 1 rounds.
    """

    images: Tensor
    more: list[Tensor] = field(default_factory=list)


def draw_all(unclip: UnCLIP, answer: Answer, exam: Exam, plan: TrialPlan) -> Gallery:
    """Every caption once, and some PER_CAPTION times; no seed is used twice."""
    n = plan.captions
    everything = list(range(n))
    # the same seeds in every row: what differs is the embedding
    seeds = [plan.seed + place for place in everything]
    images = draw(unclip, answer, exam, everything, seeds, plan)
    more = []
    for turn in range(1, PER_CAPTION):
        # beyond those of the rounds before
        seeds = [plan.seed + turn * n + place for place in plan.diverse]
        more.append(draw(unclip, answer, exam, plan.diverse, seeds, plan))
    return Gallery(images, more)


Marks = dict[str, Measure | None]  # column -> measure; None is a gap


def mark(
    judges: Judges, gallery: Gallery, exam: Exam, reference: Tensor, plan: TrialPlan
) -> Marks:
    """All measures of an answer's pictures; reference: the judge's embeddings of other
    real pictures.
    """
    marks: Marks = {}
    if exam.scenes is not None:  # shapes only: emoji have no factors
        right = attributes_right(judges, gallery.images, exam.scenes)[ALL_RIGHT]
        marks[RIGHT] = intervals.share(right)
    ranks = caption_ranks(judges, gallery.images, exam.things, exam.asked, plan.seed)
    # of both languages
    marks[FIRST] = intervals.share(torch.cat(list(ranks.values())) == 1)
    emb = judges.embed_images(gallery.images)  # (n, D)
    marks[FRECHET] = frechet(emb, reference)
    marks[DIVERSITY] = None  # a gap, unless there are rounds
    if gallery.more:
        rounds = [emb[plan.diverse]]  # (captions, D)
        rounds += [judges.embed_images(images) for images in gallery.more]
        pictures = torch.stack(rounds, dim=1)  # (captions, PER_CAPTION, D)
        marks[DIVERSITY] = intervals.mean(100 * spread(pictures))
    return marks


def spread(emb: Tensor) -> Tensor:
    """1 - cosine, averaged over all pairs of a caption's pictures.

    Unit vectors (B, pictures, D) -> (B,).
    """
    distances = []
    for i, j in combinations(range(emb.shape[1]), 2):
        cosine = (emb[:, i] * emb[:, j]).sum(dim=1)  # (B,): the vectors have length 1
        distances.append(1 - cosine)
    return torch.stack(distances).mean(dim=0)  # pairs x (B,) => (B,)


# --- the trial ------------------------------------------------------------------------


def trial(
    domain: str,
    plan: TrialPlan = TrialPlan(),
    *,
    sweep: bool = True,
    out: Path | None = None,
    device: str = "cpu",
    pipeline: UnCLIP | None = None,
    judges: Judges | None = None,
    rivals: Mapping[str, Prior | str] | None = None,
) -> dict[str, Any]:
    """Hold the trial and return it as JSON values; see `format_trial`.

    sweep adds guidance on prior and decoder; out is the picture grid's PNG. pipeline,
    judges and rivals (the other priors by part, or why there is none) replace the
    zoo's. A row whose weights are missing is in the table, empty, and under "missing"
    with the reason. Raises Dalle2EduError for an unknown domain and too many
    captions.
    """
    if domain not in DOMAINS:
        raise Dalle2EduError(
            f"Unknown domain {domain!r}; choose one of: {', '.join(DOMAINS)}."
        )
    judges = judges or load_judges(domain, device)
    pipeline = pipeline or UnCLIP.from_zoo(domain, device=device)
    exam = make_exam(domain, plan.captions, plan.seed)
    rows = contenders(find_rivals(domain, device) if rivals is None else rivals)
    benches = [Bench(TITLE, {answer.name: answer for answer in rows})]
    if sweep:
        row_e = next(answer for answer in rows if answer.name.startswith("(e)"))
        benches += guided(row_e)

    galleries = answer_all(pipeline, exam, plan, benches)
    # others, to which all rows are compared
    reference = judges.embed_images(exam.others)
    marks = {
        name: mark(judges, gallery, exam, reference, plan)
        for name, gallery in galleries.items()
    }
    if out is not None:
        write_grid(exam, galleries, out)
    return {
        "domain": domain,
        **asdict(plan),
        "tables": [as_table(bench, marks) for bench in benches],
        "missing": [f"{row.name}: {row.missing}" for row in rows if not row.feed],
    }


def answer_all(
    unclip: UnCLIP, exam: Exam, plan: TrialPlan, benches: Sequence[Bench]
) -> dict[str, Gallery]:
    """The pictures of every answer that can be given, and the real ones, by name.

    An answer that stands in several tables is drawn once.
    """
    galleries: dict[str, Gallery] = {}
    for bench in benches:
        for answer in bench.answers.values():
            if answer.feed is not None and answer.name not in galleries:
                galleries[answer.name] = draw_all(unclip, answer, exam, plan)
    galleries[REAL] = Gallery(exam.twins)  # the ceiling of every column
    return galleries


def write_grid(exam: Exam, galleries: Mapping[str, Gallery], out: Path) -> None:
    """Write the picture grid: a row for each answer, a column for some of the
    captions.
    """
    places = columns(len(exam.prompts))
    titles = [exam.prompts[place] for place in places]
    rows = {name: gallery.images[places] for name, gallery in galleries.items()}
    labelled_grid(titles, rows, out)


def columns(n: int) -> list[int]:
    """Which of n captions the grid shows: as many of the first half, English, as of the
    second, Chinese.
    """
    most = min(SHOWN, n) // 2  # half of the columns
    return [*range(most), *range(n // 2, n // 2 + most)]


# --- the table ------------------------------------------------------------------------


def as_table(bench: Bench, marks: Mapping[str, Marks]) -> dict[str, Any]:
    """A bench's table, the real pictures last; an answer that could not be given is a
    row of gaps.
    """
    names = list(marks[REAL])
    rows: dict[str, list[Measure | None]] = {}
    for label, answer in bench.answers.items():
        if answer.feed is None:
            rows[f"{label} [missing]"] = [None for _ in names]
        else:
            rows[label] = list(marks[answer.name].values())
    rows[REAL] = list(marks[REAL].values())
    return table(bench.title, names, rows)


def format_trial(result: dict[str, Any], markdown: bool = False) -> str:
    """The tables, what is missing and the paper's numbers, as plain text or as
    Markdown.
    """
    head = f"{result['domain']}: {result['captions']} captions, half of them Chinese, "
    head += f"seed {result['seed']}; "
    head += "each number with its [95% interval] and the number of pictures behind it"
    as_text = markdown_table if markdown else format_table
    parts = [head, *(as_text(one) for one in result["tables"])]
    if result["missing"]:
        lines = [f"  {line}" for line in result["missing"]]
        parts.append("\n".join(["Missing:", *lines]))
    return "\n\n".join([*parts, PAPER])
