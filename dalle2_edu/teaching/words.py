"""The reader's language.

Both notebooks of a chapter hold the same code, so every word that a cell shows is given
in both languages: `words("step t", "步 t")` is the reader's one.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from dalle2_edu.errors import Dalle2EduError

LANGUAGES = ("en", "zh")


def language() -> str:
    """ "en" or "zh": from DALLE2_EDU_LANG, else from the notebook's folder (.../zh or
    .../en), else English.
    """
    chosen = os.environ.get("DALLE2_EDU_LANG", "").strip().lower()
    if not chosen:
        folder = Path.cwd().name
        return folder if folder in LANGUAGES else "en"
    if chosen not in LANGUAGES:
        raise Dalle2EduError(
            f"DALLE2_EDU_LANG is '{chosen}': set it to en or zh, or unset it"
        )
    return chosen


def words(en: str, zh: str) -> str:
    """The words of the reader's language."""
    return zh if language() == "zh" else en


@dataclass(frozen=True)
class Words:
    """The same words in both languages; `str()` gives the reader's, when they are
    shown.
    """

    en: str
    zh: str

    def __str__(self) -> str:
        return words(self.en, self.zh)
