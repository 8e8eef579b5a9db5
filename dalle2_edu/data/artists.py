"""Building the emoji shards: from a font and three icon packages to pictures of one
size.

Chapter 02 uses this file. You don't need it to train: the shards ship with the book.

Noto's artists drew colour bitmaps into a font, 136 x 128 pixels each. The other three
drew SVG, which npm's icon packages hold as one JSON file of shapes (`icons.json`) and
one that says which shape belongs to which code points (`chars.json`). Each is rendered
at 128 pixels on white.

*The same margins.* Noto's drawings fill their canvas and OpenMoji's three quarters of
it. A model would learn that line art is small. So an SVG is drawn twice: once to see
how far it reaches, then through a window that makes its longest side `REACH` pixels.
Small things stay small, since no window enlarges by more than `LARGEST`.

*Which emoji.* Not all 3,963 that have names. An emoji may be a sequence of characters
("man" + joiner + "rocket" is a male astronaut) that the font joins into one glyph.
Those that the font is too old to know come out as several glyphs side by side, or as
nothing at all, and are left out. Of those with skin tones only the ones of ten
professions are kept. The other artists add no emoji. They drew nearly all, but for
Fluent Emoji's flags.

    build(folder, font, packages)   makes all shards (`dalle2-edu data emoji`)

The same font, packages, names and Pillow give the same bytes.
"""

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from dalle2_edu.data import emoji, shards
from dalle2_edu.data.emoji import Emoji
from dalle2_edu.data.pictures import to_rgb
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import one_line

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the one size of the bitmaps in the font; any other is refused
# a glyph is 136 x 128 pixels, with at least 4 empty columns on either side
GLYPH_WIDTH = 136
SIZE = 128
QUALITY = 75  # of WebP: 1.9 kB a picture; 90 would take 2.9 kB and show no difference
PACKAGES = {  # as npm knows them
    "twemoji": "@iconify-json/twemoji",
    "fluent": "@iconify-json/fluent-emoji-flat",
    "openmoji": "@iconify-json/openmoji",
}
# pixels that an SVG's longest side takes, in the middle of what Noto's take
REACH = 122
# The strongest enlargement: little more than what a typical drawing needs to reach so
# far.
LARGEST = {"twemoji": 1.0, "fluent": 1.15, "openmoji": 1.4}
VISIBLE = 25  # of 255: what is fainter does not count when a drawing is measured

# Skin tones of these are kept: chapter 21 asks which tone and gender a prompt without
# them gets.
PROFESSIONS = (
    "astronaut",
    "cook",
    "farmer",
    "firefighter",
    "health worker",
    "judge",
    "mechanic",
    "pilot",
    "scientist",
    "teacher",
)

# uint8 (3, 128, 128); None where it wasn't drawn
Draw = Callable[[Emoji], "Tensor | None"]


# --- Names ----------------------------------------------------------------------------


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
    return to_tensor(to_rgb(glyph.crop((margin, 0, margin + SIZE, SIZE))))


def draw_svg(body: str, width: float, height: float, largest: float) -> Tensor | None:
    """One SVG on white, uint8 (3, 128, 128), as large as Noto's; None where nothing is
    visible.

    body: its shapes. width, height: the window that the artist drew them in. largest:
    how much it may be enlarged.
    """
    first = render_svg(body, (0.0, 0.0, width, height))
    box = first.getchannel("A").point(lambda alpha: 255 * (alpha > VISIBLE)).getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    zoom = min(REACH / max(right - left, bottom - top), largest)
    unit = max(width, height) / SIZE  # of the artist's units in a pixel
    # A window that is not square was put in the middle of the square picture.
    middle_x = width / 2 + ((left + right) / 2 - SIZE / 2) * unit
    middle_y = height / 2 + ((top + bottom) / 2 - SIZE / 2) * unit
    side = SIZE * unit / zoom  # of the new window
    close = (middle_x - side / 2, middle_y - side / 2, side, side)
    return to_tensor(to_rgb(render_svg(body, close)))


def render_svg(body: str, window: tuple[float, float, float, float]) -> Image.Image:
    """Shapes seen through a window, RGBA, 128 x 128 pixels."""
    try:
        import resvg_py  # wanted by the builder alone
    except ImportError as error:
        raise Dalle2EduError(
            "the builder renders SVG with the package resvg-py: pip install resvg-py"
        ) from error
    view = " ".join(f"{number:.4f}" for number in window)
    names = (
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    )
    svg = f'<svg {names} width="{SIZE}" height="{SIZE}" viewBox="{view}">{body}</svg>'
    data = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


def to_tensor(picture: Image.Image) -> Tensor:
    """A picture as uint8 (3, H, W)."""
    # (H, W, 3) -> (3, H, W)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


# --- Icon packages --------------------------------------------------------------------


@dataclass(frozen=True)
class IconPackage:
    """The SVGs of one artist: `icons` name -> shapes, `names` code points -> name of an
    icon, the window that an icon has if it does not say so itself, and how much it may
    be enlarged.
    """

    icons: dict[str, dict[str, Any]]
    names: dict[str, str]
    width: float
    height: float
    largest: float

    def draw(self, thing: Emoji) -> Tensor | None:
        """One emoji on white, uint8 (3, 128, 128); None where the artist didn't draw
        it.
        """
        found = [self.names[key] for key in spellings(thing) if key in self.names]
        icon = self.icons.get(found[0]) if found else None
        if icon is None:
            return None
        width = icon.get("width", self.width)
        height = icon.get("height", self.height)
        return draw_svg(icon["body"], width, height, self.largest)


def spellings(thing: Emoji) -> list[str]:
    """How a package may spell an emoji: with or without "fe0f" (in colour, please), and
    with four digits at least.
    """
    codes = [f"{ord(character):04x}" for character in thing.character]
    bare = [code for code in codes if code != "fe0f"]
    return ["-".join(codes), "-".join(bare)]


def open_package(style: str, folder: Path) -> IconPackage:
    """The icons of a style, which npm put under `folder`; raises Dalle2EduError where
    they aren't.

    They lie in node_modules, or are unpacked under the package's short name.
    """
    name = PACKAGES[style]
    short = name.rpartition("/")[2]
    places = [
        folder / "node_modules" / name,
        folder / short / "package",
        folder / short,
    ]
    place = next((each for each in places if (each / "icons.json").is_file()), None)
    if place is None:
        every = " ".join(PACKAGES.values())
        raise Dalle2EduError(
            f"there is no {name} in {folder}: npm install --prefix {folder} {every}"
        )
    try:
        icons = json.loads((place / "icons.json").read_text(encoding="utf-8"))
        names = json.loads((place / "chars.json").read_text(encoding="utf-8"))
        return IconPackage(
            icons=icons["icons"],
            names=names,
            width=icons["width"],
            height=icons["height"],
            largest=LARGEST[style],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Dalle2EduError(
            f"can't read the icons in {place} ({one_line(error)}): install them again"
        ) from error


def default_packages() -> Path:
    """Where the packages are looked for: the user's cache folder, outside of any
    checkout.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dalle2_edu"


# --- All of them ----------------------------------------------------------------------


def is_wanted(thing: Emoji) -> bool:
    """Whether it belongs to the set: all without skin tones, and ten professions with
    them.
    """
    worker = thing.en.removeprefix("man ").removeprefix("woman ")
    return not thing.is_toned or worker.startswith(PROFESSIONS)


def artists(font: str | Path, packages: Path) -> dict[str, Draw]:
    """Every style's way to draw one emoji."""
    face = open_font(font)
    opened = {style: open_package(style, packages) for style in PACKAGES}
    hands: dict[str, Draw] = {"noto": lambda thing: draw(thing.character, face)}
    return hands | {style: package.draw for style, package in opened.items()}


def draw_all(hands: dict[str, Draw]) -> dict[str, dict[Emoji, Tensor]]:
    """What each artist drew of the things that Noto's drew: style -> emoji ->
    picture.
    """
    wanted = [each for each in catalogue() if is_wanted(each)]
    drawn = {"noto": drawn_by(hands["noto"], wanted)}
    for style in PACKAGES:
        drawn[style] = drawn_by(hands[style], list(drawn["noto"]))
    return drawn


def drawn_by(hand: Draw, things: Sequence[Emoji]) -> dict[Emoji, Tensor]:
    """One artist's pictures of those of the things that there are."""
    pictures = {each: hand(each) for each in things}
    return {each: image for each, image in pictures.items() if image is not None}


def twins(drawn: dict[str, dict[Emoji, Tensor]]) -> set[Emoji]:
    """The emoji that have the same picture as another in some style: holding one of
    them out would hide nothing.
    """
    found: set[Emoji] = set()
    for pictures in drawn.values():
        bytes_of = {each: image.numpy().tobytes() for each, image in pictures.items()}
        uses = Counter(bytes_of.values())
        found |= {each for each, data in bytes_of.items() if uses[data] > 1}
    return found


def hold_out(drawn: dict[str, dict[Emoji, Tensor]]) -> dict[Emoji, str]:
    """Which emoji lack which style in training."""
    same = twins(drawn)
    found = {}
    for thing in drawn["noto"]:
        styles = [style for style, pictures in drawn.items() if thing in pictures]
        style = emoji.held_out_style(thing, styles)
        if style is not None and thing not in same:
            found[thing] = style
    return found


def build(
    folder: str | Path = emoji.FOLDER,
    font: str | Path = FONT,
    packages: str | Path | None = None,
) -> dict[str, tuple[int, int]]:
    """Draws all emoji and packs them, two shards a style; returns style -> how many are
    for training and how many are held out.

    packages: where npm put the icon packages. Raises Dalle2EduError where something to
    draw with is missing; then nothing is written.
    """
    drawn = draw_all(artists(font, Path(packages or default_packages())))
    kept_back = hold_out(drawn)
    counts = {}
    for style, pictures in drawn.items():
        held = [each for each in pictures if kept_back.get(each) == style]
        rest = [each for each in pictures if kept_back.get(each) != style]
        pack(Path(folder) / f"{style}.tar", style, rest, pictures)
        pack(Path(folder) / "held_out" / f"{style}.tar", style, held, pictures)
        licence = Path(folder) / f"{style}.LICENSE.txt"
        licence.write_text(
            emoji.notice(style).read_text(encoding="utf-8"), encoding="utf-8"
        )
        counts[style] = len(rest), len(held)
    return counts


def pack(
    path: Path, style: str, things: Sequence[Emoji], pictures: dict[Emoji, Tensor]
) -> None:
    """Writes one shard: the style's licence, then a picture and a record for each
    emoji.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    images = torch.empty(len(things), 3, SIZE, SIZE, dtype=torch.uint8)
    for place, each in enumerate(things):
        images[place] = pictures[each]
    shards.write(
        path,
        images,
        [[*each.captions, *each.styled(style)] for each in things],
        records=[asdict(each) | {"style": style} for each in things],
        names=[each.codepoints for each in things],
        notice=emoji.notice(style).read_text(encoding="utf-8"),
        quality=QUALITY,
    )
