"""Our networks at the papers' sizes: parameters, memory and arithmetic of one step,
without allocating any of it.

    python benchmarks/sizes.py

Everything is built on the meta device, where tensors have shapes and no numbers;
`torch.utils.flop_counter` counts the multiplications and additions of one pass over one
picture (or embedding).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dalle2_edu.interop.presets import PAPER, PaperSize
from dalle2_edu.interop.weights import parameter_count
from dalle2_edu.text2image.glide import Glide
from dalle2_edu.unclip.ar_prior import ARPrior
from dalle2_edu.unclip.decoder import Decoder
from dalle2_edu.unclip.prior import DiffusionPrior
from dalle2_edu.unclip.upsampler import Upsampler

GIB = 2**30
ADAM_BYTES = (
    4 + 4 + 4 + 4 + 2
)  # float32 weight, gradient, two moments, and the bf16 copy that computes


def example(module: nn.Module) -> tuple[Tensor, ...]:
    """One picture's (or embedding's) inputs on the meta device."""
    t = torch.zeros(1, dtype=torch.int64)
    if isinstance(module, DiffusionPrior | Decoder):
        config = module.config
        length = config.context_length if isinstance(module, DiffusionPrior) else 256
        text = (
            torch.zeros(1, config.clip_dim),
            torch.zeros(1, length, config.text_width),
            torch.ones(1, length, dtype=torch.bool),
        )
        if isinstance(module, DiffusionPrior):
            return (torch.zeros(1, config.clip_dim), t, *text)
        return (
            torch.zeros(1, 3, config.unet.image_size, config.unet.image_size),
            t,
            torch.zeros(1, config.clip_dim),
            *text,
        )
    if isinstance(module, Glide):
        side, length = module.config.unet.image_size, module.config.context_length
        seen = (
            (None, None, torch.zeros(1, 3, 64, 64))
            if module.config.unet.in_channels == 6
            else ()
        )
        return (
            torch.zeros(1, 3, side, side),
            t,
            torch.zeros(1, length, dtype=torch.int64),
            torch.ones(1, length, dtype=torch.bool),
            *seen,
        )
    if isinstance(module, Upsampler):
        side = module.config.unet.image_size
        return torch.zeros(1, 3, side, side), t, torch.zeros(1, 3, side // 4, side // 4)
    config = module.config
    return (
        torch.zeros(1, 3, config.image_size, config.image_size),
        t,
        None,
        module.project_context(torch.zeros(1, 256, config.context_dim)),
        torch.ones(1, 256, dtype=torch.bool),
    )


@torch.no_grad()
def operations(module: nn.Module) -> int | None:
    """Floating-point operations of one pass; None for the autoregressive prior, which
    runs token by token.
    """
    if isinstance(module, ARPrior):
        return None
    with FlopCounterMode(display=False) as counter:
        module.eval()(*example(module))
    return counter.get_total_flops()


def row(size: PaperSize) -> str:
    with torch.device("meta"):
        module = size.build()
        count, flops = parameter_count(module), operations(module)
    arithmetic = f"{flops / 1e12:8.2f}" if flops else f"{'-':>8}"
    return (
        f"{size.name:30}{count / 1e6:9,.0f}M{size.parameters:>8}{2 * count / GIB:9.1f}"
        f"{ADAM_BYTES * count / GIB:10.1f}{arithmetic}   {size.note}"
    )


if __name__ == "__main__":
    print(
        f"{'network':30}{'ours':>10}{'paper':>8}{'bf16':>9}{'training':>10}{'one pass':>8}"
    )
    print(f"{'':48}{'GiB':>9}{'GiB':>10}{'TFLOP':>8}")
    for size in PAPER:
        print(row(size))
