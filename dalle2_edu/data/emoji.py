"""Emoji: a small data set of real artwork, with names in English and Chinese.

Read in chapter 02 (data and tokens); the miniature DALL·E 2 is trained on it.

The pictures are those of Google's Noto Color Emoji, 3,789 of them. Each has a name in
both languages, and a few ways to ask for it ("rocket", "an emoji of a rocket", "火箭",
"火箭表情"), so that a model learns the thing and not the phrase. They ship with the package
as a shard (`emoji.tar`), in the same format as sets of a billion pairs:

    load()       who is in it: characters and names, no pictures
    pairs(size)  pictures and captions, for training
    build(path)  makes the shard again from Debian's font (`python -m dalle2_edu.data.emoji`)

Why not all 3,963 emoji that have names? An emoji may be a *sequence* of characters
("man" + joiner + "rocket" is a male astronaut) that the font joins into one glyph.
Those that the font is too old to know come out as two or three glyphs side by side
(151), or as nothing at all (23). Both are left out.

What the set can't teach: 18 emoji have the same drawing as another one (Bouvet Island
has the flag of Norway), and half of the set is people drawn again in five skin
tones.
"""

import json
import sys
import tarfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from dalle2_edu.data import pictures, shards
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.errors import Dalle2EduError

SHARD = Path(__file__).with_name("emoji.tar")
NOTICE = Path(__file__).with_name("emoji.LICENSE.txt")
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the one size of the bitmaps in the font; any other is refused
GLYPH_WIDTH, SIZE = (
    136,
    128,
)  # a glyph is 136 x 128 pixels, with at least 4 empty columns on either side
QUALITY = (
    # of WebP: 1.9 kB a picture; 90 would take 2.9 kB and show no difference at 128
    # pixels
    75
)


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
    def captions(self) -> list[str]:
        """Ways to ask for it: names first, then templates, English before Chinese."""
        noun = f"{self.en} flag" if self.is_flag else self.en
        noun_zh = f"{self.zh}旗" if self.is_flag else self.zh
        english = [
            self.en,
            *self.aliases,
            f"{noun} emoji",
            f"an emoji of {with_article(noun)}",
        ]
        chinese = [self.zh, f"{noun_zh}表情", f"一个{noun_zh}的表情符号"]
        return list(dict.fromkeys(english + chinese))


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


def plain(name: str) -> str:
    """The `emoji` package's ":Mrs._Claus:" as a person would type it: "Mrs. Claus"."""
    return name.strip(":").replace("_", " ").replace("’", "'").strip()


def catalogue() -> list[Emoji]:
    """Every fully-qualified emoji of the PyPI package `emoji`, sorted by code points.

    A caption must mean one emoji, so an alias that means another one too is dropped:
    "cat" is the whole cat and not the cat's face, "ok" is a hand and a button.
    """
    try:
        # wanted by the builder alone, so that drawing a picture does not need it
        import emoji
    except ImportError as error:
        raise Dalle2EduError(
            "the builder takes the names from the package emoji: pip install emoji"
        ) from error
    emoji.config.load_language("zh")
    wanted = {
        character: fields
        for character, fields in sorted(emoji.EMOJI_DATA.items())
        if fields["status"] == emoji.STATUS["fully_qualified"]
    }
    uses = Counter(
        name
        for each in wanted.values()
        for name in [*english_names(each), plain(each["zh"]).lower()]
    )
    return [
        Emoji(
            character,
            english_names(fields)[0],
            plain(fields["zh"]),
            aliases=tuple(
                name
                for name in english_names(fields)[1:]
                if uses[name] == 1 and name.strip("+-01")
            ),
        )
        for character, fields in wanted.items()
    ]


def english_names(fields: dict[str, Any]) -> list[str]:
    """The English name of one entry of the `emoji` package and its aliases, in small
    letters, each once.
    """
    return list(
        dict.fromkeys(
            plain(name).lower() for name in [fields["en"], *fields.get("alias", ())]
        )
    )


# --- Pictures -------------------------------------------------------------------------


def open_font(path: str | Path) -> ImageFont.FreeTypeFont:
    """The colour font, ready to join sequences; raises Dalle2EduError where it or Raqm
    is missing.
    """
    if not features.check("raqm"):
        raise Dalle2EduError(
            "Pillow was built without Raqm and can't join emoji: install Pillow from its PyPI"
            " wheel"
        )
    try:
        return ImageFont.truetype(
            str(path), FONT_SIZE, layout_engine=ImageFont.Layout.RAQM
        )
    except OSError as error:
        raise Dalle2EduError(
            f"can't open the font {path}: install Debian's package fonts-noto-color-emoji, "
            "or give the path of NotoColorEmoji.ttf"
        ) from error


def draw(character: str, font: ImageFont.FreeTypeFont) -> Tensor | None:
    """One emoji on white, uint8 (3, 128, 128); None where the font has no single glyph
    for it.
    """
    if font.getlength(character) > GLYPH_WIDTH:
        # the font does not know this sequence: its parts would stand side by side
        return None
    glyph = Image.new("RGBA", (GLYPH_WIDTH, SIZE), (255, 255, 255, 0))
    ImageDraw.Draw(glyph).text((0, 0), character, font=font, embedded_color=True)
    if glyph.getchannel("A").getbbox() is None:
        return None  # every pixel is transparent: the font does not know this character
    margin = (GLYPH_WIDTH - SIZE) // 2
    picture = pictures.to_rgb(glyph.crop((margin, 0, margin + SIZE, SIZE)))
    return torch.from_numpy(np.array(picture)).permute(
        2, 0, 1
    )  # (128, 128, 3) -> (3, 128, 128)


def build(path: str | Path = SHARD, font: str | Path = FONT) -> int:
    """Draws the emoji and packs them as a shard; returns how many there are.

    The same font, names and Pillow give the same bytes. The licence notice goes in with
    them.
    """
    face = open_font(font)
    pictures = {each: draw(each.character, face) for each in catalogue()}
    drawn = {each: picture for each, picture in pictures.items() if picture is not None}
    shards.write(
        path,
        torch.stack(list(drawn.values())),  # N x (3, 128, 128) -> (N, 3, 128, 128)
        [each.captions for each in drawn],
        records=[asdict(each) for each in drawn],
        names=[each.codepoints for each in drawn],
        notice=NOTICE.read_text(encoding="utf-8"),
        quality=QUALITY,
    )
    return len(drawn)


# --- The shipped shard ----------------------------------------------------------------


def shipped(path: str | Path) -> Path:
    """The shard's path; raises Dalle2EduError where it is missing."""
    if not Path(path).is_file():
        raise Dalle2EduError(
            f"the emoji shard {path} is missing: build it with `python -m"
            " dalle2_edu.data.emoji`"
        )
    return Path(path)


def load(path: str | Path = SHARD) -> list[Emoji]:
    """The emoji of the shard in its order (the order of `pairs`): characters and names,
    no pictures.
    """
    with tarfile.open(shipped(path)) as tar:
        files = [
            tar.extractfile(entry) for entry in tar if entry.name.endswith(".json")
        ]
        records = [json.load(file) for file in files if file is not None]
    return [
        Emoji(each["character"], each["en"], each["zh"], tuple(each["aliases"]))
        for each in records
    ]


def pairs(size: int, path: str | Path = SHARD) -> Pairs:
    """All emoji of the shard: images uint8 (3789, 3, size, size), 6 to 9 captions each
    in both languages.
    """
    return shards.pairs(shipped(path), size)


def main(arguments: list[str]) -> None:
    """Builds the shard in place: `python -m dalle2_edu.data.emoji [path of the
    font]`.
    """
    try:
        count = build(SHARD, *arguments[:1])
    except Dalle2EduError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"{count} emoji, {SHARD.stat().st_size / 1e6:.1f} MB: {SHARD}")


if __name__ == "__main__":
    main(sys.argv[1:])
