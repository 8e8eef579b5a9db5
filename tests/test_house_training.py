"""Who may import whom, around training: only `recipes/` knows both the models and the
loop.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dalle2_edu

HOME = Path(dalle2_edu.__file__).parent
MODELS = {
    "diffusion",
    "baselines",
    "text2image",
    "unclip",
    "beyond",
    "evaluation",
    "interop",
}
# a folder -> the folders that it must not import
NEVER = {
    "training": {*MODELS, "recipes", "zoo", "cli", "teaching"},
    "zoo": {*MODELS, "recipes", "training", "cli", "teaching"},
    "recipes": {"cli", "teaching", "interop"},
    **{folder: {"training", "recipes", "cli"} for folder in MODELS},
}


def imported(folder: str) -> set[str]:
    """The folders of the package that a folder's files import, function-level imports
    too.
    """
    found = set()
    for file in (HOME / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "dalle2_edu"
            ):
                inside = node.module.split(".")[1:]
                found |= {inside[0]} if inside else {name.name for name in node.names}
    return found


@pytest.mark.parametrize(
    "folder", sorted(name for name in NEVER if (HOME / name).is_dir())
)
def test_only_recipes_know_models_and_loop(folder: str) -> None:
    assert not imported(folder) & NEVER[folder]


def test_recipes_do_know_both() -> None:
    assert {"training", "unclip", "zoo"} < imported("recipes")
