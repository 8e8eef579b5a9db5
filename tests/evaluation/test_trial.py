"""The prior on trial, with tiny random networks: what is fed to the decoder, what is
measured, what is missing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.data import emoji
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.drawing.run import DrawingRun
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import exams, trial
from dalle2_edu.evaluation.judges import FIRST, FRECHET, Judges
from dalle2_edu.evaluation.oracle import Oracle, OracleConfig
from dalle2_edu.evaluation.trial import (
    DIVERSITY,
    REAL,
    RIGHT,
    Question,
    TrialPlan,
    columns,
    contenders,
    format_trial,
    spread,
)
from dalle2_edu.text2image.clip import Clip

PLAN = TrialPlan(
    captions=4, batch_size=5, prior_steps=2, decoder_steps=2, upsampler_steps=1
)
NO_RIVALS = {"regression": "no regression yet", "ar_prior": "no ar_prior yet"}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    torch.manual_seed(0)
    judge, pipeline = tiny_models.awake(Clip(tiny_models.CLIP)), tiny_models.pipeline()
    pipeline.upsamplers = []  # the pictures stay small: the judges don't mind
    oracle = Oracle(OracleConfig(image_size=32, channels=(8, 8, 8), width=8)).eval()
    return {"pipeline": pipeline, "judges": Judges(judge, default_tokenizer(), oracle)}


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exams, "REFERENCE", 20)
    monkeypatch.setattr(trial, "PER_CAPTION", 2)
    monkeypatch.setattr(trial, "SCALES", (1.0, 2.0))
    names = [emoji.Emoji(f"{i}", f"thing {i}", f"东西{i}") for i in range(150)]
    monkeypatch.setattr(emoji, "load", lambda: names)
    monkeypatch.setattr(
        emoji,
        "pairs",
        lambda size: SimpleNamespace(images=torch.rand(150, 3, 32, 32) * 255),
    )


def test_every_row_feeds_the_decoder_what_it_says(models: dict[str, Any]) -> None:
    unclip, true = models["pipeline"], torch.randn(2, tiny_models.DIM)
    text, run = (
        unclip.encode_text(["rocket", "火箭"]),
        DrawingRun([1, 2], unclip.device),
    )
    rivals = {"regression": unclip.prior, "ar_prior": tiny_models.ar_prior()}
    with torch.no_grad():
        question = Question(unclip, text, true, run, prior_steps=2)
        fed = [answer.feed(question) for answer in contenders(rivals) if answer.feed]
    assert all(z.shape == (2, tiny_models.DIM) for z in fed)
    assert torch.equal(fed[0], unclip.decoder.null_image_emb.expand(2, -1))
    assert torch.equal(fed[1], text.text_emb)
    # Here the diffusion prior stands in for the regression as well.
    assert torch.equal(fed[2], fed[4])
    axes = tiny_models.ar_prior().axes  # the AR prior's embeddings lie in their space
    assert axes.shape[0] < tiny_models.DIM and not torch.equal(fed[3], fed[4])
    assert torch.equal(fed[5], true)


def test_the_trial_on_shapes(models: dict[str, Any], tmp_path: Path) -> None:
    rivals = {"regression": "no regression yet", "ar_prior": tiny_models.ar_prior()}
    found = trial.trial(
        "shapes", PLAN, out=tmp_path / "grid.png", **models, rivals=rivals
    )
    first, prior, decoder = found["tables"]
    assert first["columns"] == [RIGHT, FIRST, FRECHET, DIVERSITY]
    assert len(first["rows"]) == 7 and not any(
        first["rows"]["(c) a regression [missing]"]
    )
    assert all(
        cell["n"] == 4
        for name, row in first["rows"].items()
        for cell in row[:2]
        if "missing" not in name
    )
    assert first["rows"]["(d) the AR prior"][3]["value"] > 0
    assert first["rows"][REAL][3] is None  # there is one real picture of a caption
    assert (
        first["rows"]["(e) the diffusion prior"]
        == prior["rows"]["1"]
        == decoder["rows"]["2"]
    )
    assert list(prior["rows"]) == ["1", "2", REAL]
    assert found["missing"] == ["(c) a regression: no regression yet"]
    assert (tmp_path / "grid.png").stat().st_size > 10_000
    again = trial.trial(
        "shapes", replace(PLAN, batch_size=3), sweep=False, **models, rivals=rivals
    )
    close(again["tables"][0], first)


def close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal up to what another batch size does to the last digits."""
    assert one["rows"].keys() == other["rows"].keys()
    for name in one["rows"]:
        for mine, theirs in zip(one["rows"][name], other["rows"][name], strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or mine["value"] == pytest.approx(
                theirs["value"], abs=1e-2
            )


def test_the_trial_on_emoji_and_what_is_printed(models: dict[str, Any]) -> None:
    plan = replace(
        PLAN, captions=18
    )  # one more than the judge has dimensions: enough for a Fréchet distance
    found = trial.trial("emoji", plan, sweep=False, **models, rivals=NO_RIVALS)
    # no oracle knows emoji
    assert found["tables"][0]["columns"] == [FIRST, FRECHET, DIVERSITY]
    assert all(
        row[1]["value"] > 0
        for name, row in found["tables"][0]["rows"].items()
        if "missing" not in name
    )
    plain, markdown = format_trial(found), format_trial(found, markdown=True)
    for text in (plain, markdown):
        assert (
            "(d) the AR prior: no ar_prior yet" in text
            and "(c) a regression [missing]" in text
        )
        assert all(
            number in text for number in ("16.55", "7.99", "9.16", "10.63", "10.39")
        )
    assert "| (f) the true embedding |" in markdown


def test_diversity_by_hand() -> None:
    x, y = torch.eye(2)
    same, apart = torch.stack([x, x, x]), torch.stack([x, y, -x])
    torch.testing.assert_close(
        spread(torch.stack([same, apart])), torch.tensor([0.0, (1 + 2 + 1) / 3])
    )


def test_no_seed_and_no_caption_is_drawn_twice(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def draw(
        unclip: Any,
        answer: Any,
        exam: Any,
        places: list[int],
        seeds: list[int],
        plan: TrialPlan,
    ) -> Tensor:
        asked.extend(zip(places, seeds, strict=True))
        return torch.zeros(len(places), 3, 8, 8)

    monkeypatch.setattr(trial, "draw", draw)
    monkeypatch.setattr(trial, "PER_CAPTION", 4)
    plan = TrialPlan(captions=100)
    trial.draw_all(models["pipeline"], contenders(NO_RIVALS)[0], None, plan)  # type: ignore[arg-type]
    assert len({seed for _, seed in asked}) == len(asked) == 100 + 3 * 24
    halves = [
        sum(place < 50 for place in plan.diverse),
        sum(place >= 50 for place in plan.diverse),
    ]
    assert min(halves) >= 8  # both languages


def test_the_grid_shows_both_languages() -> None:
    assert columns(20) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert columns(4) == [0, 1, 2, 3]


def test_the_zoos_missing_priors_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))
    found = trial.find_rivals("emoji", "cpu")
    assert (
        "train emoji-ar-prior`" in found["ar_prior"]
        and "train emoji-regression`" in found["regression"]
    )
    assert "\n" not in found["ar_prior"]
    zoo.save(
        "emoji",
        "ar_prior",
        tiny_models.ar_prior(),
        zoo.Card("emoji-ar-prior", "smoke", "none"),
    )
    assert trial.find_rivals("emoji", "cpu")["ar_prior"].config == tiny_models.AR_PRIOR  # type: ignore[union-attr]
    zoo.save(
        "shared", "clip", Clip(tiny_models.CLIP), zoo.Card("clip", "smoke", "none")
    )
    assert "another CLIP" in str(trial.find_rivals("emoji", "cpu")["ar_prior"])


@pytest.mark.parametrize(
    ("domain", "settings"),
    [("cats", {}), ("emoji", {"captions": 5}), ("emoji", {"batch_size": 0})],
)
def test_what_makes_no_sense_is_refused(
    domain: str, settings: dict[str, int], models: dict[str, Any]
) -> None:
    with pytest.raises(Dalle2EduError):
        trial.trial(domain, TrialPlan(**settings), **models, rivals=NO_RIVALS)
