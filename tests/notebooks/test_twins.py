"""The English and the Chinese book say the same; and each check of that finds what it
is there to find.
"""

from __future__ import annotations

from pathlib import Path

import prose
import pytest
import twins
from small_notebooks import Folder, code, text

from dalle2_edu.errors import Dalle2EduError

# --- the book itself ------------------------------------------------------------------


def test_every_notebook_has_a_twin_that_says_the_same() -> None:
    assert [str(problem) for problem in twins.problems()] == []


def test_every_paragraph_is_in_the_language_of_its_page() -> None:
    assert [str(problem) for problem in prose.language_problems()] == []


def test_every_term_is_the_glossarys() -> None:
    assert [str(problem) for problem in prose.glossary_problems()] == []


def test_every_page_has_a_twin() -> None:
    pages = {
        language: {path.name for path in (twins.ROOT / "book" / language).glob("*.*")}
        for language in twins.LANGUAGES
    }
    assert pages["en"] == pages["zh"]


# --- what is found between twins ------------------------------------------------------


def test_good_twins_have_no_problem(folder: Folder) -> None:
    assert folder.problems() == []


def test_a_missing_twin(folder: Folder) -> None:
    folder.path("en").unlink()
    assert folder.problems() == [
        "01_noise: has no English twin; `make sync` makes one to translate"
    ]


def test_different_code(folder: Folder) -> None:
    folder.edit("zh", "add", source="print(1 + 1)  # 二")
    assert folder.problems() == [
        "01_noise:add: the code differs between the languages; run `make sync`"
    ]


def test_different_tags(folder: Folder) -> None:
    folder.edit("en", "add", metadata={"tags": ["hide-input"]})
    assert folder.problems() == [
        "01_noise:add: tags or slide type differ between the languages; run `make sync`"
    ]


def test_what_jupyterlab_leaves_in_a_cell_is_no_difference(folder: Folder) -> None:
    folder.edit(
        "en",
        "add",
        metadata={"editable": True, "slideshow": {"slide_type": ""}, "tags": []},
    )
    assert folder.problems() == []


def test_a_cell_that_one_language_lacks(folder: Folder) -> None:
    folder.insert("zh", 0, code("extra", "x = 1"))
    assert folder.problems() == [
        "01_noise:extra: is in the Chinese notebook only; run `make sync`"
    ]


def test_another_order(folder: Folder) -> None:
    notebook = folder.read("en")
    notebook.cells.reverse()
    folder.write("en", notebook)
    assert folder.problems() == [
        "01_noise: the cells stand in different orders; run `make sync`"
    ]


def test_another_kind_of_cell(folder: Folder) -> None:
    folder.remove("zh", "add")
    folder.insert("zh", 3, text("add", "print(1 + 1)"))
    assert folder.problems() == [
        "01_noise:add: is a code cell in English and a markdown cell in Chinese; run `make"
        " sync`"
    ]


@pytest.mark.parametrize(
    ("language", "source", "what"),
    [
        (
            "en",
            "We add noise to pictures.",
            "the English changed, the Chinese may not say the same",
        ),
        (
            "zh",
            "我们给很多图片加噪声。",
            "the Chinese changed, the English may not say the same",
        ),
    ],
)
def test_a_stale_translation(
    folder: Folder, language: str, source: str, what: str
) -> None:
    folder.edit(language, "why", source=source)
    [problem] = folder.problems()
    assert problem.startswith(f"01_noise:why: is stale: {what}")


def test_both_texts_changed(folder: Folder) -> None:
    folder.edit("en", "why", source="We add noise to pictures.")
    folder.edit("zh", "why", source="我们给很多图片加噪声。")
    assert "both texts changed" in folder.problems()[0]


@pytest.mark.parametrize("mark", ["kept", "none"])
def test_a_missing_translation(folder: Folder, mark: str) -> None:
    cell = folder.cell("en", "why")
    marks = {
        "counterpart": twins.digest(cell.source)
        if mark == "kept"
        else twins.UNTRANSLATED
    }
    folder.edit("zh", "why", source=cell.source, metadata=marks)
    assert "01_noise:why: is not translated yet" in folder.problems()[0]


def test_a_formula_that_differs(folder: Folder) -> None:
    folder.edit("zh", "formula", source="$$x_t = 2 x_0$$")
    assert folder.problems()[0].startswith(
        "01_noise:formula: the texts differ but nobody has confirmed"
    )


def test_a_file_that_is_no_notebook_is_named(folder: Folder) -> None:
    folder.path("en").write_text("{")
    with pytest.raises(Dalle2EduError, match=r"01_noise\.ipynb is not a notebook"):
        folder.problems()


# --- the right language ---------------------------------------------------------------

ENGLISH_LEFT_BEHIND = [
    "The reverse process starts from pure noise and removes a little of it in every step.",
    "## Why noise helps",
    "- Draw a timestep and add the noise of that step to the picture.",
    "> Remember that the variance of a sum is the sum of the variances.",
    (
        "<details><summary>提示</summary>\n\nLook at the formula and think about the square"
        " root.\n\n</details>"
    ),
    "| 量 | 含义 |\n|---|---|\n| $x_t$ | the picture at the step that you have chosen |",
    (
        "前向过程很简单。The network then has to guess which noise was added to the picture."
        " 这就是训练。"
    ),
    ":::{note}\nThe network has to guess which noise was added to it.\n:::",
    "Try three different seeds.",
]

GOOD_CHINESE = [
    (
        "前向过程（forward process）一步一步加噪声，见 [DDPM](https://arxiv.org/abs/2006.11239)"
        " 的第 2 节。"
    ),
    (
        "Ho 等人的 [Denoising Diffusion Probabilistic"
        " Models](https://arxiv.org/abs/2006.11239)，NeurIPS 2020。"
    ),
    "*Learning Transferable Visual Models From Natural Language Supervision* 提出了 CLIP。",
    "提示词“a red circle to the left of a blue square”画出两个物体。",
    (
        "```python\nfor step in the_list_of_steps: this is not prose, it is code for you to"
        " read\n```"
    ),
    "$$\\text{the loss is the mean of the squares of the noise that we have to find}$$",
    "| 系统 | 年份 |\n|---|---|\n| Imagen | 2022 |\n| Stable Diffusion | 2022 |",
    "## DPM-Solver++ (2M)",
    "DDPM、DDIM、GLIDE、CogView2、DALL·E 3",
    '运行 `dalle2-edu draw "a cat on the roof of a house"` 就会画出一张图。',
    "```{code-block} text\nthis is what the program prints when it is done with the work\n```",
    "- Song et al. 2021",
]

CHINESE_LEFT_BEHIND = [
    "反向过程从纯噪声开始，每一步去掉一点噪声。",
    "## 为什么要加噪声",
    "We add noise. 然后网络必须猜出加的是哪些噪声。",
    "| step | meaning |\n|---|---|\n| 1 | 网络必须猜出加进去的是哪些噪声，这就是训练。 |",
    "```{note}\n网络必须猜出加的是哪些噪声。\n```",
]

GOOD_ENGLISH = [
    "A diffusion model (扩散模型) learns to remove noise.",
    "The prompt “一只红色的猫坐在蓝色的屋顶上” works as well as the English one.",
    "The tokenizer cuts `扩散模型从噪声开始画图。` into nine tokens.",
    "The Chinese word for it is 去噪; both words are used in the captions.",
    (
        "| English | Chinese |\n|---|---|\n| rocket | 火箭 |\n| face with tears of joy |"
        " 笑哭了的脸 |"
    ),
]


@pytest.mark.parametrize("markdown", ENGLISH_LEFT_BEHIND)
def test_english_in_a_chinese_text_is_found(markdown: str) -> None:
    assert prose.foreign_units(markdown, "zh")


@pytest.mark.parametrize("markdown", GOOD_CHINESE)
def test_good_chinese_passes(markdown: str) -> None:
    assert prose.foreign_units(markdown, "zh") == []


@pytest.mark.parametrize("markdown", CHINESE_LEFT_BEHIND)
def test_chinese_in_an_english_text_is_found(markdown: str) -> None:
    assert prose.foreign_units(markdown, "en")


@pytest.mark.parametrize("markdown", GOOD_ENGLISH)
def test_good_english_passes(markdown: str) -> None:
    assert prose.foreign_units(markdown, "en") == []


def test_a_paragraph_in_the_wrong_language_is_named_with_its_cell(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path)
    folder.edit(
        "zh", "why", source="We add the noise to a picture, and then we look at it."
    )
    assert [problem.where for problem in prose.language_problems(tmp_path)] == [
        "notebooks/zh/01_noise:why"
    ]


# --- the glossary ---------------------------------------------------------------------

EN_GLOSSARY = """# Glossary

:::{glossary}
diffusion model (扩散模型)
  A model that learns to remove noise.

byte-pair encoding (BPE) (字节对编码)
  A way to cut text into tokens.

CLIP
  A model of pictures and texts.
:::
"""

ZH_GLOSSARY = """# 术语表

:::{glossary}
扩散模型（diffusion model）
  学着去掉噪声的模型。
  又译：弥散模型、扩散式模型

字节对编码（byte-pair encoding，BPE）
  把文字切成词元的办法。

CLIP
  图与文的模型。
:::
"""


def write_book(
    root: Path, en: str = EN_GLOSSARY, zh: str = ZH_GLOSSARY, page: str = ""
) -> list[str]:
    """The problems of a book with these glossaries and one Chinese page."""
    for name, content in (
        ("en/glossary.md", en),
        ("zh/glossary.md", zh),
        ("zh/index.md", page),
    ):
        (root / "book" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "book" / name).write_text(content, encoding="utf-8")
    return [str(problem) for problem in prose.glossary_problems(root)]


def test_good_glossaries(tmp_path: Path) -> None:
    assert write_book(tmp_path, page="扩散模型（diffusion models）很有用。") == []


def test_a_term_that_one_glossary_lacks(tmp_path: Path) -> None:
    lacking = ZH_GLOSSARY.replace(
        "字节对编码（byte-pair encoding，BPE）", "词元（token）"
    )
    assert write_book(tmp_path, zh=lacking) == [
        (
            "book/en/glossary.md: byte-pair encoding = 字节对编码 is in this language's"
            " glossary only"
        ),
        "book/zh/glossary.md: token = 词元 is in this language's glossary only",
    ]


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ("弥散模型很有用。", "says 弥散模型; the glossary's word is 扩散模型"),
        (
            "| 名称 |\n|---|\n| 扩散式模型 |",
            "says 扩散式模型; the glossary's word is 扩散模型",
        ),
        (
            "漫射模型（diffusion model）很有用。",
            "says 漫射模型（diffusion model）; the glossary's word is 扩散模型",
        ),
    ],
)
def test_another_rendering_is_found(tmp_path: Path, page: str, what: str) -> None:
    assert write_book(tmp_path, page=page) == [f"book/zh/index.md: {what}"]


def test_another_rendering_is_found_in_a_figures_words(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.edit("zh", "add", source='title = words("diffusion model", "弥散模型")')
    assert write_book(tmp_path) == [
        "notebooks/zh/01_noise:add: says 弥散模型; the glossary's word is 扩散模型"
    ]


def test_an_avoided_rendering_inside_one_of_our_words_is_none() -> None:
    terms = prose.Glossary(
        frozenset({("noise schedule", "噪声调度表"), ("table", "表格")}),
        {"调度表": "表格"},
    )
    assert list(prose.rendering_problems("噪声调度表", terms)) == []
    assert list(prose.rendering_problems("调度表", terms)) == [
        "says 调度表; the glossary's word is 表格"
    ]
