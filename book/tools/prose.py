"""Is every sentence in the right language, and every term the glossary's?

Both checks read Markdown as a reader sees it: `units` takes out code, formulas,
addresses and markup, and cuts the rest into paragraphs, list items, headings and table
cells. They are heuristics, set so that a forgotten paragraph is found, and a name, a
title, a quotation or a prompt in the other language is not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.front_matter import front_matter_plugin
from mdit_py_plugins.myst_role import myst_role_plugin
from twins import (
    LANGUAGES,
    NAMES,
    ROOT,
    Language,
    Problem,
    chapter_names,
    path_of,
    read,
)

CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
LOWERCASE = re.compile(r"\b[a-z]{3,}\b")

# What English sentences are full of, and names, titles of papers and prompts much less
# so.
SMALL_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        "a an and are as at be but by can do does for from has have how if in into is it its"
        " not of on one or so than that the their then there they this to was we what when"
        " where which why will with you your",
    )
)

# Directives whose body is prose; every other fence (code, maths, tables of contents) is
# no prose.
PROSE_DIRECTIVES = (
    "admonition",
    "epigraph",
    "glossary",
    "hint",
    "important",
    "margin",
    "note",
    "seealso",
    "tip",
    "warning",
)


# --- Markdown -> prose ----------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """A piece of prose as the reader sees it; emphasis and the text of outside links
    stand in “quotation marks”.
    """

    kind: str  # "text", "heading" or "cell" (of a table)
    text: str


def _parser() -> MarkdownIt:
    markdown = MarkdownIt("commonmark").enable("table")
    for plugin in (
        front_matter_plugin,
        dollarmath_plugin,
        amsmath_plugin,
        colon_fence_plugin,
        myst_role_plugin,
    ):
        markdown.use(plugin)
    return markdown


MARKDOWN = _parser()


def units(text: str) -> Iterator[Unit]:
    """The paragraphs, list items, headings and table cells of a Markdown text."""
    kind = "text"
    for token in MARKDOWN.parse(text):
        if token.type in ("heading_open", "th_open", "td_open"):
            kind = "heading" if token.type == "heading_open" else "cell"
        elif token.type == "inline":
            yield from _if_any(kind, _inline(token.children or []))
            kind = "text"
        elif token.type == "html_block":
            yield from _if_any(
                "text", re.sub(r"<!--.*?-->|<[^>]*>", " ", token.content, flags=re.S)
            )
        elif token.type in ("fence", "colon_fence"):
            directive = re.match(r"\s*\{([\w-]+)\}(.*)", token.info)
            if directive and directive[1] in PROSE_DIRECTIVES:
                yield from units(
                    directive[2] + "\n\n" + _without_options(token.content)
                )


def _if_any(kind: str, text: str) -> Iterator[Unit]:
    if text.strip():
        yield Unit(kind, " ".join(text.split()))


def _without_options(body: str) -> str:
    """A directive's body without its `:name: value` lines."""
    return re.sub(r"\A(\s*:[\w-]+:.*\n)+", "", body)


def _inline(tokens: list[Token]) -> str:
    pieces, is_outside = [], False
    for token in tokens:
        if token.type in ("text", "image"):
            pieces.append(token.content)
        elif token.type == "link_open":
            is_outside = str(token.attrs.get("href", "")).startswith(
                ("http:", "https:")
            )
            pieces.append("“" if is_outside else "")
        elif token.type in ("em_open", "em_close", "link_close"):
            pieces.append(
                "“"
                if token.type == "em_open"
                else "”"
                if token.type == "em_close" or is_outside
                else ""
            )
        elif token.type == "myst_role" and token.meta.get("name") == "term":
            pieces.append(token.content.split("<")[0])
        elif not token.type.startswith("strong"):
            pieces.append(" ")  # code, a formula, a line break
    return "".join(pieces)


def has_words(text: str) -> bool:
    """Whether a Markdown text has anything to translate.

    >>> has_words("$$x_t = 2$$"), has_words("So it is noise.")
    (False, True)
    """
    return any(
        CJK.search(unit.text) or re.search("[A-Za-z]{2}", unit.text)
        for unit in units(text)
    )


# --- the right language ---------------------------------------------------------------


def foreign_units(text: str, language: Language) -> list[str]:
    """The pieces of a Markdown text that are not in `language`."""
    is_foreign = is_english_in_chinese if language == "zh" else is_chinese_in_english
    return [unit.text for unit in units(text) if is_foreign(unit)]


def is_english_in_chinese(unit: Unit) -> bool:
    """Whether a unit of a Chinese text is (or has in it) an English sentence that was
    left behind.
    """
    text = re.sub(
        r"[“\"《「][^”\"》」]*[”\"》」]|et al\.?",
        lambda m: m[0] if CJK.search(m[0]) else " ",
        unit.text,
    )
    words, lowercase, cjk = (
        WORD.findall(text),
        LOWERCASE.findall(text),
        len(CJK.findall(text)),
    )
    if unit.kind == "heading":
        return not cjk and bool(lowercase)
    if not cjk and unit.kind == "text" and len(words) >= 3 and len(lowercase) >= 2:
        return True
    if len(words) >= 5 and cjk < len(words) and _small(words) >= 2:
        return True
    stretches = [
        WORD.findall(stretch)
        for stretch in re.split(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]+", text)
    ]
    return any(len(stretch) >= 8 and _small(stretch) >= 3 for stretch in stretches)


def _small(words: list[str]) -> int:
    return sum(word.lower() in SMALL_WORDS for word in words)


def is_chinese_in_english(unit: Unit) -> bool:
    """Whether a unit of an English text is a Chinese sentence; words in quotation marks
    and brackets are not.
    """
    text = re.sub(
        r"[“\"《「(（][^”\"》」)）]*[”\"》」)）]",
        lambda m: " " if CJK.search(m[0]) else m[0],
        unit.text,
    )
    words, cjk = len(WORD.findall(text)), len(CJK.findall(text))
    if unit.kind == "heading":
        return cjk >= 2 and cjk > words
    if unit.kind == "cell":
        return cjk >= 12 and bool(re.search("[，。；]", text))
    return (cjk >= 8 and cjk > words) or (cjk >= 4 and "。" in text)


# --- texts of the book ----------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A Markdown text of the book: a page, or one text cell of a notebook."""

    where: str
    language: Language
    markdown: str


def texts(root: Path = ROOT) -> Iterator[Text]:
    """Every page and every text cell in both languages."""
    for language in LANGUAGES:
        for page in sorted((root / "book" / language).rglob("*.md")):
            yield Text(
                page.relative_to(root).as_posix(), language, page.read_text("utf-8")
            )
        for name in chapter_names(root / "notebooks"):
            path = path_of(root / "notebooks", language, name)
            for cell in read(path).cells if path.exists() else []:
                if cell.cell_type == "markdown":
                    yield Text(
                        f"notebooks/{language}/{name}:{cell.id}", language, cell.source
                    )


def spoken_strings(root: Path = ROOT) -> Iterator[Text]:
    """Chinese strings in the notebooks' code: figures and printed lines speak the
    glossary's language too.
    """
    for name in chapter_names(root / "notebooks"):
        path = path_of(root / "notebooks", "zh", name)
        for cell in read(path).cells if path.exists() else []:
            if cell.cell_type == "code":
                strings = [text for text in _strings(cell.source) if CJK.search(text)]
                yield Text(f"notebooks/zh/{name}:{cell.id}", "zh", "\n\n".join(strings))


def _strings(source: str) -> list[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a %magic line; nbval runs it
        return []
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def language_problems(root: Path = ROOT) -> Iterator[Problem]:
    """Paragraphs in the wrong language."""
    for text in texts(root):
        for piece in foreign_units(text.markdown, text.language):
            yield Problem(text.where, f"not {NAMES[text.language]}: {piece[:70]!r}")


# --- the glossary ---------------------------------------------------------------------


@dataclass(frozen=True)
class Glossary:
    """Pairs (English term in small letters, Chinese term), and the renderings we avoid:
    avoided -> ours.
    """

    pairs: frozenset[tuple[str, str]]
    avoided: dict[str, str]


# An entry is `diffusion model (扩散模型)` or `扩散模型（diffusion model）`; a name, `CLIP`, is
# the same in both.
ENTRY = {
    "en": re.compile(
        r"(?P<en>\S.*?)\s*[(（](?P<zh>[^()（）]*[\u4e00-\u9fff][^()（）]*)[)）]"
    ),
    "zh": re.compile(r"(?P<zh>[^（）]+?)\s*（(?P<en>.+)）"),
}


def glossary(root: Path, language: Language) -> Glossary:
    """The terms of `book/<language>/glossary.md`."""
    page = root / "book" / language / "glossary.md"
    pairs: set[tuple[str, str]] = set()
    avoided: dict[str, str] = {}
    current = ""
    for line in _glossary_lines(page.read_text("utf-8")) if page.exists() else []:
        if not line.startswith((" ", "\t")):
            entry = ENTRY[language].fullmatch(line.strip())
            english, current = (
                (entry["en"], entry["zh"])
                if entry
                else (line.strip(), line.strip().lower())
            )
            pairs.add((_bare(english), current))
        elif line.strip().startswith("又译："):
            avoided |= {
                rendering.strip(): current
                for rendering in line.strip()[3:].rstrip("。").split("、")
            }
    return Glossary(frozenset(pairs), avoided)


def _bare(english: str) -> str:
    """An English term without its note or short form: "prior (probability)", "byte-pair
    encoding，BPE".
    """
    return re.sub(r"\s*\(.*?\)|，.*", "", english.lower()).strip()


def _glossary_lines(markdown: str) -> list[str]:
    """The lines inside the page's `{glossary}` directives, blank ones and options left
    out.
    """
    bodies = [
        token.content
        for token in MARKDOWN.parse(markdown)
        if token.info.strip().startswith("{glossary}")
    ]
    return [
        line
        for body in bodies
        for line in _without_options(body).splitlines()
        if line.strip()
    ]


def glossary_problems(root: Path = ROOT) -> Iterator[Problem]:
    """Terms that only one language's glossary has, and Chinese texts that render a term
    otherwise than it does.
    """
    en, zh = glossary(root, "en"), glossary(root, "zh")
    for english, chinese in sorted(en.pairs ^ zh.pairs):
        where = "en" if (english, chinese) in en.pairs else "zh"
        yield Problem(
            f"book/{where}/glossary.md",
            f"{english} = {chinese} is in this language's glossary only",
        )
    for text in [*texts(root), *spoken_strings(root)]:
        if text.language == "zh" and not text.where.endswith("zh/glossary.md"):
            yield from (
                Problem(text.where, what)
                for what in rendering_problems(text.markdown, zh)
            )


def rendering_problems(markdown: str, terms: Glossary) -> Iterator[str]:
    """What a Chinese text says otherwise than the glossary."""
    prose = "\n".join(unit.text for unit in units(markdown))
    for avoided, term in terms.avoided.items():
        # One of our own words may hold a rendering that we avoid: such words are taken
        # out first.
        ours = sorted(
            (chinese for _, chinese in terms.pairs if avoided in chinese),
            key=len,
            reverse=True,
        )
        rest = re.sub("|".join(map(re.escape, ours)), " ", prose) if ours else prose
        if avoided in rest:
            yield f"says {avoided}; the glossary's word is {term}"
    for chinese, english in re.findall(
        r"([^\s（）()，。；：、！？“”|]+) ?（([A-Za-z][^（），；、]*)", prose
    ):
        known = {
            zh
            for en, zh in terms.pairs
            if en.removesuffix("s") == _bare(english).removesuffix("s")
        }
        known = {
            term for term in known if CJK.search(term)
        }  # a name, as in 256（unCLIP）, renders nothing
        if known and not chinese.endswith(tuple(known)):
            yield (
                f"says {chinese}（{english}）; the glossary's word is"
                f" {' or '.join(sorted(known))}"
            )
