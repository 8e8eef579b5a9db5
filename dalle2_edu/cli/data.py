"""`dalle2-edu data emoji | embed`: build the shipped data set again, or compute a data
set's embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dalle2_edu.cli.options import Device, find_device, writing
from dalle2_edu.data.layouts import SHARDS_HELP


def data_emoji(
    out: Annotated[
        Path | None,
        typer.Option(help="The shard to write. [default: the one in the package]"),
    ] = None,
    font: Annotated[
        Path | None,
        typer.Option(help="NotoColorEmoji.ttf. [default: where Debian puts it]"),
    ] = None,
) -> None:
    """Build the emoji data set again from the font.

    Draws each emoji of Debian's fonts-noto-color-emoji at 128 x 128 pixels, names it in
    both languages and packs all of them into one WebDataset shard. You don't need this
    to train: the shard ships with the book.

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


def data_embed(
    source: Annotated[str, typer.Argument(help=f"{SHARDS_HELP}.")],
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
