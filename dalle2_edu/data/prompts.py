"""Prompts as people type and paste them, brought into the words that the models have
read.

A prompt arrives with things that nobody sees, or that no caption ever held. The
tokenizer takes any of them (everything is bytes), and the model then draws something
unrelated without a word. So each prompt is read once, at the door:

    U+FEFF, zero-width spaces   what is invisible is left out
    🚀                          an emoji is read as its name: rocket, or 火箭 in a Chinese prompt
    貓                          traditional characters become simplified ones: 猫
    bytes of another encoding   refused, and so is a prompt of many thousand letters

`never_read` tells when a prompt has no word at all in common with the captions, and
`unknown_style` when it asks for a known thing in a style that no artist of ours draws
in.

Chapter 02 uses this file.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from dalle2_edu.data.emoji import STYLES, load
from dalle2_edu.data.text import HAN, LETTERS, normalize, training_texts
from dalle2_edu.errors import Dalle2EduError

LONGEST = 2000  # characters; the models read a few dozen tokens
SHOWN = 60  # characters of a prompt that a message shows

WORDS = re.compile(rf"[{LETTERS}']+|[{HAN}]")
# "as an emoji", "as text", ...
VARIANTS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
EMPTY = "The prompt is empty: say what to draw, for example rocket or 火箭."

# Words that nearly every caption holds: knowing them alone says nothing.
COMMON = {"a", "an", "the", "of", "on", "in", "at", "with", "and", "or", "to", "is"}
COMMON |= set("一个只的在和与上下中有")


def read_prompt(prompt: Any) -> str:
    """A prompt in the words of the captions, stripped; may be "".

    Raises Dalle2EduError for what is no text, holds bytes of another encoding, or is
    longer than LONGEST characters.
    """
    if not isinstance(prompt, str):
        raise Dalle2EduError(
            f"A prompt is a text, such as 'rocket', not {prompt!r:.60}."
        )
    if len(prompt) > LONGEST:
        raise Dalle2EduError(
            f"The prompt has {len(prompt):,} characters, and the models read a few dozen words:"
            f" say it in fewer than {LONGEST:,}."
        )
    # half of a surrogate pair
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise Dalle2EduError(
            "The prompt holds bytes that are no UTF-8 text: type it again, in a terminal that is"
            " set to UTF-8."
        )
    text = visible(name_emoji(prompt))
    return simplify(text).strip()


def required_prompt(prompt: Any) -> str:
    """The same, but one that is empty raises Dalle2EduError as well."""
    text = read_prompt(prompt)
    if not text:
        raise Dalle2EduError(EMPTY)
    return text


def shorten(text: str) -> str:
    """A text for a message: its beginning and its end."""
    return (
        text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
    )


# --- what is invisible, emoji, traditional characters ---------------------------------


def visible(text: str) -> str:
    """The text without characters that nobody can see; line breaks and tabs become
    spaces.
    """
    spaced = re.sub(r"\s", " ", VARIANTS.sub("", text))
    # Cc: control characters. Cf: marks for the layout, among them U+FEFF and zero-width
    # ones.
    return "".join(
        letter for letter in spaced if unicodedata.category(letter) not in ("Cc", "Cf")
    )


def name_emoji(text: str) -> str:
    """The text with each emoji as its name: in Chinese where the text has Chinese
    characters.
    """
    if text.isascii():
        return text
    import emoji  # here, as most prompts have none

    emoji.config.load_language("zh")
    language = "zh" if re.search(f"[{HAN}]", text) else "en"

    def name(character: str, fields: dict[str, Any]) -> str:
        said = fields.get(language) or fields["en"]
        return " " + said.strip(":").replace("_", " ").replace("’", "'").lower() + " "

    return emoji.replace_emoji(text, name)


def simplify(text: str) -> str:
    """Traditional characters as simplified ones, if the captions lack any of the
    text's.

    A text whose characters are all known stays as it is: a few captions are traditional
    too.
    """
    characters = set(re.findall(f"[{HAN}]", text))
    if characters <= known_words():
        return text
    return traditional_to_simplified().convert(text)


@lru_cache(maxsize=1)
def traditional_to_simplified() -> Any:
    """OpenCC's converter, which knows words as well as single characters."""
    import opencc

    return opencc.OpenCC("t2s")


# --- what the models have read --------------------------------------------------------


@lru_cache(maxsize=1)
def known_words() -> frozenset[str]:
    """The words, and the single Chinese characters, of the captions."""
    return frozenset(
        word for text in training_texts(scenes=300) for word in words_of(text)
    )


def words_of(text: str) -> list[str]:
    """The words in letters and the Chinese characters of a text: "A 红 cat" -> [a, 红,
    cat].
    """
    return WORDS.findall(normalize(text))


def never_read(prompt: str) -> bool:
    """Whether no word of a prompt stands in any caption; "a", "the", 的 and the like
    don't count.
    """
    return known_words().isdisjoint(set(words_of(prompt)) - COMMON)


# --- styles ---------------------------------------------------------------------------


@lru_cache(maxsize=1)
def emoji_captions() -> frozenset[str]:
    """All captions of emoji that say no style, as `normalize` spells them."""
    return frozenset(
        normalize(text).strip() for each in load() for text in each.captions
    )


def split_style(prompt: str) -> tuple[str, str]:
    """What an emoji's prompt asks for, and the style that it says after the last comma:
    "Rocket, line art" -> ("rocket", "line art"). The style is "" where it says none.
    """
    text = normalize(prompt).strip()
    thing, _, style = text.rpartition(",")
    if text in emoji_captions() or thing.strip() not in emoji_captions():
        return text, ""
    return thing.strip(), style.strip()


def unknown_style(prompt: str) -> str:
    """What to tell about a style that the models don't know, one line; "" if there is
    none.
    """
    _, style = split_style(prompt)
    known = {"en": [each.en for each in STYLES.values()]}
    known["zh"] = [each.zh for each in STYLES.values()]
    if not style or style in known["en"] + known["zh"]:
        return ""
    names = ", ".join(known["zh" if re.search(f"[{HAN}]", style) else "en"])
    return f"The models know no style {shorten(style)!r}; known: {names}."
