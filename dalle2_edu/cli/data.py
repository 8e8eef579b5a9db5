"""`dalle2-edu data emoji | embed`: build the shipped data set again, or compute a data
set's embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dalle2_edu.cli.options import Device, find_device, writing


def data_emoji(
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to write. [default: the one in the package]"),
    ] = None,
    font: Annotated[
        Path | None,
        typer.Option(help="NotoColorEmoji.ttf. [default: where Debian puts it]"),
    ] = None,
    packages: Annotated[
        Path | None,
        typer.Option(
            help="Where npm put the icons. [default: dalle2_edu in your cache folder]"
        ),
    ] = None,
) -> None:
    """Build the emoji data set again from a font and three icon packages.

    Draws each emoji in four artists' styles at 128 x 128 pixels and names it in both
    languages. Each style gets a WebDataset shard for training, a smaller one with what
    is held out from training (in the folder held_out), and its licence beside them. You
    don't need this to train: the shards ship with the book.

    \b
    Example:
      apt install fonts-noto-color-emoji
      npm install --prefix icons @iconify-json/twemoji @iconify-json/openmoji @iconify-json/fluent-emoji-flat
      dalle2-edu data emoji --packages icons --out my_emoji
    """
    from dalle2_edu.data import artists, emoji

    target = out or emoji.FOLDER
    with writing(target):
        counts = artists.build(target, font or artists.FONT, packages)
    for style, (training, held_out) in counts.items():
        size = (target / f"{style}.tar").stat().st_size / 1e6
        print(f"{style}: {training} emoji, {size:.1f} MB, and {held_out} held out")
    print(target)


def data_embed(
    source: Annotated[
        str, typer.Argument(help="WebDataset shards: a path, glob, brace range or URL.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write, a file a shard.")],
    image_size: Annotated[
        int, typer.Option(help="Of the copies beside the embeddings, for a decoder.")
    ] = 32,
    device: Device = "auto",
) -> None:
    """Compute the CLIP embeddings of a data set once.

    The priors and decoders learn from what the zoo's CLIP says of pictures. This writes
    it down, so that a training, or several, need not run CLIP's image tower again. Stop
    it whenever you like and start it again: the shards that are done are not done
    again. Several processes share the shards.

    \b
    Example:
      dalle2-edu data embed 'shards-{000000..000999}.tar' --out embeddings
      dalle2-edu train emoji-prior --data embeddings
    """
    from dalle2_edu import zoo
    from dalle2_edu.data.text import default_tokenizer
    from dalle2_edu.recipes.data import CLIP_SIZE
    from dalle2_edu.recipes.embedded import embed

    clip = zoo.load("shared", "clip", find_device(device))
    clip_hash = zoo.card("shared", "clip").sha256
    tokenizer = default_tokenizer()
    with writing(out):
        files = embed(source, out, clip, clip_hash, tokenizer, CLIP_SIZE, image_size)
    print(f"{len(files)} files: {out}")
