"""The package's source in the page."""

import re
from pathlib import Path

import pytest

from dalle2_edu.data import shapes, text
from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching import sources
from dalle2_edu.teaching.chapter import PACKAGE
from dalle2_edu.teaching.sources import (
    as_html,
    constant,
    passage,
    show,
    without_docstrings,
)


@pytest.mark.parametrize(
    "thing",
    [
        GaussianDiffusion,
        GaussianDiffusion.q_sample,
        shapes.circle,
        text.default_tokenizer,
        shapes,
    ],
)
def test_the_link_leads_to_the_definition(thing):
    found = passage(thing)
    line = (
        (PACKAGE.parent / found.path)
        .read_text(encoding="utf-8")
        .splitlines()[found.line - 1]
    )
    assert line.strip() and line in found.text.splitlines()[0]


def test_a_terminal_gets_plain_text(capsys):
    show(GaussianDiffusion.q_sample)
    out = capsys.readouterr().out
    assert (
        out.startswith("dalle2_edu/diffusion/process.py:")
        and "def q_sample(self" in out
        and '"""' in out
    )


def test_docstrings_can_be_left_out(capsys):
    show(GaussianDiffusion.q_sample, docstring=False)
    out = capsys.readouterr().out
    assert '"""' not in out and "def q_sample(self" in out and "return" in out


def test_without_docstrings_the_code_means_the_same():
    for path in sorted(PACKAGE.rglob("*.py")):
        code = path.read_text(encoding="utf-8")
        bare = without_docstrings(code)
        compile(bare, str(path), "exec")
        assert len(re.findall(r"^\s*(?:def|class) ", bare, re.M)) == len(
            re.findall(r"^\s*(?:def|class) ", code, re.M)
        )


def test_a_constant_with_the_comment_above_it():
    found = constant(text, "CHINESE_WORDS")
    assert found.text.startswith(
        "# Chinese words that stay whole"
    ) and found.text.endswith(")\n")
    elsewhere = constant(shapes, "SHAPES")  # which has it from `scenes`
    assert elsewhere.text.startswith("SHAPES = (") and elsewhere.path.endswith(
        "scenes.py"
    )


def test_html_has_the_link_and_every_line_of_the_source(monkeypatch):
    monkeypatch.delenv("DALLE2_EDU_LANG", raising=False)
    found = passage(shapes.circle)
    page = as_html(found)
    assert (
        f'<a class="source-link" href="../../dalle2_edu/data/render.py#L{found.line}">'
        in page
    )
    assert "torch.hypot" in re.sub(r"<[^>]+>", "", page)
    assert "http" not in page


def test_angle_brackets_are_text():
    for plain in (sources.highlighted("a < b # <script>"),):
        assert "<script>" not in plain and "&lt;" in plain


@pytest.mark.parametrize("thing", [Path.cwd, 3, print])
def test_what_is_not_ours_is_refused(thing):
    with pytest.raises(Dalle2EduError, match="can't show"):
        show(thing)
    with pytest.raises(Dalle2EduError, match="no constant"):
        show(shapes, "NOWHERE")
