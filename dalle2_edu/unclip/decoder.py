"""The decoder: from a CLIP image embedding (and the text beside it) back to a picture.

The idea: it is GLIDE, told two things more. The image embedding is (a) projected and
added to the timestep embedding and (b) projected to four extra tokens in front of the
text tokens that every attention layer reads.

    unCLIP (arXiv 2204.06125), section 2.1

The text has a transformer of its own, as in GLIDE, which learns with the decoder.
CLIP's frozen text encoder was trained to tell captions apart, and what it does not need
for that is lost to the picture. Ours reads the token ids: its tokens stand beside the
image tokens, and its last one is added to the timestep embedding. Karlo left that
transformer out: it projects CLIP's encoded text instead, and adds CLIP's text embedding
to the timestep's. With `text_layers` 0 this class does the same.

The embedding is whitened first: z_i is turned into its principal directions, and each
of them is divided by its standard deviation.

    w = axes (z_i - mean) / std

99% of the variance of our z_i lies in a tenth of its directions. What tells a star from
a heart is in the others, too faint for a linear layer to find.

In training either condition is dropped at random, so that both can be guided. A dropped
embedding is replaced by the mean one. Whitened, that is the zero vector ("setting the
CLIP embeddings to zero (or a learned embedding)", section 2.1), and the two layers
answer with their biases alone.

Chapter 16 uses this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dalle2_edu.baselines.transformer import Transformer
from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.diffusion.unet import TIME_EMB_MULT, UNet, UNetConfig
from dalle2_edu.unclip.latents import fit_pca, spreads

IMAGE_TOKENS = 4


@dataclass(frozen=True)
class DecoderConfig:
    """`unet.context_dim` is the width of the tokens in attention; `clip_dim` and
    `text_width` are CLIP's.

    `emb_scale` multiplies both embeddings: the numbers of a unit vector in 128
    dimensions are about 1/sqrt(128), too faint for a linear layer that also hears
    everything else at strength
    1. The released systems feed CLIP's vectors before they are normalised, and have
       scale 1. `whiten` does better than a scale. `text_layers` is the depth of the
       decoder's own text transformer, 0 for none; its width is `unet.context_dim`."""

    clip_dim: int = 128
    text_width: int = 128
    emb_scale: float = 1.0
    whiten: bool = False
    text_layers: int = 0
    text_heads: int = 4
    vocab_size: int = 4096
    context_length: int = 32
    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            image_size=32,
            channels=64,
            channel_mult=(1, 2, 2),
            num_res_blocks=1,
            attention_levels=(1, 2),
            context_dim=128,
            patch_size=2,
            learned_position=True,
        )
    )


def decoder_diffusion() -> GaussianDiffusion:
    """The miniature decoder's process: 1000 cosine steps (Table 3); v where the paper
    predicts eps and the variance.

    At our size v learns faster: it asks for the picture where noise is all there is,
    and for the noise where there is little.
    """
    return GaussianDiffusion(cosine_betas(1000), prediction="v", variance="fixed_small")


class TextTransformer(nn.Module):
    """Token ids -> tokens that the U-Net reads. Each token may look at all real ones,
    before and after it.
    """

    def __init__(self, config: DecoderConfig, width: int):
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, width)
        self.position = nn.Parameter(torch.randn(config.context_length, width) * 0.01)
        self.transformer = Transformer(width, config.text_layers, config.text_heads)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.token.weight, std=0.02)  # as in GPT-2 and CLIP

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, L), mask (B, L) True where real -> (B, L, width). L may be less
        than the context length.
        """
        length = tokens.shape[1]
        x = self.token(tokens) + self.position[:length]  # (B, L, width)
        may_look = mask[:, None].expand(
            -1, length, -1
        )  # (B, L, L): all rows at real columns
        return self.norm(self.transformer(x, may_look))


def last_real(tokens: Tensor, mask: Tensor) -> Tensor:
    """The text's end token, which stands for the whole: (B, L, width), (B, L) -> (B,
    width).
    """
    last = mask.sum(dim=1) - 1  # (B,)
    return tokens[torch.arange(len(tokens), device=tokens.device), last]


class Decoder(nn.Module):
    """Denoises x_t (B, 3, H, W) given image embedding, text embedding and text
    tokens.
    """

    null_image_emb: Tensor
    axes: Tensor
    std: Tensor

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        width = config.unet.context_dim
        assert width is not None, (
            "the decoder reads tokens: unet.context_dim must be set"
        )
        emb_dim = config.unet.channels * TIME_EMB_MULT
        self.unet = UNet(config.unet)
        self.image_to_time = nn.Linear(config.clip_dim, emb_dim)
        self.image_to_tokens = nn.Linear(config.clip_dim, IMAGE_TOKENS * width)
        if config.text_layers:
            self.text = TextTransformer(config, width)
            self.text_to_time = nn.Linear(width, emb_dim)
        else:
            self.text_to_time = nn.Linear(config.clip_dim, emb_dim)
            self.text_to_tokens = nn.Sequential(
                nn.Linear(config.text_width, width), nn.LayerNorm(width)
            )
        self.hold_null(config.clip_dim)

    def hold_null(self, clip_dim: int) -> None:
        """What stands for a missing image embedding: the mean one, whitened to 0, or a
        learned vector.
        """
        if not self.config.whiten:
            self.null_image_emb = nn.Parameter(torch.zeros(clip_dim))
            return
        self.register_buffer("null_image_emb", torch.zeros(clip_dim))
        self.register_buffer("axes", torch.eye(clip_dim))
        self.register_buffer("std", torch.ones(clip_dim))

    def set_stats(self, image_embs: Tensor) -> None:
        """Take mean, axes and spreads from image embeddings (N, D), N at least 2. Does
        nothing in a decoder that does not whiten.
        """
        if not self.config.whiten:
            return
        pca = fit_pca(image_embs)
        self.null_image_emb.copy_(pca.mean)
        self.axes.copy_(pca.axes)
        self.std.copy_(spreads(pca))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        image_emb: Tensor,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
        text_tokens: Tensor | None = None,
        image_keep: Tensor | None = None,
    ) -> Tensor:
        """One pass: -> (B, unet.out_channels, H, W); the arguments are those of
        `read`.
        """
        conditioning = self.read(
            image_emb, text_emb, text_enc, text_mask, text_tokens, image_keep
        )
        return self.denoise(x_t, t, **conditioning)

    def denoise(
        self,
        x_t: Tensor,
        t: Tensor,
        added_emb: Tensor,
        context_kv: Tensor,
        context_mask: Tensor,
    ) -> Tensor:
        """The same with the embeddings and the text read already: they do not change
        from step to step.
        """
        return self.unet(x_t, t, added_emb, context_kv, context_mask)

    def read(
        self,
        image_emb: Tensor,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
        text_tokens: Tensor | None = None,
        image_keep: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What the U-Net is told of B pictures: `denoise`'s conditioning.

        image_emb, text_emb (B, D); text_enc (B, L, text_width); text_mask (B, L) True
        where real; text_tokens (B, L), the ids, for a decoder with a text transformer;
        image_keep (B,) False where the image embedding is to be dropped."""
        if image_keep is not None:
            image_emb = torch.where(image_keep[:, None], image_emb, self.null_image_emb)
        w = self.whitened(image_emb)  # (B, D)
        image_tokens = self.image_to_tokens(w).unflatten(
            1, (IMAGE_TOKENS, -1)
        )  # (B, 4, width)
        pooled, tokens = self.read_text(text_emb, text_enc, text_mask, text_tokens)
        context = torch.cat([image_tokens, tokens], dim=1)  # (B, 4 + L, width)
        image_mask = text_mask.new_ones(len(text_mask), IMAGE_TOKENS)  # always real
        return {
            "added_emb": self.image_to_time(w) + pooled,  # (B, 4 * channels)
            "context_kv": self.unet.project_context(context),
            "context_mask": torch.cat([image_mask, text_mask], dim=1),  # (B, 4 + L)
        }

    def whitened(self, image_emb: Tensor) -> Tensor:
        """Image embeddings (B, D) with numbers of size 1, as a linear layer expects
        them.
        """
        if not self.config.whiten:
            return image_emb * self.config.emb_scale
        return (image_emb - self.null_image_emb) @ self.axes.T / self.std

    def read_text(
        self,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
        text_tokens: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """What is added to the timestep embedding, (B, 4 * channels), and the text's
        tokens, (B, L, width).
        """
        if not self.config.text_layers:
            pooled = self.text_to_time(text_emb * self.config.emb_scale)
            return pooled, self.text_to_tokens(text_enc)
        assert text_tokens is not None, (
            "this decoder reads token ids: text.for_decoder()"
        )
        tokens = self.text(text_tokens, text_mask)
        return self.text_to_time(last_real(tokens, text_mask)), tokens
