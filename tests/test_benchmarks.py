"""The benchmark compares like with like: both sides get the same weights and give the
same answers.
"""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    torch.manual_seed(0)
    yield
    # A benchmark's file may be called what another folder's is called.
    for name in [
        name for name, module in sys.modules.items() if _lies_in(module, BENCHMARKS)
    ]:
        del sys.modules[name]


def _lies_in(module: object, folder: Path) -> bool:
    return Path(getattr(module, "__file__", None) or "/").parent == folder


@pytest.mark.parametrize("part", ["decoder", "prior"])
def test_a_training_step_is_compared_with_equal_networks(part):
    import networks
    import rivals

    ours, theirs = rivals.matched(networks.TINY, part)
    apart = rivals.difference(ours, theirs, networks.inputs_of(networks.TINY, part))
    assert apart < 1e-4
    assert sum(p.abs().sum() for p in theirs.parameters()) > 0


def test_a_drawing_is_compared_with_an_equal_drawing(tmp_path):
    """Equal once diffusers' noise schedule has double precision, as ours: the noise and
    all steps are the same.
    """
    import drawings
    import networks
    import rivals

    rivals.save_karlo(networks.TINY_DRAWING, tmp_path)
    theirs = rivals.TheirKarlo(tmp_path)
    theirs.sharpen()
    ours, other = drawings.our_work(tmp_path)(), drawings.their_work(theirs)()
    assert ours.shape == (1, 3, 16, 16) and ours.std() > 0.01
    assert drawings.difference(ours, other) < 1e-3


def test_the_usual_data_pipeline_reads_the_same_pictures():
    import loading

    loading.check(20)


SAMPLE = '''"""A module."""

import os


def add(a, b):
    """The sum."""
    # why
    x, y = a, b  # both
    return x + y
'''


def test_the_style_report_counts_what_it_says(tmp_path: Path) -> None:
    import style_report

    (tmp_path / "sample.py").write_text(SAMPLE)
    count = style_report.count_folder(tmp_path)
    assert (count.code, count.lines, count.comments, count.docstrings) == (4, 7, 2, 2)
    assert (count.statements, count.operations, count.pairs) == (2, 1, 1)
    assert (count.bodies, count.parameters, count.wide) == ([2], [2], 0)
