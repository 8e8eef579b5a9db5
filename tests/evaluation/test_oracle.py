"""The oracle's book-keeping with answers written by hand, and its loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.data.shapes import FACTORS, Scenes, render, sample_scenes, scenes_from
from dalle2_edu.evaluation.oracle import (
    ALL_RIGHT,
    Oracle,
    OracleConfig,
    accuracy,
    marks,
    oracle_loss,
)

TINY = OracleConfig(image_size=32, channels=(8, 8), width=8)


@pytest.fixture
def scenes() -> Scenes:
    one = {"kind": "one", "shape_a": "star", "colour_a": "red"}
    two = {"kind": "two", "shape_a": "heart", "shape_b": "ring", "colour_b": "green"}
    return scenes_from([one, two])


def answers(scenes: Scenes) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in scenes.factors.items()}


def test_a_factor_without_a_meaning_does_not_count(scenes: Scenes) -> None:
    predicted = answers(scenes)
    predicted["colour_b"][0] = 5  # there is no second object in the first scene
    predicted["letter_1"][:] = 7  # nor a letter in either
    assert set(accuracy(predicted, scenes).values()) == {1.0}
    assert "letter_1" not in accuracy(predicted, scenes)


def test_one_wrong_answer_spoils_its_factor_and_its_scene(scenes: Scenes) -> None:
    predicted = answers(scenes)
    predicted["colour_b"][1] = 0
    shares = accuracy(predicted, scenes)
    assert shares["colour_b"] == 0.0  # only the second scene has that factor
    assert shares["colour_a"] == 1.0
    assert marks(predicted, scenes)[ALL_RIGHT].tolist() == [True, False]


def test_loss_looks_only_at_what_has_a_meaning(scenes: Scenes) -> None:
    sure = {
        name: F.one_hot(scenes.factors[name], len(FACTORS[name])) * 50.0
        for name in FACTORS
    }
    assert oracle_loss(sure, scenes) < 1e-6
    sure["colour_b"][0] = torch.randn(8) * 50
    assert oracle_loss(sure, scenes) < 1e-6
    sure["colour_b"][1] = 0
    # a guess among 8
    assert oracle_loss(sure, scenes).item() == pytest.approx(math.log(8))


def test_reads_any_size_and_a_verdict_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    oracle = Oracle(TINY).eval()
    scenes = sample_scenes(6, torch.Generator().manual_seed(0), split="all")
    images = render(scenes, 64)
    together, apart = oracle.predict(images), oracle.predict(images, batch_size=1)
    assert list(together) == list(FACTORS)
    assert all(
        torch.equal(together[name], apart[name]) and together[name].dtype == torch.int64
        for name in FACTORS
    )
    assert oracle.loss(images, scenes).requires_grad


def test_learns_a_handful_of_scenes() -> None:
    torch.manual_seed(0)
    oracle = Oracle(TINY)
    scenes = sample_scenes(8, torch.Generator().manual_seed(0), split="all")
    images = render(scenes, 32)
    optimizer = torch.optim.Adam(oracle.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        oracle.loss(images, scenes).backward()
        optimizer.step()
    assert accuracy(oracle.predict(images), scenes)[ALL_RIGHT] == 1.0
