"""Every file of the package is a page of the book, and links to its lines lead there.

A notebook links to `../../dalle2_edu/diffusion/process.py#L85`: the file itself, which
is right in JupyterLab and on a code host. In the book the same link becomes
`../../dalle2_edu/diffusion/process.py.html#L85`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

from .words import words

PACKAGE = "dalle2_edu"
HREF = re.compile(
    r'href="(?:\.\./)+(?P<path>dalle2_edu/[\w/]+\.py)(?:#L(?P<line>\d+))?"'
)
TARGET = re.compile(r"(?:^|/)(?P<path>dalle2_edu/[\w/]+\.py)(?:#L(?P<line>\d+))?$")
log = logging.getLogger(__name__)


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Sphinx's `html-collect-pages`: a name, what the page shows, and the template."""
    for path in sorted((Path(app.srcdir) / PACKAGE).rglob("*.py")):
        name = path.relative_to(app.srcdir).as_posix()
        title = words(app.config)["source"].format(path=name)
        body = f"<h1>{name}</h1>\n{listing(path.read_text(encoding='utf8'))}"
        yield name, {"title": title, "body": body, "parents": []}, "page.html"


def listing(code: str) -> str:
    """Highlighted code whose line 12 is `#L12`."""
    # Pygments closes its <span>s at the end of each line, so lines can be wrapped one
    # by one.
    lines = highlight(
        code, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)
    ).splitlines()
    number = '<a class="number" href="#L{i}" aria-hidden="true" tabindex="-1">{i}</a>'
    numbered = (
        f'<span class="line" id="L{i}">{number.format(i=i)}{line}\n</span>'
        for i, line in enumerate(lines, 1)
    )
    return (
        '<div class="highlight source-listing"><pre'
        f' tabindex="0">{"".join(numbered)}</pre></div>'
    )


def link_sources(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Lead links to the package's files, in prose and in outputs, to the files'
    pages.
    """
    for raw in list(doctree.findall(nodes.raw)):
        if "html" in raw["format"] and PACKAGE in raw.rawsource + raw.astext():
            linked = HREF.sub(
                lambda match: f'href="{_address(app, docname, match)}"', raw.astext()
            )
            raw.children = [nodes.Text(linked)]
    for link in list(doctree.findall(_is_link)):
        match = TARGET.search(link.get("reftarget") or link.get("refuri", ""))
        if match:
            link.replace_self(
                nodes.reference(
                    "", "", *_text_of(link), refuri=_address(app, docname, match)
                )
            )


def _is_link(node: nodes.Node) -> bool:
    if isinstance(node, addnodes.download_reference):
        return True
    return isinstance(node, nodes.reference) and "://" not in node.get("refuri", "")


def _text_of(link: nodes.Element) -> list[nodes.Node]:
    return [child.deepcopy() for child in link.children]


def _address(app: Sphinx, docname: str, match: re.Match[str]) -> str:
    path, line = match["path"], match["line"]
    file = Path(app.srcdir) / path
    if not file.is_file():
        log.warning(
            "a link to %s, which is no file of the package", path, location=docname
        )
    elif line and int(line) > len(file.read_text(encoding="utf8").splitlines()):
        log.warning(
            "a link to line %s of %s, which is shorter: make notebooks",
            line,
            path,
            location=docname,
        )
    up = "../" * docname.count("/")
    return f"{up}{path}.html" + (f"#L{line}" if line else "")


def setup(app: Sphinx) -> None:
    app.connect("html-collect-pages", source_pages)
    app.connect("doctree-resolved", link_sources)
