"""CLIP: one space in which a picture and its caption lie close together.

The idea: two encoders, one for pictures and one for text, are trained so that in a
batch of N pairs every picture is nearer to its own caption than to the N - 1 others,
and every caption nearer to its own picture.

    L = (CE(s U V^T, i) + CE(s V U^T, i)) / 2        CLIP (arXiv 2103.00020), figure 3

U, V are the unit vectors of pictures and captions, s a learned scale. The classes are
open_clip's own: at a tiny size, trained here on both data sets with the bilingual
tokenizer, or a real released one, loaded by name.

A departure. To tell 256 little pictures apart their colours are enough, and a CLIP that
may stop there keeps no outlines: a decoder that was given the true embeddings drew a
rocket's colours in a heap. Among 400 million pairs colours are not enough. Ours has a
few thousand, so it is asked for more: a linear layer must be able to read a small copy
of the picture, the thumbnail, off the embedding.

    L = L_contrastive + w |linear(u) - picture at 16 x 16|^2

The reader may also be a small stack of convolutions and the copy the whole picture
(`reader="convolutions"`): outlines and textures, which no linear layer finds, must then
be kept too.

Chapters 12 (CLIP) and 19 (its geometry) use this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from dalle2_edu.errors import Dalle2EduError

if TYPE_CHECKING:
    import open_clip  # below it is imported where it is used: that takes seconds


@dataclass(frozen=True)
class ClipConfig:
    """The tiny CLIP: an image encoder over 64 x 64 pixels and a causal text
    transformer.

    vision_layers is one number for a vision transformer of that depth over patches of
    patch_size pixels, or four numbers for CLIP's ResNet with so many blocks at each
    resolution, 16 => 8 => 4 => 2. The ResNet is the default: in 20 minutes on one core
    its loss came to .18, a vision transformer's of 6 x 128 to .32 in 35. That is a hint
    and no proof, since the transformer learned from an earlier state of the rendered
    shapes.

    thumbnail is the side of the small copy that must be readable off the embedding, 0
    for CLIP as published, and reader says by what."""

    embed_dim: int = 128
    image_size: int = 64
    patch_size: int = 8
    vision_width: int = 24
    vision_layers: int | tuple[int, ...] = (1, 1, 1, 1)
    vision_head_width: int = 64
    vocab_size: int = 4096
    context_length: int = 32
    text_width: int = 128
    text_layers: int = 4
    head_width: int = 32
    thumbnail: int = 0
    reader: Literal["linear", "convolutions"] = "linear"


@dataclass(frozen=True)
class TextEncoding:
    """What the rest of DALL·E 2 reads of a text: its embedding, its encoded tokens,
    which of them are real, and the token ids themselves, for a network with a text
    transformer of its own.
    """

    text_emb: Tensor  # z_t, (B, D)
    text_enc: Tensor  # (B, L, W)
    text_mask: Tensor  # bool (B, L)
    text_tokens: Tensor  # int64 (B, L)

    def as_conditioning(self) -> dict[str, Tensor]:
        """What a prior reads, by the names that it gives them."""
        return {
            "text_emb": self.text_emb,
            "text_enc": self.text_enc,
            "text_mask": self.text_mask,
        }

    def for_decoder(self) -> dict[str, Tensor]:
        """What a decoder reads: a prior's three, and the token ids."""
        return {**self.as_conditioning(), "text_tokens": self.text_tokens}

    def cut(self, length: int) -> TextEncoding:
        """The first tokens only: (B, length, W)."""
        return TextEncoding(
            text_emb=self.text_emb,
            text_enc=self.text_enc[:, :length],
            text_mask=self.text_mask[:, :length],
            text_tokens=self.text_tokens[:, :length],
        )


def without_padding(*several: TextEncoding) -> list[TextEncoding]:
    """The same texts, cut to the longest of them all. Padding is masked wherever it is
    read: what is not there need not be computed, and a caption of eight words fills a
    tenth of CLIP's 77 places.
    """
    length = max(int(text.text_mask.sum(dim=1).max()) for text in several)
    return [text.cut(length) for text in several]


class TextToTokens(Protocol):
    """Any tokenizer: texts -> (B, context_length) int64, zero-padded."""

    def __call__(self, texts: list[str]) -> Tensor: ...


class Clip(nn.Module):
    """open_clip's CLIP behind two calls: pictures in [-1, 1] -> unit vectors, token ids
    -> TextEncoding.
    """

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config = config
        self.model = build_open_clip(config)
        self.thumbnail = build_reader(config)
        self.normalize = (
            True  # Karlo reads CLIP's projections as they come, longer than 1
        )
        self.image_mean: tuple[float, ...] = (
            0.5,
            0.5,
            0.5,
        )  # with this std it leaves [-1, 1] as it is
        self.image_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def image_size(self) -> int:
        """Side of the square that the vision transformer reads."""
        size = self.model.visual.image_size
        return size[0] if isinstance(size, tuple) else size

    def encode_image(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], any size -> unit vectors (B, D)."""
        side = self.image_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        mean = images.new_tensor(self.image_mean)[:, None, None]
        std = images.new_tensor(self.image_std)[:, None, None]
        return self.model.encode_image(
            (images * 0.5 + 0.5 - mean) / std, normalize=self.normalize
        )

    def encode_text(self, tokens: Tensor) -> TextEncoding:
        """Token ids (B, L), zero where padded -> embedding (unit vectors), encoded
        tokens and mask.
        """
        out = self.model.forward_intermediates(
            text=tokens,
            text_indices=1,
            normalize=self.normalize,
            normalize_intermediates=True,
            output_logits=False,
        )
        # The end token has the largest id: up to it a token is real, after it there is
        # padding.
        real = torch.arange(tokens.shape[1], device=tokens.device)[
            None
        ] <= tokens.argmax(dim=1, keepdim=True)
        return TextEncoding(
            text_emb=out["text_features"],
            text_enc=out["text_intermediates"][-1],
            text_mask=real,
            text_tokens=tokens,
        )

    def read_thumbnail(self, image_emb: Tensor) -> Tensor | None:
        """The small copy that can be read off unit vectors (B, D): (B, 3, S, S), or
        None without such a layer.
        """
        if self.thumbnail is None:
            return None
        z = (
            image_emb * image_emb.shape[1] ** 0.5
        )  # numbers of size 1, as a layer expects them
        pixels = self.thumbnail(z)
        side = self.config.thumbnail
        return pixels.reshape(-1, 3, side, side)  # the linear reader's are (B, 3 S S)

    def forward(
        self, images: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """N pairs -> the pictures' unit vectors (N, D), the captions' (N, D), the
        similarities' scale (a scalar) and the thumbnails, (N, 3, S, S) or None.
        """
        u = self.encode_image(images)
        v = self.model.encode_text(tokens, normalize=True)
        # The parameter itself is capped: a cap on exp() would also stop it from coming
        # down again.
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=MAX_LOG_SCALE)
        return u, v, self.model.logit_scale.exp(), self.read_thumbnail(u)


def build_reader(config: ClipConfig) -> nn.Module | None:
    """What reads the thumbnail off the embedding, None for a CLIP without one."""
    if not config.thumbnail:
        return None
    if config.reader == "convolutions":
        return PictureReader(config.embed_dim, config.thumbnail)
    return nn.Linear(config.embed_dim, 3 * config.thumbnail**2)


class PictureReader(nn.Module):
    """z (B, D) -> a picture (B, 3, side, side): 4 x 4 cells, doubled until it is large
    enough.
    """

    FIRST = 128  # channels at 4 x 4
    CELLS = 4

    def __init__(self, embed_dim: int, side: int):
        super().__init__()
        self.cells = nn.Linear(embed_dim, self.FIRST * self.CELLS**2)
        doublings = int(math.log2(side // self.CELLS))
        widths = [
            self.FIRST,
            *(max(32, self.FIRST >> i) for i in range(doublings)),
        ]  # 128 128 64 32
        ups = [
            doubled(c_in, c_out)
            for c_in, c_out in zip(widths, widths[1:], strict=False)
        ]
        last = nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.body = nn.Sequential(nn.GroupNorm(8, self.FIRST), nn.SiLU(), *ups, last)

    def forward(self, z: Tensor) -> Tensor:
        cells = self.cells(z).unflatten(1, (self.FIRST, self.CELLS, self.CELLS))
        return self.body(cells)


def doubled(c_in: int, c_out: int) -> nn.Sequential:
    """A picture of twice the side: (B, c_in, S, S) -> (B, c_out, 2S, 2S)."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.GroupNorm(8, c_out),
        nn.SiLU(),
    )


MAX_LOG_SCALE = math.log(
    100
)  # CLIP caps the scale at 100: beyond it training turned unstable (section 2.5)


def contrastive_loss(u: Tensor, v: Tensor, scale: Tensor) -> Tensor:
    """The symmetric loss of N pairs: each picture picks its caption among N, each
    caption its picture. A scalar.

    Two pairs of one batch may show the same thing and then count against each other;
    with a few such pairs among hundreds that is noise. Several processes compare within
    their own share of the batch only.
    """
    logits = scale * u @ v.T  # (N, N); pair i stands on the diagonal
    own = torch.arange(len(u), device=u.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def build_open_clip(config: ClipConfig) -> open_clip.CLIP:
    """open_clip's CLIP class at our size."""
    import open_clip

    vision = open_clip.CLIPVisionCfg(
        layers=config.vision_layers,
        width=config.vision_width,
        head_width=config.vision_head_width,
        patch_size=config.patch_size,
        image_size=config.image_size,
    )
    text = open_clip.CLIPTextCfg(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_width // config.head_width,
        layers=config.text_layers,
    )
    return open_clip.CLIP(config.embed_dim, vision, text)


def load_open_clip(
    name: str, pretrained: str | None = None, device: str = "cpu"
) -> tuple[Clip, TextToTokens]:
    """A real open_clip model and its tokenizer: by architecture name, weights by tag or
    by a local checkpoint's path.

    `load_open_clip("ViT-B-32", "laion2b_s34b_b79k")` fetches the weights;
    `load_open_clip("ViT-B-32", "my.safetensors")` reads a file. Pickled checkpoints are
    refused. Raises Dalle2EduError for an unknown name, tag or file, and for weights
    that can't be fetched or don't fit.
    """
    import open_clip

    if name not in open_clip.list_models():
        raise Dalle2EduError(
            f"open_clip knows no model {name!r}; open_clip.list_models() lists them, e.g."
            " ViT-B-32."
        )
    try:
        if pretrained and not weights_file(name, pretrained).endswith(".safetensors"):
            raise Dalle2EduError(
                f"The weights {pretrained} of {name} may be a pickle, which can run code when"
                " opened; convert them to .safetensors."
            )
        model = open_clip.create_model(name, pretrained=pretrained, device=device)
    except (
        RuntimeError,
        OSError,
        SafetensorError,
    ) as error:  # of another model, no network, damaged
        reason = " ".join(str(error).split())[:200]
        raise Dalle2EduError(
            f"The weights {pretrained} of {name} can't be loaded: {reason}"
        ) from error
    return wrap_open_clip(model), open_clip.get_tokenizer(name)


def weights_file(name: str, pretrained: str) -> str:
    """The path of a model's weights, fetched first if `pretrained` is one of
    open_clip's tags and no file.

    Raises Dalle2EduError if it is neither.
    """
    import open_clip

    if Path(pretrained).is_file():
        return pretrained
    if pretrained not in open_clip.list_pretrained_tags_by_model(name):
        raise Dalle2EduError(
            f"{pretrained!r} is neither a file nor a weights tag of {name}."
        )
    return open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, pretrained))


def wrap_open_clip(model: Any) -> Clip:
    """Put an open_clip model, however it was made, behind our two calls.

    Raises Dalle2EduError for one whose text does not end in the largest token id
    (SigLIP's and others'): `encode_text` could not tell its real tokens from
    padding.
    """
    import open_clip

    pool = getattr(model, "text_pool_type", None) or getattr(
        getattr(model, "text", None), "pool_type", None
    )
    if pool != "argmax":
        raise Dalle2EduError(
            f"This CLIP pools its text by {pool!r}; only models that pool at the end token"
            " (argmax) fit."
        )
    clip = Clip.__new__(Clip)
    nn.Module.__init__(clip)
    clip.model, clip.thumbnail, clip.normalize = model, None, True
    visual = getattr(model, "visual", None)  # a text tower alone has none
    clip.image_mean = tuple(
        getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    )
    clip.image_std = tuple(
        getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    )
    return clip
