"""What a new model costs: one file with the model, one task with its recipe, one test.
Here they come from outside of the package, and nothing inside of it is touched.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import dalle2_edu
from dalle2_edu import zoo
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes import runs, text2image

MODEL = '''
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class MeanConfig:
    width: int = 3


class Mean(nn.Module):
    """One colour for each caption's length."""

    def __init__(self, config: MeanConfig):
        super().__init__()
        self.config = config
        self.colours = nn.Embedding(64, config.width)

    def forward(self, lengths):
        return self.colours(lengths)
'''

TASK = """
import torch

from dalle2_edu.mean_colour import Mean, MeanConfig
from dalle2_edu.recipes.data import draw_captions, to_float
from dalle2_edu.recipes.recipe import Recipe
from dalle2_edu.training.task import Task, TrainConfig


class MeanTask(Task):
    def __init__(self, name, data, config, model, about=None):
        self.pairs = data
        super().__init__(name, config, Mean(model), len(data), about)

    def batch(self, indices):
        images, captions = self.pairs.take(indices)
        lengths = [min(63, len(text)) for text in draw_captions(captions)]
        return {"images": images, "lengths": torch.tensor(lengths)}

    def loss(self, model, batch, generator):
        colours = to_float(batch["images"]).mean(dim=(2, 3))
        return (model(batch["lengths"]) - colours).square().mean(), {}


RECIPES = (
    Recipe(
        "mean-colour",
        Mean,
        MeanTask,
        domains=("shapes", "emoji"),
        teaches="a caption's length -> a colour",
        cpu=TrainConfig(steps=20, batch_size=8),
        gpu={"steps": 100},
        model_config=MeanConfig(),
    ),
)
"""


def test_a_new_model_is_one_file_one_task_and_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mean_colour.py").write_text(MODEL)
    (tmp_path / "mean_recipe.py").write_text(TASK)
    monkeypatch.setattr(dalle2_edu, "__path__", [*dalle2_edu.__path__, str(tmp_path)])
    from dalle2_edu import mean_recipe  # type: ignore[attr-defined]

    monkeypatch.setattr(runs, "PARTS", (text2image, mean_recipe))
    assert {"shapes-mean-colour", "emoji-mean-colour"} < set(runs.trainings())
    with zoo.at(tmp_path / "zoo"):
        checkpoint = runs.run(
            "emoji-mean-colour", "smoke", tmp_path / "run", progress=False
        )
        assert checkpoint.name == "step-00000003"
        runs.publish(tmp_path / "run")
        card = zoo.card("emoji", "mean_colour")
        loaded = zoo.load("emoji", "mean_colour")
    assert card.model == "dalle2_edu.mean_colour:Mean"
    assert loaded(torch.tensor([5])).shape == (1, 3)
    for name in ("mean_colour", "mean_recipe"):
        del sys.modules[f"dalle2_edu.{name}"]


@pytest.mark.parametrize(
    "name", ["pets-decoder", "Pets-decoder", "shared-prior", "-prior", "../x-prior"]
)
def test_a_domain_of_ones_own_needs_data_and_a_plain_name(name: str) -> None:
    with pytest.raises(Dalle2EduError, match="Unknown recipe"):
        runs.find(name)
    if name == "pets-decoder":
        training = runs.find(name, own=True)
        assert (training.domain, training.part, training.name) == (
            "pets",
            "decoder",
            name,
        )
        return
    with pytest.raises(Dalle2EduError, match="Unknown recipe"):
        runs.find(name, own=True)
