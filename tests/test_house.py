"""The house: which part of the package may import which, and that no circle closes.

Imports are read from the source, those inside functions and under TYPE_CHECKING
included.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "dalle2_edu"

GROUND = {"errors", "config", "files", "data", "drawing", "zoo"}
# in the book's order
MODELS = ["diffusion", "baselines", "text2image", "unclip", "beyond"]
# What each part may import, beside itself. A model knows the models before it, never
# what measures, converts or trains it.
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "files": {"errors"},
    "data": {"errors", "config", "files"},
    "drawing": {"errors", "config", "files", "data"},
    "zoo": {"errors", "config", "files"},
    **{part: GROUND | set(MODELS[:place]) for place, part in enumerate(MODELS)},
    "evaluation": GROUND | set(MODELS),
    "interop": GROUND | set(MODELS),
    "training": GROUND,
    "recipes": GROUND | set(MODELS) | {"training", "evaluation"},
    "teaching": GROUND | set(MODELS) | {"evaluation", "interop", "training", "recipes"},
    "cli": GROUND | set(MODELS) | {"evaluation", "interop", "training", "recipes"},
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    )


MODULES = {name_of(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def part_of(module: str) -> str:
    """dalle2_edu.unclip.prior -> unclip; the package itself has no part."""
    return module.split(".")[1] if "." in module else ""


def imports_of(module: str) -> Iterator[str]:
    """Every module of the package that this one imports, wherever in the file."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively: write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from a import b` imports the module a.b if there is one, otherwise a
            yield from (name if name in MODULES else str(node.module) for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


GRAPH = {
    module: {name for name in imports_of(module) if name in MODULES and name != module}
    for module in MODULES
}


def forbidden() -> dict[str, set[str]]:
    """Module -> what it imports from parts that it may not know."""
    found = {}
    for module, imported in GRAPH.items():
        part = part_of(module)
        if part == "":  # dalle2_edu/__init__.py lends its three names lazily
            continue
        bad = {
            other
            for other in imported
            if part_of(other) not in ALLOWED[part] | {part} and other != PACKAGE
        }
        if bad:
            found[module] = bad
    return found


def test_every_part_has_its_place() -> None:
    assert {part_of(module) for module in MODULES} - {""} <= set(ALLOWED)


def test_a_part_imports_only_what_comes_before_it() -> None:
    assert forbidden() == {}


def test_no_circle() -> None:
    """Take away modules that import none of the rest, again and again: a circle would
    stay.
    """
    left = {
        module: set(imported) for module, imported in GRAPH.items() if module != PACKAGE
    }
    while ready := {
        module for module, imported in left.items() if not imported & left.keys()
    }:
        left = {
            module: imported for module, imported in left.items() if module not in ready
        }
    assert left == {}


HEAVY = ["matplotlib", "open_clip", "torchvision", "huggingface_hub", "transformers"]


def test_the_pipeline_does_not_load_what_it_does_not_need() -> None:
    code = f"import sys\nfrom dalle2_edu import UnCLIP\nprint(*set({HEAVY!r}) & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert answer.stdout.split() == []


def test_the_command_line_sets_how_threads_wait_before_torch_is_loaded() -> None:
    code = (
        "import os, sys, dalle2_edu.cli as cli\n"
        "assert 'torch' not in sys.modules\n"
        "sys.argv = ['dalle2-edu', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ['OMP_WAIT_POLICY'], file=sys.stderr)"
    )
    for given, expected in ({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"):
        answer = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"PATH": "", "PYTHONPATH": str(ROOT), **given},
        )
        assert answer.stderr.split() == [expected]
