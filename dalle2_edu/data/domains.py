"""The two worlds that a miniature draws, and which of them a prompt speaks of.

Chapters 01 and 02 use this file.
"""

from __future__ import annotations

from dalle2_edu.data import grammar
from dalle2_edu.data.prompts import emoji_captions, read_prompt, split_style

DOMAINS = ("shapes", "emoji")


def pick_domain(prompt: str) -> str:
    """Which miniature knows what the prompt speaks of: "emoji" for an emoji's exact
    caption, in whatever style, "shapes" for a word of the shapes' world, otherwise
    "emoji".
    """
    wanted = read_prompt(prompt)
    thing, _ = split_style(wanted)
    if thing in emoji_captions():
        return "emoji"
    return "shapes" if grammar.speaks_of_shapes(wanted.lower()) else "emoji"
