"""`make book` and `make slides`: the English and the Chinese book, and the decks, as
plain files in `_build/site`.

    python book/tools/build.py                    # everything
    python book/tools/build.py --only slides      # the decks alone
    python book/tools/build.py --partial          # for writers: leave out the pages that nobody has written yet

Jupyter Book builds one language at a time: the shared `_config.yml` joined with
`book/<language>/_config.yml`, and the pages of `book/<language>/_toc.yml`. Notebooks
are not run; their stored outputs are shown. Any warning is an error. Each build starts
from nothing, since Sphinx tells of a page's faults only when it reads the page.

    _build/site/index.html            leads to the reader's language
    _build/site/en/, _build/site/zh/  the books
    _build/site/slides/en/07.html     the decks
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import yaml
from slides import build_slides

from dalle2_edu.errors import Dalle2EduError

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
LANGUAGES = ("en", "zh")
SUFFIXES = (".md", ".ipynb")
STRICT = ("--warningiserror", "--keep-going", "--quiet")
ASSETS = ("gallery.png", "landing.css")  # what the landing page shows


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        if options.only in ("all", "book"):
            build_book(options.output, options.partial)
        if options.only in ("all", "slides"):
            build_slides(options.output / "site" / "slides")
    except Dalle2EduError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build the book and its slides into _build/site."
    )
    parser.add_argument("--only", choices=["all", "book", "slides"], default="all")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="leave out the pages that nobody has written yet",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "_build",
        help="where to build (default: _build)",
    )
    options = parser.parse_args(arguments)
    options.output = options.output.resolve()
    return options


# --- the books ------------------------------------------------------------------------


def build_book(output: Path, partial: bool = False) -> None:
    """Both languages, side by side, and the landing page."""
    with ThreadPoolExecutor(len(LANGUAGES)) as pool:
        builds = [
            pool.submit(build_language, language, output, partial)
            for language in LANGUAGES
        ]
    for build in builds:
        build.result()
    write_landing(output / "site")


def build_language(language: str, output: Path, partial: bool = False) -> None:
    """One language's book. Raises `Dalle2EduError` with Sphinx's own words if anything
    is wrong with it.
    """
    start, work = time.monotonic(), output / language
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    command = jupyter_book(*write_settings(language, work, partial), work)
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONUTF8": "1"},
        encoding="utf8",
        stdout=PIPE,
        stderr=STDOUT,
    )
    (work / "log.txt").write_text(run.stdout, encoding="utf8")
    if run.returncode != 0:
        raise Dalle2EduError(
            f"the {language} book could not be built:\n{_faults(run.stdout)}"
        )
    site = output / "site" / language
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(
        work / "_build" / "html",
        site,
        ignore=shutil.ignore_patterns("*webpack-macros.html"),
    )
    print(
        f"{language}: {len(list(site.rglob('*.html')))} pages in"
        f" {time.monotonic() - start:.0f} s",
        flush=True,
    )


def jupyter_book(config: Path, toc: Path, work: Path) -> list[str]:
    """The command line. The source folder is the repository, so that pages reach
    notebooks and package alike.
    """
    tool = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
    ]  # of this very environment
    return [
        *tool,
        "build",
        str(ROOT),
        "--path-output",
        str(work),
        "--config",
        str(config),
        "--toc",
        str(toc),
        *STRICT,
    ]


def write_settings(language: str, work: Path, partial: bool) -> tuple[Path, Path]:
    """This language's complete settings and table of contents, as files for Jupyter
    Book.
    """
    config, toc = work / "_config.yml", work / "_toc.yml"
    config.write_text(
        yaml.safe_dump(settings(language, partial), allow_unicode=True), encoding="utf8"
    )
    toc.write_text(
        yaml.safe_dump(contents(language, partial), allow_unicode=True), encoding="utf8"
    )
    return config, toc


def settings(language: str, partial: bool = False) -> dict[str, Any]:
    """The shared settings, with this language's on top."""
    joined = merge(_yaml(ROOT / "_config.yml"), _yaml(BOOK / language / "_config.yml"))
    local = joined["sphinx"]["local_extensions"]
    joined["sphinx"]["local_extensions"] = {
        name: str(ROOT / folder) for name, folder in local.items()
    }
    if partial:  # a link to a page that nobody has written yet is no fault then
        joined["sphinx"]["config"]["suppress_warnings"] = ["myst.xref_missing"]
    return joined


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` wins; dictionaries in dictionaries are merged, everything else is
    replaced.
    """
    joined = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        joined[key] = merge(below[key], value) if both else value
    return joined


def contents(language: str, partial: bool = False) -> dict[str, Any]:
    """The table of contents. A page that it names and nobody has written is an error,
    or with `partial` left out.
    """
    toc = _yaml(BOOK / language / "_toc.yml")
    missing = [page for page in pages(toc) if not written(page)]
    if missing and not partial:
        raise Dalle2EduError(
            f"book/{language}/_toc.yml names pages that do not exist: {', '.join(missing)}"
        )
    for part in toc["parts"]:
        part["chapters"] = [
            chapter for chapter in part["chapters"] if written(chapter["file"])
        ]
    return toc | {"parts": [part for part in toc["parts"] if part["chapters"]]}


def pages(toc: dict[str, Any]) -> list[str]:
    """Every page of a table of contents, in reading order: `book/en/index`, ..."""
    return [
        toc["root"],
        *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"]),
    ]


def written(page: str) -> bool:
    return any((ROOT / f"{page}{suffix}").is_file() for suffix in SUFFIXES)


def _faults(log: str) -> str:
    """The lines of Sphinx's output that tell of a fault; all of it if none does."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)  # without the terminal's colours
    return "\n".join(_fault_lines(plain.splitlines())) or plain


def _fault_lines(lines: Iterable[str]) -> Iterator[str]:
    signs = ("WARNING:", "ERROR:", "CRITICAL:", "Error", "error:")
    return (line for line in lines if any(sign in line for sign in signs))


# --- the landing page -----------------------------------------------------------------


def write_landing(site: Path) -> None:
    """The site's front door, in both languages."""
    site.mkdir(parents=True, exist_ok=True)
    shutil.copy(BOOK / "landing" / "index.html", site / "index.html")
    for name in ASSETS:
        shutil.copy(BOOK / "assets" / name, site / name)


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf8"))


if __name__ == "__main__":
    sys.exit(main())
