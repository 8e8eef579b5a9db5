"""Training a whole zoo: everything after what it needs, side by side, and how long it
takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dalle2_edu import zoo
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes import evaluation, runs, whole_zoo


class Done:
    """Stands for a process that ends at the third look."""

    def __init__(self, returncode: int = 0) -> None:
        self.returncode, self.looks = returncode, 0

    def poll(self) -> int | None:
        self.looks += 1
        return self.returncode if self.looks > 2 else None

    def terminate(self) -> None:
        pass


def test_every_recipe_comes_after_what_it_needs() -> None:
    made: set[tuple[str, str]] = set()
    for training in runs.trainings().values():
        assert made.issuperset(training.needs), training.name
        made.add((training.domain, training.part))


def test_side_by_side_each_waits_for_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    most = 0
    open_now: set[str] = set()

    def begin(training: Any, plan: Any) -> Done:
        nonlocal most
        there = {
            (t.domain, t.part) for t in runs.trainings().values() if t.name in published
        }
        assert there.issuperset(training.needs), training.name
        open_now.add(training.name)
        most = max(most, len(open_now))
        return Done()

    def publish(out: Path) -> None:
        open_now.discard(out.name)
        published.append(out.name)

    monkeypatch.setattr(whole_zoo, "begin", begin)
    monkeypatch.setattr(runs, "publish", publish)
    monkeypatch.setattr(whole_zoo.time, "sleep", lambda seconds: None)
    plan = whole_zoo.Plan("smoke", tmp_path, tmp_path / "zoo")
    whole_zoo.train_all(plan, at_once=3)
    assert sorted(published) == sorted(runs.trainings())
    assert most == 3


def test_a_training_that_fails_says_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "said.txt").write_text("a bar\ndalle2-edu: the disk is full\n")
    plan = whole_zoo.Plan("smoke", tmp_path, tmp_path / "zoo")
    with pytest.raises(
        Dalle2EduError, match="clip stopped: dalle2-edu: the disk is full"
    ):
        whole_zoo.finish(runs.find("clip"), Done(1), plan)  # type: ignore[arg-type]


def test_one_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PARTS", (evaluation,))
    monkeypatch.setattr(evaluation, "RECIPES", evaluation.RECIPES[1:])  # the oracle
    plan = whole_zoo.Plan("smoke", tmp_path, tmp_path / "zoo", "no")
    whole_zoo.train_all(plan, at_once=2)
    with zoo.at(tmp_path / "zoo"):
        assert zoo.card("shapes", "oracle").steps == 3


def test_it_says_how_long_it_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "PARTS", (evaluation,))
    monkeypatch.setattr(evaluation, "RECIPES", evaluation.RECIPES[1:])  # the oracle
    plan = whole_zoo.Plan("cpu", tmp_path, tmp_path / "zoo", "no")
    whole_zoo.print_estimate(plan)
    said = capsys.readouterr().out.split()
    assert said[0] == "oracle" and said[2] == "min"
    assert 1 <= float(said[1]) < 2000  # 3,000 steps on any machine
    monkeypatch.setattr(runs, "latest_state", lambda folder: {"step": 3000})
    whole_zoo.print_estimate(plan)
    assert capsys.readouterr().out.split()[1] == "0"  # nothing is left to do
