"""What `check` says of right, wrong, broken and missing answers."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching.checks import EXERCISES, Exercise, Mistake, check, verdict
from dalle2_edu.teaching.words import Words


def half(x):
    return x / 2


HALF = Exercise(
    reference=half,
    cases=lambda: [(torch.tensor([1.0, 2.0, 4.0]),), (torch.tensor([[8.0, -6.0]]),)],
    mistakes=[
        Mistake(lambda x: x**2, Words(en="You squared it.", zh="你把它平方了。"))
    ],
    hint=Words(en="divide by 2.", zh="除以 2。"),
)


@pytest.fixture(autouse=True, params=["en", "zh"])
def lang(request, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_LANG", request.param)
    return request.param


def said(answer, exercise=HALF):
    return verdict(exercise, answer)


def test_right(lang):
    assert (
        said(half)
        == {"en": "✓ Right (2 of 2 cases).", "zh": "✓ 正确（2 组数据全部通过）。"}[lang]
    )


def test_a_rounding_error_is_right():
    assert said(lambda x: x * 0.5000001).startswith("✓")


def test_double_precision_is_right():
    assert said(lambda x: x.double() / 2).startswith("✓")


@pytest.mark.parametrize("stub", [lambda x: None, lambda x: ..., lambda x: ... * x])
def test_not_answered_yet(stub, lang):
    assert said(stub).startswith({"en": "○ Your turn", "zh": "○ 轮到你了"}[lang])


def test_a_known_mistake_gets_its_diagnosis(lang):
    line = {
        "en": "✗ You squared it.\n  for the arguments [1.0, 2.0, 4.0]",
        "zh": "✗ 你把它平方了。\n  所用参数：[1.0, 2.0, 4.0]",
    }
    assert said(lambda x: x * x) == line[lang]


def test_an_exception_is_told(lang):
    def broken(x):
        return x / torch.zeros(2)[7]

    assert said(broken).startswith(
        {
            "en": "✗ Your function stopped with IndexError: ",
            "zh": "✗ 你的函数抛出异常 IndexError：",
        }[lang]
    )


@pytest.mark.parametrize(
    ("answer", "en", "zh"),
    [
        (
            lambda x: x.unsqueeze(0) / 2,
            "The shape is (1, 3), not (3,).",
            "形状是 (1, 3)，应为 (3,)。",
        ),
        (
            lambda x: (x / 2).long(),
            "whole numbers (torch.int64)",
            "整数（torch.int64）",
        ),
        (lambda x: -x / 2, "The sign is the wrong way round.", "正负号反了。"),
        (lambda x: x, "All values are 2 times too large.", "所有值都是正确值的 2 倍。"),
        (lambda x: x / 2 + 3, "All values are off by +3.", "所有值都差了 +3。"),
        (
            lambda x: x / 2 + torch.tensor([0.0, 1.0, 0.0])[: x.shape[-1]],
            "2 came back at [1], 1 is right.",
            "得到 2（位置 [1]），应为 1。",
        ),
        (lambda x: x / 0, "There is nan or inf in it", "结果里有 nan 或 inf"),
        (
            lambda x: "half",
            "This is a str; a number or tensor is wanted.",
            "返回的是 str ，应为数或张量。",
        ),
        (
            lambda x: x.sum() if x.ndim == 1 else None,
            "The shape is (), not (3,).",
            "形状是 ()，应为 (3,)。",
        ),
    ],
)
def test_what_differs_is_told_with_the_hint(answer, en, zh, lang):
    text = said(answer)
    assert {"en": en, "zh": zh}[lang] in text and text.startswith("✗")
    assert {"en": "Hint: divide by 2.", "zh": "提示：除以 2。"}[lang] in text


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("an error that can't tell its own message")


class Touchy:
    def __eq__(self, other):
        raise ValueError("don't compare me")


def raises(error):
    def answer(x):
        raise error

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: np.array([object(), None, 1], dtype=object),
        lambda x: np.array(["a", "b", "c"]),
        lambda x: np.array(["2026-01-01"] * 3, dtype="datetime64[D]"),
        lambda x: 10**400,
        lambda x: torch.empty(3, device="meta"),
        lambda x: torch.eye(3).to_sparse(),
        lambda x: torch.view_as_complex(torch.ones(3, 2)),
        lambda x: Touchy(),
        raises(UnspeakableError()),
        raises(SystemExit(1)),
        raises(KeyboardInterrupt()),
    ],
)
def test_whatever_comes_back_it_does_not_raise(answer):
    assert said(answer).startswith("✗")


def test_strange_objects_where_a_text_is_wanted():
    text = Exercise(reference=lambda: "a", cases=lambda: [()])
    for strange in (Touchy(), np.array([object()], dtype=object), 10**400, ["a"]):
        assert said(strange, text).startswith("✗")


def test_an_answer_that_stops_when_it_is_called_again():
    calls = []

    def once(x):
        calls.append(x)
        if len(calls) > 2:
            raise SystemExit
        return x / 2

    assert said(once).startswith("✓")


def test_small_numbers_have_to_be_right_too():
    """Values of 1e-4 must not hide under an absolute tolerance."""
    small = Exercise(reference=lambda: torch.tensor([2e-4, 5e-4]), cases=lambda: [()])
    assert said(torch.tensor([2e-4, 5e-4 * (1 + 1e-5)]), small).startswith("✓")
    assert said(torch.tensor([2e-4, 4.9e-4]), small).startswith("✗")
    nothing = Exercise(reference=lambda: torch.zeros(2), cases=lambda: [()])
    assert said(torch.full((2,), 1e-8), nothing).startswith("✓")
    assert said(torch.full((2,), 1e-5), nothing).startswith("✗")


def test_changing_the_arguments_in_place_is_told(lang):
    assert {"en": "changes its arguments in place", "zh": "就地修改了"}[lang] in said(
        lambda x: x.div_(2)
    )


def test_a_value_can_be_asked_for():
    number = Exercise(reference=lambda: 0.25, cases=lambda: [()])
    assert said(0.25, number).startswith("✓")
    assert said(torch.tensor(0.25), number).startswith("✓")
    assert said(0.26, number).startswith("✗")
    assert not said(..., number).startswith(("✓", "✗"))


def test_functions_that_draw_noise_are_compared_with_the_same_noise():
    noisy = Exercise(
        reference=lambda x: x + torch.randn(3), cases=lambda: [(torch.zeros(3),)]
    )
    state = torch.get_rng_state()
    assert said(lambda x: torch.randn(3) + x, noisy).startswith("✓")
    assert torch.equal(torch.get_rng_state(), state), (
        "the reader's random numbers must not depend on a check"
    )


def test_modules_and_generators_may_be_arguments():
    def draws(layer, x, generator):
        return layer(x) + torch.rand(2, generator=generator)

    arguments = (
        torch.nn.Linear(2, 2),
        torch.ones(1, 2),
        torch.Generator().manual_seed(1),
    )
    assert said(draws, Exercise(reference=draws, cases=lambda: [arguments])).startswith(
        "✓"
    )


def test_lists_dicts_and_texts():
    parts = Exercise(reference=lambda: {"a": [1, "x"], "b": (2.0,)}, cases=lambda: [()])
    assert said({"a": (1, "x"), "b": [2.0]}, parts).startswith("✓")
    assert "'y'" in said({"a": [1, "y"], "b": [2.0]}, parts)
    assert said({"a": [1], "b": [2.0]}, parts).startswith("✗")
    assert said({"a": [1, "x"]}, parts).startswith("✗")


def test_check_finds_an_exercise_by_name(monkeypatch, capsys):
    module = ModuleType(f"{EXERCISES}.trial")
    module.half = HALF
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert check("trial.half", half) is None
    assert capsys.readouterr().out.startswith("✓")
    with pytest.raises(Dalle2EduError, match="trial.half"):
        check("trial.third", half)
    with pytest.raises(Dalle2EduError, match="nowhere"):
        check("nowhere.half", half)
