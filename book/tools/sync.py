"""`make sync`: carry code, outputs and layout between the English and the Chinese
notebooks, and name stale prose.

    make sync                              # every chapter; the side that changed since the last sync wins, cell by cell
    make sync CHAPTER=07 FROM=en           # the English notebook wins everywhere, also against newer Chinese code
    make sync CONFIRM=07_ddpm:why-noise    # this cell's translation was brought up to date (CONFIRM=07_ddpm: all of it)

Each notebook remembers what the pair shared at the last sync
(`metadata.dalle2_edu.synced`: ids and digests). A cell that differs from this record on
one side only was changed there, and is carried over. Changed on both sides: sync stops,
names the cell and touches no file of that chapter. A cell that the record lacks is new
and is carried over; a cell that the record has and one side lacks was deleted there,
and goes. Prose is never overwritten.
"""

from __future__ import annotations

import argparse
import ast
import copy
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from prose import foreign_units, has_words
from twins import (
    LANGUAGES,
    NAMES,
    NOTEBOOKS,
    UNTRANSLATED,
    Language,
    cells_by_id,
    chapter_names,
    digest,
    is_translated,
    other,
    pair_problems,
    path_of,
    read,
    shared,
    shared_metadata,
    write,
)

from dalle2_edu.errors import Dalle2EduError

# These answer in the reader's language, so what they print or draw must not be carried
# to the other notebook.
SPEAKING = frozenset({"words", "chapter", "check", "explore", "show"})


@dataclass
class Pair:
    """The twins of one chapter while they are being brought together, and what was done
    to them.
    """

    name: str
    books: dict[Language, NotebookNode]
    winner: Language | None = None  # FROM=…
    done: list[str] = field(default_factory=list)
    to_run: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        records = [_record(self.books[language]) for language in LANGUAGES]
        # An entry counts only if both notebooks remember it alike: one of them may come
        # from an older commit.
        self.base = {
            key: value
            for key, value in records[0].items()
            if records[1].get(key) == value
        }

    def say(self, cell_id: str, what: str) -> None:
        self.done.append(f"{self.name}:{cell_id}: {what}")

    def conflict(self, cell_id: str, what: str) -> Dalle2EduError:
        where = f"{self.name}:{cell_id}" if cell_id else self.name
        return Dalle2EduError(
            f"{where}: {what}; say which language wins: make sync CHAPTER={self.name} FROM=en"
        )

    def newer(
        self, cell_id: str, values: dict[Language, str], base: str | None, what: str
    ) -> Language:
        """The language whose value changed since the last sync."""
        if self.winner:
            return self.winner
        changed = [language for language in LANGUAGES if values[language] != base]
        if base is None or len(changed) != 1:
            raise self.conflict(cell_id, what)
        return changed[0]


def _record(book: NotebookNode) -> dict[str, str]:
    return dict(
        entry.split() for entry in book.metadata.get("dalle2_edu", {}).get("synced", [])
    )


# --- layout: which cells there are, in which order ------------------------------------


def merge_layout(pair: Pair) -> None:
    """Give both notebooks the same cells in the same order."""
    kept = {language: _kept(pair, language) for language in LANGUAGES}
    common = set(kept["en"]) & set(kept["zh"])
    orders = {
        language: [i for i in kept[language] if i in common] for language in LANGUAGES
    }
    lead: Language = pair.winner or "en"
    if orders["en"] != orders["zh"]:
        base = [i for i in pair.base if i in common]
        values: dict[Language, str] = {
            language: " ".join(orders[language]) for language in LANGUAGES
        }
        what = "the cells were put in another order in both languages"
        lead = pair.newer(
            "", values, " ".join(base) if len(base) == len(common) else None, what
        )
        pair.done.append(
            f"{pair.name}: the order of the cells is now that of the {NAMES[lead]} notebook"
        )
    order = interleave(kept[lead], kept[other(lead)])
    sources = {language: cells_by_id(pair.books[language]) for language in LANGUAGES}
    for language in LANGUAGES:
        here, there = sources[language], sources[other(language)]
        pair.books[language].cells = [
            here[i] if i in here else _arrival(pair, there[i], language) for i in order
        ]


def _kept(pair: Pair, language: Language) -> list[str]:
    """Ids of a notebook's cells without those that were deleted in its twin."""
    ids = [cell.id for cell in pair.books[language].cells]
    there = cells_by_id(pair.books[other(language)])
    deleted = (
        ids if pair.winner == other(language) else [] if pair.winner else pair.base
    )
    gone = [i for i in ids if i not in there and i in deleted]
    for cell_id in gone:
        cell = cells_by_id(pair.books[language])[cell_id]
        if not pair.winner and shared(cell) != pair.base[cell_id]:
            raise pair.conflict(
                cell_id,
                f"changed in {NAMES[language]} and deleted in {NAMES[other(language)]}",
            )
        pair.say(cell_id, f"deleted, as in the {NAMES[other(language)]} notebook")
    return [i for i in ids if i not in gone]


def interleave(lead: list[str], follow: list[str]) -> list[str]:
    """The order of `lead`, with each id that only `follow` has after the one it follows
    there.

    >>> interleave(["a", "b", "c"], ["a", "x", "c"])
    ['a', 'x', 'b', 'c']
    """
    order = list(lead)
    for before, cell_id in zip([None, *follow], follow, strict=False):
        if cell_id not in order:
            order.insert(order.index(before) + 1 if before is not None else 0, cell_id)
    return order


def _arrival(pair: Pair, cell: NotebookNode, language: Language) -> NotebookNode:
    """A new cell as it arrives in the twin: code as it is, prose marked as waiting for
    a translator.
    """
    new = copy.deepcopy(cell)
    what = f"new in {NAMES[other(language)]}"
    if new.cell_type == "code":
        new.outputs, new.execution_count = [], None
    elif new.cell_type == "markdown" and has_words(new.source):
        cell.metadata.counterpart = new.metadata.counterpart = UNTRANSLATED
        what += f": to be translated into {NAMES[language]}"
    pair.say(cell.id, what)
    return new


# --- cells ----------------------------------------------------------------------------


def merge_cells(pair: Pair) -> None:
    """Give both cells of an id the same code, tags and slide type; the side that
    changed wins.
    """
    for en, zh in zip(pair.books["en"].cells, pair.books["zh"].cells, strict=True):
        twins: dict[Language, NotebookNode] = {"en": en, "zh": zh}
        if is_translated(en) != is_translated(
            zh
        ):  # one mark was lost: keep both texts, ask a person
            en.metadata.counterpart = zh.metadata.counterpart = UNTRANSLATED
        if shared(en) != shared(zh):
            _merge_cell(pair, twins)


def _merge_cell(pair: Pair, twins: dict[Language, NotebookNode]) -> None:
    cell_id = twins["en"].id
    values: dict[Language, str] = {
        language: shared(twins[language]) for language in LANGUAGES
    }
    if _is_new_prose(twins["en"], twins["zh"]):
        _becomes_prose(pair, twins)
        return
    lead = pair.newer(
        cell_id, values, pair.base.get(cell_id), "the cell changed in both languages"
    )
    source, target = twins[lead], twins[other(lead)]
    target.metadata = {
        k: v
        for k, v in target.metadata.items()
        if k not in ("tags", "slideshow", "jupyter")
    }
    target.metadata.update(copy.deepcopy(shared_metadata(source)))
    if not is_translated(source) and (
        source.source != target.source or source.cell_type != target.cell_type
    ):
        _replace_text(source, target)
    pair.say(cell_id, f"carried from {NAMES[lead]} to {NAMES[other(lead)]}")


def _is_new_prose(en: NotebookNode, zh: NotebookNode) -> bool:
    """Whether a text cell that was the same in both languages now differs, and in
    words.
    """
    if (
        en.cell_type != "markdown"
        or zh.cell_type != "markdown"
        or is_translated(en)
        or en.source == zh.source
    ):
        return False
    return has_words(en.source) or has_words(zh.source)


def _becomes_prose(pair: Pair, twins: dict[Language, NotebookNode]) -> None:
    """A cell that was equal in both languages has got words: from now on it is a
    translated one.
    """
    for language in LANGUAGES:
        twins[language].metadata.counterpart = UNTRANSLATED
    pair.say(twins["en"].id, "is prose in different words now: compare the two texts")
    if shared(twins["en"]) != shared(twins["zh"]):
        _merge_cell(pair, twins)  # the tags differ too


def _replace_text(source: NotebookNode, target: NotebookNode) -> None:
    target.cell_type, target.source = source.cell_type, source.source
    for key in (
        "outputs",
        "execution_count",
    ):  # an output of the old code would lie about the new code
        target.pop(key, None)
    if source.cell_type == "code":
        target.outputs, target.execution_count = [], None
    if is_translated(source):
        target.metadata.counterpart = UNTRANSLATED


# --- outputs --------------------------------------------------------------------------


def merge_outputs(pair: Pair) -> None:
    """Fill in outputs that only one twin has, where they are the same in both
    languages; name the cells to be run.
    """
    speaks = speaking_cells(
        cell.source for cell in pair.books["en"].cells if cell.cell_type == "code"
    )
    code = [
        [cell for cell in pair.books[language].cells if cell.cell_type == "code"]
        for language in LANGUAGES
    ]
    for en, zh, speaking in zip(*code, speaks, strict=True):
        if en.execution_count is not None and zh.execution_count is not None:
            continue
        if speaking or en.execution_count is zh.execution_count is None:
            pair.to_run.append(en.id)
        else:
            source, target = (en, zh) if zh.execution_count is None else (zh, en)
            target.outputs, target.execution_count = (
                copy.deepcopy(source.outputs),
                source.execution_count,
            )
            pair.say(en.id, "its output was copied")


def speaking_cells(sources: Iterable[str]) -> list[bool]:
    """Which code cells print or draw in the reader's language, also through a function
    defined in an earlier cell.
    """
    names, answer = set(SPEAKING), []
    for source in sources:
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a %magic line: better run than guessed
            answer.append(True)
            continue
        answer.append(bool(_names(tree) & names))
        functions = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        )
        names |= {node.name for node in functions if _names(node) & names}
    return answer


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


# --- the whole ------------------------------------------------------------------------


def sync_pair(pair: Pair) -> None:
    """Bring the twins of one chapter together, in place."""
    merge_layout(pair)
    merge_cells(pair)
    merge_outputs(pair)
    record = [
        f"{cell.id} {shared(cell)}" for cell in pair.books["en"].cells
    ]  # a list keeps the order
    for book in pair.books.values():
        book.metadata.setdefault("dalle2_edu", {})["synced"] = list(record)


def load_pair(folder: Path, name: str, winner: Language | None = None) -> Pair:
    """Both notebooks of a chapter; a twin that does not exist yet is an empty
    notebook.
    """
    paths: dict[Language, Path] = {
        language: path_of(folder, language, name) for language in LANGUAGES
    }
    books = {language: read(path) for language, path in paths.items() if path.exists()}
    for language in LANGUAGES:
        if language not in books:
            metadata = {
                k: v
                for k, v in books[other(language)].metadata.items()
                if k != "dalle2_edu"
            }
            books[language] = nbformat.v4.new_notebook(metadata=copy.deepcopy(metadata))
    return Pair(name, books, winner)


def confirm(folder: Path, target: str) -> list[str]:
    """Record that `chapter:cell`, or every cell of `chapter`, is translated faithfully;
    returns the cells recorded.
    """
    name, _, wanted = target.partition(":")
    [name] = chapter_names(folder, name)
    pair = load_pair(folder, name)
    twins = [
        (en, zh)
        for en in pair.books["en"].cells
        for zh in pair.books["zh"].cells
        if en.id == zh.id
    ]
    chosen = [
        (en, zh)
        for en, zh in twins
        if en.cell_type == "markdown" and (not wanted or en.id == wanted)
    ]
    if not chosen:
        raise Dalle2EduError(
            f"{target}: no text cell of this name is in both notebooks; run `make sync` first"
        )
    recorded = [en.id for en, zh in chosen if _confirm_cell(name, en, zh)]
    for language in LANGUAGES:
        write(pair.books[language], path_of(folder, language, name))
    return recorded


def _confirm_cell(name: str, en: NotebookNode, zh: NotebookNode) -> bool:
    """Whether the pair's marks had to be renewed."""
    before = (en.metadata.get("counterpart"), zh.metadata.get("counterpart"))
    if en.source == zh.source:
        if foreign_units(en.source, "zh") or foreign_units(zh.source, "en"):
            raise Dalle2EduError(
                f"{name}:{en.id}: both notebooks have the same text; translate it before you"
                " confirm it"
            )
        en.metadata.pop("counterpart", None)
        zh.metadata.pop("counterpart", None)
        return before != (None, None)
    en.metadata.counterpart, zh.metadata.counterpart = (
        digest(zh.source),
        digest(en.source),
    )
    return before != (en.metadata.counterpart, zh.metadata.counterpart)


def sync(folder: Path, chapter: str = "", winner: Language | None = None) -> list[str]:
    """Bring all chapters (or one) together; returns the lines to print."""
    lines: list[str] = []
    for name in chapter_names(folder, chapter):
        pair = load_pair(folder, name, winner)
        before = copy.deepcopy(pair.books)
        sync_pair(pair)
        for language in LANGUAGES:
            if (
                pair.books[language] != before[language]
                or not path_of(folder, language, name).exists()
            ):
                write(pair.books[language], path_of(folder, language, name))
        lines += pair.done
        lines += [
            f"to do: {problem}"
            for problem in pair_problems(name, pair.books["en"], pair.books["zh"])
        ]
        if pair.to_run:
            lines.append(
                f"to do: {name}: `make notebooks CHAPTER={name}` runs {_some(pair.to_run)}"
            )
    return lines


def _some(names: list[str], most: int = 8) -> str:
    """A list that stays readable when a whole chapter is to be run."""
    return ", ".join(names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--chapter", default="", help="07 or 07_ddpm; all chapters if left out"
    )
    parser.add_argument(
        "--from",
        dest="winner",
        choices=LANGUAGES,
        help="this language wins wherever the two differ",
    )
    parser.add_argument(
        "--confirm",
        default="",
        help="07_ddpm:why-noise, or 07_ddpm: the translation is up to date",
    )
    parser.add_argument(
        "--folder", type=Path, default=NOTEBOOKS, help=argparse.SUPPRESS
    )
    given = parser.parse_args(arguments)
    try:
        if given.confirm:
            recorded = confirm(given.folder, given.confirm)
            print(f"{given.confirm}: {', '.join(recorded) or 'was up to date already'}")
        else:
            lines = sync(given.folder, given.chapter, given.winner)
            print("\n".join(lines) or "The English and the Chinese notebooks agree.")
    except Dalle2EduError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
