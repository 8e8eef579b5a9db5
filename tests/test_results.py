"""What the front pages say: the same numbers in both languages, and those of the
benchmark.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# 82.0 [73.3, 88.3] 100
MEASURE = re.compile(r"-?\d+\.\d+ \[-?\d+\.\d+, -?\d+\.\d+\] \d+")
SPEED = re.compile(r"\b\d\.\d\d(?= x| 倍)")
SCREEN = 80  # lines


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf8")


def test_both_languages_give_the_same_numbers() -> None:
    english = MEASURE.findall(text_of("RESULTS.md"))
    assert len(english) > 100
    assert english == MEASURE.findall(text_of("RESULTS.zh.md"))


@pytest.mark.parametrize("name", ["RESULTS.md", "RESULTS.zh.md"])
def test_speeds_are_those_that_the_benchmark_wrote(name: str) -> None:
    speeds = SPEED.findall(text_of(name))
    measured = set(re.findall(r"\b\d\.\d\d(?= ?x)", text_of("benchmarks/RESULTS.md")))
    assert len(speeds) >= 4
    assert set(speeds) <= measured


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_a_readme_fits_on_a_screen_and_its_links_lead_somewhere(name: str) -> None:
    text = text_of(name)
    assert len(text.splitlines()) <= SCREEN
    assert not MEASURE.search(text), "numbers belong in RESULTS.md"
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_command_of_the_front_pages_exists() -> None:
    targets = set(re.findall(r"^(\w[\w-]*):", text_of("Makefile"), re.MULTILINE))
    pages = ["README.md", "README.zh.md", "CONTRIBUTING.md", "Makefile"]
    named = {
        name for page in pages for name in re.findall(r"`make ([a-z-]+)", text_of(page))
    }
    named |= {
        name
        for page in pages
        for name in re.findall(r"^ {4}make ([a-z-]+)", text_of(page), re.M)
    }
    assert {"book", "draw", "test"} <= named <= targets


def test_the_version_is_the_same_everywhere() -> None:
    version = re.search(r'^version = "(.+)"', text_of("pyproject.toml"), re.MULTILINE)
    assert version
    assert yaml.safe_load(text_of("CITATION.cff"))["version"] == version[1]
    assert f"\n## {version[1]}" in text_of("CHANGELOG.md")
