r"""`dalle2-pytorch`, the first open reimplementation: another architecture at the same
number of parameters.

Its networks can't take our weights: its U-Net reads text in cross-attention at the
bottom only, its prior's attention has one key and value for all heads. So what is
compared is what a step of training costs at a given size, no more.

It is not among this project's packages. To have it in the benchmark, put it where
`FOLDER` says:

    pip install --no-deps --target out/rivals dalle2-pytorch coca-pytorch ema-pytorch kornia kornia-rs loguru einx \
        frozendict pytorch-warmup resize-right rotary-embedding-torch torch-einops-utils vector-quantize-pytorch x-clip
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from networks import LARGE, SMALL, Size
from torch import Tensor, nn

FOLDER = Path(__file__).parent.parent / "out" / "rivals"
UNETS: dict[str, dict[str, Any]] = {  # what comes nearest to our number of parameters
    SMALL.name: {
        "dim": 64,
        "dim_mults": (1, 2, 2),
        "self_attn": (False, True, True),
        "attn_heads": 2,
        "cond_dim": 64,
    },
    LARGE.name: {
        "dim": 136,
        "dim_mults": (1, 2, 3, 4),
        "self_attn": (False, True, True, True),
        "attn_heads": 8,
        "attn_dim_head": 64,
        "cond_dim": 512,
        "num_resnet_blocks": 2,
    },
}
PRIORS = {
    SMALL.name: {"depth": 6, "heads": 5, "dim_head": 32},
    LARGE.name: {"depth": 12, "heads": 12, "dim_head": 64},
}


def load() -> tuple[Any, str]:
    """The package and its version; or None and why not."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        # at the end: what this project has installed comes first
        sys.path.append(str(FOLDER))
    try:
        package = importlib.import_module("dalle2_pytorch")
    except (
        Exception
    ) as error:  # an old package can break in any way: the benchmark goes on without it
        return (
            None,
            (
                f"left out, since it can't be imported ({error!r}); benchmarks/lucid.py says"
                " how to get it"
            ),
        )
    return package, metadata.version("dalle2-pytorch")


class LucidDecoder(nn.Module):
    """Its U-Net, asked as ours is; it finds the padding by its zeros."""

    def __init__(self, package: Any, size: Size):
        super().__init__()
        dim = size.decoder.clip_dim
        self.unet = package.Unet(
            **{"num_resnet_blocks": 1, "attn_dim_head": 32, **UNETS[size.name]},
            image_embed_dim=dim,
            text_embed_dim=dim,
            channels=3,
            channels_out=6,
            cond_on_text_encodings=True,
            cond_on_image_embeds=True,
            max_text_len=77,
        )

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        image_emb: Tensor,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        return self.unet(
            x_t,
            t,
            image_embed=image_emb,
            text_encodings=text_enc * text_mask[..., None],
        )


class LucidPrior(nn.Module):
    """Its prior's network, asked as ours is."""

    def __init__(self, package: Any, size: Size):
        super().__init__()
        config = size.prior
        self.network = package.DiffusionPriorNetwork(
            config.clip_dim,
            num_timesteps=1000,
            max_text_len=config.context_length,
            **PRIORS[size.name],
        )

    def forward(
        self,
        noised_z: Tensor,
        t: Tensor,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        return self.network(
            noised_z,
            t,
            text_embed=text_emb,
            text_encodings=text_enc * text_mask[..., None],
        )


def network(package: Any, size: Size, part: str) -> nn.Module:
    return (LucidDecoder if part == "decoder" else LucidPrior)(package, size)


if __name__ == "__main__":  # how near the numbers of parameters are
    from networks import ours, parameters

    lucid, version = load()
    print(version)
    with torch.device("meta"):
        for each in (SMALL, LARGE) if lucid else ():
            for which in ("decoder", "prior"):
                counts = (
                    parameters(network(lucid, each, which)),
                    parameters(ours(each, which)),
                )
                print(each.name, which, *(f"{count / 1e6:.2f}M" for count in counts))
