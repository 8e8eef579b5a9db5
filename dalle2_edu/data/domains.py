"""The two worlds that a miniature draws, and which of them a prompt is about.

Chapters 01 and 02 use this file.
"""

from __future__ import annotations

from dalle2_edu.data import emoji, grammar
from dalle2_edu.data.prompts import read_prompt

DOMAINS = ("shapes", "emoji")


def pick_domain(prompt: str) -> str:
    """Which miniature knows what the prompt is about: "emoji" for an emoji's exact
    caption, "shapes" for a word of the shapes' world, otherwise "emoji".
    """
    wanted = read_prompt(prompt).lower()
    # an emoji's whole caption, and not a word of it: "red" is both worlds'
    if any(wanted in picture.captions for picture in emoji.load()):
        return "emoji"
    return "shapes" if grammar.speaks_of_shapes(wanted) else "emoji"
