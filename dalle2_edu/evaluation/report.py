"""The report: what `dalle2-edu evaluate <domain>` measures and prints, and what the
cards quote.

The idea: draw prompts that nobody picked by hand, let the whole pipeline draw them, and
ask judges that took no part in its training. Every number has a real picture's number
beside it, because a judge errs too:

    shapes  the oracle on each attribute, compositions seen and never seen    | on real renders
    emoji   the rank of the right caption among 100, English and Chinese      | of the real emoji
    both    the Fréchet distance from generated to real pictures              | from real to real

Half of the prompts are English and half Chinese. One seed decides everything: prompts,
noise, distractors. The default of 200 pictures (100 seen and 100 held-out compositions
of shapes; 100 English and 100 Chinese emoji) is what 2 cores draw in about 5 minutes at
1.5 s a picture. The paper's verdicts come from 1,000 comparisons each (2204.06125,
Table 1 and appendix B). With 100, read the intervals and not the decimals.

Chapter 20 uses this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dalle2_edu.data import shapes
from dalle2_edu.data.domains import DOMAINS
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import alignment, exams, intervals, tables
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
from dalle2_edu.evaluation.tables import Cells
from dalle2_edu.unclip.pipeline import UnCLIP

QUOTED = (ALL_RIGHT, FIRST, FRECHET)  # the rows that a zoo card quotes


@dataclass(frozen=True)
class ReportPlan:
    """How many pictures to draw, and how."""

    pictures: int = 200
    seed: int = 0
    guidance_scale: float | None = None  # None: the pipeline's
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.pictures < 8 or self.pictures % 4:
            raise Dalle2EduError(
                f"Can't halve {self.pictures} pictures twice; ask for a multiple of 4, at least 8."
            )
        if self.batch_size < 1:
            raise Dalle2EduError(
                f"A batch size of {self.batch_size} draws nothing; use 1 or more."
            )


def evaluate(
    domain: str,
    plan: ReportPlan = ReportPlan(),
    *,
    device: str = "cpu",
    pipeline: UnCLIP | None = None,
    judges: Judges | None = None,
) -> dict[str, Any]:
    """Measure a domain's pipeline; return JSON values: the plan, and `tables` (see
    `tables.py`).

    pipeline and judges replace the shipped ones. The same seed gives the same numbers,
    whatever the batch size. Raises Dalle2EduError for an unknown domain and more emoji
    than there are.
    """
    if domain not in DOMAINS:
        raise Dalle2EduError(
            f"Unknown domain {domain!r}; choose one of: {', '.join(DOMAINS)}."
        )
    judges = judges or load_judges(domain, device)
    pipeline = pipeline or UnCLIP.from_zoo(domain, device=device)
    measure = evaluate_shapes if domain == "shapes" else evaluate_emoji
    return {"domain": domain, **asdict(plan), "tables": measure(pipeline, judges, plan)}


def draw(pipeline: UnCLIP, prompts: Sequence[str], plan: ReportPlan) -> Tensor:
    """The pipeline's pictures of B prompts, (B, 3, 128, 128); picture i has seed
    plan.seed + i.
    """
    guidance: dict[str, Any] = {}
    if plan.guidance_scale is not None:
        guidance["guidance_scale"] = plan.guidance_scale
    drawn = []
    size = plan.batch_size
    for start in tqdm(range(0, len(prompts), size), desc="drawing", unit="batch"):
        batch = list(prompts[start : start + size])
        # by place: batches do not matter
        seeds = [plan.seed + start + i for i in range(len(batch))]
        images = pipeline.text_to_image(batch, seed=seeds, progress=False, **guidance)
        drawn.append(images.float().cpu())
    return torch.cat(drawn)


# --- shapes ---------------------------------------------------------------------------


def evaluate_shapes(
    pipeline: UnCLIP, judges: Judges, plan: ReportPlan
) -> list[dict[str, Any]]:
    """Attributes right on seen and held-out compositions, beside real renders; then
    closeness.
    """
    half = plan.pictures // 2
    seen = exams.sample_split("seen", half, plan.seed)
    held_out = exams.sample_split("held_out", half, plan.seed)
    prompts = exams.bilingual_captions(seen, plan.seed)
    prompts += exams.bilingual_captions(held_out, plan.seed)
    # (pictures, 3, 128, 128), the seen ones first
    images = draw(pipeline, prompts, plan)

    # the prompts' own scenes, rendered
    twins = exams.render_all(exams.join([seen, held_out]))
    parts = [
        exams.sample_split(split, exams.REFERENCE // 2, plan.seed + 1)
        for split in ("seen", "held_out")
    ]
    fresh = exams.join(parts)
    others = exams.render_all(fresh)  # scenes that no prompt asks for
    right = {
        "seen": by_language(attributes_right(judges, images[:half], seen)),
        "held-out": by_language(attributes_right(judges, images[half:], held_out)),
        # the oracle's own errors: the ceiling
        "real renders": attributes_right(judges, others, fresh),
    }
    return [
        attribute_table(right),
        closeness_table(judges, prompts, images, twins, others),
    ]


def by_language(right: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds a row for each language's half of the prompts, in the order of
    `bilingual_captions`.
    """
    every = right[ALL_RIGHT]  # (B,), English first
    half = len(every) // 2
    english = every[:half]
    chinese = every[half:]
    rows = {
        f"{ALL_RIGHT}, English prompts": english,
        f"{ALL_RIGHT}, Chinese prompts": chinese,
    }
    return {**right, **rows}


def attribute_table(right: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """A row for each attribute and each way of counting all right; a column for each
    split.
    """
    names = list(shapes.FACTORS)
    for of_split in right.values():
        names += [name for name in of_split if name not in names]
    rows: dict[str, Cells] = {}
    for name in names:
        rows[name] = [
            intervals.share(of_split[name]) if name in of_split else None
            for of_split in right.values()
        ]
    return tables.table("right, %", list(right), rows)


# --- emoji ----------------------------------------------------------------------------


def evaluate_emoji(
    pipeline: UnCLIP, judges: Judges, plan: ReportPlan
) -> list[dict[str, Any]]:
    """Rank of the right name among 100 in both languages, the real pictures' as a
    ceiling; then closeness.
    """
    exam = exams.emoji_exam(plan.pictures, plan.seed)
    images = draw(pipeline, exam.prompts, plan)
    # the same names and the same wrong ones, so that both ranks compare
    drawn = caption_ranks(judges, images, exam.things, exam.asked, plan.seed)
    ceiling = caption_ranks(judges, exam.twins, exam.things, exam.asked, plan.seed)
    return [
        retrieval_table(drawn, ceiling),
        closeness_table(judges, exam.prompts, images, exam.twins, exam.others),
    ]


def retrieval_table(
    drawn: dict[str, Tensor], ceiling: dict[str, Tensor]
) -> dict[str, Any]:
    """Share of first ranks and median rank, drawn and real, by language and in both."""

    def row(measure: Callable[[Tensor], Measure], ranks: dict[str, Tensor]) -> Cells:
        both = torch.cat(list(ranks.values()))  # (n,)
        return [measure(ranks["en"]), measure(ranks["zh"]), measure(both)]

    def first(ranks: Tensor) -> Measure:
        return intervals.share(ranks == 1)

    rows = {
        FIRST: row(first, drawn),
        "  on the real pictures (ceiling)": row(first, ceiling),
        "median rank of the right caption": row(intervals.median, drawn),
        "  on the real pictures": row(intervals.median, ceiling),
    }
    return tables.table("retrieval by the judge", ["English", "Chinese", "both"], rows)


# --- both -----------------------------------------------------------------------------


def closeness_table(
    judges: Judges, prompts: list[str], images: Tensor, twins: Tensor, others: Tensor
) -> dict[str, Any]:
    """CLIP score and Fréchet distance, of the generated pictures beside real ones.

    `twins` are real pictures of the same prompts, as many as `images`; `others` are
    further real pictures, to which both are compared. So the floor, twins to others,
    has the same number of pictures and the same bias as the number above it.
    """
    text_emb = judges.embed_texts(prompts)
    generated = judges.embed_images(images)  # (n, D)
    real = judges.embed_images(twins)
    reference = judges.embed_images(others)
    rows: dict[str, Cells] = {
        "CLIP score": [
            intervals.mean(alignment.clip_score(generated, text_emb)),
            intervals.mean(alignment.clip_score(real, text_emb)),
        ],
        FRECHET: [frechet(generated, reference), frechet(real, reference)],
    }
    return tables.table("by the judge", ["generated", "real"], rows)


# --- printing and storing -------------------------------------------------------------


def headline(report: dict[str, Any]) -> dict[str, float]:
    """The numbers that a zoo card quotes, "row, column" -> value."""
    return tables.headline(report["tables"], QUOTED)


def format_report(report: dict[str, Any]) -> str:
    """The report as plain text: value, 95% interval and number of pictures in each
    cell.
    """
    head = f"{report['domain']}: {report['pictures']} pictures, seed {report['seed']}"
    if report["guidance_scale"] is not None:
        head += f", guidance {report['guidance_scale']:g}"
    head += "; each number with its [95% interval] and the number of pictures behind it"
    return "\n\n".join([head, *(tables.format_table(one) for one in report["tables"])])
