"""A chapter's first line, and its lines for readers whose machine is not as it should
be.
"""

import json
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching import plots
from dalle2_edu.teaching.chapter import PACKAGE, chapter


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(PACKAGE.parent)
    monkeypatch.delenv("DALLE2_EDU_LANG", raising=False)
    # `chapter` sets the plot style: not for the tests after this one
    with mpl.rc_context():
        yield


def test_says_where_it_runs_in_one_line(capsys):
    here = chapter("07")
    assert capsys.readouterr().out == "Chapter 07 · tier smoke · cpu\n"
    assert (here.tier, here.language, here.device) == (
        "smoke",
        "en",
        torch.device("cpu"),
    )


def test_says_it_in_chinese(capsys, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_LANG", "zh")
    assert chapter("07").language == "zh"
    assert capsys.readouterr().out == "第 07 章 · 档位 smoke · cpu\n"


def test_picks_the_tiers_value(monkeypatch):
    assert chapter("07").pick(smoke=2, cpu=300, gpu=3000) == 2
    monkeypatch.delenv("DALLE2_EDU_TIER")  # cpu is the default
    assert chapter("07").pick(smoke=2, cpu=300, gpu=3000) == 300


def test_seeds_torch():
    chapter("07")
    first = torch.rand(1)
    chapter("07")
    assert torch.rand(1) == first


@pytest.mark.parametrize(
    ("lang", "line"), [("en", "unknown tier 'huge'"), ("zh", "档位“huge”不存在")]
)
def test_an_unknown_tier(lang, line, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_TIER", "huge")
    monkeypatch.setenv("DALLE2_EDU_LANG", lang)
    with pytest.raises(Dalle2EduError, match=line) as error:
        chapter("07")
    assert "\n" not in str(error.value) and "cpu" in str(error.value)


@pytest.mark.parametrize(
    ("lang", "line"),
    [("en", "set DALLE2_EDU_TIER=cpu"), ("zh", "请设 DALLE2_EDU_TIER=cpu")],
)
def test_the_gpu_tier_without_a_gpu(lang, line, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_TIER", "gpu")
    monkeypatch.setenv("DALLE2_EDU_LANG", lang)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Dalle2EduError, match=line):
        chapter("07")


def test_a_notebook_outside_the_repository_still_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    chapter("07")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "links to source files won't open" in said[1]


def test_a_missing_font_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "FONT", tmp_path / "gone.otf")
    monkeypatch.setattr(plots, "FAMILY", "a family that nobody has registered")
    chapter("07")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "gone.otf is missing" in said[0] and "install" in said[0]


# --- Claims ---------------------------------------------------------------------------


def at_tier(tier, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_TIER", tier)
    return chapter("07")


@pytest.mark.parametrize("yes", [True, np.bool_(True), torch.tensor(True)])
def test_a_claim_that_holds_says_nothing(yes, monkeypatch, capsys):
    here = at_tier("cpu", monkeypatch)
    capsys.readouterr()
    here.claim("walk-read", yes, 1 < 2)
    assert here.claims == [("walk-read", True)]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("no", [False, np.bool_(False), torch.tensor(False)])
@pytest.mark.parametrize(
    ("lang", "said"), [("en", "condition 2 of 2 is false"), ("zh", "第 2 个不成立")]
)
def test_a_claim_that_fails_names_its_sentence(no, lang, said, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_LANG", lang)
    here = at_tier("cpu", monkeypatch)
    [path] = (PACKAGE.parent / "notebooks" / lang).glob("07_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    [text] = [cell["source"] for cell in cells if cell["id"] == "walk-read"]
    with pytest.raises(Dalle2EduError, match=said) as error:
        here.claim("walk-read", True, no)
    assert "walk-read" in str(error.value) and "\n" not in str(error.value)
    assert "".join(text)[:20] in str(error.value)
    assert here.claims == [("walk-read", False)]


def test_at_the_smoke_tier_a_claim_is_counted_only(monkeypatch):
    here = at_tier("smoke", monkeypatch)
    here.claim("walk-read", False)
    here.claim("walk-read", True)
    assert here.claims == [("walk-read", False), ("walk-read", True)]


@pytest.mark.parametrize(
    "what",
    [
        1,
        0.5,
        None,
        "yes",
        torch.tensor(0.5),
        torch.tensor([True]),
        np.array([True, False]),
    ],
)
def test_a_claim_takes_truth_values_only(what, monkeypatch):
    here = at_tier("smoke", monkeypatch)
    with pytest.raises(Dalle2EduError, match="truth value") as error:
        here.claim("walk-read", True, what)
    assert "\n" not in str(error.value) and here.claims == []
    with pytest.raises(Dalle2EduError, match="no condition"):
        here.claim("walk-read")


def test_a_claim_outside_the_repository_names_the_cell(tmp_path, monkeypatch):
    # by sys.modules: the package's name `chapter` is the function
    module = sys.modules["dalle2_edu.teaching.chapter"]
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "dalle2_edu")
    here = at_tier("cpu", monkeypatch)
    with pytest.raises(Dalle2EduError, match="walk-read"):
        here.claim("walk-read", False)
