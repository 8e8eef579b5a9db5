"""Every exercise of the book: its reference passes, each mistake gets its own words, an
empty answer is told so.
"""

import pkgutil
import re
from importlib import import_module

import pytest

import dalle2_edu.teaching.exercises as package
from dalle2_edu.teaching.checks import Exercise, verdict


def all_exercises():
    for module in pkgutil.iter_modules(package.__path__):
        for name, value in vars(
            import_module(f"{package.__name__}.{module.name}")
        ).items():
            if isinstance(value, Exercise):
                yield pytest.param(value, id=f"{module.name}.{name}")


@pytest.fixture(params=["en", "zh"])
def lang(request, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_LANG", request.param)
    return request.param


@pytest.mark.parametrize("exercise", all_exercises())
def test_exercise(exercise, lang):
    assert verdict(exercise, exercise.reference).startswith(("✓ Right (", "✓ 正确（"))
    assert verdict(exercise, lambda *_: ...).startswith(("○ Your turn", "○ 轮到你了"))
    for mistake in exercise.mistakes:
        said = verdict(exercise, mistake.wrong)
        assert said.startswith("✗ " + getattr(mistake.says, lang)), said


@pytest.mark.parametrize("exercise", all_exercises())
def test_words_are_in_both_languages(exercise):
    texts = [mistake.says for mistake in exercise.mistakes] + (
        [exercise.hint] if exercise.hint else []
    )
    assert texts, "an exercise needs a hint or a known mistake"
    for text in texts:
        assert chinese(text.en) < 4, "an English text may quote a character or two"
        assert chinese(text.zh) or len(re.findall("[a-z]{3,}", text.en)) < 4, (
            "a formula alone needs no Chinese"
        )


def chinese(text: str) -> int:
    return sum("\u4e00" <= char <= "\u9fff" for char in text)
