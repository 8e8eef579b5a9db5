"""What is typed after `make` reaches the programs letter by letter, and no shell reads
it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NASTY = """it's "a" $(shell touch hurt) `touch hurt` ; touch hurt # $HOME 火箭"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The Makefile with programs that print what they are given."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("dalle2-edu", "python"):
        said = "import json, sys; print(json.dumps(sys.argv[1:]))"
        (programs / name).write_text(f"#!{sys.executable}\n{said}\n")
        (programs / name).chmod(0o755)
    for stamp in (".made", ".installed-base", ".installed-book"):
        (tmp_path / ".venv" / stamp).touch()
        time.sleep(0.01)  # later than what it is made from
    return tmp_path


@pytest.mark.parametrize(
    ("target", "given", "expected"),
    [
        (
            "draw",
            {"PROMPT": NASTY, "OUT": NASTY, "SEED": NASTY, "DOMAIN": NASTY},
            ["draw", "--seed", NASTY, "--out", NASTY, "--domain", NASTY, "--", NASTY],
        ),
        ("draw", {"PROMPT": "x"}, ["draw", "--seed", "0", "--out", "out", "--", "x"]),
        (
            "notebooks",
            {"CHAPTER": NASTY, "LANGUAGE": NASTY, "TIER": NASTY},
            ["book/tools/run.py"]
            + ["--tier", NASTY, "--chapter", NASTY, "--language", NASTY],
        ),
        (
            "sync",
            {"FROM": NASTY, "CONFIRM": NASTY},
            [
                "book/tools/sync.py",
                "--chapter",
                "",
                "--confirm",
                NASTY,
                "--from",
                NASTY,
            ],
        ),
        ("zoo", {"TIER": NASTY}, ["zoo", "train", "--tier", NASTY]),
        ("book", {"PORT": NASTY}, ["book/tools/serve.py", NASTY]),
    ],
)
def test_what_is_typed_arrives_as_it_is(
    folder: Path, target: str, given: dict[str, str], expected: list[str]
) -> None:
    typed = [f"{name}={value}" for name, value in given.items()]
    ended = subprocess.run(
        ["make", "-s", "-C", str(folder), "--no-print-directory", target, *typed],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == expected
    assert not (folder / "hurt").exists()
