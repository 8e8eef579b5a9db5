r"""The decoder that was taught to inpaint: it sees the known picture and the mask beside the noisy one.

The idea, GLIDE's (arXiv 2112.10741, section 3): replacing the known pixels at each step never tells the network what
is known and what is only its own guess. So erase random regions in training and show the rest, clean, as more input
channels:

    in    [x_t, known * keep, keep]        3 + 3 + 1 channels; keep is 1 where a pixel is known, 0 in the hole
    out   as before

The first layer's weights for the four new channels start at zero: before the first step of fine-tuning the network
is exactly the decoder that it was made of, and what it knows about drawing is not thrown away. With everything
erased all four channels are zero, and it still is a plain decoder.

Chapter 19 uses this file.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig

SEEN_CHANNELS = 4  # the known picture's three and the mask


class InpaintDecoder(nn.Module):
    """Denoises x_t (B, 3, H, W) given what a `Decoder` is given, and the known part of the picture."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.decoder = Decoder(config)

    @classmethod
    def from_decoder(cls, decoder: Decoder) -> InpaintDecoder:
        """A decoder's twin with four more input channels, whose weights are zero."""
        twin = cls(replace(decoder.config, unet=widened(decoder.config.unet)))
        load_widened(twin.decoder, decoder)
        return twin

    @property
    def null_image_emb(self) -> Tensor:
        """What stands for a missing image embedding."""
        return self.decoder.null_image_emb

    def forward(self, x_t: Tensor, t: Tensor, known: Tensor, hole: Tensor, **given: Tensor) -> Tensor:
        """One pass. known (B, 3, H, W): what it holds in the hole is not looked at. hole, bool (B, 1, H, W): True where
        to paint. given: a `Decoder`'s other arguments.
        """
        return self.denoise(x_t, t, known, hole, **self.decoder.read(**given))

    def denoise(self, x_t: Tensor, t: Tensor, known: Tensor, hole: Tensor, **read: Tensor) -> Tensor:
        """The same with the embeddings and the text read already, by `Decoder.read`."""
        keep = (~hole).to(x_t.dtype)
        return self.decoder.denoise(torch.cat([x_t, known * keep, keep], dim=1), t, **read)  # (B, 3 + 3 + 1, H, W) in


def widened(unet: UNetConfig) -> UNetConfig:
    """The same U-Net with input channels for the known picture and the mask."""
    return replace(unet, in_channels=unet.in_channels + SEEN_CHANNELS)


def load_widened(twin: nn.Module, trained: nn.Module) -> None:
    """Copy `trained`'s weights into its twin, whose `unet` is `widened`; the new channels' weights become zero."""
    weights, stem = trained.state_dict(), "unet.stem.weight"
    new = twin.state_dict()[stem]
    # Folding by `patch_size` keeps a channel's pixels together, so the new channels come last.
    weights[stem] = torch.cat([weights[stem], torch.zeros_like(new[:, weights[stem].shape[1] :])], dim=1)
    twin.load_state_dict(weights)
