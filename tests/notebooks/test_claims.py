"""Sentences that read an output are held to it by a claim, in every chapter and
language.
"""

from __future__ import annotations

import claims
import pytest
import twins
from small_notebooks import book, code, text
from unclaimed import UNCLAIMED

CHAPTERS = twins.chapter_names()


@pytest.mark.parametrize("name", CHAPTERS)
@pytest.mark.parametrize("language", twins.LANGUAGES)
def test_every_reading_has_its_claim(language: twins.Language, name: str) -> None:
    english = twins.read(twins.path_of(twins.NOTEBOOKS, "en", name))
    notebook = twins.read(twins.path_of(twins.NOTEBOOKS, language, name))
    reads = claims.readings(english, name[:2])
    found = list(claims.problems(notebook, reads, UNCLAIMED.get(name[:2], {})))
    assert found == [], "\n".join(found)


def test_excuses_are_for_chapters_that_exist_and_few() -> None:
    assert set(UNCLAIMED) <= {name[:2] for name in CHAPTERS}
    for name in CHAPTERS:
        english = twins.read(twins.path_of(twins.NOTEBOOKS, "en", name))
        reads = claims.readings(english, name[:2])
        assert len(UNCLAIMED.get(name[:2], {})) <= max(3, len(reads) // 2), name


# --- the finder itself ----------------------------------------------------------------

FIGURE = code("measure", "ratio = 3\nch.claim('low-read', ratio > 2)", printed="3\n")


def readings(*cells) -> list[str]:  # type: ignore[no-untyped-def]
    return claims.readings(book(*cells), "07")


@pytest.mark.parametrize("cell_id", ["x-read", "x-reading", "x-answer"])
def test_a_reading_is_known_by_its_id(cell_id: str) -> None:
    assert readings(text(cell_id, "Look at the curve.")) == [cell_id]


@pytest.mark.parametrize(
    "said", ["It falls to 0.31.", "In 62% of the pictures.", "降到了 .31。"]
)
def test_a_reading_is_known_by_a_number_below_an_output(said: str) -> None:
    assert readings(FIGURE, text("below", said)) == ["below"]
    assert readings(text("first", "A title."), text("below", said)) == []


@pytest.mark.parametrize(
    "said",
    [
        "With $x=0.31$ and (8.2) and `0.5`.",
        "## The next trick\n\nIt takes 0.5 minutes.",
        "> Somebody else measured 0.5.",
        "| a | 0.5 |",
        "As 7.10 shows, see section 3.2.",
        "[A paper of 2.5 pages](https://arxiv.org/abs/2006.11239)",
    ],
)
def test_formulas_sections_and_links_are_no_measured_numbers(said: str) -> None:
    assert readings(FIGURE, text("below", said)) == []


def test_an_exercises_verdict_is_no_measurement() -> None:
    verdict = code("try", "check('ddpm.snr', f)", printed="✓\n")
    assert readings(verdict, text("below", "Half of 0.5.")) == []


@pytest.mark.parametrize(
    ("cells", "excused", "what"),
    [
        ([FIGURE], {}, "no text cell has this id"),
        (
            [FIGURE, text("low-read", "Low."), text("high-read", "High.")],
            {},
            "no ch.claim",
        ),
        (
            [FIGURE, text("low-read", "Low.")],
            {"low-read": "it can't be counted"},
            "no excuse",
        ),
        ([text("low-read", "Low.")], {"low-read": "hm"}, "without a reason"),
        ([code("c", "ch.claim(name, True)"), text("x", "x")], {}, "'?'"),
    ],
)
def test_what_can_be_wrong(cells, excused, what) -> None:  # type: ignore[no-untyped-def]
    notebook = book(*cells)
    found = list(claims.problems(notebook, claims.readings(notebook, "07"), excused))
    assert len(found) == 1 and what in found[0], found


def test_a_claim_and_an_excuse_are_enough() -> None:
    notebook = book(FIGURE, text("low-read", "Low."), text("high-read", "High."))
    excused = {"high-read": "says how the figure is to be read"}
    assert not list(claims.problems(notebook, ["low-read", "high-read"], excused))
