"""Precision "auto": the faster one, kept by a run that goes on, unless the machine is
another.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_task import TinyTask

from dalle2_edu.training import TrainConfig, load_checkpoint, precision, train

CPU = torch.device("cpu")
AUTO = TrainConfig(steps=4, batch_size=4, save_every=2, mixed_precision="auto")


@pytest.mark.parametrize(
    ("speedup", "used", "chosen"),
    [
        (2.0, None, "bf16"),
        (0.5, None, "no"),
        (0.9, "bf16", "bf16"),  # a noisy timing does not change a run
        (1.1, "no", "no"),
        (0.5, "bf16", "no"),  # another machine does
        (2.0, "no", "bf16"),
    ],
)
def test_the_faster_one_is_chosen_and_kept(
    speedup: float, used: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_speedup", lambda device: speedup)
    assert precision.choose_precision(CPU, used) == chosen


def test_it_is_measured_once_and_draws_no_random_number() -> None:
    precision.bf16_speedup.cache_clear()
    before = torch.get_rng_state()
    first = precision.bf16_speedup("cpu")
    assert torch.equal(before, torch.get_rng_state())
    assert first > 0
    assert precision.bf16_speedup("cpu") == first
    assert precision.bf16_speedup.cache_info().misses == 1


def run(out: Path, config: TrainConfig, resume: bool = False, steps: int = 4) -> dict:
    config = dataclasses.replace(config, steps=steps)
    path = train(TinyTask(config), out, resume, progress=False, device="cpu")
    return load_checkpoint(path).state


def test_a_run_goes_on_where_the_other_precision_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "bf16_speedup", lambda device: 3.0)
    state = run(tmp_path, AUTO, steps=2)
    assert (state["precision"], state["config"]["mixed_precision"]) == ("bf16", "auto")
    monkeypatch.setattr(precision, "bf16_speedup", lambda device: 0.3)
    state = run(tmp_path, AUTO, resume=True)
    assert state["precision"] == "no"
    assert "bf16 becomes no" in capsys.readouterr().out
    # asked for by hand: allowed too
    plain = dataclasses.replace(AUTO, mixed_precision="no")
    assert run(tmp_path, plain, resume=True, steps=6)["step"] == 6
