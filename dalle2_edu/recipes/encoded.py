"""What the frozen CLIP says of a data set, computed once and kept in memory.

CLIP is frozen while the priors and the decoder learn (unCLIP, section 2), so each
picture and each caption is encoded once, before the first step, and never again:
`Encoded` holds the results. `embedded.py` has the same for data that do not fit in
memory.

Chapters 15 and 16 use this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.text import Tokenizer
from dalle2_edu.recipes.data import Captions, shrink, to_float
from dalle2_edu.text2image.clip import Clip, TextEncoding


class Data(Protocol):
    """What the priors and decoders learn from: `Encoded` holds it in memory,
    `embedded.py` reads it.
    """

    @property
    def null(self) -> TextEncoding:
        """The encoding of the empty text, each tensor with a batch of one."""

    @property
    def stream(self) -> Any:
        """Where it comes from, if from shards."""

    def __len__(self) -> int: ...

    def draw(self, indices: Tensor, text_drop: float) -> dict[str, Tensor]:
        """B pictures and a caption of each, replaced by the empty text with probability
        `text_drop`.
        """

    def measured(self) -> tuple[Tensor, Tensor]:
        """What the priors measure before they learn: image embeddings (N, D), and z_i .
        z_t of pictures with their captions, (M,).
        """


@dataclass(frozen=True)
class Encoded:
    """A data set as the frozen CLIP sees it.

    images uint8 (N, 3, S, S); image_emb (N, D); captions and their encodings text_emb
    (M, D), text_enc (M, L, W) in half precision, text_mask and text_tokens (M, L);
    `null` is the encoding of the empty text, each tensor with a batch of one."""

    images: Tensor
    image_emb: Tensor
    captions: Captions
    text: TextEncoding
    null: TextEncoding
    stream: None = None  # it is all in memory

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, indices: Tensor, text_drop: float) -> dict[str, Tensor]:
        """See `Data`."""
        places = self.captions.draw(indices)
        text = {
            name: tensor[places] for name, tensor in self.text.for_decoder().items()
        }
        pictures = {
            "images": self.images[indices],
            "image_emb": self.image_emb[indices],
        }
        return {**pictures, **drop_text(text, self.null, text_drop)}

    def measured(self) -> tuple[Tensor, Tensor]:
        """See `Data`; of every picture with each of its captions."""
        counts = self.captions.counts
        image_emb = self.image_emb.repeat_interleave(counts, dim=0)  # (N, D) => (M, D)
        return self.image_emb, (image_emb * self.text.text_emb).sum(dim=1)


def drop_text(
    text: dict[str, Tensor], null: TextEncoding, drop: float
) -> dict[str, Tensor]:
    """The conditioning of B texts, each replaced by the empty text's with probability
    `drop`, cut to the longest of them: padding is masked wherever it is read, so it
    need not be computed.
    """
    dropped = torch.rand(len(text["text_mask"])) < drop
    text = {
        name: _replace(text[name], empty, dropped.to(empty.device))
        for name, empty in null.for_decoder().items()
    }
    length = int(text["text_mask"].sum(dim=1).max())
    long = {
        name: tensor[:, :length] for name, tensor in text.items() if name != "text_emb"
    }
    return {"text_emb": text["text_emb"], **long}


def _replace(values: Tensor, null: Tensor, dropped: Tensor) -> Tensor:
    """Rows of values (B, ...) where dropped (B,) is False, null (1, ...) where it is
    True. Half precision becomes float.
    """
    values = values.float() if values.is_floating_point() else values
    rows = dropped.reshape(-1, *[1] * (values.dim() - 1))  # (B,) => (B, 1, ...)
    return torch.where(rows, null, values)


@torch.inference_mode()
def encode(
    pairs: Pairs,
    image_size: int,
    clip: Clip,
    tokenizer: Tokenizer,
    batch_size: int = 256,
) -> Encoded:
    """Run CLIP once over a data set; keep its pictures at `image_size`
    (box-reduced).
    """
    captions = Captions(pairs, tokenizer)
    device = next(clip.parameters()).device
    image_emb, small = [], []
    for chunk in pairs.images.split(batch_size):
        image_emb.append(clip.encode_image(to_float(chunk.to(device))).cpu())
        small.append(shrink(chunk, image_size))
    texts = [
        clip.encode_text(chunk.to(device))
        for chunk in captions.tokens.split(batch_size)
    ]
    text = TextEncoding(
        torch.cat([part.text_emb.cpu() for part in texts]),
        torch.cat([part.text_enc.half().cpu() for part in texts]),
        torch.cat([part.text_mask.cpu() for part in texts]),
        captions.tokens,
    )
    null = clip.encode_text(tokenizer([""]).to(device))
    null = TextEncoding(*(tensor.cpu() for tensor in null.for_decoder().values()))
    return Encoded(torch.cat(small), torch.cat(image_emb), captions, text, null)
