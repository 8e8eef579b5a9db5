"""The report, with a pipeline and judges whose answers are known."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data import emoji, shapes
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation import exams, report
from dalle2_edu.evaluation.judges import Judges
from dalle2_edu.evaluation.oracle import ALL_RIGHT
from dalle2_edu.evaluation.report import ReportPlan, evaluate


class FakePipeline:
    """Looks each prompt's picture up in `album`; one that isn't there is drawn as noise
    of its seed.
    """

    def __init__(self, album: dict[str, Tensor]):
        self.album = album
        self.prompts: list[str] = []

    def text_to_image(
        self,
        prompts: list[str],
        seed: list[int],
        guidance_scale: float = 1.0,
        progress: bool = True,
    ) -> Tensor:
        self.prompts += prompts
        return torch.stack(
            [
                self.album.get(text, noise(one))
                for text, one in zip(prompts, seed, strict=True)
            ]
        )


def noise(seed: int) -> Tensor:
    return (
        torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    )


class FakeJudge(nn.Module):
    """A picture's embedding is at the angle hidden in a corner pixel; a text's at the
    one it spells.
    """

    def encode_image(self, images: Tensor) -> Tensor:
        return on_circle(images[:, 0, 0, 0] * 1000)

    def encode_text(self, tokens: Tensor) -> SimpleNamespace:
        return SimpleNamespace(text_emb=on_circle(tokens[:, 0].float()))


def on_circle(angle: Tensor) -> Tensor:
    return F.normalize(torch.stack([angle.cos(), angle.sin()], dim=1), dim=1)  # (B, 2)


class PerfectOracle(nn.Module):
    """Knows the truth about pictures that the renderer made; answers 0 to everything
    else.
    """

    def __init__(self, scenes: shapes.Scenes):
        super().__init__()
        self.known = {
            picture.sum().item(): i
            for i, picture in enumerate(exams.render_all(scenes))
        }
        self.scenes = scenes

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        rows = [self.known.get(picture.sum().item(), -1) for picture in images]
        return {
            name: torch.tensor([int(values[row]) if row >= 0 else 0 for row in rows])
            for name, values in self.scenes.factors.items()
        }


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Seen prompts are drawn perfectly, held-out ones as noise."""
    monkeypatch.setattr(exams, "REFERENCE", 20)
    seen = shapes.sample_scenes(8, torch.Generator().manual_seed(0), "seen")
    album = dict(
        zip(exams.bilingual_captions(seen, 0), exams.render_all(seen), strict=True)
    )
    judges = Judges(
        FakeJudge(), lambda texts: torch.ones(len(texts), 1), PerfectOracle(seen)
    )
    return {"pipeline": FakePipeline(album), "judges": judges}


def test_shapes(models: dict[str, Any]) -> None:
    found = evaluate("shapes", ReportPlan(pictures=16, batch_size=5), **models)
    attributes = found["tables"][0]
    assert attributes["columns"] == ["seen", "held-out", "real renders"]
    seen, held_out, _ = attributes["rows"][ALL_RIGHT]
    assert (seen["value"], seen["n"]) == (100.0, 8)
    assert (held_out["value"], held_out["n"]) == (0.0, 8)
    assert attributes["rows"]["letter_1"][1] is None  # no sign is ever held out
    english, chinese = (
        attributes["rows"][f"{ALL_RIGHT}, {name} prompts"][0]
        for name in ("English", "Chinese")
    )
    assert (english["n"], chinese["n"]) == (4, 4)
    assert json.loads(json.dumps(found)) == found
    printed = report.format_report(found)
    assert "shapes: 16 pictures, seed 0" in printed
    assert report.headline(found)["all right, seen"] == 100.0
    assert "100.0 [67.6, 100.0] 8" in printed


def test_the_seed_decides_and_the_batch_size_does_not(models: dict[str, Any]) -> None:
    def tables_of(seed: int, batch_size: int) -> str:
        plan = ReportPlan(pictures=16, seed=seed, batch_size=batch_size)
        return json.dumps(evaluate("shapes", plan, **models)["tables"])

    tables = [tables_of(0, 16), tables_of(0, 3), tables_of(1, 16)]
    assert tables[0] == tables[1] != tables[2]


def test_half_of_the_prompts_are_chinese(models: dict[str, Any]) -> None:
    evaluate("shapes", ReportPlan(pictures=16), **models)
    chinese = [not text.isascii() for text in models["pipeline"].prompts]
    assert chinese == ([False] * 4 + [True] * 4) * 2  # seen, then held-out


def test_emoji(monkeypatch: pytest.MonkeyPatch) -> None:
    """English prompts get pictures with their own hidden number, Chinese ones with
    another's.
    """
    everyone = [emoji.Emoji(f"{i}", f"thing {i}", f"东西{i}") for i in range(150)]
    numbered = torch.arange(150) + 0.3
    real = torch.zeros(150, 3, 8, 8) + numbered[:, None, None, None] / 1000
    monkeypatch.setattr(emoji, "load", lambda: everyone)
    monkeypatch.setattr(
        emoji, "pairs", lambda size: SimpleNamespace(images=(real + 1) * 127.5)
    )
    album = {each.en: picture for each, picture in zip(everyone, real, strict=True)}
    album |= {
        each.zh: picture
        for each, picture in zip(everyone, real.roll(40, dims=0), strict=True)
    }

    def tokenize(texts: list[str]) -> Tensor:
        return torch.tensor(
            [
                [float(text.removeprefix("thing").removeprefix("东西")) + 0.3]
                for text in texts
            ]
        )

    judges = Judges(FakeJudge(), tokenize)
    plan = ReportPlan(pictures=16)
    found = evaluate("emoji", plan, pipeline=FakePipeline(album), judges=judges)
    retrieval, closeness = found["tables"]
    english, chinese, both = retrieval["rows"]["right caption first of 100, %"]
    assert (english["value"], chinese["value"], both["value"], both["n"]) == (
        100,
        0,
        50,
        16,
    )
    ceiling = retrieval["rows"]["  on the real pictures (ceiling)"]
    assert [cell["value"] for cell in ceiling] == [100, 100, 100]
    assert retrieval["rows"]["median rank of the right caption"][0]["value"] == 1
    assert closeness["rows"]["CLIP score"][1]["value"] == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize(
    ("domain", "pictures", "batch_size", "says"),
    [
        ("photos", 16, 16, "choose one of: shapes, emoji"),
        ("shapes", 4, 16, "a multiple of 4"),
        ("emoji", 18, 16, "a multiple of 4"),
        ("shapes", 16, 0, "batch size of 0"),
    ],
)
def test_refuses_numbers(
    domain: str, pictures: int, batch_size: int, says: str
) -> None:
    with pytest.raises(Dalle2EduError, match=says):
        evaluate(domain, ReportPlan(pictures=pictures, batch_size=batch_size))
