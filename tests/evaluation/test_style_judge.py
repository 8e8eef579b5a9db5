"""The style judge: its two questions, and what it is never shown."""

import pytest
import torch

from dalle2_edu.data import emoji
from dalle2_edu.data.emoji import Drawing
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import style_judge
from dalle2_edu.evaluation.style_judge import StyleJudge, StyleJudgeConfig
from dalle2_edu.recipes.evaluation import StyleJudgeTask, jitter
from dalle2_edu.training.task import TrainConfig

TINY = StyleJudgeConfig(image_size=8, channels=(8, 8), width=8)


def test_the_right_one_is_first_only_if_nobody_is_better() -> None:
    logits = torch.arange(150.0).expand(3, 150).clone()  # the last thing always wins
    asked = torch.tensor([149, 0, 149])
    logits[2, 149] = 148.5
    assert style_judge.first_of_100(logits, asked, seed=0).tolist() == [
        True,
        False,
        True,
    ]
    few = torch.tensor([[1.0, 3.0, 2.0]])  # fewer things than 100: all of them
    assert style_judge.first_of_100(few, torch.tensor([1]), seed=0).tolist() == [True]
    assert style_judge.first_of_100(few, torch.tensor([2]), seed=0).tolist() == [False]


def test_wrong_things_are_others_and_hard_enough() -> None:
    torch.manual_seed(0)
    logits, asked = torch.randn(2000, 300), torch.randint(300, (2000,))
    right = style_judge.first_of_100(logits, asked, seed=1)
    # as a guess would be
    assert right.float().mean() == pytest.approx(1 / 100, abs=0.01)
    assert torch.equal(right, style_judge.first_of_100(logits, asked, seed=1))


class FixedAnswers(StyleJudge):
    """A judge that sees one thing in one style everywhere."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        style, thing = torch.zeros(len(images), 4), torch.zeros(len(images), 2049)
        style[:, 3] = 1
        thing[:, 5] = 1
        return style, thing


def test_marks_ask_for_style_and_thing_apart() -> None:
    things = emoji.load()
    asked = [Drawing(things[5], "openmoji"), Drawing(things[5], "noto")]
    asked += [Drawing(things[6], "openmoji")]
    found = style_judge.marks(FixedAnswers(TINY), torch.zeros(3, 3, 8, 8), asked)
    assert found[style_judge.STYLE_RIGHT].tolist() == [True, False, True]
    assert found[style_judge.THING_FIRST][:2].tolist() == [True, True]


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> StyleJudgeTask:
    things = emoji.load()[:6]
    drawn = [Drawing(each, "noto") for each in things]
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    monkeypatch.setattr(emoji, "drawings", lambda: drawn)
    monkeypatch.setattr(emoji, "pairs", lambda size: Pairs(images, [["x"]] * 6))
    return StyleJudgeTask("style-judge", None, TrainConfig(steps=1), TINY)


def test_the_task_learns_style_and_thing(task: StyleJudgeTask) -> None:
    batch = task.batch(torch.tensor([0, 5]))
    assert batch["styles"].tolist() == [0, 0]
    assert batch["things"].tolist() == [0, 5]
    loss, parts = task.loss(task.model, batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert set(parts) == {"style", "thing"}
    assert task.model.things.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    with pytest.raises(Dalle2EduError, match="who drew what"):
        StyleJudgeTask(
            "style-judge", Pairs(task.images, [["x"]] * 6), TrainConfig(steps=1)
        )


def test_jitter_moves_a_picture_on_white() -> None:
    images = torch.ones(64, 3, 32, 32)
    images[:, :, 8:24, 8:24] = -1  # a black square in the middle
    moved = jitter(images, torch.Generator().manual_seed(0))
    assert torch.equal(moved, jitter(images, torch.Generator().manual_seed(0)))
    assert moved[:, :, 0, 0].min() > 0.99  # what comes in from outside is white
    assert moved[:, :, 16, 16].max() < -0.99
    ink = (moved < 0).flatten(1).float().sum(dim=1) / (images < 0).flatten(
        1
    ).float().sum(dim=1)
    assert ink.min() < 0.9 < 1.1 < ink.max()  # some smaller, some larger
    assert ink.mean() == pytest.approx(1, abs=0.1)


def test_a_clip_is_asked_the_same_two_questions() -> None:
    things = emoji.load()
    asked = [Drawing(things[5], "openmoji"), Drawing(things[6], "noto")]
    # An embedder that knows the style and the first thing's name only.
    said = things[5].en

    def embed(texts: list[str]) -> torch.Tensor:
        rows = [[float(said in text), float("line art" in text)] for text in texts]
        return torch.tensor(rows)

    image_emb = torch.tensor(
        [[1.0, 1.0], [1.0, 1.0]]
    )  # two drawings of the first, in line art
    found = style_judge.clip_marks(embed, image_emb, asked)
    assert found[style_judge.STYLE_RIGHT].tolist() == [True, False]
    assert found[style_judge.THING_FIRST].tolist() == [True, False]
