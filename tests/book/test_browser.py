"""The built book as a reader meets it: in a real browser, with every host but its own
out of reach.

Needs Debian's `chromium` and the package `playwright`; without them the tests that need
a browser are skipped, and say so. With `DALLE2_EDU_BROWSER=required`, as in `.ci/run`,
a missing browser is an error.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

import pytest

try:
    from playwright.sync_api import (
        Browser,
        ConsoleMessage,
        Page,
        Request,
        Response,
        sync_playwright,
    )
except ImportError:
    sync_playwright = None

LANGUAGES = ("en", "zh")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
SECONDS = 60  # for a page's formulas, on a busy machine
PHONE, DESKTOP = {"width": 390, "height": 800}, {"width": 1280, "height": 900}
each_language = pytest.mark.parametrize("language", LANGUAGES)


# --- the files ------------------------------------------------------------------------


class Parsed(HTMLParser):
    """A page's places to link to, its links, and the text of its article."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.text: list[str] = []
        self.depth = 0  # in the article
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given[key] or "" for key in ("id", "name") if key in given}
        self.links += [given[key] or "" for key in ("href", "src") if key in given]
        self.depth += tag == "article"

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "article"

    def handle_data(self, data: str) -> None:
        if self.depth:
            self.text.append(data)


@pytest.fixture(scope="session")
def parsed(site: Path) -> dict[str, Parsed]:
    """Every page of the site, by its path: `en/book/en/index.html`."""
    return {
        path.relative_to(site).as_posix(): Parsed(path.read_text(encoding="utf8"))
        for path in site.rglob("*.html")
    }


def none(faults: list[str]) -> None:
    """Nothing is wrong, or all of it is said."""
    assert not faults, "\n" + "\n".join(dict.fromkeys(faults))


def pages_to_read(parsed: dict[str, Parsed], language: str) -> list[str]:
    """The pages that somebody wrote: no source code, no search page, no redirect."""
    return sorted(
        path
        for path in parsed
        if re.match(rf"{language}/(book|notebooks)/{language}/", path)
    )


def decks(parsed: dict[str, Parsed]) -> list[str]:
    return sorted(
        path for path in parsed if re.fullmatch(r"slides/\w+/\d\d\.html", path)
    )


def test_the_book_is_complete(parsed: dict[str, Parsed]) -> None:
    english, chinese = (pages_to_read(parsed, language) for language in LANGUAGES)
    assert [path.replace("en/", "zh/") for path in english] == chinese
    assert len(english) >= 8
    chapters = [path for path in english if "/notebooks/" in path]
    assert len(decks(parsed)) == 2 * len(chapters)
    for path in (
        "index.html",
        "en/dalle2_edu/diffusion/process.py.html",
        "zh/search.html",
        "slides/zh/index.html",
    ):
        assert path in parsed


def test_no_link_inside_the_book_is_dead(site: Path, parsed: dict[str, Parsed]) -> None:
    dead = [
        f"{path} -> {link}"
        for path, page in parsed.items()
        for link in page.links
        if _is_dead(site, parsed, path, link)
    ]
    none(dead)


def _is_dead(site: Path, parsed: dict[str, Parsed], path: str, link: str) -> bool:
    if re.match(r"[a-z]+:", link) or link.startswith(
        ("#/", "//")
    ):  # another host, a picture in the page, a slide
        return False
    target, place = urldefrag(urljoin(f"/{path}", link))
    target = unquote(target.split("?")[0]).lstrip("/") or path
    if not (site / target).is_file():
        return True
    return (
        bool(place)
        and target in parsed
        and unquote(place) not in parsed[target].ids
        and place != "main-content"
    )


# --- the browser ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    missing = (
        "the package playwright"
        if sync_playwright is None
        else None
        if CHROMIUM
        else "chromium"
    )
    if missing:
        line = (
            f"the built book is not looked at: {missing} is missing (Debian: apt-get install"
            " chromium; make test)"
        )
        if os.environ.get("DALLE2_EDU_BROWSER") == "required":
            pytest.fail(line)
        pytest.skip(line)
    with sync_playwright() as playwright:
        # Every name but ours leads nowhere, whatever a page asks for. Chromium as root
        # needs --no-sandbox.
        rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[rules, "--no-sandbox"]
        )
        yield browser
        browser.close()


@dataclass
class Reader:
    """A browser's page, with everything that went wrong on it."""

    page: Page
    address: str
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(SECONDS * 1000)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        self.page.on("request", self._asked)
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)

    def open(self, path: str) -> Page:
        """Go to a page and wait until its formulas stand."""
        self.page.goto(self.address + path)
        self.page.wait_for_function(READY)
        return self.page

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.wrong.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.wrong.append(f"asks another host: {request.url}")

    def _failed(self, request: Request) -> None:
        # we left the page before it was complete
        if request.failure != "net::ERR_ABORTED":
            self.wrong.append(f"failed: {request.url} {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.wrong.append(f"{response.status}: {response.url}")


READY = """() => document.readyState === "complete"
    && (!document.querySelector(".math") || window.MathJax?.startup?.promise?.then(() => { window.typeset = true; })
        && window.typeset === true)"""

# What a reader would call broken. Formulas: every one is typeset, none with an error.
BROKEN = r"""() => {
  const wrong = [];
  for (const box of document.querySelectorAll(".math:not(.highlight *)"))
    if (!box.querySelector("mjx-container")) wrong.push("formula not typeset: " + box.textContent.slice(0, 80));
  for (const error of document.querySelectorAll("mjx-merror"))
    wrong.push("formula with an error: " + (error.getAttribute("data-mjx-error") ?? error.textContent));
  const article = document.querySelector("article") ?? document.body;
  const texts = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (text.parentElement.closest("pre, code, script, style, mjx-container, .highlight")) continue;
    const tex = text.data.match(/\\[\[(a-zA-Z]\S*|\$[^$\s][^$]*\$/);
    if (tex) wrong.push("TeX left in the text: " + tex[0].slice(0, 80));
    const typed = text.data.match(/`[^`]+`|\*\*[^*]+\*\*|\]\([^)]+\)/);
    if (typed) wrong.push("Markdown left in the text: " + typed[0].slice(0, 80));
  }
  for (const picture of document.images)
    if (!picture.naturalWidth) wrong.push("picture missing: " + picture.src.slice(0, 120));
  return wrong;
}"""

# How far the page, or something on it that can't scroll by itself, sticks out to the
# right.
STICKS_OUT = """() => document.documentElement.scrollWidth - window.innerWidth"""


@contextmanager
def reader(browser: Browser, address: str, **settings: Any) -> Iterator[Reader]:
    context = browser.new_context(**({"viewport": DESKTOP} | settings))
    one = Reader(context.new_page(), address)
    yield one
    context.close()
    none(one.wrong)


@each_language
def test_every_page_is_whole_on_a_desk_and_on_a_phone(
    browser: Browser, address: str, parsed: dict[str, Parsed], language: str
) -> None:
    sources = [
        f"{language}/dalle2_edu/{name}.html"
        for name in ("diffusion/process.py", "unclip/pipeline.py")
    ]
    faults = []
    with reader(browser, address) as one:
        for path in [
            *pages_to_read(parsed, language),
            *sources,
            f"{language}/search.html",
        ]:
            page = one.open(path)
            faults += [
                f"{path}: {fault}" for fault in [*page.evaluate(BROKEN), *one.wrong]
            ]
            one.wrong.clear()
            for width in (PHONE, DESKTOP):
                page.set_viewport_size(width)
                if (pixels := page.evaluate(STICKS_OUT)) > 0:
                    faults.append(
                        f"{path}: {pixels} px too wide for a screen of {width['width']} px"
                    )
    none(faults)


# --- what a reader does ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("locale", "language"), [("zh-CN", "zh"), ("en-GB", "en"), ("fr-FR", "en")]
)
def test_the_front_door_leads_to_the_reader_s_language(
    browser: Browser, address: str, locale: str, language: str
) -> None:
    with reader(browser, address, locale=locale) as one:
        one.page.goto(address)
        one.page.wait_for_url(f"{address}{language}/book/{language}/index.html")


def test_the_front_door_without_scripts(browser: Browser, address: str) -> None:
    with reader(browser, address, java_script_enabled=False) as one:
        one.page.goto(address)
        for language in LANGUAGES:
            assert one.page.locator(
                f'a[href="{language}/book/{language}/index.html"]'
            ).is_visible()


def test_the_switch_leads_to_the_same_page_and_back(
    browser: Browser, address: str, parsed: dict[str, Parsed]
) -> None:
    some = [
        *pages_to_read(parsed, "en"),
        "en/dalle2_edu/diffusion/process.py.html",
        "en/search.html",
    ]
    for path in some:
        twin = re.sub(r"\ben/", "zh/", path)
        assert twin in {urljoin(path, link) for link in parsed[path].links}
        assert path in {urljoin(twin, link) for link in parsed[twin].links}
    with reader(browser, address) as one:
        page = one.open(some[0])
        for language, there in (("zh-CN", "zh/"), ("en", "en/")):
            page.locator(".language-switch").click()
            page.wait_for_url(address + re.sub(r"\ben/", there, some[0]))
            assert page.locator("html").get_attribute("lang") == language


@pytest.mark.parametrize(
    ("language", "query"),
    [
        ("zh", "扩散模型"),
        ("zh", "无分类器引导"),
        ("zh", "diffusion"),
        ("en", "diffusion"),
        ("en", "classifier-free"),
    ],
)
def test_search_finds_every_page_that_has_the_words(
    browser: Browser, address: str, parsed: dict[str, Parsed], language: str, query: str
) -> None:
    texts = {
        path: re.sub(r"\s+", " ", "".join(parsed[path].text))
        for path in pages_to_read(parsed, language)
    }
    expected = {
        path
        for path, text in texts.items()
        if re.search(rf"(?i)\b{query}\b" if query.isascii() else query, text)
    }
    assert expected
    with reader(browser, address) as one:
        assert expected <= _found(one, language, query)


@each_language
def test_search_finds_nothing_where_there_is_nothing(
    browser: Browser, address: str, language: str
) -> None:
    with reader(browser, address) as one:
        assert _found(one, language, "qwxyzzy") == set()
        assert _found(one, language, "饕餮貔貅") == set()


def _found(one: Reader, language: str, query: str) -> set[str]:
    page = one.open(f"{language}/search.html?q={quote(query)}")
    page.wait_for_function(
        "() => /\\d|not"
        " match|未|没有/.test(document.querySelector('.search-summary')?.innerText ?? '')"
    )
    links = page.eval_on_selector_all(
        "#search-results li a", "links => links.map(link => link.href)"
    )
    return {
        urldefrag(link).url.split("?")[0].removeprefix(one.address) for link in links
    }


def test_a_reader_types_into_the_search_field(browser: Browser, address: str) -> None:
    with reader(browser, address) as one:
        page = one.open("zh/book/zh/index.html")
        page.keyboard.press("Control+k")
        page.keyboard.type("扩散模型")
        page.keyboard.press("Enter")
        page.wait_for_selector("#search-results li a")
        page.locator("#search-results").get_by_text(
            "扩散"
        ).first.wait_for()  # each result quotes its page


@pytest.mark.parametrize(
    ("language", "words"), [("en", "Show the solution"), ("zh", "显示参考答案")]
)
def test_a_hidden_solution_opens(
    browser: Browser, address: str, parsed: dict[str, Parsed], language: str, words: str
) -> None:
    chapters = [
        path for path in pages_to_read(parsed, language) if "/notebooks/" in path
    ]
    with_solutions = [path for path in chapters if words in "".join(parsed[path].text)]
    assert with_solutions == chapters
    with reader(browser, address) as one:
        page = one.open(with_solutions[0])
        box = page.locator("details.hide", has_text=words).first
        code = box.locator(".cell_input")
        assert not code.is_visible()
        box.get_by_text(words).click()
        assert code.is_visible()


@each_language
def test_in_the_dark_text_is_light_and_figures_keep_their_white_plate(
    browser: Browser, address: str, parsed: dict[str, Parsed], language: str
) -> None:
    chapters = [
        path for path in pages_to_read(parsed, language) if "/notebooks/" in path
    ]
    with reader(browser, address, color_scheme="dark") as one:
        for path in [f"{language}/book/{language}/index.html", *chapters[:2]]:
            page = one.open(path)
            assert page.locator("html").get_attribute("data-theme") == "dark"
            assert (
                page.evaluate("() => getComputedStyle(document.body).backgroundColor")
                < "rgb(50"
            )
            plates = page.eval_on_selector_all(".bd-article img", PLATE)
            assert plates
            assert set(plates) == {"rgb(255, 255, 255) none"}


PLATE = (
    "images => images.map(getComputedStyle).map(style => `${style.backgroundColor}"
    " ${style.filter}`)"
)


def test_a_reader_turns_the_light_off(browser: Browser, address: str) -> None:
    with reader(browser, address, color_scheme="light") as one:
        page = one.open("en/book/en/index.html")
        seen = set()
        for _ in range(3):  # light, dark, as the system has it
            seen.add(page.locator("html").get_attribute("data-theme"))
            page.locator(".bd-header-article .theme-switch-button").click()
        assert seen == {"light", "dark"}


def test_the_chinese_book_speaks_chinese(
    browser: Browser, address: str, parsed: dict[str, Parsed]
) -> None:
    chapter = next(
        path for path in pages_to_read(parsed, "zh") if "/notebooks/" in path
    )
    with reader(browser, address) as one:
        for path in ("zh/book/zh/index.html", chapter, "zh/search.html"):
            none(sorted(set(one.open(path).evaluate(WORDS_AROUND)) - NAMES - SWITCH))


# English words in what surrounds the article: texts, tool tips, what a screen reader
# says.
WORDS_AROUND = r"""() => {
  const said = [];
  for (const part of document.querySelectorAll("body *:not(script, style, noscript)")) {
    if (part.closest("article, .bd-links a, .page-toc a, .prev-next-title")) continue;  // what somebody wrote
    for (const key of ["title", "aria-label", "placeholder"]) said.push(part.getAttribute(key));
    for (const child of part.childNodes) if (child.nodeType === Node.TEXT_NODE) said.push(child.data);
  }
  return said.filter(Boolean).join(" ").match(/[A-Za-z][A-Za-z_]*/g) ?? [];
}"""
NAMES = frozenset(
    ["DALL", "E", "dalle", "edu", "dalle_edu", "Ctrl", "K", "PDF", "pdf", "ipynb", "md"]
)
SWITCH = frozenset(
    ["English", "This", "page", "in"]
)  # the switch speaks to who reads no Chinese


# --- slides ---------------------------------------------------------------------------


@each_language
def test_every_deck_is_whole(
    browser: Browser, address: str, parsed: dict[str, Parsed], language: str
) -> None:
    faults = []
    with reader(browser, address) as one:
        for path in [path for path in decks(parsed) if f"/{language}/" in path]:
            one.page.goto(address + path)
            one.page.wait_for_selector("body[data-ready]", timeout=SECONDS * 1000)
            faults += [
                f"{path}: {fault}" for fault in [*one.page.evaluate(BROKEN), *one.wrong]
            ]
            faults += [
                f"{path}: {fault}" for fault in one.page.evaluate(EACH_SLIDE, LEAST)
            ]
            one.page.set_viewport_size(PHONE)
            small = one.page.evaluate(EACH_SLIDE, LEAST_ON_A_PHONE)
            faults += [f"{path} on a phone: {fault}" for fault in small]
            one.page.set_viewport_size(DESKTOP)
            one.wrong.clear()
    none(faults)


# Each slide in turn: it must fit, and not by becoming so small that the last row can't
# read it. On a phone held upright a slide is 560 px wide, and its text of 30 px comes
# out as 20 px.
LEAST, LEAST_ON_A_PHONE = 0.7, 0.6
EACH_SLIDE = """(least) => {
  const wrong = [];
  for (const slide of deck.getSlides()) {
    const { h, v } = deck.getIndices(slide);
    deck.slide(h, v);
    const box = slide.querySelector(".fit");
    const size = parseFloat(getComputedStyle(box).fontSize) / 30;
    const room = slide.closest(".slides").getBoundingClientRect();
    const sticksOut = box.getBoundingClientRect().bottom - room.bottom;
    const sideways = box.scrollWidth - box.clientWidth;
    if (sticksOut > 2) wrong.push(`slide ${h + 1}.${v + 1} is ${Math.round(sticksOut)} px too high`);
    if (size < least) wrong.push(`slide ${h + 1}.${v + 1} holds too much: it is shown at ${Math.round(100 * size)}%`);
    if (sideways > 2) wrong.push(`slide ${h + 1}.${v + 1} is ${Math.round(sideways)} px too wide`);
    const told = [...box.children].some((part) => part.className !== "running" && part.textContent.trim());
    if (!told && !box.querySelector("img, svg")) wrong.push(`slide ${h + 1}.${v + 1} is empty`);
  }
  return wrong;
}"""


def test_slides_have_notes_for_the_lecturer_and_move_on_with_a_key(
    browser: Browser, address: str, parsed: dict[str, Parsed]
) -> None:
    with reader(browser, address) as one:
        one.page.goto(address + decks(parsed)[0])
        one.page.wait_for_selector("body[data-ready]", timeout=SECONDS * 1000)
        one.page.keyboard.press("Space")
        one.page.wait_for_function("() => location.hash.length > 2")
        assert one.page.evaluate("() => deck.hasPlugin('notes')")


def test_a_deck_prints_one_page_a_slide(
    browser: Browser, address: str, parsed: dict[str, Parsed]
) -> None:
    with reader(browser, address) as one:
        one.page.goto(f"{address}{decks(parsed)[2]}?print-pdf")
        one.page.wait_for_selector("body[data-ready]", timeout=SECONDS * 1000)
        assert one.page.evaluate("() => deck.getSlides().length") > 5
        none(one.page.evaluate(EACH_PRINTED))


EACH_PRINTED = """() => [...document.querySelectorAll(".fit")].flatMap((box, place) => {
  const page = box.closest(".pdf-page").getBoundingClientRect();
  const fits = box.getBoundingClientRect().bottom <= page.bottom && parseFloat(box.style.fontSize) >= 21;
  return fits ? [] : [`slide ${place + 1} is cut off or small`];
}).concat(document.querySelectorAll(".pdf-page").length === deck.getSlides().length ? [] : ["a slide has two pages"])"""


# --- fonts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "index.html?stay",
        "en/book/en/how_to_use.html",
        "zh/book/zh/index.html",
        "zh/notebooks/zh/02_data_and_tokens.html",
        "zh/search.html?q=扩散",
        "en/dalle2_edu/diffusion/process.py.html",
        "slides/zh/index.html",
        "slides/en/02.html",
        "slides/zh/02.html",
    ],
)
def test_a_page_is_set_in_the_book_s_own_fonts(
    browser: Browser, address: str, path: str
) -> None:
    with reader(browser, address) as one:
        one.page.goto(address + quote(path, safe="/?="))
        one.page.wait_for_load_state("networkidle")
        one.page.evaluate("() => document.fonts.ready")
        foreign = {
            f"{path}: {node} is set in {font}, a font of this machine"
            for node, font, own in fonts_of(one.page)
            if not own
        }
        none(sorted(foreign))


def fonts_of(page: Page) -> Iterator[tuple[str, str, bool]]:
    """(element, font, whether the page brought it along) of all text that is shown; but
    for the twin of each formula that only a screen reader meets.
    """
    page.add_style_tag(content="mjx-assistive-mml { display: none !important; }")
    inspector = page.context.new_cdp_session(page)
    inspector.send("DOM.enable")
    inspector.send("CSS.enable")
    nodes = inspector.send("DOM.getFlattenedDocument", {"depth": -1})["nodes"]
    names = {
        node["nodeId"]: node["localName"] for node in nodes if node["nodeType"] == 1
    }
    texts = {
        node["parentId"]
        for node in nodes
        if node["nodeValue"].strip() and "parentId" in node
    }
    asked = texts | {node for node, name in names.items() if name in ("input", "mjx-c")}
    for node in sorted(asked & names.keys()):
        for font in inspector.send("CSS.getPlatformFontsForNode", {"nodeId": node})[
            "fonts"
        ]:
            yield names[node], font["familyName"], font["isCustomFont"]
