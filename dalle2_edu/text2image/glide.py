"""GLIDE: a U-Net that draws from text directly, the direct ancestor of DALL·E 2's
decoder.

The idea: a transformer reads the tokens. Its last output stands where ADM has the class
embedding (it is added to the timestep's), and all its outputs become extra keys and
values in every attention layer of the U-Net.

    GLIDE, arXiv 2112.10741, section 3.1 (text conditioning), 3.2 (inpainting: four extra input channels)

Padding is not masked away: a padded position reads a learned padding embedding of that
position.

Chapter 13 uses this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.baselines.transformer import Transformer
from dalle2_edu.diffusion.unet import TIME_EMB_MULT, UNet, UNetConfig


@dataclass(frozen=True)
class GlideConfig:
    """The U-Net, and the text transformer's vocabulary, context length, width, layers
    and heads.
    """

    unet: UNetConfig = field(
        # eps and its variance
        default_factory=lambda: UNetConfig(out_channels=6, context_dim=128)
    )
    vocab_size: int = 4096  # of byte pairs; 50,257 in the released one
    context_length: int = 32  # L; 128 in the released one
    width: int = 128
    layers: int = 4
    heads: int = 4


class Glide(nn.Module):
    """x_t (B, 3, H, W), t (B,), tokens (B, L) -> (B, 6, H, W): eps in the first three
    channels, variance in the rest.

    One class for the four released networks. What they see beside the noisy picture are
    more input channels, which `unet.in_channels` counts:

        base               3          upsampler             3 + 3
        base, inpainting   3 + 4      upsampler, inpainting 3 + 4 + 3
    """

    def __init__(self, config: GlideConfig):
        super().__init__()
        self.config = config
        self.text = GlideText(config)
        self.unet = UNet(config.unet)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        mask: Tensor,
        known: Tensor | None = None,
        hole: Tensor | None = None,
        low_res: Tensor | None = None,
    ) -> Tensor:
        """mask (B, L) is True where a token is real.

        known (B, 3, H, W) and hole, bool (B, 1, H, W), True where to paint: for a
        network that inpaints. low_res (B, 3, h, w), of any size: for an upsampler.
        """
        text = self.read(tokens, mask)  # everything that does not hang on x_t
        return self.denoise(x_t, t, **text, known=known, hole=hole, low_res=low_res)

    def read(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What the U-Net is conditioned on, from B texts: `denoise`'s keywords."""
        pooled, context = self.text(tokens, mask)  # (B, 4 channels), (B, L, width)
        # (B, L, 2 * channels of all attentions)
        context_kv = self.unet.project_context(context)
        return {"added_emb": pooled, "context_kv": context_kv}

    def denoise(
        self,
        x_t: Tensor,
        t: Tensor,
        added_emb: Tensor,
        context_kv: Tensor,
        known: Tensor | None = None,
        hole: Tensor | None = None,
        low_res: Tensor | None = None,
    ) -> Tensor:
        """The same with the text read already: it does not change from step to step."""
        channels = [x_t]  # 3
        if known is not None and hole is not None:
            keep = (~hole).to(x_t.dtype)  # 1 where a pixel is known
            channels += [known * keep, keep]  # 3 + 1; nothing in the hole can leak
        if low_res is not None:
            size = x_t.shape[-2:]  # (H, W)
            enlarged = F.interpolate(low_res, size, mode="bilinear")
            channels.append(enlarged)  # 3
        # (B, 3 + 4 + 3, H, W) for the inpainting upsampler
        x = torch.cat(channels, dim=1)
        return self.unet(x, t, added_emb, context_kv)


class GlideText(nn.Module):
    """Tokens (B, L), mask (B, L) -> the vector for the timestep embedding (B, 4
    channels), and tokens (B, L, width).
    """

    def __init__(self, config: GlideConfig):
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.width)
        # a vector for each position; `padding` is read where a position holds no token
        shape = (config.context_length, config.width)
        self.position = nn.Parameter(torch.randn(shape) * 0.01)
        self.padding = nn.Parameter(torch.randn(shape) * 0.01)

        self.transformer = Transformer(config.width, config.layers, config.heads)
        self.norm = nn.LayerNorm(config.width)
        # in place of ADM's class embedding
        self.pooled_proj = nn.Linear(config.width, config.unet.channels * TIME_EMB_MULT)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        words = self.token(tokens) + self.position  # (B, L, width)
        x = torch.where(mask[..., None], words, self.padding)  # (B, L, width)
        # no mask: padding holds learned vectors, so attention may look at it
        x = self.norm(self.transformer(x))
        last = x[:, -1]  # (B, width)
        pooled = self.pooled_proj(last)  # (B, 4 * channels)
        return pooled, x
