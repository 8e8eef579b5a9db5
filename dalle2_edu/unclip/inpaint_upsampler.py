r"""The upsamplers that were taught to inpaint: they see the known pixels at the large size beside the noisy detail.

The idea: the decoder closes a hole at 32 pixels, but the eye looks for the seam at 128. There the known pixels are a
sharp picture and the painted ones an upsampler's guess, made from a small picture whose pixels on the edge of the hole
mix both. Where exactly does an outline go on? Which shade exactly has the ground? The answer stands in the known
pixels, so they are shown, as GLIDE shows them to its upsampler (arXiv 2112.10741, section 3):

    in    [x_t, enlarged low_res, known detail * keep, keep]        3 + 3 + 3 + 1 channels
    out   as before

The known pixels are shown as what the network diffuses: their *detail*, what they have beyond the enlarged small
picture (`upsampler`). The weights of the four new channels start at zero, as in `inpaint_decoder`.

Chapter 17 uses this file.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dalle2_edu.unclip.inpaint_decoder import load_widened, widened
from dalle2_edu.unclip.upsampler import Upsampler, UpsamplerConfig, enlarge, to_detail


class InpaintUpsampler(nn.Module):
    """Denoises the detail x_t (B, 3, H, W) given what an `Upsampler` is given, and the known part of the picture."""

    def __init__(self, config: UpsamplerConfig):
        super().__init__()
        self.config = config
        self.upsampler = Upsampler(config)

    @classmethod
    def from_upsampler(cls, upsampler: Upsampler) -> InpaintUpsampler:
        """An upsampler's twin with four more input channels, whose weights are zero."""
        twin = cls(replace(upsampler.config, unet=widened(upsampler.config.unet)))
        load_widened(twin.upsampler, upsampler)
        return twin

    def forward(self, x_t: Tensor, t: Tensor, low_res: Tensor, known: Tensor, hole: Tensor) -> Tensor:
        """One pass. known (B, 3, H, W), in [-1, 1]: what it holds in the hole is not looked at. hole, bool (B, 1, H,
        W): True where to paint.
        """
        keep = (~hole).to(x_t.dtype)
        seen = [to_detail(known, low_res) * keep, keep]
        return self.upsampler.unet(torch.cat([x_t, enlarge(low_res, x_t.shape[-1]), *seen], dim=1), t)
