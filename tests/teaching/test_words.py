"""The reader's language."""

import pytest

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching.words import Words, language, words


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("DALLE2_EDU_LANG", raising=False)


def test_the_variable_decides(monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_LANG", "zh")
    assert words("step", "步") == "步"
    assert str(Words("step", "步")) == "步"


@pytest.mark.parametrize(
    ("folder", "expected"), [("zh", "zh"), ("en", "en"), ("elsewhere", "en")]
)
def test_otherwise_the_notebooks_folder(folder, expected, tmp_path, monkeypatch):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    assert language() == expected


def test_an_unknown_language_is_told_in_one_line(monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_LANG", "fr")
    with pytest.raises(
        Dalle2EduError, match=r"^DALLE2_EDU_LANG is 'fr': set it to en or zh.*$"
    ):
        language()
