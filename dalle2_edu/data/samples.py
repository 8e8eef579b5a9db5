"""Samples: a picture's bytes and its captions, out of tar shards and out of folders.

**A tar shard** is a plain tar file. Files that share a name and differ in the extension
make one sample: that is the WebDataset format, in which the LAION sets come, and the
emoji of this package.

    000017.webp   the picture
    000017.json   what is known about it, the captions among it
    000017.txt    or the captions alone, one on each line

The captions are found, in this order, in the JSON's `captions` (a list), `caption`,
`text` or `title` (a string), or in the `.txt`. A name goes up to its first dot, as in
WebDataset. Where that would give two pictures one name (22.05.png and 22.06.png), it
goes up to the last dot.

**A folder** holds pictures, in subfolders too, and their captions in one of these ways:

    captions.csv, captions.tsv    a column with the file's name, then one or more captions. The
                                  first line may name the columns: file_name, filepath, image ...;
                                  captions, caption, text, title
    captions.jsonl                {"file_name": "cat.png", "caption": "a cat"} on each line
    cat.txt beside cat.png        a caption on each line

Text is UTF-8, or has a mark at its start that names another encoding. `layouts` lists the
names that are looked for. What can't be used makes one bad sample, with the reason; it never ends the reading.

Chapters 02 (data and tokens) and 24 (to full size) use this file.
"""

from __future__ import annotations

import csv
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle2_edu.data.layouts import (
    BESIDE,
    CAPTION_FIELDS,
    CAPTION_FILES,
    FILE_FIELDS,
    PICTURES,
)
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import decode_text, one_line, parse_json, printable, read_text

LONGEST_FIELD = 1 << 20  # characters in a field of a table; csv's own limit is 131,072


@dataclass(frozen=True)
class Sample:
    """One picture file as bytes, where it came from, and its captions.

    wrong: why it can't be used, "" if nothing is known to be wrong. captions may be
    empty.
    """

    name: str
    data: bytes
    captions: list[str]
    wrong: str = ""


# --- captions -------------------------------------------------------------------------


def clean(captions: Any) -> list[str]:
    """One caption, several or none, as a list of those that say something."""
    several = [captions] if isinstance(captions, str) else captions  # JSON holds either
    if not isinstance(several, list):
        return []
    stripped = [caption.strip() for caption in several if isinstance(caption, str)]
    return [caption for caption in stripped if caption]


def captions_in(fields: Any) -> list[str]:
    """The captions of one record, under whichever of the usual names they stand; [] for
    none.
    """
    if not isinstance(fields, dict):
        return []
    # the first field that says something counts
    for field in CAPTION_FIELDS:
        if found := clean(fields.get(field)):
            return found
    return []


def captions_of_text(text: str) -> list[str]:
    """The captions of a text file: one on each line."""
    return clean(text.splitlines())


def captions_of_files(record: bytes | None, text: bytes | None) -> list[str]:
    """The captions in a sample's JSON, or else in its text file; raises ValueError for
    text that can't be read.
    """
    if record is not None:
        try:
            found = captions_in(parse_json(decode_text(record)))
        except ValueError:
            found = []  # damaged: perhaps the text file has them
        if found:
            return found
    return captions_of_text(decode_text(text)) if text is not None else []


# --- tar shards -----------------------------------------------------------------------


Place = tuple[int, int]  # where in a tar file a file begins, and its length, in bytes


@dataclass(frozen=True)
class SamplePlaces:
    """Where the files of one sample lie in a tar."""

    name: str
    picture: Place
    record: Place | None  # the .json
    text: Place | None  # the .txt


class TarShard:
    """A tar file whose samples can be read in any order, by several threads at once.

    Raises Dalle2EduError for what is no whole tar file.
    """

    def __init__(self, url: str, path: Path):
        self.url = url
        self.places = sample_places(url, path)
        # An open file stays readable when its name is removed from the cache.
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        places = self.places[index]
        name = printable(f"{places.name} in {self.url}")
        picture = self.read(places.picture)
        record = self.maybe(places.record)
        text = self.maybe(places.text)
        try:
            captions = captions_of_files(record, text)
        except ValueError as error:
            return Sample(name, picture, [], wrong=str(error))
        return Sample(name, picture, captions)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def read(self, place: Place) -> bytes:
        """One file's bytes; `pread` has no position that threads could fight over."""
        start, size = place
        return os.pread(self.descriptor, size, start)

    def maybe(self, place: Place | None) -> bytes | None:
        """The same, None for a file that is not there."""
        return None if place is None else self.read(place)


def sample_places(url: str, path: Path) -> list[SamplePlaces]:
    """The samples of a tar file in their order, each with the places of its files."""
    members: dict[str, Place] = {}
    try:
        with tarfile.open(path) as tar:
            for member in filter(tarfile.TarInfo.isreg, tar):  # no folders, no links
                if member.size < 0:
                    raise tarfile.TarError(f"{member.name} has a negative size")
                # the last one counts
                members[member.name] = (member.offset_data, member.size)
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise Dalle2EduError(
            f"can't read {url} as a tar shard ({one_line(error)}): is the address right and the"
            " file whole?"
        ) from error
    found = []
    for name, files in grouped(members).items():
        # PICTURES is in order of preference: one picture a sample
        picture = next((kind for kind in PICTURES if kind in files), None)
        if picture is not None:
            places = SamplePlaces(
                name=f"{name}.{picture}",
                picture=files[picture],
                record=files.get("json"),
                text=files.get("txt"),
            )
            found.append(places)
    return found


def grouped(members: dict[str, Place]) -> dict[str, dict[str, Place]]:
    """The files of a tar by the sample's name and the kind: {"000017": {"webp": ...,
    "json": ...}}.

    Of 7.png and 7.mask.png the first is the picture of sample 7. Two files of one kind,
    neither of them exact, are two samples, named up to the last dot.
    """
    by_first_dot: dict[str, list[str]] = {}
    for path in members:
        folder, slash, file = path.rpartition("/")
        stem = file.partition(".")[0]
        by_first_dot.setdefault(f"{folder}{slash}{stem}", []).append(path)

    found: dict[str, dict[str, Place]] = {}
    for name, paths in by_first_dot.items():
        # what follows the name: "webp", "mask.png"
        exact = {path[len(name) + 1 :].lower(): path for path in paths}
        for kind, path in exact.items():
            if "." not in kind:  # 7.png, and not 7.mask.png
                found.setdefault(name, {})[kind] = members[path]
        dotted = {kind: path for kind, path in exact.items() if "." in kind}
        last_kinds = [kind.rpartition(".")[2] for kind in dotted]
        split = len(set(last_kinds)) < len(last_kinds)  # two of one kind: two samples
        for kind, path in dotted.items():
            middle, _, last = kind.rpartition(".")
            if split and not (found.get(name, {}).keys() & {*PICTURES}):
                found.setdefault(f"{name}.{middle}", {})[last] = members[path]
            else:
                found.setdefault(name, {}).setdefault(last, members[path])
    return found


# --- folders --------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of a captions file: which picture, its captions, and what is wrong with
    it.
    """

    file: str
    captions: list[str]
    wrong: str = ""


def samples_in_folder(folder: Path) -> Iterator[Sample]:
    """The pictures of a folder with their captions."""
    named = (folder / name for name in CAPTION_FILES)
    listed = next((path for path in named if path.is_file()), None)
    if listed is None:
        rows: Iterable[Row] = rows_beside_pictures(folder)
    else:
        rows = joined(table_rows(listed))
    for row in rows:
        path = folder / row.file
        wrong = row.wrong
        data = b""
        if not wrong:
            try:
                data = path.read_bytes()
            # ValueError: a name with a null in it
            except (OSError, ValueError) as error:
                wrong = getattr(error, "strerror", None) or str(error)
        yield Sample(printable(str(path)), data, row.captions, wrong)


def rows_beside_pictures(folder: Path) -> Iterator[Row]:
    """The pictures below a folder, each with the captions in the .txt beside it."""
    for path in sorted(folder.rglob("*")):
        if path.suffix[1:].lower() not in PICTURES:
            continue
        file = str(path.relative_to(folder))
        text = path.with_suffix(BESIDE)
        try:
            caption = decode_text(text.read_bytes()) if text.is_file() else ""
        except (OSError, ValueError) as error:
            yield Row(file, [], wrong=f"{text.name}: {one_line(error)}")
            continue
        yield Row(file, captions_of_text(caption))


def joined(rows: Iterator[Row]) -> list[Row]:
    """A picture that stands on several lines has all their captions."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.file in found and not row.wrong:  # a faulty line is kept apart
            found[row.file].captions.extend(row.captions)
        else:
            found[row.file] = row
    return list(found.values())


def table_rows(path: Path) -> Iterator[Row]:
    """The lines of a captions file. What is no line of one is a row that says what is
    wrong.
    """
    text = read_text(path)
    rows = json_rows(text) if path.suffix == ".jsonl" else csv_rows(text, path.suffix)
    for number, row in rows:
        if row.wrong:
            yield Row(f"{path.name}, line {number}", [], row.wrong)
        else:
            # Windows writes folders with backslashes.
            yield Row(row.file.replace("\\", "/"), row.captions)


def json_rows(text: str) -> Iterator[tuple[int, Row]]:
    """The lines of a .jsonl file, with their numbers."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = parse_json(line)
        except ValueError:
            fields = None
        record = fields if isinstance(fields, dict) else {}  # a number is JSON, too
        names = [record.get(field) for field in FILE_FIELDS]
        file = next((name for name in names if isinstance(name, str) and name), None)
        if file is None:
            wrong = 'expected {"file_name": ..., "caption": ...}'
            yield number, Row("", [], f"{wrong}, found {line.strip()[:60]!r}")
        else:
            yield number, Row(file, captions_in(record))


def csv_rows(text: str, suffix: str) -> Iterator[tuple[int, Row]]:
    """The lines of a .csv or .tsv file, with their numbers; the first may name the
    columns.

    open_clip writes files named .csv with tabs between the columns: a first line with a
    tab and no comma tells.
    """
    first = text.partition("\n")[0]
    tabs = suffix == ".tsv" or ("\t" in first and "," not in first)
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",")
    columns: Columns | None = None
    while True:
        # by hand: csv raises in the middle of a loop, and the next line may be sound
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, Row("", [], one_line(error))
            continue
        if not any(cell.strip() for cell in cells):  # an empty line
            continue
        if columns is None:
            columns = columns_of(cells)
            if columns.named:
                continue
        yield reader.line_num, columns.row(cells)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold the file's name and the captions.

    captions None: all but the file's. Cells to the right of the `named` columns are
    captions too.
    """

    file: int
    captions: Sequence[int] | None
    named: int  # how many columns the first line named, 0 for none

    def row(self, cells: list[str]) -> Row:
        """A line's file and captions."""
        if self.file >= len(cells):
            wrong = f"it has {len(cells)} columns, the file's name is missing"
            return Row("", [], wrong)
        places: Sequence[int] = range(len(cells))
        if self.captions is not None:
            # a caption with commas spills over to the right
            places = [*self.captions, *range(self.named, len(cells))]
        used = [cells[i] for i in places if i != self.file and i < len(cells)]
        return Row(cells[self.file].strip(), clean(used))


def columns_of(cells: list[str]) -> Columns:
    """The columns that a first line names; without names the first column is the
    file's.
    """
    names = [cell.strip().lower() for cell in cells]
    file = next((names.index(field) for field in FILE_FIELDS if field in names), None)
    # no name that we know: the first line is data
    if file is None:
        return Columns(file=0, captions=None, named=0)
    captions = [i for i, name in enumerate(names) if name in CAPTION_FIELDS]
    return Columns(file=file, captions=captions or None, named=len(cells))
