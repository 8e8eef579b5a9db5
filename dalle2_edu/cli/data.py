"""`dalle2-edu data emoji`: build the shipped data set again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dalle2_edu.cli.options import writing


def data_emoji(
    out: Annotated[Path | None, typer.Option(help="The shard to write. [default: the one in the package]")] = None,
    font: Annotated[Path | None, typer.Option(help="NotoColorEmoji.ttf. [default: where Debian puts it]")] = None,
) -> None:
    """Build the emoji data set again from the font.

    Draws each emoji of Debian's fonts-noto-color-emoji at 128 x 128 pixels, names it in both languages and
    packs all of them into one WebDataset shard. You don't need this to train: the shard ships with the
    book.

    \b
    Example:
      apt install fonts-noto-color-emoji
      dalle2-edu data emoji --out my_emoji.tar
    """
    from dalle2_edu.data import emoji

    target = out or emoji.SHARD
    with writing(target):
        count = emoji.build(target, font or emoji.FONT)
    print(f"{count} emoji, {target.stat().st_size / 1e6:.1f} MB: {target}")
