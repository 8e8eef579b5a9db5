r"""The networks that were fine-tuned to inpaint: they see the known pixels and the mask
beside the noise.

The idea, GLIDE's (arXiv 2112.10741, section 3): replacing the known pixels at each step
does not show the network which part is known and which is only its own guess. So erase
random regions in training and show the rest, clean, as more input channels:

    decoder     in  [x_t, known * keep, keep]                                      3 + 3 + 1 channels
    upsampler   in  [x_t, enlarged low_res, known detail * keep, keep]             3 + 3 + 3 + 1 channels
    both        out as before; keep is 1 where a pixel is known, 0 in the hole

The first layer's weights for the four new channels start at zero: before the first step
of fine-tuning each network is exactly the one that it was made of, and what it knows
about drawing is not thrown away.

Why the upsampler too? The decoder closes a hole at 32 pixels, but the eye looks for the
seam at 128. There the known pixels are a sharp picture and the painted ones an
upsampler's guess. Where exactly an outline goes on stands in the known pixels. They are
shown as what the network diffuses: their *detail*, what they have beyond the enlarged
small picture (`upsampler`).

Chapter 16 uses the decoder, chapter 17 the upsampler, chapter 19 both.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig
from dalle2_edu.unclip.upsampler import Upsampler, UpsamplerConfig, enlarge, to_detail

SEEN_CHANNELS = 4  # the known picture's three and the mask


class InpaintDecoder(nn.Module):
    """Denoises x_t (B, 3, H, W) from a `Decoder`'s inputs and the known part of the
    picture.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.decoder = Decoder(config)

    @classmethod
    def from_decoder(cls, decoder: Decoder) -> InpaintDecoder:
        """A copy of a decoder with four more input channels, whose weights are zero."""
        wider = replace(decoder.config, unet=widened(decoder.config.unet))
        model = cls(wider)  # new weights, overwritten in the next line
        load_widened(model.decoder, decoder)
        return model

    @property
    def null_image_emb(self) -> Tensor:
        """What stands for a missing image embedding."""
        return self.decoder.null_image_emb

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        known: Tensor,
        hole: Tensor,
        **conditioning: Tensor,
    ) -> Tensor:
        """One pass. known (B, 3, H, W): what it holds in the hole is not looked at.
        hole, bool (B, 1, H, W): True where to paint. conditioning: a `Decoder`'s other
        arguments.
        """
        read = self.decoder.read(**conditioning)
        return self.denoise(x_t, t, known, hole, **read)

    def denoise(
        self, x_t: Tensor, t: Tensor, known: Tensor, hole: Tensor, **read: Tensor
    ) -> Tensor:
        """The same with the embeddings and the text read already, by `Decoder.read`."""
        keep = (~hole).to(x_t.dtype)  # 1 where a pixel is known
        x = torch.cat([x_t, known * keep, keep], dim=1)  # (B, 3 + 3 + 1, H, W)
        # the extra channels go in with the picture
        return self.decoder.denoise(x, t, **read)


def widened(unet: UNetConfig) -> UNetConfig:
    """The same U-Net with input channels for the known picture and the mask."""
    return replace(unet, in_channels=unet.in_channels + SEEN_CHANNELS)


def load_widened(model: nn.Module, trained: nn.Module) -> None:
    """Copy `trained`'s weights into a model whose `unet` is `widened`; the new
    channels' weights become zero.
    """
    name = "unet.stem.weight"  # of the first layer, the only one that differs
    weights = trained.state_dict()  # a new dict: the trained network keeps its weights
    old = weights[name]  # (C, in, 3, 3)
    wide = model.state_dict()[name]  # (C, in + new, 3, 3)
    # Folding by `patch_size` keeps a channel's pixels together, so the new channels
    # come last.
    zeros = torch.zeros_like(wide[:, old.shape[1] :])
    weights[name] = torch.cat([old, zeros], dim=1)  # (C, in + new, 3, 3)
    model.load_state_dict(weights)


class InpaintUpsampler(nn.Module):
    """Denoises the detail x_t (B, 3, H, W) from an `Upsampler`'s inputs and the known
    part of the picture.
    """

    def __init__(self, config: UpsamplerConfig):
        super().__init__()
        self.config = config
        self.upsampler = Upsampler(config)

    @classmethod
    def from_upsampler(cls, upsampler: Upsampler) -> InpaintUpsampler:
        """A copy of an upsampler with four more input channels, whose weights are
        zero.
        """
        wider = replace(upsampler.config, unet=widened(upsampler.config.unet))
        model = cls(wider)
        load_widened(model.upsampler, upsampler)
        return model

    def forward(
        self, x_t: Tensor, t: Tensor, low_res: Tensor, known: Tensor, hole: Tensor
    ) -> Tensor:
        """One pass. known (B, 3, H, W), in [-1, 1]: what it holds in the hole is not
        looked at. hole, bool (B, 1, H, W): True where to paint.
        """
        keep = (~hole).to(x_t.dtype)  # 1 where a pixel is known
        enlarged = enlarge(low_res, side=x_t.shape[-1])  # (B, 3, H, W)
        # zero in the hole: nothing of what is to be painted is known
        known_detail = to_detail(known, low_res) * keep
        # (B, 3 + 3 + 3 + 1, H, W)
        x = torch.cat([x_t, enlarged, known_detail, keep], dim=1)
        return self.upsampler.unet(x, t)
