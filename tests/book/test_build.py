"""The book's machinery, piece by piece, without a complete build: settings, contents,
search, links, slides, server.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import build
import pytest
import serve
import slides
import yaml
from dalle2_book import chapters, pages, search, sources
from docutils import nodes
from jupyter_book.config import get_final_config
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from dalle2_edu.errors import Dalle2EduError

ROOT = Path(build.__file__).resolve().parents[2]
BOOK = ROOT / "book"
VENDOR = BOOK / "vendor"
each_language = pytest.mark.parametrize("language", build.LANGUAGES)


# --- settings and contents ------------------------------------------------------------


@each_language
def test_jupyter_book_accepts_the_settings(language: str) -> None:
    config, _ = get_final_config(
        user_yaml=build.settings(language),
        cli_config={"latex_individualpages": False},
        raise_on_invalid=True,
    )
    assert config["language"].startswith(language)
    assert config["nb_execution_mode"] == "off"
    assert config["mathjax_path"] == "mathjax/tex-mml-chtml.js"
    assert "dalle2_book" in config["extensions"]


@each_language
def test_launch_buttons_are_off_until_somebody_turns_them_on(language: str) -> None:
    config, _ = get_final_config(
        user_yaml=build.settings(language), cli_config={"latex_individualpages": False}
    )
    assert not any(
        value
        for name, value in config["html_theme_options"]["launch_buttons"].items()
        if "url" in name
    )


def test_the_documented_launch_setting_is_one_that_jupyter_book_knows() -> None:
    lines = (ROOT / "_config.yml").read_text(encoding="utf8").splitlines()
    example = "\n".join(
        line.removeprefix("# ")
        for line in lines
        if re.match(r"#  ?(launch_buttons|  \w+_url|  note)", line)
    )
    buttons = yaml.safe_load(example)["launch_buttons"]
    config, _ = get_final_config(
        user_yaml={"launch_buttons": buttons},
        cli_config={"latex_individualpages": False},
    )
    assert config["html_theme_options"]["launch_buttons"]["colab_url"].startswith(
        "https://"
    )


def test_both_languages_have_the_same_contents() -> None:
    english, chinese = (
        build.pages(yaml.safe_load((BOOK / x / "_toc.yml").read_text("utf8")))
        for x in build.LANGUAGES
    )
    assert [page.replace("/en/", "/zh/") for page in english] == chinese
    assert len(set(english)) == len(english)


@each_language
def test_every_page_is_in_the_contents(language: str) -> None:
    named = set(build.pages(build.contents(language)))
    files = [
        *(BOOK / language).glob("*.md"),
        *(ROOT / "notebooks" / language).glob("*.ipynb"),
    ]
    assert {
        file.relative_to(ROOT).with_suffix("").as_posix() for file in files
    } == named


def test_settings_of_a_language_go_on_top_of_the_shared_ones() -> None:
    joined = build.merge({"a": {"x": 1, "y": [1]}, "b": 1}, {"a": {"y": [2], "z": 3}})
    assert joined == {"a": {"x": 1, "y": [2], "z": 3}, "b": 1}


def test_every_arxiv_paper_that_a_page_links_is_in_the_references() -> None:
    known = (BOOK / "references.bib").read_text(encoding="utf8")
    files = [*BOOK.glob("*/*.md"), *ROOT.glob("notebooks/*/*.ipynb")]
    cited = {
        paper
        for file in files
        for paper in re.findall(r"arxiv\.org/abs/(\d+\.\d+)", file.read_text("utf8"))
    }
    assert {
        paper for paper in cited if f"arxiv.org/abs/{paper}}}" not in known
    } == set()


# --- a small book, really built -------------------------------------------------------


def write_toc(root: Path, page: str) -> None:
    toc = {
        "format": "jb-book",
        "root": "book/en/index",
        "parts": [{"caption": "A", "chapters": [{"file": page}]}],
    }
    (root / "book/en/_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf8")


@pytest.fixture
def small_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two English pages, one of them still to be written; `build`
    works on it.
    """
    shutil.copy(ROOT / "_config.yml", tmp_path)
    for name in ("extension", "vendor/static", "assets", "en"):
        shutil.copytree(
            BOOK / name,
            tmp_path / "book" / name,
            ignore=shutil.ignore_patterns("*.md", "__pycache__"),
        )
    shutil.copy(BOOK / "references.bib", tmp_path / "book")
    write_toc(tmp_path, "book/en/page")
    (tmp_path / "book/en/index.md").write_text("# A\n", encoding="utf8")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "BOOK", tmp_path / "book")
    return tmp_path


def test_a_warning_fails_the_build_and_is_shown(small_book: Path) -> None:
    (small_book / "book/en/page.md").write_text(
        "# A\n\n[nowhere](nowhere.md)\n", encoding="utf8"
    )
    with pytest.raises(
        Dalle2EduError,
        match=r"(?s)the en book could not be built.*page\.md:3.*nowhere\.md",
    ):
        build.build_language("en", small_book / "_build")
    assert not (small_book / "_build/site/en").exists()


def test_pages_that_nobody_wrote(
    small_book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small_book / "book/en", small_book / "book/zh")
    assert build.main(["--only", "book", "--output", str(small_book / "_build")]) == 1
    assert capsys.readouterr().err.startswith(
        "book/en/_toc.yml names pages that do not exist: book/en/page"
    )
    assert build.contents("en", partial=True)["parts"] == []


# --- nothing from other hosts ---------------------------------------------------------


def test_what_the_book_brings_along_has_its_licence_and_is_named() -> None:
    named = (VENDOR / "README.md").read_text(encoding="utf8")
    fonts = sorted((VENDOR / "static/fonts").glob("LICENSE-*.txt"))
    assert {path.stem.removeprefix("LICENSE-") for path in fonts} == {
        path.stem.split("-")[0] for path in (VENDOR / "static/fonts").glob("*.woff2")
    }
    for licence in (
        VENDOR / "static/mathjax/LICENSE",
        VENDOR / "reveal/LICENSE",
        *fonts,
    ):
        assert licence.stat().st_size > 500
        assert licence.relative_to(VENDOR).as_posix() in named
    assert {path.name for path in VENDOR.iterdir()} == {"README.md", "static", "reveal"}
    assert {path.name for path in (VENDOR / "static").iterdir()} == {"mathjax", "fonts"}


def test_formulas_find_their_fonts_and_extensions() -> None:
    mathjax = VENDOR / "static/mathjax"
    assert len(list((mathjax / "output/chtml/fonts/woff-v2").glob("*.woff"))) > 20
    assert (mathjax / "input/tex/extensions/boldsymbol.js").is_file()


def test_our_own_pages_styles_and_scripts_name_no_other_host() -> None:
    ours = [
        path
        for path in BOOK.rglob("*")
        if path.suffix in {".html", ".css", ".js"} and VENDOR not in path.parents
    ]
    assert len(ours) >= 8
    assert [
        path
        for path in ours
        if re.search(r"https?:|[\"'(]//\w", path.read_text(encoding="utf8"))
    ] == []


# --- search ---------------------------------------------------------------------------


def test_the_index_holds_pairs_of_chinese_characters_and_english_words() -> None:
    found = search.SearchInChineseBook({}).split("用 U-Net 的扩散模型 in DDPM的page")
    assert {"扩散", "散模", "模型", "U", "Net", "in", "DDPM", "page", "的"} <= set(
        found
    )
    assert "DDPM的page" not in found


def test_english_words_are_stemmed_and_chinese_pairs_are_not() -> None:
    language = search.SearchInEnglishBook({})
    assert language.stem("models") == language.stem("model")
    assert language.stem("模型") == "模型"


# --- pages ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "language", "twin"),
    [
        ("notebooks/en/07_ddpm", "en", "../../../zh/notebooks/zh/07_ddpm.html"),
        ("book/zh/index", "zh", "../../../en/book/en/index.html"),
        ("search", "en", "../zh/search.html"),
        (
            "dalle2_edu/diffusion/process.py",
            "zh",
            "../../../en/dalle2_edu/diffusion/process.py.html",
        ),
    ],
)
def test_the_switch_leads_to_the_same_page(page: str, language: str, twin: str) -> None:
    assert pages.twin_address(page, language) == twin


def test_each_line_of_source_is_a_place_to_link_to() -> None:
    html = sources.listing('"""Two\nlines."""\nx = 1\n')
    assert re.findall(r'id="(L\d+)"', html) == ["L1", "L2", "L3"]
    for line in html.splitlines()[:-1]:
        assert (
            line.count("<span") >= line.count("</span>") - 1
        )  # no highlighting runs over a line's end


def test_a_formula_reaches_mathjax_as_it_was_written() -> None:
    formula = nodes.math_block("", r"a &= b \\ c &= d \tag{7.3}", nowrap=False)
    document = nodes.document(None, None, "", formula)
    chapters.keep_formulas(None, document)
    assert formula["nowrap"]
    assert formula.astext() == r"\[a &= b \\ c &= d \tag{7.3}\]"


def test_what_is_folded_away_is_markdown_too() -> None:
    cell = {
        "cell_type": "markdown",
        "source": [
            "Try.\n",
            "<details><summary>Hint</summary>See $x_0$.</details>\n",
            "On.",
        ],
    }
    source = [json.dumps({"cells": [cell]})]
    chapters.open_details(None, "notebooks/en/07_ddpm", source)
    opened = "Try.\n<details><summary>Hint</summary>\n\nSee $x_0$.\n\n</details>\n\nOn."
    assert json.loads(source[0])["cells"][0]["source"] == opened
    chapters.open_details(None, "notebooks/en/07_ddpm", source)
    assert json.loads(source[0])["cells"][0]["source"] == opened
    assert "<p>See" in slides.markdown("".join(cell["source"]))


def chinese_build() -> object:
    config = type("Config", (), {"language": "zh_CN"})()
    return type("App", (), {"config": config})()


def test_a_line_break_between_chinese_characters_is_no_space() -> None:
    pieces = ["加噪，", "\n", "再去噪", "\n", "with words", "\n", "去噪"]
    line = nodes.paragraph("", "", *map(nodes.Text, pieces))
    chapters.join_chinese_lines(chinese_build(), nodes.document(None, None, "", line))
    assert line.astext() == "加噪，再去噪\nwith words\n去噪"


def test_hidden_solutions_say_so_in_the_page_s_language() -> None:
    solution = nodes.container("", hide_mode="all", prompt_show="?", prompt_hide="?")
    code = nodes.container(
        "", hide_mode="input", prompt_show="code", prompt_hide="code"
    )
    chapters.name_solutions(
        chinese_build(), nodes.document(None, None, "", solution, code)
    )
    assert (solution["prompt_show"], code["prompt_show"]) == ("显示参考答案", "code")


# --- slides ---------------------------------------------------------------------------


def tagged(cell: NotebookNode, kind: str | None, *tags: str) -> NotebookNode:
    cell.metadata = NotebookNode(
        {"tags": list(tags)}
        | ({"slideshow": NotebookNode(slide_type=kind)} if kind else {})
    )
    return cell


def test_tagged_cells_become_slides_and_others_stay_out() -> None:
    cells = [
        tagged(new_markdown_cell("# 7. Title"), "slide"),
        tagged(new_markdown_cell("left out"), None),
        tagged(new_markdown_cell("below"), "subslide"),
        tagged(new_markdown_cell("later"), "fragment"),
        tagged(new_markdown_cell("say this"), "notes"),
        tagged(new_markdown_cell("next"), "slide"),
        tagged(new_markdown_cell("skipped"), "skip"),
    ]
    columns = slides.columns_of(cells, "en")
    assert [len(column) for column in columns] == [2, 1]
    below = columns[0][1]
    assert "below" in below.body[0]
    assert 'class="fragment"' in below.body[1]
    assert "say this" in below.notes[0]
    assert [slide.running for column in columns for slide in column] == [
        "",
        "7. Title",
        "7. Title",
    ]
    everything = "".join(
        html for column in columns for slide in column for html in slide.body
    )
    assert "left out" not in everything
    assert "skipped" not in everything


def test_a_code_cell_shows_its_outputs_and_its_code_only_when_asked() -> None:
    outputs = [
        new_output("stream", text="\x1b[31m1 < 2\x1b[0m\n"),
        new_output(
            "display_data", data={"image/png": "AAAA", "text/plain": "<Figure>"}
        ),
    ]
    html = slides.cell_html(
        tagged(new_code_cell("secret = 1", outputs=outputs), "slide")
    )
    assert "secret" not in html
    assert "1 &lt; 2" in html
    assert "\x1b" not in html
    assert 'src="data:image/png;base64,AAAA"' in html
    assert "<Figure>" not in html
    assert "secret" in slides.cell_html(
        tagged(new_code_cell("secret = 1"), "slide", "show-code")
    )


def test_formulas_on_slides_are_left_to_mathjax() -> None:
    html = slides.markdown("for $a_1 < b_1$\n\n$$\nx_*y_* \\tag{7.1}\n$$\n")
    assert r"\(a_1 &lt; b_1\)" in html
    assert re.search(r"\\\[\s*x_\*y_\* \\tag\{7\.1\}\s*\\\]", html)


@pytest.mark.parametrize(
    ("address", "there"),
    [
        ("08_unet.ipynb", "../../en/notebooks/en/08_unet.html"),
        ("08_unet.ipynb#attention", "../../en/notebooks/en/08_unet.html#attention"),
        ("../../book/en/glossary.md", "../../en/book/en/glossary.html"),
        ("../../dalle2_edu/config.py#L3", "../../en/dalle2_edu/config.py.html#L3"),
        ("../../book/assets/gallery.png", "../assets/gallery.png"),
        ("https://arxiv.org/abs/2006.11239", "https://arxiv.org/abs/2006.11239"),
    ],
)
def test_links_on_slides_lead_into_the_book(address: str, there: str) -> None:
    assert slides.linked(f'<a href="{address}">', "en") == f'<a href="{there}">'


def test_a_notebook_without_slides_has_no_deck_and_no_link_to_one(
    tmp_path: Path,
) -> None:
    notebook = {
        "cells": [{"cell_type": "markdown", "metadata": {}, "source": "# 1. A"}],
        "metadata": {},
    }
    path = tmp_path / "01_a.ipynb"
    path.write_text(
        json.dumps(notebook | {"nbformat": 4, "nbformat_minor": 4}), encoding="utf8"
    )
    assert slides.Deck.of(path, "en") is None
    assert not chapters.has_slides(notebook)


def test_many_figures_of_one_cell_stand_two_to_a_row() -> None:
    words, picture = '<pre class="printed">a</pre>', '<img src="data:,">'
    three = slides.outputs_html([words, picture] * 3 + [words])
    assert three.count(f'<div class="pair">{words}{picture}</div>') == 3
    assert three.endswith(f"</div>{words}")
    assert slides.outputs_html([words, picture] * 2) == (words + picture) * 2


# --- the server -----------------------------------------------------------------------


def test_a_port_in_use_gets_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello", encoding="utf8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            Dalle2EduError,
            match=rf"^port {port} can't be used \(.*\): make book PORT={port + 1}$",
        ):
            serve.server(port, tmp_path)


@pytest.mark.parametrize("port", ["", "http", "0", "70000", "-1", "80 80"])
def test_a_port_that_is_none_gets_one_clear_line(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(port) == 1
    assert (
        capsys.readouterr().err == f"PORT is a number from 1 to 65535, not {port!r}\n"
    )


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[int]:
    """The port of a server of a small site, which has links out of it."""
    site = tmp_path / "site"
    (site / "folder").mkdir(parents=True)
    (site / "index.html").write_text("hello", encoding="utf8")
    (site / "folder/a.txt").write_text("a", encoding="utf8")
    (tmp_path / "index.html").write_text("secret", encoding="utf8")
    (site / "link.html").symlink_to(tmp_path / "index.html")
    (site / "out").symlink_to(tmp_path)
    (site / "alias.txt").symlink_to(site / "folder/a.txt")
    book = serve.server(0, site)
    threading.Thread(target=book.serve_forever, daemon=True).start()
    yield book.server_port
    book.shutdown()
    book.server_close()


def answer(port: int, path: str, host: str = "localhost", method: str = "GET") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize(
    "path", ["/", "/index.html", "/folder/a.txt", "/alias.txt", "/?stay"]
)
def test_the_server_shows_the_files_of_the_book(shown: int, path: str) -> None:
    assert answer(shown, path) == 200
    assert answer(shown, path, method="HEAD") == 200


@pytest.mark.parametrize(
    "path",
    ["/%00", "/a%00b/", "/folder/", "/folder", "/link.html", "/out/", "/out/index.html"]
    + [
        "/nothing.html",
        "/index.html/",
        "/" + "a" * 5000,
        "/%ed%a0%80",
        "/../index.html/x",
    ],
)
def test_the_server_shows_nothing_else(
    shown: int, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert answer(shown, path) == 404
    assert answer(shown, path, method="HEAD") == 404
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("LOCALHOST", 200)]
    + [
        (host, 421)
        for host in ("evil.example", "localhost.evil.example:8000", "", "[", ":80")
    ],
)
def test_the_server_answers_only_to_its_own_name(
    shown: int, host: str, status: int
) -> None:
    assert answer(shown, "/index.html", host) == status


def test_no_book_to_show(tmp_path: Path) -> None:
    with pytest.raises(Dalle2EduError, match="make book SERVE=0"):
        serve.server(8000, tmp_path)
