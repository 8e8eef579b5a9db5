"""The decoder: from a CLIP image embedding (and the text beside it) back to a picture.

The idea: it is GLIDE, told two things more. The image embedding is (a) projected and
added to the timestep embedding and (b) projected to four extra tokens in front of the
text tokens that every attention layer reads.

    unCLIP (arXiv 2204.06125), section 2.1

In training the image embedding is replaced by a learned vector 10% of the time and the
text by the empty text 50% of the time, so that both can be guided. The paper's own text
transformer is left out here, as in Karlo: CLIP's encoded text is projected instead, and
CLIP's text embedding is added to the timestep's too.

Chapter 16 uses this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.diffusion.unet import TIME_EMB_MULT, UNet, UNetConfig

IMAGE_TOKENS = 4


@dataclass(frozen=True)
class DecoderConfig:
    """`unet.context_dim` is the width of the tokens in attention; `clip_dim` and
    `text_width` are CLIP's.

    `emb_scale` multiplies both embeddings: the numbers of a unit vector in 128
    dimensions are about 1/sqrt(128), too faint for a linear layer that also hears
    everything else at strength
    1. The released systems feed CLIP's vectors before they are normalised, and have
       scale 1.
    """

    clip_dim: int = 128
    text_width: int = 128
    emb_scale: float = 1.0
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


class Decoder(nn.Module):
    """Denoises x_t (B, 3, H, W) given image embedding, text embedding and text
    tokens.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        emb_dim, width = config.unet.channels * TIME_EMB_MULT, config.unet.context_dim
        assert width is not None, (
            "the decoder reads tokens: unet.context_dim must be set"
        )
        self.unet = UNet(config.unet)
        self.image_to_time = nn.Linear(config.clip_dim, emb_dim)
        self.image_to_tokens = nn.Linear(config.clip_dim, IMAGE_TOKENS * width)
        self.text_to_time = nn.Linear(config.clip_dim, emb_dim)
        self.text_to_tokens = nn.Sequential(
            nn.Linear(config.text_width, width), nn.LayerNorm(width)
        )
        self.null_image_emb = nn.Parameter(torch.zeros(config.clip_dim))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        image_emb: Tensor,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
        image_keep: Tensor | None = None,
    ) -> Tensor:
        """One pass: -> (B, unet.out_channels, H, W); what it is given is said at
        `read`.
        """
        return self.denoise(
            x_t, t, **self.read(image_emb, text_emb, text_enc, text_mask, image_keep)
        )

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
        image_keep: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What the U-Net is told of B pictures: `denoise`'s conditioning.

        image_emb, text_emb (B, D); text_enc (B, L, text_width); text_mask (B, L) True
        where real; image_keep (B,) False where the image embedding is to be replaced by
        the learned null vector.
        """
        if image_keep is not None:
            image_emb = torch.where(image_keep[:, None], image_emb, self.null_image_emb)
        image_emb, text_emb = (
            image_emb * self.config.emb_scale,
            text_emb * self.config.emb_scale,
        )
        # (B, 4 * channels)
        added = self.image_to_time(image_emb) + self.text_to_time(text_emb)
        image_tokens = self.image_to_tokens(image_emb).unflatten(
            1, (IMAGE_TOKENS, -1)
        )  # (B, 4, width)
        context = torch.cat(
            [image_tokens, self.text_to_tokens(text_enc)], dim=1
        )  # (B, 4 + L, width)
        mask = torch.cat(
            [text_mask.new_ones(len(text_mask), IMAGE_TOKENS), text_mask], dim=1
        )  # (B, 4 + L)
        return {
            "added_emb": added,
            "context_kv": self.unet.project_context(context),
            "context_mask": mask,
        }
