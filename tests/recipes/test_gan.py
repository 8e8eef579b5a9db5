"""The GAN's tasks: one backward pass for two networks, a stopped run that goes on, and
the recipes at the smoke tier.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dalle2_edu.baselines.gan import GanConfig, Objective, TextGanConfig
from dalle2_edu.data import shapes
from dalle2_edu.recipes import runs
from dalle2_edu.recipes.gan import RECIPES, GanTask, TextGanTask
from dalle2_edu.recipes.recipe import Recipe, Training
from dalle2_edu.training import TrainConfig, load_checkpoint, train
from dalle2_edu.training.task import Task

CONFIG = TrainConfig(
    steps=6, batch_size=4, warmup=2, log_every=2, save_every=2, ema=0.9
)
TINY = GanConfig(image_size=8, latent=4, channels=4)


def make(kind: str) -> Task:
    torch.manual_seed(0)
    if kind == "text":
        model = TextGanConfig(gan=TINY, width=8, layers=1, heads=2)
        return TextGanTask("tiny", shapes.pairs(8, 8), CONFIG, model)
    objective = {
        "r1": Objective(r1=0.1),
        "gp": Objective("wasserstein", gp=1.0),
        "sn": Objective("hinge"),
    }[kind]
    model = GanConfig(image_size=8, latent=4, channels=4, spectral_norm=kind == "sn")
    images = shapes.single_objects(8, 8)[0]
    return GanTask("tiny", images, CONFIG, model, objective)


@pytest.mark.parametrize("kind", ["r1", "gp", "sn", "text"])
def test_one_step_reaches_every_parameter(kind: str) -> None:
    task = make(kind)
    batch = task.batch(torch.arange(4))
    loss, numbers = task.loss(task.model, batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.item() == pytest.approx(
        (numbers["discriminator"] + numbers["generator"]).item(), rel=1e-5
    )
    assert [n for n, p in task.model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["r1", "sn", "text"])
def test_killed_and_resumed_is_the_unbroken_run(kind: str, tmp_path: Path) -> None:
    def run(name: str, **options) -> dict:
        place = train(
            make(kind), tmp_path / name, progress=False, device="cpu", **options
        )
        return load_checkpoint(place).tensors

    whole = run("whole")
    run("broken", max_minutes=0)
    resumed = run("broken", resume=True)
    for part, named in whole.items():
        for name, tensor in named.items():
            assert torch.equal(resumed[part][name], tensor), (part, name)


@pytest.mark.parametrize("kind", ["r1", "text"])
def test_sample_grids_are_pictures(kind: str) -> None:
    task = make(kind)
    with torch.no_grad():
        grid = task.sample(task.model.eval())
    assert grid is not None and grid.shape == (16, 3, 8, 8)


@pytest.mark.parametrize("name", ["shapes-gan", "shapes-text-gan"])
def test_recipes_at_the_smoke_tier(name: str, tmp_path: Path) -> None:
    checkpoint = runs.run(name, "smoke", tmp_path / "run", progress=False)
    assert checkpoint.name == "step-00000003"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_same_recipes_learn_emoji(recipe: Recipe, tmp_path: Path) -> None:
    training = Training(replace(recipe, domains=("emoji",)), "emoji", "smoke")
    checkpoint = train(training.task(training.config), tmp_path, progress=False)
    assert checkpoint.name == "step-00000003"
