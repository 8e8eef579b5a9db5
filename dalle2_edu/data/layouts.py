"""What your own data may look like: the one list that everything reads.

The readers (`samples`, `sources`) go by these names, `dalle2-edu train --help` is written
from them, and a test compares the book's page "Train on your own pictures" with them. So
a way that one of them knows is a way that all of them know.

This file imports nothing: `--help` must not wait for PyTorch.

Chapter 02 uses this file.
"""

from __future__ import annotations

# the kinds of files that are taken for pictures; of two in one sample the first counts
PICTURES = ("jpg", "jpeg", "png", "webp")

# --- a folder of pictures -------------------------------------------------------------

# one file with the captions of all pictures; the first that is there counts
CAPTION_FILES = ("captions.csv", "captions.tsv", "captions.jsonl")
BESIDE = ".txt"  # or else a file of captions beside each picture, with this ending

# what a column, or a field of a JSON record, may be called: the first that is there counts
FILE_FIELDS = (
    "file_name",
    "file",
    "filename",
    "filepath",
    "path",
    "image",
    "image_path",
)
CAPTION_FIELDS = ("captions", "caption", "text", "title")

# --- WebDataset shards ----------------------------------------------------------------

SHARDS = {  # how they may be named, with an example
    "a tar file": "shards-000.tar",
    "a folder of them": "shards/",
    "a glob": "shards-*.tar",
    "a brace range": "shards-{000..099}.tar",
    "an address": "https://...",
}

# --- as `--help` says it --------------------------------------------------------------

SHARDS_HELP = f"WebDataset shards ({', '.join(SHARDS)})"
FOLDER_HELP = (
    f"a folder of pictures ({', '.join(PICTURES)}) with {', '.join(CAPTION_FILES)} or a"
    f" {BESIDE} beside each picture"
)
