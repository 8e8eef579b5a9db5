"""Every page: the switch to the other language, the theme's words in this one, and the
fonts of its first screen.
"""

from __future__ import annotations

import gettext
import re
from typing import Any

from docutils import nodes
from sphinx import locale
from sphinx.application import Sphinx
from sphinx.config import Config

from .words import THEME_ZH, language_of, words

OTHER = {"en": "zh", "zh": "en"}
# what any page begins with
FIRST_FONTS = {"en": ("sans",), "zh": ("sans", "hans-regular-01")}


def add_switch(
    app: Sphinx,
    pagename: str,
    _template: str,
    context: dict[str, Any],
    _doctree: nodes.document,
) -> None:
    """Tell the template `language-switch.html` where this page's twin is."""
    said = words(app.config)
    context["language_switch"] = {
        "address": twin_address(pagename, language_of(app.config)),
        "text": said["switch"],
        "tooltip": said["switch tooltip"],
        "language": said["switch language"],
    }


def twin_address(pagename: str, language: str) -> str:
    """From `en/notebooks/en/07_ddpm.html` to
    `../../../zh/notebooks/zh/07_ddpm.html`.
    """
    other = OTHER[language]
    twin = re.sub(rf"^(book|notebooks)/{language}/", rf"\1/{other}/", pagename)
    return "../" * (pagename.count("/") + 1) + f"{other}/{twin}.html"


def preload_fonts(
    app: Sphinx,
    _pagename: str,
    _template: str,
    context: dict[str, Any],
    _doctree: nodes.document,
) -> None:
    """The browser asks for these fonts before it has read the style sheets, so that the
    text seldom stands in another font first.
    """
    head = context.get("metatags", "")  # the search page has none
    for name in FIRST_FONTS[language_of(app.config)]:
        address = context["pathto"](f"_static/fonts/{name}.woff2", 1)
        head += f'<link rel="preload" as="font" type="font/woff2" href="{address}" crossorigin>\n'
    context["metatags"] = head


def show_switch(_app: Sphinx, config: Config) -> None:
    options = config.html_theme_options
    options["article_header_end"] = [
        "language-switch.html",
        "article-header-buttons.html",
    ]


class Filled(gettext.NullTranslations):
    """A catalogue, with our words for what it lacks or says badly."""

    def __init__(
        self, catalogue: gettext.NullTranslations, ours: dict[str, str]
    ) -> None:
        super().__init__()
        self.catalogue, self.ours = catalogue, ours

    def gettext(self, message: str) -> str:
        return self.ours.get(message) or self.catalogue.gettext(message)

    def ngettext(self, one: str, many: str, n: int) -> str:
        return self.catalogue.ngettext(one, many, n)

    def add_fallback(self, fallback: gettext.NullTranslations) -> None:
        self.catalogue.add_fallback(fallback)


def fill_translations(app: Sphinx, config: Config) -> None:
    """Before the templates are made ready: they keep the catalogue they are given."""
    if language_of(config) == "zh":
        for name in ("sphinx", "booktheme"):
            locale.translators["general", name] = Filled(
                locale.get_translator(name), THEME_ZH
            )
        app.translator = locale.get_translator("sphinx")


def setup(app: Sphinx) -> None:
    app.connect("config-inited", show_switch)
    app.connect("config-inited", fill_translations)
    app.connect("html-page-context", add_switch)
    app.connect("html-page-context", preload_fonts)
