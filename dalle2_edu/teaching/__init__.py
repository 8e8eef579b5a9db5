"""What the notebooks import: the reader's language and tier, figures in one style,
exercise checks, package source.

from dalle2_edu.teaching import chapter, check, explore, grid, show, words

Notebooks alone import this folder. Nothing here is needed to draw a picture or to train
a model.
"""

from dalle2_edu.teaching.chapter import Chapter, chapter
from dalle2_edu.teaching.checks import Exercise, Mistake, check
from dalle2_edu.teaching.plots import COLOURS, curves, figure, grid
from dalle2_edu.teaching.sources import show
from dalle2_edu.teaching.widgets import explore
from dalle2_edu.teaching.words import Words, language, words

__all__ = [
    "COLOURS",
    "Chapter",
    "Exercise",
    "Mistake",
    "Words",
    "chapter",
    "check",
    "curves",
    "explore",
    "figure",
    "grid",
    "language",
    "show",
    "words",
]
