"""What the priors and decoders learn from when it does not fit in memory.

    Streamed      pictures and captions from a `Stream`; the frozen CLIP reads each batch when it is drawn
    Embedded      what CLIP said of the pictures, computed once by `embed` and kept on disk

The second pays off from the second epoch on, or when several networks learn from one
data set: CLIP's image tower is run once. The captions are kept as token ids and read
anew, since CLIP's encoded text, 77 x 768 numbers a caption, takes more room than the
picture. Each shard of pictures becomes one file

    000017.safetensors     image_emb float16 (n, D), images uint8 (n, 3, S, S), tokens int32 (m, L), counts int32 (n,)

and a file that is there is not computed again, so `embed` may be stopped and started as
often as you like, and run in several processes, which share the shards.

Chapter 24 uses this file.
"""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from dalle2_edu.data.shards import MOST_BAD, keep_readable, samples_in_shards
from dalle2_edu.data.sources import tar_files
from dalle2_edu.data.stream import MIXED, Stream
from dalle2_edu.data.text import Tokenizer
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes.data import draw_captions, draw_one, shrink, to_float
from dalle2_edu.recipes.encoded import Data, drop_text
from dalle2_edu.recipes.fresh import FreshScenes
from dalle2_edu.text2image.clip import Clip, TextEncoding
from dalle2_edu.training.processes import processes

# pictures from which means, deviations and principal components are taken
MEASURED = 10_000
BATCH = 256  # pictures that CLIP reads at once


class Reader:
    """The frozen CLIP and its tokenizer: what `Streamed` and `Embedded` share."""

    def __init__(self, clip: Clip, tokenizer: Tokenizer):
        self.clip = clip.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.device = next(clip.parameters()).device
        self.null = self.text(tokenizer([""]))

    @torch.no_grad()
    def text(self, tokens: Tensor) -> TextEncoding:
        """Tokens (B, L) as CLIP reads them."""
        return self.clip.encode_text(tokens.long().to(self.device))

    @torch.no_grad()
    def pictures(self, images: Tensor) -> Tensor:
        """Pictures, uint8 (B, 3, S, S), as CLIP's embeddings (B, D)."""
        return self.clip.encode_image(to_float(images.to(self.device)))


class Streamed:
    """`encoded.Data` from a stream, or from scenes that are drawn when they are needed:
    their pictures are as large as CLIP wants them, a batch's `image_size`.
    """

    def __init__(
        self,
        source: Stream | FreshScenes,
        image_size: int,
        clip: Clip,
        tokenizer: Tokenizer,
    ):
        self.source = source
        self.stream = source if isinstance(source, Stream) else None
        self.image_size = image_size
        self.reader = Reader(clip, tokenizer)
        self.null = self.reader.null

    def __len__(self) -> int:
        return len(self.source)

    def draw(self, indices: Tensor, text_drop: float) -> dict[str, Tensor]:
        """As `Encoded.draw`, on CLIP's device."""
        images, captions = self.source.take(indices)
        tokens = self.reader.tokenizer(draw_captions(captions))
        text = self.reader.text(tokens).for_decoder()
        small = shrink(images, self.image_size)
        pictures = {"images": small, "image_emb": self.reader.pictures(images)}
        return {**pictures, **drop_text(text, self.null, text_drop)}

    def measured(self) -> tuple[Tensor, Tensor]:
        """As `Encoded.measured`, of about `MEASURED` pictures, with one caption
        each.
        """
        return measure(self)


def measure(data: Data) -> tuple[Tensor, Tensor]:
    """Embeddings and dot products of pictures that stand at even distances, the same in
    every process and run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        chosen = torch.arange(0, len(data), max(1, len(data) // MEASURED))
        bar = tqdm(chosen.split(BATCH), "measuring", disable=None)
        batches = [data.draw(indices, text_drop=0.0) for indices in bar]
    dots = [
        (batch["image_emb"] * batch["text_emb"]).sum(dim=1).cpu() for batch in batches
    ]
    image_emb = [batch["image_emb"].cpu() for batch in batches]
    return torch.cat(image_emb), torch.cat(dots)


# --- embeddings on disk ---------------------------------------------------------------


def embed(
    source: str,
    out: Path,
    clip: Clip,
    clip_hash: str,
    tokenizer: Tokenizer,
    size: int,
    image_size: int,
) -> list[Path]:
    """Write what CLIP says of shards into the folder `out`, a file a shard; return the
    files, old and new.

    size is the pictures' for CLIP, image_size that of the copy kept beside the
    embeddings, for a decoder to learn from. clip_hash says whose embeddings they are.
    Raises Dalle2EduError if the folder holds another CLIP's, other captions' or other
    pictures', and for a shard that can't be read or has more than 1% of bad
    pictures.
    """
    reader = Reader(clip, tokenizer)
    state = processes()
    files = []
    for number, url in enumerate(tar_files(source)):
        file = out / f"{number:06d}.safetensors"
        files.append(file)
        about = {
            "source": Path(url).name,
            "clip": clip_hash,
            "image_size": str(image_size),
        }
        if file.is_file():
            check_same(file, about)
        elif number % state.num_processes == state.process_index:
            print(f"{url} -> {file}", flush=True)
            write_whole(file, embed_shard(url, reader, size, image_size), about)
    state.wait_for_everyone()
    return files


def embed_shard(
    url: str, reader: Reader, size: int, image_size: int
) -> dict[str, Tensor]:
    """What CLIP says of one shard, as the tensors of its file."""
    images, captions, bad = keep_readable(samples_in_shards([url]), size, limit=None)
    every = len(images) + len(bad)
    if len(bad) > MOST_BAD * every or not images:
        raise Dalle2EduError(
            f"{len(bad)} of {every} pictures in {url} can't be used (1% may be bad)"
        )
    batches = torch.stack(images).split(BATCH)
    return {
        "image_emb": torch.cat(
            [reader.pictures(batch).half().cpu() for batch in batches]
        ),
        "images": torch.cat([shrink(batch, image_size) for batch in batches]),
        "tokens": reader.tokenizer(list(chain.from_iterable(captions))).int(),
        "counts": torch.tensor(list(map(len, captions)), dtype=torch.int32),
    }


def write_whole(file: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write a file that appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}.part")
    unfinished.touch()
    readers = unfinished.stat().st_mode  # safetensors would let the owner alone read it
    save_file(tensors, unfinished, metadata=about)
    unfinished.chmod(readers)
    os.replace(unfinished, file)


def header(file: Path) -> tuple[dict[str, str], int]:
    """What a file says about itself, and of how many pictures it is; the tensors are
    not read.
    """
    try:
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {}), opened.get_slice(
                "counts"
            ).get_shape()[0]
    except (OSError, SafetensorError) as error:
        raise Dalle2EduError(
            f"{file} holds no embeddings ({error}); remove it, and `data embed` makes it anew."
        ) from error


def check_same(file: Path, about: dict[str, str]) -> None:
    """Raise Dalle2EduError unless the file is what would be written."""
    found = header(file)[0]
    different = [
        f"{name} {found.get(name)!r}, not {value!r}"
        for name, value in about.items()
        if found.get(name) != value
    ]
    if different:
        raise Dalle2EduError(
            f"{file} is of another run: {'; '.join(different)}. Choose another folder."
        )


class Embedded:
    """`encoded.Data` from a folder that `embed` wrote; also the `stream` whose shards
    the loop puts in order.
    """

    def __init__(
        self,
        folder: Path,
        image_size: int,
        clip: Clip,
        clip_hash: str,
        tokenizer: Tokenizer,
    ):
        self.files = sorted(folder.glob("*.safetensors"))
        for file in self.files:
            check_same(file, {"clip": clip_hash, "image_size": str(image_size)})
        self.counts = [header(file)[1] for file in self.files]
        self.ends = torch.tensor(self.counts).cumsum(0)  # (files,)
        self.shard = lru_cache(maxsize=2 * MIXED)(self._open)  # two windows' at an edge
        self.reader = Reader(clip, tokenizer)
        self.null = self.reader.null
        self.stream = self

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _open(self, which: int) -> EmbeddedShard:
        return EmbeddedShard(load_file(self.files[which]))

    def rows(self, indices: Tensor) -> list[dict[str, Tensor]]:
        """The pictures with these indices, each with all its captions."""
        which = torch.searchsorted(self.ends, indices, right=True)  # the file of each
        starts = self.ends - torch.tensor(self.counts)
        places = indices - starts[which]  # within its file
        return [
            self.shard(file).row(place)
            for file, place in zip(which.tolist(), places.tolist(), strict=True)
        ]

    def draw(self, indices: Tensor, text_drop: float) -> dict[str, Tensor]:
        """As `Encoded.draw`; CLIP reads the captions."""
        rows = self.rows(indices)
        chosen = draw_one(torch.tensor([len(row["tokens"]) for row in rows])).tolist()
        tokens = torch.stack(
            [row["tokens"][i] for row, i in zip(rows, chosen, strict=True)]
        )
        image_emb = torch.stack([row["image_emb"].float() for row in rows])
        text = self.reader.text(tokens).for_decoder()
        return {
            "images": torch.stack([row["images"] for row in rows]),
            "image_emb": image_emb.to(self.reader.device),
            **drop_text(text, self.null, text_drop),
        }

    def measured(self) -> tuple[Tensor, Tensor]:
        """As `Encoded.measured`, of about `MEASURED` pictures, with one caption
        each.
        """
        return measure(self)

    def prefetch(self, indices: Tensor) -> None:
        """Nothing to do: reading a row takes no time."""


class EmbeddedShard:
    """One file's tensors, and where each picture's captions begin."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors
        self.ends = tensors["counts"].cumsum(0).tolist()

    def row(self, index: int) -> dict[str, Tensor]:
        """A picture, its embedding and the tokens of all its captions."""
        first = self.ends[index - 1] if index else 0
        row = {name: self.tensors[name][index] for name in ("images", "image_emb")}
        return {**row, "tokens": self.tensors["tokens"][first : self.ends[index]]}
