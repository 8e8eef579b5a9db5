"""The book's own fonts: cut down from open ones, so that every machine shows the same
page.

    python book/tools/fonts.py FOLDER           # the folder that holds the fonts of `SOURCES`
    python book/tools/fonts.py FOLDER --sort    # and count anew which characters are frequent

`book/vendor/README.md` says where those come from. What the command writes lies in
`book/vendor/static/fonts` and is committed: woff2 files, and `fonts.css`, which names
them.

    Book Sans    Latin, Greek, Cyrillic, symbols     upright and italic, weights 400 to 700
    Book Mono    the same, for code                  upright, weights 400 to 700
    Book Hans    Chinese: the whole of GB 2312       400 and 700
    Book Marks   quotation marks, dash and dots as Chinese sets them: wide, from Book Hans
    Book Signs   mathematical signs that Book Sans lacks
    Book Emoji   the emoji that the book shows, in one colour

A Chinese page holds some 700 of 6,763 characters. So Book Hans is cut into slices: the
characters that most chapters use, those that some use, those that few use, and all
others. A browser loads a slice when a page shows a character of it. The slices stay as
they are until somebody asks for `--sort`: so a run for one new character changes one
file or two.

`missing()` names what the book shows and no font has; a test holds that there is
nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fontTools import subset
from fontTools.ttLib import TTFont
from fontTools.varLib import instancer

from dalle2_edu.errors import Dalle2EduError

ROOT = Path(__file__).resolve().parents[2]
FONTS = ROOT / "book" / "vendor" / "static" / "fonts"

# What the command cuts from, by file name, with the first digits of its SHA-256.
SOURCES = {
    "SourceSans3VF-Upright.ttf": "1147db9a3f0edd49",
    "SourceSans3VF-Italic.ttf": "c34791f4f889af43",
    "SourceCodeVF-Upright.ttf": "c4066e584e995ec3",
    "NotoSansCJK-Regular.ttc": "b76b0433203017ca",
    "NotoSansCJK-Bold.ttc": "faa5f3656a78b2e2",
    "NotoSansMath_400Regular.ttf": "b4a1dfdbfa13b475",
    "NotoEmoji_400Regular.ttf": "24aaa2a20c9c06ff",
}
# What the book's style sheets set their text in. The last word is for what no font of
# ours has.
STACKS = """
:root {
  --book-sans: "Book Sans", "Book Hans", "Book Signs", "Book Emoji", sans-serif;
  --book-mono: "Book Mono", "Book Sans", "Book Hans", "Book Signs", "Book Emoji", monospace;
  font-synthesis: none; /* no slanted Chinese: what has no italic stays upright */
  text-rendering: geometricPrecision; /* letters as wide as they were drawn, whatever the machine's settings */
}
:is(button, input, select, textarea) { text-rendering: inherit; }
:root:lang(zh) { --book-sans: "Book Marks", "Book Sans", "Book Hans", "Book Signs", "Book Emoji", sans-serif; }
/* A formula's twin for screen readers is set in the machine's own fonts: it takes no room. */
mjx-container > mjx-assistive-mml[unselectable] {
  width: 1px !important; height: 1px !important; overflow: hidden !important;
}
"""

SIMPLIFIED = 2  # the place of Simplified Chinese in Noto's collection of five

# Chinese type is large for its size. Source Sans, drawn a tenth larger, stands well
# beside it (the makers of both fonts do the same), and is then as large as Arial.
LATIN_UNITS = 910  # units an em, of 1000

# Chinese pages that use a character: the first slice, the second
OFTEN, SOMETIMES = 10, 3
SLICES = 12  # of the characters that no page uses today


# --- characters -----------------------------------------------------------------------


def span(first: int, last: int) -> set[str]:
    return {chr(code) for code in range(first, last + 1)}


# what every page needs
LATIN = span(0x20, 0x7E) | span(0xA0, 0xFF) | set("–—‘’“”…•−→×")
MORE = (
    span(0x100, 0x17F)  # accented Latin
    | span(0x300, 0x338)  # marks that stand over other letters: x̃
    | span(0x370, 0x3FF)  # Greek
    | span(0x400, 0x45F)  # Cyrillic
    | set("ᾱ‑‐―†‡‰′″⁄€")
    | span(0x2070, 0x209C)  # small digits, raised and lowered
    | span(0x2100, 0x21FF)  # ℝ, ½, arrows
    | span(0x2200, 0x22FF)  # mathematical signs
    | span(0x2300, 0x23FF)  # corners and keys
    | span(0x2500, 0x25FF)  # lines, blocks and shapes
    | set("★☆⭐☀♠♣♥♦♪✓✔✕✗✘❌⟨⟩⟦⟧⟵⟶⟷⟹⟺𝔼𝟙")
)
UNSEEN = ("Cc", "Cf")  # line breaks and other characters that only give orders
MARKS = set("‘’“”—…")  # Latin and Chinese share the codes, not the width
WIDE = span(0x3000, 0x301F) | span(0xFF01, 0xFF5E) | set("￥")  # Chinese punctuation


def gb2312() -> set[str]:
    """The 6,763 characters of GB 2312, which nearly every text in simplified Chinese is
    made of.
    """
    codes = (
        bytes([row, cell]) for row in range(0xB0, 0xF8) for cell in range(0xA1, 0xFF)
    )
    return {
        character for code in codes if (character := code.decode("gb2312", "ignore"))
    }


def is_chinese(character: str) -> bool:
    """Whether it is a Chinese character, and no mark."""
    return (
        "\u3400" <= character <= "\u9fff" or "\U00020000" <= character <= "\U0003ffff"
    )


def is_emoji(character: str) -> bool:
    return "\U0001f300" <= character <= "\U0001faff"


# --- what the book shows --------------------------------------------------------------


def texts(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """(path, text) of everything a reader may see: chapters with their outputs, pages,
    source files, and the words of the machinery.
    """
    for path in sorted((root / "notebooks").glob("*/*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf8"))
        yield path.relative_to(root).as_posix(), "\n".join(_shown(notebook))
    for pattern in (
        "book/*/*.md",
        "book/*/*.yml",
        "book/references.bib",
        "book/assets/*.js",
        "book/slides/*",
        "book/landing/*",
        "book/tools/slides.py",
        "book/extension/**/*.py",
        "book/extension/**/*.html",
        "dalle2_edu/**/*.py",
    ):
        for path in sorted(root.glob(pattern)):
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf8")


def _shown(notebook: dict[str, Any]) -> Iterator[str]:
    """The source and the outputs of each cell, in so far as they are text."""
    for cell in notebook["cells"]:
        yield "".join(cell["source"])
        for output in cell.get("outputs", []):
            yield "".join(output.get("text", ""))
            yield from (
                "".join(data)
                for kind, data in output.get("data", {}).items()
                if kind.startswith("text/") or kind == "image/svg+xml"
            )


def chinese_pages(root: Path = ROOT) -> Iterator[str]:
    """The text of each page that somebody wrote in Chinese."""
    written = re.compile(r"(book|notebooks)/zh/.*\.(md|ipynb)")
    return (text for path, text in texts(root) if written.fullmatch(path))


def missing(root: Path = ROOT, fonts: Path = FONTS) -> list[str]:
    """What the book shows and no font of `fonts` has: "U+20BB7 in
    notebooks/en/02.ipynb".
    """
    known = covered(fonts)
    lacking: dict[str, str] = {}
    for path, text in texts(root):
        for character in sorted(set(text) - known):
            if unicodedata.category(character) not in UNSEEN and character != "\ufe0f":
                lacking.setdefault(character, path)
    return [
        f"{character} U+{ord(character):04X} in {at}"
        for character, at in lacking.items()
    ]


def covered(fonts: Path = FONTS) -> set[str]:
    """The characters that have a shape in at least one of the fonts."""
    files = fonts.glob("*.woff2")
    return {chr(code) for file in files for code in TTFont(file).getBestCmap()}


# --- faces ----------------------------------------------------------------------------


class Common(NamedTuple):
    """The Chinese characters that the book uses, by how many of its pages use them."""

    often: set[str]
    sometimes: set[str]
    seldom: set[str]


def common_anew(root: Path = ROOT) -> Common:
    """Counted in today's book."""
    used = {c for _, text in texts(root) for c in text if is_chinese(c)}
    pages = Counter(c for page in chinese_pages(root) for c in set(page))
    often = {c for c in used if pages[c] >= OFTEN}
    sometimes = {c for c in used if OFTEN > pages[c] >= SOMETIMES}
    return Common(often, sometimes, seldom=used - often - sometimes)


def common_as_before(css: str, root: Path = ROOT) -> Common:
    """As fonts.css has it. What the book uses and no font has yet is added to the
    seldom ones.
    """
    often, sometimes, seldom = (
        set(filter(is_chinese, characters_of(ranges)))
        for number in ("01", "02", "03")
        for ranges in re.findall(
            rf'"Book Hans"[^}}]*hans-regular-{number}\.woff2[^}}]*unicode-range: ([^;]+)',
            css,
        )
    )
    used = {c for _, text in texts(root) for c in text if is_chinese(c)}
    return Common(often, sometimes, seldom | (used - gb2312() - often - sometimes))


@dataclass(frozen=True)
class Face:
    """One woff2 file, and how CSS speaks of it."""

    name: str  # of the file, without .woff2
    family: str
    source: str
    characters: frozenset[str]
    weight: str = "400"  # "400 700": any between them
    style: str = "normal"
    ranges: str = ""  # the unicode-range; that of the characters, if empty
    features: tuple[str, ...] = ()

    @property
    def variable(self) -> bool:
        return " " in self.weight


def faces(root: Path, sources: Path, common: Common) -> list[Face]:
    """All files to write. Of two faces that claim a character, CSS takes the later
    one.
    """
    shown = {character for _, text in texts(root) for character in text}
    return [
        *latin_faces(),
        signs_face(sources),
        Face(
            name="emoji",
            family="Book Emoji",
            source="NotoEmoji_400Regular.ttf",
            characters=frozenset(filter(is_emoji, shown)),
        ),
        *hans_faces(common),
    ]


def latin_faces() -> list[Face]:
    """Book Sans and Book Mono: what every page needs, and the rest."""
    kinds = (
        ("sans", "Book Sans", "SourceSans3VF-Upright.ttf", "normal"),
        ("sans-italic", "Book Sans", "SourceSans3VF-Italic.ttf", "italic"),
        ("mono", "Book Mono", "SourceCodeVF-Upright.ttf", "normal"),
    )
    return [
        Face(
            name=name + suffix,
            family=family,
            source=source,
            characters=frozenset(characters),
            weight="400 700",
            style=style,
            features=("ccmp", "kern", "mark", "mkmk", "tnum"),
        )
        for name, family, source, style in kinds
        for suffix, characters in (("-more", MORE - LATIN), ("", LATIN))
    ]


def signs_face(sources: Path) -> Face:
    """Signs that Source Sans has not."""
    has = TTFont(sources / "SourceSans3VF-Upright.ttf", lazy=True).getBestCmap()
    lacking = frozenset(c for c in MORE if ord(c) not in has)
    source = "NotoSansMath_400Regular.ttf"
    return Face(name="signs", family="Book Signs", source=source, characters=lacking)


def hans_faces(common: Common) -> list[Face]:
    """Book Hans in slices. The others are cut by their codes, so that one range names
    them.
    """
    others = sorted(gb2312() - set().union(*common))
    length = -(-len(others) // SLICES)  # rounded up
    cuts = [others[start : start + length] for start in range(0, len(others), length)]
    slices = [(f"{n:02}", set(cut), f"U+{ord(cut[0]):X}-{ord(cut[-1]):X}")
              for n, cut in enumerate(cuts, start=4)]  # fmt: skip
    slices += [
        ("03", common.seldom, ""),
        ("02", common.sometimes, ""),
        ("01", common.often | WIDE | MARKS, unicode_range(common.often | WIDE)),
    ]
    found = []
    for source, word, weight in (
        ("NotoSansCJK-Regular.ttc", "regular", "400"),
        ("NotoSansCJK-Bold.ttc", "bold", "700"),
    ):
        found += [
            Face(
                name=f"hans-{word}-{number}",
                family="Book Hans",
                source=source,
                characters=frozenset(characters),
                weight=weight,
                ranges=ranges,
                features=("halt",),  # lets a browser close the gap between two marks
            )
            for number, characters, ranges in slices
        ]
    return found


def unicode_range(characters: Iterable[str]) -> str:
    """The characters as CSS lists them: "U+20-7E,U+D7"."""
    runs: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return ",".join(
        f"U+{first:X}" if first == last else f"U+{first:X}-{last:X}"
        for first, last in runs
    )


def characters_of(ranges: str) -> set[str]:
    """The characters of a unicode-range: the way back."""
    found: set[str] = set()
    for part in ranges.replace("U+", "").split(","):
        first, _, last = part.partition("-")
        found |= span(int(first, 16), int(last or first, 16))
    return found


# --- cutting --------------------------------------------------------------------------


def cut(face: Face, sources: Path, folder: Path) -> Face:
    """Writes the face's file; returns the face with the characters that the source
    really has.
    """
    font = TTFont(
        sources / face.source,
        fontNumber=SIMPLIFIED if face.source.endswith(".ttc") else -1,
        recalcTimestamp=False,  # the same bytes every time
    )
    has = frozenset(c for c in face.characters if ord(c) in font.getBestCmap())
    _subset(font, has, face.features)
    if face.variable:
        instancer.instantiateVariableFont(font, {"wght": (400, 400, 700)}, inplace=True)
    if face.family == "Book Sans":
        font["head"].unitsPerEm = LATIN_UNITS
    _rename(font, face.family)
    font.flavor = "woff2"
    font.save(folder / f"{face.name}.woff2")
    ranges = face.ranges or unicode_range(has)
    return Face(**vars(face) | {"characters": has, "ranges": ranges})


def _subset(
    font: TTFont, characters: frozenset[str], features: tuple[str, ...]
) -> None:
    options = subset.Options()
    options.layout_features = list(features)
    options.hinting = False
    options.notdef_outline = True
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 7, 13, 14]  # who made it, and its licence
    options.drop_tables += ["BASE", "DSIG", "MATH", "STAT", "VORG", "vhea", "vmtx"]
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=map(ord, characters))
    cutter.subset(font)


def _rename(font: TTFont, family: str) -> None:
    """A changed font may not bear the name of the one that it comes from (OFL, section
    3).
    """
    names = font["name"]
    for number, text in (
        (1, family),
        (3, family),
        (4, family),
        (6, family.replace(" ", "")),
    ):
        for record in [record for record in names.names if record.nameID == number]:
            names.setName(
                text, number, record.platformID, record.platEncID, record.langID
            )


# --- the style sheet ------------------------------------------------------------------


def style_sheet(written: list[Face]) -> str:
    """fonts.css: a rule for every face."""
    marks = [
        Face(**vars(face) | {"family": "Book Marks", "ranges": unicode_range(MARKS)})
        for face in written
        if face.name in ("hans-regular-01", "hans-bold-01")
    ]
    head = "/* Made by book/tools/fonts.py: change that, and run it again. */\n"
    return head + "".join(map(_rule, [*written, *marks])) + STACKS


def _rule(face: Face) -> str:
    return (
        f'@font-face {{ font-family: "{face.family}"; font-style: {face.style};'
        f" font-weight: {face.weight}; font-display: swap;\n"
        f'  src: url("{face.name}.woff2") format("woff2");\n'
        f"  unicode-range: {face.ranges}; }}\n"
    )


# --- the command ----------------------------------------------------------------------


def build(sources: Path, sort: bool = False, folder: Path = FONTS) -> None:
    """Cuts every font. Raises `Dalle2EduError` if a source is missing or another
    one.
    """
    for name, digest in SOURCES.items():
        check_source(sources / name, digest)
    sheet = folder / "fonts.css"
    common = (
        common_anew() if sort else common_as_before(sheet.read_text(encoding="utf8"))
    )
    for old in folder.glob("*.woff2"):
        old.unlink()
    written = [cut(face, sources, folder) for face in faces(ROOT, sources, common)]
    sheet.write_text(style_sheet(written), encoding="utf8")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{len(written)} fonts, {size / 1e6:.2f} MB, in {folder.relative_to(ROOT)}")


def check_source(path: Path, digest: str) -> None:
    where = "book/vendor/README.md says where the fonts come from"
    if not path.is_file():
        raise Dalle2EduError(f"{path} is missing: {where}")
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest):
        raise Dalle2EduError(
            f"{path} is not the version that the book's fonts are of: {where}"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Cut the book's fonts out of open ones."
    )
    parser.add_argument("folder", type=Path, help="holds the fonts to cut from")
    parser.add_argument(
        "--sort",
        action="store_true",
        help="count anew which Chinese characters are frequent",
    )
    options = parser.parse_args(arguments)
    try:
        build(options.folder, options.sort)
    except Dalle2EduError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
