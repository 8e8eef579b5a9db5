"""The plain transformer that reads text in GLIDE and embeddings in DALL·E 2's prior.

Pre-norm residual blocks, as in GPT-2 and CLIP: x + Attention(LN(x)), then x +
MLP(LN(x)). A mask says which token may look at which; without one all look at all.

Where tokens are drawn one after the other, each new one looks at all before it, whose
keys and values do not change any more: `Past` keeps them, and a step costs one token in
place of all.

    cache    k = [k_1 ... k_(n-1), k_n]     only k_n, v_n and the one query are computed

Chapters 13 (GLIDE's text encoder) and 15 (the prior) use this file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.diffusion.unet import split_heads


class Past:
    """The keys and values that one block has computed so far, each (B, heads, L,
    width/heads); at first None.
    """

    def __init__(self) -> None:
        self.k: Tensor | None = None  # (B, heads, L, width/heads)
        self.v: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of all tokens: the old ones, then the new ones."""
        if self.k is not None and self.v is not None:
            k = torch.cat([self.k, k], dim=2)  # (B, heads, L + new, width/heads)
            v = torch.cat([self.v, v], dim=2)
        self.k = k
        self.v = v
        return k, v


class Transformer(nn.Module):
    """`layers` blocks over tokens: (B, L, width) -> (B, L, width)."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            [TransformerBlock(width, heads) for _ in range(layers)]
        )

    def forward(
        self, x: Tensor, mask: Tensor | None = None, past: list[Past] | None = None
    ) -> Tensor:
        """mask (B or 1, L, L) is True where row may look at column; every row needs at
        least one True.

        past, a fresh `Past` a block before the first call, lets x be only the tokens
        that are new: mask then has their rows and the columns of all tokens so far.
        """
        # one mask for all heads: (B or 1, L, L) => (B or 1, 1, L, L)
        head_mask = None if mask is None else mask[:, None]
        for i, block in enumerate(self.blocks):
            block_past = None if past is None else past[i]
            x = block(x, head_mask, block_past)
        return x


class TransformerBlock(nn.Module):
    """Attention, then a two-layer MLP four times as wide, each added to what came
    in.
    """

    gathered_alone = True  # under FSDP: see `training/sharding.py`

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        # before the branch, not after it: GPT-2's order
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)  # the three projections as one
        self.proj = nn.Linear(width, width)  # puts the heads together again
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, x: Tensor, mask: Tensor | None, past: Past | None = None
    ) -> Tensor:
        normed = self.norm1(x)  # (B, L, width)
        parts = self.qkv(normed).chunk(3, dim=-1)  # 3 x (B, L, width)
        # (B, heads, L, width/heads)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        if past is not None:
            k, v = past.extend(k, v)  # all tokens so far, the query only the new ones
        # True in the mask: this query may look at this key
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h.transpose(1, 2).flatten(2)  # (B, L, width)
        x = x + self.proj(h)
        return x + self.mlp(self.norm2(x))
