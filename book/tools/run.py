"""`make notebooks`: run the notebooks of both languages top to bottom and store what
they print and draw.

    make notebooks                                    # every chapter, both languages, cpu tier (minutes each)
    make notebooks CHAPTER=07 LANGUAGE=zh TIER=gpu
    make notebooks-stale                              # which pages were run with another package

A notebook that ran well gets its outputs and a stamp, `metadata.dalle2_edu.run`: tier,
device, minutes, versions, commit of the code that ran, date, the number of claims that
held, a digest of the code cells, the hashes of the zoo's weights that were loaded and
digests of the package's files that were imported. Outputs of other code cells or of
weights that have left the zoo fail a test; outputs of an older package are listed by
`make notebooks-stale`.

A notebook that raised an error, grew over 1.5 MB, printed a path of this machine or
shows a figure without words keeps the file it had, and one line says why.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from PIL import Image, ImageChops
from twins import (
    LANGUAGES,
    NOTEBOOKS,
    ROOT,
    Language,
    chapter_names,
    digest,
    path_of,
    read,
    write,
)

from dalle2_edu import zoo
from dalle2_edu.errors import Dalle2EduError

TIERS = ("smoke", "cpu", "gpu")
LARGEST = 1_500_000  # bytes of a stored notebook: pictures at their full size
INVISIBLE = 8  # of 255: a change of colour that no eye finds
CELL_SECONDS = 3600
START_SECONDS = 300  # a busy machine takes its time to start a kernel

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}

# Runs after the last cell, in the same kernel, and is not stored: what the chapter
# really ran on.
PROBE = """
import hashlib, importlib.metadata, json, os, pathlib, platform, sys
device = getattr(globals().get("ch"), "device", "cpu")
if str(device).startswith("cuda"):
    import torch
    name = torch.cuda.get_device_name(device)
else:
    name = f"{device}, {os.cpu_count()} cores"
versions = {package: importlib.metadata.version(package) for package in ("torch", "dalle2_edu")}
zoo = sys.modules.get("dalle2_edu.zoo")
files = {
    name: pathlib.Path(module.__file__).read_bytes()
    for name, module in sorted(sys.modules.items())
    if name.split(".")[0] == "dalle2_edu" and getattr(module, "__file__", None)
}
print(json.dumps({
    "device": name,
    "versions": {"python": platform.python_version(), **versions},
    "claims": len(getattr(globals().get("ch"), "claims", [])),
    "zoo": {part: found[:16] for part, found in zoo.loaded().items()} if zoo else {},
    "package": {name: hashlib.sha256(text).hexdigest()[:16] for name, text in files.items()},
}))
"""


# --- running --------------------------------------------------------------------------


def run(
    notebook: NotebookNode, folder: Path, tier: str, language: Language
) -> dict[str, Any]:
    """Run every cell in a fresh kernel, in place; returns the stamp. Raises
    Dalle2EduError if a cell fails.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    probe = nbformat.v4.new_code_cell(PROBE)
    notebook.cells.append(probe)
    started = time.monotonic()
    try:
        _execute(notebook, folder, tier, language)
    finally:
        notebook.cells.remove(probe)
    minutes = round((time.monotonic() - started) / 60, 1)
    facts = json.loads("".join(output.get("text", "") for output in probe.outputs))
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {
        "tier": tier,
        "minutes": minutes,
        **facts,
        "commit": commit(),
        "date": today,
        "code": code_digest(notebook),
    }


def _execute(
    notebook: NotebookNode, folder: Path, tier: str, language: Language
) -> None:
    environment = {
        **os.environ,
        "DALLE2_EDU_TIER": tier,
        "DALLE2_EDU_LANG": language,
        # a slider becomes a strip of pictures: the stored page has no kernel
        "DALLE2_EDU_STATIC": "1",
        "TQDM_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("MPLBACKEND", None)  # figures go into the page
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        startup_timeout=START_SECONDS,
        kernel_name=KERNELSPEC["name"],
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
    )
    try:
        client.execute(
            env=environment, stderr=subprocess.DEVNULL
        )  # the kernel's log, not the cells' stderr
    except CellExecutionError as error:
        raise Dalle2EduError(
            f"cell {_failed_cell(notebook)}: {error.ename}: {_first_line(error.evalue)}"
        ) from None
    except (
        CellTimeoutError,
        DeadKernelError,
        RuntimeError,
    ) as error:  # RuntimeError: the kernel did not start
        raise Dalle2EduError(f"the kernel stopped: {_first_line(str(error))}") from None


def _failed_cell(notebook: NotebookNode) -> str:
    failed = [
        cell.id
        for cell in notebook.cells
        if any(_is_error(output) for output in cell.get("outputs", []))
    ]
    return failed[0] if failed else "?"


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]


def _is_error(output: NotebookNode) -> bool:
    return output.output_type == "error"


def commit() -> str:
    """The commit of the code that runs; "+changes" if the package was edited since."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + (
            "+changes" if _git("status", "--porcelain", "--", "dalle2_edu") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # an archive without its history


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def code_digest(notebook: NotebookNode) -> str:
    """Changes when any code cell changes: stored outputs belong to the code of this
    digest.
    """
    return digest(
        "\n\u0000".join(
            cell.source for cell in notebook.cells if cell.cell_type == "code"
        )
    )


# --- what a stamp is worth today ------------------------------------------------------


def other_weights(stamp: dict[str, Any]) -> list[str]:
    """Parts that a page shows and that are not, or no longer, in the zoo."""
    in_zoo = {
        f"{domain}/{part}": card.sha256[:16]
        for (domain, part), card in zoo.cards().items()
    }
    return [
        part
        for part, found in stamp.get("zoo", {}).items()
        if in_zoo.get(part) != found
    ]


def other_modules(stamp: dict[str, Any]) -> list[str]:
    """Modules of the package that changed since the page was run."""
    return [
        name
        for name, found in stamp.get("package", {}).items()
        if module_digest(name) != found
    ]


def module_digest(name: str) -> str:
    """The first 16 hexadecimal digits of a module's SHA-256; "" if it is gone."""
    place = ROOT.joinpath(*name.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.exists():
            return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return ""


def stale(folder: Path, language: Language, name: str) -> str:
    """One line about a page that an older package made; "" if it is up to date."""
    stamp = (
        read(path_of(folder, language, name))
        .metadata.get("dalle2_edu", {})
        .get("run", {})
    )
    if not stamp.get("package"):
        return f"{language}/{name}: no run is stored that says what it imported"
    weights, changed = other_weights(stamp), other_modules(stamp)
    parts = [f"other weights: {', '.join(weights)}"] if weights else []
    parts += [f"changed since: {_some(changed)}"] if changed else []
    return (
        f"{language}/{name}, run on {stamp['date']}: {'; '.join(parts)}"
        if parts
        else ""
    )


def _some(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


# --- what is stored -------------------------------------------------------------------


def tidy(notebook: NotebookNode) -> None:
    """Take out what differs from run to run or helps nobody: warnings, progress bars,
    addresses, timings.
    """
    notebook.metadata = {
        "kernelspec": dict(KERNELSPEC),
        "language_info": {"name": "python"},
        **{
            key: value
            for key, value in notebook.metadata.items()
            if key == "dalle2_edu"
        },
    }
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "scrolled", "trusted"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = _tidy_outputs(cell.outputs)


def _tidy_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":  # warnings, logs, progress bars
                continue
            output.text = _settle(output.text)
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
            continue  # a live widget is an empty box in a page without a kernel
        elif "text/plain" in output.get("data", {}):
            output.data["text/plain"] = re.sub(
                r" at 0x[0-9a-f]+", "", output.data["text/plain"]
            )
        if "image/png" in output.get("data", {}):
            shrink(output.data)
            # the words go with the picture's kind
            told = output.metadata.pop("image/png", {})
            output.metadata[picture_kind(output) or "image/png"] = told
        kept.append(output)
    return kept


def shrink(data: dict[str, Any]) -> None:
    """Store an output's picture in fewer bytes, if nobody can see the difference; in
    place.

    A figure of curves and words is the same in 256 colours, at a third of the size. A
    picture with more colours becomes a JPEG of high quality and full colour resolution,
    if that is much smaller.
    """
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    if image.mode == "P" or image.convert("RGBA").getchannel("A").getextrema() != (
        255,
        255,
    ):
        return  # done before, or see-through
    picture = image.convert("RGB")
    palette = picture.quantize(
        256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )
    change = ImageChops.difference(picture, palette.convert("RGB")).tobytes()
    if max(change) <= INVISIBLE:
        mime, fewer = "image/png", _encoded(palette, "PNG", optimize=True)
    else:
        mime, fewer = "image/jpeg", _encoded(picture, "JPEG", quality=85, subsampling=0)
    if len(fewer) < 0.8 * len(data["image/png"]):
        del data["image/png"]
        data[mime] = fewer


def picture_kind(output: NotebookNode) -> str:
    """The kind of picture that an output is; "" for another output."""
    kinds = ("image/png", "image/jpeg")
    return next((kind for kind in kinds if kind in output.get("data", {})), "")


def alt(output: NotebookNode) -> str:
    """What a stored picture says to those who can't see it."""
    return str(output.get("metadata", {}).get(picture_kind(output), {}).get("alt", ""))


def _encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def _settle(text: str) -> str:
    """What is left on a terminal when every carriage return has overwritten the line
    before it.
    """
    return re.sub(r"^[^\n]*\r(?!\n)", "", text, flags=re.M)


def faults(notebook: NotebookNode) -> Iterator[str]:
    """Why a notebook must not be stored (the tests ask the same of the notebooks that
    are).
    """
    size = len(nbformat.writes(notebook).encode())
    if size > LARGEST:
        yield (
            f"{size / 1e6:.2f} MB with its outputs, {LARGEST / 1e6:.1f} MB at most; draw fewer or"
            " smaller:"
            f" {_largest(notebook)}"
        )
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if _is_error(output):
                yield f"cell {cell.id} has an error output: {output.ename}"
            if picture_kind(output) and not re.search(
                r"\w \w|[\u4e00-\u9fff]", alt(output)
            ):
                yield f"cell {cell.id} shows a figure without words for those who can't see it"
            for path in absolute_paths(output):
                yield f"cell {cell.id} shows a path of this machine: {path}"


def _largest(notebook: NotebookNode, count: int = 4) -> str:
    """The cells whose outputs take the most room: "grid 310 kB, curves 120 kB"."""
    sizes = {
        cell.id: len(json.dumps(cell.outputs))
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    first = sorted(sizes, key=lambda cell_id: -sizes[cell_id])[:count]
    return ", ".join(f"{cell_id} {sizes[cell_id] / 1e3:.0f} kB" for cell_id in first)


# An absolute path: a slash that nothing leads up to, and at least two parts; not
# `</b>`, `1/2`, `../en/x`, a URL.
ABSOLUTE = re.compile(
    r"(?<![\w./:<~%)\]+-])/[A-Za-z_.][\w.-]*/[\w.-]+(?:/[\w.-]+)*|(?<!\w)[A-Z]:\\\\?[A-Za-z]\w*"
)
EMBEDDED = re.compile(r"data:[\w/+-]+;base64,[A-Za-z0-9+/=\s]+|[A-Za-z0-9+/=]{100,}")


def absolute_paths(output: NotebookNode) -> list[str]:
    """Absolute paths in an output's text; pictures are not looked into."""
    data = output.get("data", {})
    texts = [
        output.get("text", ""),
        *(value for mime, value in data.items() if not mime.startswith("image/p")),
    ]
    plain = EMBEDDED.sub(
        " ",
        "\n".join(
            text if isinstance(text, str) else json.dumps(text) for text in texts
        ),
    )
    plain = re.sub(
        r"\b[a-z]+://[^\s\"'<>)]*", " ", plain
    )  # the path of a URL is not one of this machine
    known = [
        folder
        for folder in (str(ROOT), str(Path.home()))
        if len(folder) > 1 and folder in plain
    ]
    return known or ABSOLUTE.findall(plain)


# --- the whole ------------------------------------------------------------------------


def run_and_store(folder: Path, name: str, language: Language, tier: str) -> str:
    """Run one notebook and store it with its stamp; returns the line to print.

    Raises Dalle2EduError, and leaves the file as it was, if a cell fails or `faults`
    finds something.
    """
    path = path_of(folder, language, name)
    if not path.exists():
        raise Dalle2EduError(
            "there is no such notebook; `make sync` makes a twin to translate"
        )
    notebook = read(path)
    stamp = run(notebook, path.parent, tier, language)
    notebook.metadata.setdefault("dalle2_edu", {})["run"] = stamp
    tidy(notebook)
    found = list(faults(notebook))
    if found:
        raise Dalle2EduError("; ".join(found))
    write(notebook, path)
    size = path.stat().st_size / 1e3
    return (
        f"{language}/{name}: {stamp['minutes']} minutes on {stamp['device']}, {size:.0f} kB,"
        f" commit {stamp['commit']}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--chapter", default="", help="07 or 07_ddpm; all chapters if left out"
    )
    parser.add_argument("--language", default="", help="en or zh; both if left out")
    parser.add_argument("--tier", default="cpu", help="smoke, cpu or gpu")
    parser.add_argument(
        "--stale",
        action="store_true",
        help="run nothing; list the pages of an older package",
    )
    parser.add_argument(
        "--folder", type=Path, default=NOTEBOOKS, help=argparse.SUPPRESS
    )
    given = parser.parse_args(arguments)
    try:
        if given.tier not in TIERS:
            raise Dalle2EduError(
                f"there is no tier {given.tier!r}; TIER is one of {', '.join(TIERS)}"
            )
        if given.language not in ("", *LANGUAGES):
            raise Dalle2EduError(
                f"there is no language {given.language!r}; LANGUAGE is one of"
                f" {', '.join(LANGUAGES)}"
            )
        names = chapter_names(given.folder, given.chapter)
    except Dalle2EduError as error:
        print(error, file=sys.stderr)
        return 2
    jobs = [
        (name, language)
        for name in names
        for language in LANGUAGES
        if given.language in ("", language)
    ]
    if given.stale:
        lines = [
            line
            for name, language in jobs
            if (line := stale(given.folder, language, name))
        ]
        print(
            "\n".join(lines)
            or "Every page was run with the package and the weights as they are."
        )
        return 0
    failed = [job for job in jobs if not _job(given.folder, *job, given.tier)]
    return 1 if failed else 0


def _job(folder: Path, name: str, language: Language, tier: str) -> bool:
    try:
        print(run_and_store(folder, name, language, tier), flush=True)
        return True
    except Dalle2EduError as error:
        print(
            f"{language}/{name}: {error}; the file was kept as it was",
            file=sys.stderr,
            flush=True,
        )
        return False


if __name__ == "__main__":
    raise SystemExit(main())
