"""Emoji: a small data set of real artwork, in four artists' styles, with names in two
languages.

Read in chapter 02 (data and tokens); the miniature DALL·E 2 is trained on it.

Every emoji is a *thing* with a name ("rocket", 火箭), and up to four artists drew it,
each in a style of their own. A caption may say the style ("rocket, line art", 火箭，线描) or
not, and one that does not has several true pictures. That gives a generative model
something to choose. With one picture for each name it would only look pictures up.

    load()                   who is in it: characters and names, no pictures
    pictures(size, style)    what one artist drew, to look at
    pairs(size)              pictures and captions of all artists, for training
    held_out_pairs(size)     (thing, style) pairs that are never trained on

**Held out.** A quarter of the things lack one of their styles in training: the rocket
is learned from three artists, and other things in line art. So "rocket, line art" asks
for a *composition* of two known parts, and a real picture tells what the answer should
look like. Those pictures lie in shards of their own (`artwork/held_out`), so that
nobody trains on them by mistake.

Each artist's shards are of one licence, which lies beside them: OpenMoji's is
share-alike. `dalle2_edu.data.artists` makes the shards.

What the set can't teach: some emoji have the same drawing as another one (Bouvet Island
has the flag of Norway). Skin tones are kept for ten professions only, and chapter 21
measures bias with them. With all of them half of the set would be the same people in
five tones.
"""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from dalle2_edu.data import shards
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.errors import Dalle2EduError

FOLDER = Path(__file__).with_name("artwork")


# --- Styles ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How one artist draws: its name in prompts, and whose work the pictures are."""

    en: str
    zh: str
    artist: str
    licence: str


STYLES = {
    "noto": Style(
        en="soft shading",
        zh="柔和渐变",
        artist="Noto Color Emoji (Google)",
        licence="OFL 1.1 / Apache 2.0",
    ),
    "twemoji": Style(
        en="muted flat",
        zh="素色扁平",
        artist="Twemoji (Twitter, Inc. and other contributors)",
        licence="CC BY 4.0",
    ),
    "fluent": Style(
        en="bright flat",
        zh="亮色扁平",
        artist="Fluent Emoji Flat (Microsoft)",
        licence="MIT",
    ),
    "openmoji": Style(
        en="line art",
        zh="线描",
        artist="OpenMoji (HfG Schwäbisch Gmünd and contributors)",
        licence="CC BY-SA 4.0",
    ),
}


def shard(style: str) -> Path:
    """The training shard of a style; raises Dalle2EduError for an unknown style."""
    return FOLDER / f"{checked_style(style)}.tar"


def held_out_shard(style: str) -> Path:
    """The shard with those pictures of a style that are kept from training."""
    return FOLDER / "held_out" / f"{checked_style(style)}.tar"


def notice(style: str) -> Path:
    """The licence and attribution of a style's pictures; it also lies inside its
    shards.
    """
    return FOLDER / f"{checked_style(style)}.LICENSE.txt"


def checked_style(style: str) -> str:
    """The style itself; raises Dalle2EduError for an unknown one, listing the known."""
    if style not in STYLES:
        raise Dalle2EduError(
            f"No emoji are drawn in {style!r}; known: {', '.join(STYLES)}."
        )
    return style


# the largest set, and the one that a first look is taken at
SHARD = FOLDER / "noto.tar"
NOTICE = FOLDER / "noto.LICENSE.txt"


# --- Names ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Emoji:
    """One emoji: its character (often several code points), its names, and its other
    English names.
    """

    character: str
    en: str
    zh: str
    aliases: tuple[str, ...] = ()

    @property
    def codepoints(self) -> str:
        """Its code points in hexadecimal, such as "1f468-200d-1f680": its name in the
        shard.
        """
        return "-".join(f"{ord(character):x}" for character in self.character)

    @property
    def is_flag(self) -> bool:
        """Whether it is the flag of a country or region (those have the bare name of
        the place).
        """
        return self.character[0] in REGIONAL_LETTERS or "\U000e007f" in self.character

    @property
    def is_toned(self) -> bool:
        """Whether somebody in it has a skin tone of their own and is not yellow."""
        return any(character in SKIN_TONES for character in self.character)

    @property
    def english(self) -> list[str]:
        """Ways to ask for it in English: its names first, then templates."""
        noun = f"{self.en} flag" if self.is_flag else self.en
        return [
            self.en,
            *self.aliases,
            f"{noun} emoji",
            f"an emoji of {with_article(noun)}",
        ]

    @property
    def chinese(self) -> list[str]:
        """Ways to ask for it in Chinese: its name first, then templates."""
        noun = f"{self.zh}旗" if self.is_flag else self.zh
        return [self.zh, f"{noun}表情", f"一个{noun}的表情符号"]

    @property
    def captions(self) -> list[str]:
        """Ways to ask for it in no style, English before Chinese."""
        return list(dict.fromkeys(self.english + self.chinese))

    def styled(self, style: str) -> list[str]:
        """Ways to ask for it in one artist's style: "rocket, line art", 火箭，线描."""
        drawn = STYLES[checked_style(style)]
        english = [f"{caption}, {drawn.en}" for caption in self.english]
        chinese = [f"{caption}，{drawn.zh}" for caption in self.chinese]
        return list(dict.fromkeys(english + chinese))


# each colours what it follows
SKIN_TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
REGIONAL_LETTERS = {
    chr(code) for code in range(0x1F1E6, 0x1F200)
}  # two of them, a country's code, are its flag
PLURALS = {"people", "men", "women", "children", "dice"}
LINKS = {
    "with",
    "of",
    "in",
    "on",
    "holding",
    "wearing",
    "facing",
    "and",
    "without",
    "behind",
    "over",
    "at",
}


def with_article(noun: str) -> str:
    """ "a rocket", "an owl", "women holding hands": a rule of thumb, right for nearly
    all names.
    """
    words = noun.split()
    end = next(
        (place for place, word in enumerate(words) if place and word in LINKS),
        len(words),
    )
    head = words[end - 1]  # "smiling face with sunglasses" is a face
    ends_in_s = head.endswith("s") and not head.endswith(
        ("ss", "us")
    )  # sunglasses, but not a dress or a bus
    if ends_in_s or head in PLURALS or words[0] in PLURALS:
        return noun
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


# --- What is held out -----------------------------------------------------------------


@dataclass(frozen=True)
class Drawing:
    """One artist's drawing of one thing."""

    thing: Emoji
    style: str


SHARE = 0.25  # of the things lack a style in training: 6% of the drawings
FEWEST = 3  # styles that such a thing must have: it is still learned in two others


def held_out_style(thing: Emoji, styles: Sequence[str]) -> str | None:
    """Which of the styles a thing is drawn in is kept from training; None for most
    things.

    A hash of its code points decides, so the answer is the same on every machine and
    stays the same when other emoji join the set. (Python's own `hash` of a text differs
    in each run.)
    """
    if len(styles) < FEWEST or thing.is_toned:
        return None
    digest = hashlib.sha256(f"held out: {thing.codepoints}".encode()).digest()
    luck = int.from_bytes(digest[:4], "big") / 2**32  # in [0, 1)
    place = int.from_bytes(digest[4:8], "big") % len(styles)
    return sorted(styles)[place] if luck < SHARE else None


# --- The shipped shards ---------------------------------------------------------------


def shipped(path: str | Path) -> Path:
    """The shard's path; raises Dalle2EduError where it is missing."""
    if not Path(path).is_file():
        raise Dalle2EduError(
            f"the emoji shard {path} is missing: build it with `dalle2-edu data emoji`"
        )
    return Path(path)


@lru_cache(maxsize=2 * len(STYLES))
def things_in(path: Path) -> tuple[Emoji, ...]:
    """The emoji of one shard in its order."""
    with tarfile.open(shipped(path)) as tar:
        files = [
            tar.extractfile(entry) for entry in tar if entry.name.endswith(".json")
        ]
        records = [json.load(file) for file in files if file is not None]
    return tuple(
        Emoji(each["character"], each["en"], each["zh"], tuple(each["aliases"]))
        for each in records
    )


def by_character(style: str) -> list[tuple[Emoji, int]]:
    """All that an artist drew, by code points, each with its place in the training
    shard and the held-out shard, one after the other.
    """
    both = [*things_in(shard(style)), *things_in(held_out_shard(style))]
    return sorted(
        zip(both, range(len(both)), strict=True), key=lambda pair: pair[0].character
    )


def load(style: str = "noto") -> list[Emoji]:
    """All things that an artist drew, by code points; Noto's artists drew every one.

    Held-out drawings are among them: a thing may be asked for, whatever it was learned
    from.
    """
    return [thing for thing, _ in by_character(style)]


def pictures(size: int, style: str = "noto") -> Tensor:
    """All that an artist drew, uint8 (N, 3, size, size) in the order of `load(style)`.

    To look at and to compare with. Held-out drawings are among them, so train on
    `pairs`.
    """
    both = [shards.pairs(shipped(each), size).images for each in files_of(style)]
    order = torch.tensor([place for _, place in by_character(style)])  # (N,)
    return torch.cat(both)[order]


def files_of(style: str) -> list[Path]:
    """The shards of a style: for training, and held out."""
    return [shard(style), held_out_shard(style)]


def drawings(styles: Sequence[str] = tuple(STYLES)) -> list[Drawing]:
    """Who drew what, in the order of `pairs(size, styles)`: no held-out drawing."""
    return [
        Drawing(each, style) for style in styles for each in things_in(shard(style))
    ]


def pairs(
    size: int, styles: Sequence[str] = tuple(STYLES), limit: int | None = None
) -> Pairs:
    """Pictures to train on, uint8 (N, 3, size, size), with captions in both languages,
    half of which say the style. No held-out drawing is among them.

    limit: how many of each style at most.
    """
    return join([shards.pairs(shipped(shard(each)), size, limit) for each in styles])


def held_out(styles: Sequence[str] = tuple(STYLES)) -> list[Drawing]:
    """Which drawings are never trained on, in the order of `held_out_pairs(size,
    styles)`.
    """
    return [
        Drawing(each, style)
        for style in styles
        for each in things_in(held_out_shard(style))
    ]


def held_out_pairs(size: int, styles: Sequence[str] = tuple(STYLES)) -> Pairs:
    """The drawings that are never trained on, with captions that all say the style.

    Without the style a caption means the drawings of the other artists too.
    """
    found = join([shards.pairs(shipped(held_out_shard(each)), size) for each in styles])
    captions = [each.thing.styled(each.style) for each in held_out(styles)]
    return Pairs(found.images, captions)


def join(parts: Sequence[Pairs]) -> Pairs:
    """Several sets of pairs, one after the other."""
    captions = [each for part in parts for each in part.captions]
    return Pairs(torch.cat([part.images for part in parts]), captions)
