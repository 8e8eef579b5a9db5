"""The package's own source in the page: `show(GaussianDiffusion.q_sample)`.

A chapter shows the code it speaks of from the file itself, so that page and code can't
part. In a notebook it comes highlighted, with a link to the file; in a terminal as
plain text.
"""

import ast
import html
import inspect
import textwrap
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching.chapter import PACKAGE, running_shell
from dalle2_edu.teaching.words import words

# Colours of code on a light page, and on a dark one (the book's and JupyterLab's own
# switches).
LIGHT = {"k": "#7b30d0", "s": "#20703c", "c": "#5f6b76", "n": "#0b5cad", "m": "#a04000"}
DARK = {"k": "#c6a0ff", "s": "#8fd694", "c": "#9aa5b1", "n": "#7fbfff", "m": "#ffb27a"}
KINDS = {
    "k": ".k,.kn,.kc,.ow,.nb",
    "s": ".s1,.s2,.sd,.sa,.si,.se",
    "c": ".c1,.c",
    "n": ".nf,.nc,.nd,.fm",
    "m": ".mi,.mf",
}
DARK_PAGES = ("html[data-theme=dark]", "body[data-jp-theme-light=false]")


class Passage(NamedTuple):
    """Some lines of a file of the package: its path in the repository, the first line's
    number, and the text.
    """

    path: str
    line: int
    text: str


def show(thing: Any, name: str | None = None, docstring: bool = True) -> None:
    """Shows the source of a function, method, class or module; with `name`, of one
    constant of a module.

    docstring=False leaves docstrings out, where the chapter says the same. Raises
    Dalle2EduError for what has no source in the package.
    """
    found = constant(thing, name) if name else passage(thing)
    text = found.text if docstring else without_docstrings(found.text)
    found = found._replace(text=textwrap.dedent(text).strip("\n"))
    if running_shell() is None:
        print(f"{found.path}:{found.line}\n\n{found.text}")
        return
    from IPython.display import HTML, display

    display(HTML(as_html(found)))


# --- Finding it -----------------------------------------------------------------------


def passage(thing: Any) -> Passage:
    """Where a function, class or module is defined, and how."""
    thing = thing.fget if isinstance(thing, property) else thing
    thing = inspect.unwrap(thing) if callable(thing) else thing
    try:
        file, (lines, line) = (
            inspect.getsourcefile(thing),
            inspect.getsourcelines(thing),
        )
    except (TypeError, OSError):
        file, lines, line = None, [], 0
    path = repository_path(file)
    if path is None:
        raise Dalle2EduError(
            f"can't show {thing!r:.60}: give a function, class or module of dalle2_edu"
        )
    return Passage(path, max(line, 1), "".join(lines))


def repository_path(file: str | None) -> str | None:
    """ "dalle2_edu/data/text.py" for a file of the package; None for any other."""
    if file is None or not Path(file).resolve().is_relative_to(PACKAGE.resolve()):
        return None
    return (
        Path(PACKAGE.name) / Path(file).resolve().relative_to(PACKAGE.resolve())
    ).as_posix()


def constant(module: ModuleType, name: str) -> Passage:
    """The lines that give a module's constant its value, and the comment right above
    them, also where the module has it from another one.
    """
    whole = passage(module)
    lines = whole.text.splitlines(keepends=True)
    for node in ast.parse(whole.text).body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [getattr(node, "target", None)]
        )
        if any(
            isinstance(target, ast.Name) and target.id == name for target in targets
        ):
            first = node.lineno
            while first > 1 and lines[first - 2].startswith("#"):
                first -= 1
            return Passage(
                whole.path, first, "".join(lines[first - 1 : node.end_lineno])
            )
        if isinstance(node, ast.ImportFrom) and any(
            each.name == name for each in node.names
        ):
            # it is defined over there
            return constant(import_module(str(node.module)), name)
    raise Dalle2EduError(f"{module.__name__} has no constant {name}")


def without_docstrings(text: str) -> str:
    """The same code without its docstrings; one that is all a body has stays."""
    text = textwrap.dedent(text)
    lines = text.splitlines()
    homes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, homes) and ast.get_docstring(node) and len(node.body) > 1:
            first, last = node.body[0].lineno - 1, node.body[0].end_lineno
            following = (
                node.body[1].lineno - 1
                if isinstance(node, ast.Module | ast.ClassDef)
                else last
            )
            assert last is not None and following is not None
            blank = [
                place for place in range(last, following) if not lines[place].strip()
            ]
            for place in [*range(first, last), *blank]:
                # taken out at the end: until then, line numbers must hold
                lines[place] = "\0"
    return "\n".join(line for line in lines if line != "\0")


# --- Showing it -----------------------------------------------------------------------


def as_html(found: Passage) -> str:
    """The passage highlighted, under a link to its file (relative to notebooks/en or
    notebooks/zh).
    """
    address = f"../../{found.path}#L{found.line}"
    label = words(
        f"{found.path}, line {found.line}", f"{found.path}，第 {found.line} 行"
    )
    return (
        f"<style>{style()}</style>"
        '<div class="dalle2-source">'
        f'<a class="source-link" href="{address}">{label}</a>'
        f'<div class="highlight"><pre><code>{highlighted(found.text)}</code></pre></div></div>'
    )


def highlighted(text: str) -> str:
    """The code as HTML with a class for each kind of word; without Pygments, plain."""
    try:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer
    except ImportError:
        return html.escape(text)
    return highlight(text, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip("\n")


def style() -> str:
    """The style sheet of one listing: it takes the page's own background and follows
    its dark mode.
    """
    box = ".dalle2-source"
    rules = [
        f"{box}{{background:transparent;color:inherit;font-size:.88em}}",
        (
            f"{box} pre{{background:transparent;color:inherit;border-left:3px solid"
            " #8a8a8a;margin:.2em 0;padding:.2em"
            " .8em;overflow-x:auto;line-height:1.4;white-space:pre}"
        ),
        f"{box} pre span{{color:inherit;background:none}}",
        # the book's theme would put an output on a light sheet on a dark page
        (
            "html[data-theme=dark]"
            f" .text_html:has({box}){{background:none!important;padding:0!important;"
            "color:var(--pst-color-text-base)!important}"
        ),
    ]
    for page, colours in [("", LIGHT), *[(f"{page} ", DARK) for page in DARK_PAGES]]:
        for kind, colour in colours.items():
            names = ",".join(
                f"{page}{box} pre {name}" for name in KINDS[kind].split(",")
            )
            rules.append(f"{names}{{color:{colour}}}")
    return "".join(rules)
