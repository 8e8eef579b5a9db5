"""VQ-VAE and VQ-VAE-2: autoencoders whose latent is a page of numbers from a codebook.

The idea: an encoder turns a picture into a small grid of vectors; each vector is replaced
by the nearest one of K vectors of a codebook; a decoder draws the picture back. What is
left of a picture is a grid of indices, the codes: a language with K words.

    z_e = encoder(x)                              (B, D, h, w)
    k   = argmin_j |z_e - e_j|,  z_q = e_k        VQ-VAE (arXiv 1711.00937), eq. 1 and 2
    L   = |x - decoder(z_q)|^2 + |sg(z_e) - e|^2 + beta |z_e - sg(e)|^2          eq. 3
           reconstruction         codebook           commitment, beta = 0.25

sg is "stop gradient": the value, without a gradient. The argmin has no gradient, so the
decoder's is copied past it to the encoder: the *straight-through* gradient. The codebook's
term can be replaced by a moving average, which is k-means a batch at a time:

    N_k <- gamma N_k + (1 - gamma) n_k            n_k vectors of this batch chose code k
    m_k <- gamma m_k + (1 - gamma) sum z_e        appendix A.1; gamma = 0.99
    e_k  = m_k / N_k

VQ-VAE-2 (arXiv 1906.00446) has two grids: a small one above (top) for what is global, a
larger one below (bottom) that sees the top and adds what is local.

    picture 32 x 32  ->  bottom features 8 x 8  ->  top features 4 x 4  ->  top codes
                         bottom features + decoded top codes            ->  bottom codes

A VQ-VAE is also a dVAE in the limit of temperature 0: the nearest code is the largest of
the logits -|z_e - e_j|^2 / s, and those are linear in z_e once |z_e|^2, the same for every
code, is left out. `VqDvae.as_dvae` folds the codebook into the dVAE's layers that way.

Chapters 05 and 06 use this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.baselines.dvae import (
    SMALL,
    Dvae,
    DvaeConfig,
    check_words,
    squeeze,
    unsqueeze,
)
from dalle2_edu.errors import Dalle2EduError

# --- the quantiser --------------------------------------------------------------------


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """The index of the code nearest to each vector: (N, D) and (K, D) -> int64 (N,)."""
    # |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 is the same for every code
    distance = codebook.square().sum(dim=1) - 2 * z @ codebook.T  # (N, K)
    return distance.argmin(dim=1)


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """The value of z_q with the gradient of z: as if quantising were the identity."""
    return z + (z_q - z).detach()


def perplexity(codes: Tensor, num_codes: int) -> Tensor:
    """How many codes are in use, in effect: exp of the entropy of their shares. All
    alike: num_codes. One alone: 1.
    """
    counts = codes.flatten().bincount(minlength=num_codes)
    return torch.special.entr(counts / counts.sum()).sum().exp()


class Quantized(NamedTuple):
    """What the quantiser makes of z (B, D, h, w)."""

    z_q: Tensor  # (B, D, h, w), with the straight-through gradient
    codes: Tensor  # int64 (B, h, w)
    commitment: Tensor  # |z - sg(e)|^2, the mean over all numbers


class Quantizer(nn.Module):
    """K codes of D numbers, learned by moving averages.

    revive: a code whose average count N_k is below this is moved onto a vector of the
    batch, drawn at random (as in Jukebox, arXiv 2005.00341). 0 leaves dead codes dead.
    """

    codebook: Tensor  # (K, D)
    counts: Tensor  # (K,), N
    sums: Tensor  # (K, D), m

    def __init__(
        self, num_codes: int, dim: int, decay: float = 0.99, revive: float = 0.0
    ):
        super().__init__()
        self.decay = decay
        self.revive = revive
        codebook = torch.randn(num_codes, dim)
        # buffers: they are learned, and Adam does not touch them
        self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.zeros(num_codes))
        self.register_buffer("sums", codebook.clone())

    def forward(self, z: Tensor) -> Quantized:
        """In training mode the codebook moves afterwards: this step still used the old
        one.
        """
        vectors = z.movedim(1, -1)  # (B, D, h, w) => (B, h, w, D)
        flat = vectors.flatten(0, -2)  # (B * h * w, D)
        codes = nearest(flat, self.codebook)
        chosen = self.codebook[codes].view_as(vectors)
        commitment = F.mse_loss(vectors, chosen)  # `chosen` is a buffer's: no gradient
        if self.training:
            self.learn(flat.detach().float(), codes)
        z_q = straight_through(vectors, chosen).movedim(-1, 1)
        return Quantized(z_q, codes.view(vectors.shape[:-1]), commitment)

    @torch.no_grad()
    def learn(self, vectors: Tensor, codes: Tensor) -> None:
        """One step of the moving averages, from vectors (N, D) and their codes (N,)."""
        one_hot = F.one_hot(codes, len(self.codebook)).type_as(vectors)  # (N, K)
        self.counts.lerp_(one_hot.sum(dim=0), 1 - self.decay)
        self.sums.lerp_(one_hot.T @ vectors, 1 - self.decay)
        self.codebook.copy_(self.sums / smoothed(self.counts)[:, None])
        if self.revive:
            self.revive_dead(vectors)

    def revive_dead(self, vectors: Tensor) -> None:
        """Move the codes that hardly anything chooses onto vectors of the batch."""
        dead = self.counts < self.revive  # (K,)
        drawn = torch.randint(len(vectors), (len(dead),), device=vectors.device)
        moved = torch.where(dead[:, None], vectors[drawn], self.codebook)
        self.codebook.copy_(moved)
        # as if it had been chosen just often enough to live
        self.counts.clamp_(min=self.revive)
        fresh = moved * self.counts[:, None]
        self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))

    def look_up(self, codes: Tensor) -> Tensor:
        """The vectors of codes: int64 (B, h, w) -> (B, D, h, w). Raises Dalle2EduError
        for a code that is not in the book.
        """
        check_words(codes, len(self.codebook))
        return self.codebook[codes].movedim(-1, 1)


def smoothed(counts: Tensor, eps: float = 1e-5) -> Tensor:
    """Counts moved a little towards their mean, so that none is 0 (Laplace
    smoothing).
    """
    total = counts.sum()
    return (counts + eps) / (total + len(counts) * eps) * total


# --- the networks ---------------------------------------------------------------------


class ResBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), narrow in the middle."""

    def __init__(self, width: int, narrow: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, narrow, 3, padding=1)
        self.conv2 = nn.Conv2d(narrow, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(x))
        return x + self.conv2(F.relu(h))


def res_blocks(width: int, narrow: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResBlock(width, narrow) for _ in range(blocks)))


class Encoder(nn.Module):
    """Halves the sides once or twice: (B, c_in, H, W) -> (B, width, H / stride, W /
    stride).
    """

    def __init__(self, c_in: int, config: VqVaeConfig, stride: int):
        super().__init__()
        width, half = config.width, config.width // 2
        self.down = nn.ModuleList([nn.Conv2d(c_in, half, 4, stride=2, padding=1)])
        if stride == 4:
            self.down.append(nn.Conv2d(half, width, 4, stride=2, padding=1))
        c_last = width if stride == 4 else half
        self.conv = nn.Conv2d(c_last, width, 3, padding=1)
        self.blocks = res_blocks(width, config.narrow, config.blocks)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.down:
            x = F.relu(conv(x))  # 32x32 => 16x16 => 8x8
        return F.relu(self.blocks(self.conv(x)))


class Decoder(nn.Module):
    """The mirror image: (B, c_in, h, w) -> (B, c_out, stride * h, stride * w)."""

    def __init__(self, c_in: int, c_out: int, config: VqVaeConfig, stride: int):
        super().__init__()
        width, half = config.width, config.width // 2
        self.conv = nn.Conv2d(c_in, width, 3, padding=1)
        self.blocks = res_blocks(width, config.narrow, config.blocks)
        widths = [width, half, c_out] if stride == 4 else [width, c_out]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.conv(x))
        for conv in self.up:
            x = conv(F.relu(x))  # 8x8 => 16x16 => 32x32
        return x


# --- VQ-VAE ---------------------------------------------------------------------------


@dataclass(frozen=True)
class VqVaeConfig:
    """`codes` is K and `dim` is D. `width` and `narrow` are the channels of the networks
    and of the middle of their residual blocks.
    """

    codes: int = 256
    dim: int = 32
    width: int = 64
    narrow: int = 32
    blocks: int = 2
    decay: float = 0.99
    revive: float = 0.0
    channels: int = 3

    def quantizer(self) -> Quantizer:
        """A fresh codebook."""
        return Quantizer(self.codes, self.dim, self.decay, self.revive)


# codes below one choice in twenty batches, on average, begin anew
MINIATURE = VqVaeConfig(revive=0.05)


class VqVae(nn.Module):
    """One grid of codes, a quarter of the picture's side: 32 x 32 -> 8 x 8."""

    def __init__(self, config: VqVaeConfig = MINIATURE):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.channels, config, stride=4)
        self.to_codes = nn.Conv2d(config.width, config.dim, 1)
        self.quantizer = config.quantizer()
        self.decoder = Decoder(config.dim, config.channels, config, stride=4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (B, 3, H, W) -> the pictures drawn back, the commitment, and codes
        (B, h, w).
        """
        check_sides(x, 4)
        z_q, codes, commitment = self.quantizer(self.to_codes(self.encoder(x)))
        return self.decoder(z_q), commitment, codes

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The codes of pictures: int64 (B, h, w)."""
        check_sides(x, 4)
        return self.quantizer(self.to_codes(self.encoder(x))).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The pictures of codes, cut to [-1, 1]."""
        return self.decoder(self.quantizer.look_up(codes)).clamp(-1, 1)


# --- VQ-VAE-2 -------------------------------------------------------------------------


class TwoLevels(NamedTuple):
    """What VQ-VAE-2 makes of pictures."""

    reconstruction: Tensor  # (B, 3, H, W)
    commitment: Tensor  # of both levels together
    top: Tensor  # codes, int64 (B, h / 2, w / 2)
    bottom: Tensor  # codes, int64 (B, h, w)


class VqVae2(nn.Module):
    """Two grids of codes: 32 x 32 -> top 4 x 4 and bottom 8 x 8."""

    def __init__(self, config: VqVaeConfig = MINIATURE):
        super().__init__()
        self.config = config
        width, dim, channels = config.width, config.dim, config.channels
        self.encoder_bottom = Encoder(channels, config, stride=4)
        self.encoder_top = Encoder(width, config, stride=2)
        self.to_top = nn.Conv2d(width, dim, 1)
        self.top = config.quantizer()
        self.decoder_top = Decoder(dim, dim, config, stride=2)
        self.to_bottom = nn.Conv2d(dim + width, dim, 1)
        self.bottom = config.quantizer()
        self.upsample_top = nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1)
        self.decoder = Decoder(2 * dim, channels, config, stride=4)

    def forward(self, x: Tensor) -> TwoLevels:
        """Pictures (B, 3, H, W) in [-1, 1] through both levels and back."""
        top, bottom = self.quantize(x)
        drawn = self.draw(top.z_q, bottom.z_q)
        commitment = top.commitment + bottom.commitment
        return TwoLevels(drawn, commitment, top.codes, bottom.codes)

    def quantize(self, x: Tensor) -> tuple[Quantized, Quantized]:
        """The top first: the bottom sees it, and need not repeat it."""
        check_sides(x, 8)
        features = self.encoder_bottom(x)  # (B, width, h, w)
        top = self.top(self.to_top(self.encoder_top(features)))  # (B, D, h/2, w/2)
        known = self.decoder_top(top.z_q)  # (B, D, h, w)
        both = torch.cat([known, features], dim=1)  # (B, D + width, h, w)
        return top, self.bottom(self.to_bottom(both))

    def draw(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Vectors of both levels -> pictures."""
        above = self.upsample_top(top)  # (B, D, h/2, w/2) => (B, D, h, w)
        return self.decoder(torch.cat([above, bottom], dim=1))

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of pictures: top (B, h/2, w/2) and bottom (B, h, w)."""
        top, bottom = self.quantize(x)
        return top.codes, bottom.codes

    @torch.no_grad()
    def decode(self, top: Tensor, bottom: Tensor) -> Tensor:
        """The pictures of codes, cut to [-1, 1]."""
        vectors = self.top.look_up(top), self.bottom.look_up(bottom)
        return self.draw(*vectors).clamp(-1, 1)


def check_sides(x: Tensor, stride: int) -> None:
    """Raise Dalle2EduError for pictures whose sides the strides do not divide."""
    if any(side % stride for side in x.shape[-2:]):
        raise Dalle2EduError(
            f"Pictures need sides that are multiples of {stride}, not {tuple(x.shape)}."
        )


# --- losses ---------------------------------------------------------------------------


def codebook_losses(z: Tensor, z_q: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 3's last two terms, for a codebook that Adam learns: |sg(z) - e|^2 moves the
    codes, |z - sg(e)|^2 moves the encoder.
    """
    return F.mse_loss(z_q, z.detach()), F.mse_loss(z, z_q.detach())


def bits(num_codes: int, places: int) -> float:
    """What a page of codes costs without a prior: log2 K bits a place."""
    return places * math.log2(num_codes)


# --- a dVAE that is learned as a VQ-VAE -----------------------------------------------


@dataclass(frozen=True)
class VqDvaeConfig:
    """`networks` are the dVAE's; `dim` is D, the numbers of a code."""

    networks: DvaeConfig = SMALL
    dim: int = 32
    decay: float = 0.99
    revive: float = 0.05


class VqDvae(nn.Module):
    """The networks of a dVAE with a codebook between them: 32 x 32 -> 8 x 8.

    The encoder ends in a vector in place of logits, and the decoder begins with a code
    in place of a one-hot word. `as_dvae` gives both their words back.
    """

    def __init__(self, config: VqDvaeConfig = VqDvaeConfig()):
        super().__init__()
        self.config = config
        shape = config.networks
        between = Dvae(replace(shape, vocab_size=config.dim))
        self.encoder, self.decoder = between.encoder, between.decoder
        self.quantizer = Quantizer(
            shape.vocab_size, config.dim, config.decay, config.revive
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1] -> the pictures drawn back, in the dVAE's
        [0.1, 0.9], the commitment, and codes (B, h, w).
        """
        check_sides(images, self.config.networks.stride)
        out = self.quantizer(self.encoder(squeeze((images + 1) / 2)))
        mu, _ = self.decoder(out.z_q).chunk(2, dim=1)  # ln b waits for the dVAE
        return torch.sigmoid(mu), out.commitment, out.codes

    @torch.no_grad()
    def restore(self, images: Tensor) -> Tensor:
        """What the codes of pictures give back, (B, 3, H, W) in [-1, 1]."""
        drawn, _, _ = self(images)
        return 2 * unsqueeze(drawn) - 1

    @torch.no_grad()
    def as_dvae(self, softness: float) -> Dvae:
        """The dVAE that chooses the same words. softness: s above, in squared distances
        between codes; the smaller, the surer the dVAE is of its word.

            -|z - e|^2 / s  =  (2 z.e - |e|^2) / s  +  a number that is the same for all

        With z = W h + c from the encoder's last layer this is one 1 x 1 convolution of
        h; and the decoder's first layer, applied to a code, is one of the one-hot word.
        """
        codes = self.quantizer.codebook  # (K, D)
        weight, bias = layer(self.encoder.head)  # (D, C), (D,)
        first, _ = layer(self.decoder.stem)  # (C', D)
        logits_weight = 2 * codes @ weight / softness  # (K, C)
        logits_bias = (2 * codes @ bias - codes.square().sum(dim=1)) / softness  # (K,)
        dvae = Dvae(self.config.networks)
        weights = {**self.state_dict()}
        weights["encoder.head.weight"] = logits_weight[:, :, None, None]
        weights["encoder.head.bias"] = logits_bias
        weights["decoder.stem.weight"] = (first @ codes.T)[:, :, None, None]  # (C', K)
        dvae.load_state_dict({name: weights[name] for name in dvae.state_dict()})
        return dvae


def layer(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """A 1 x 1 convolution as a matrix (out, in) and a bias (out,)."""
    assert conv.bias is not None
    return conv.weight[:, :, 0, 0], conv.bias
