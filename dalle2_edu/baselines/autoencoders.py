r"""Autoencoders: a picture through a narrow door, and what it takes to draw new ones.

The idea in five lines. An encoder writes a picture down as a short list of numbers, the
latent z; a decoder draws the picture again. Training makes the copy good, and the door
is narrow, so z must keep what matters. A denoising autoencoder copies from a noisy
picture: what it takes away tells in which direction pictures become more likely. A
variational autoencoder writes down a *distribution* of z and pays for every bit in it;
then a z drawn from the prior is a picture.

    (1) autoencoder    L = |x - D(E(x))|^2
    (2) denoising      L = |x - r(x + sigma eps)|^2,     eps ~ N(0, I)
        at the best r  (r(x~) - x~) / sigma^2 = grad log p_sigma(x~)         Alain and Bengio, 1211.4246, Theorem 1
    (3) VAE            log p(x) >= E_q log p(x|z) - KL(q(z|x) || p(z))       Kingma and Welling, 1312.6114, Eq. 3
                       = -(distortion + rate)
        q(z|x)         = N(mu(x), diag sigma(x)^2),    p(z) = N(0, I)
        z              = mu + sigma eps                                      Section 2.4: gradients pass through
        rate           = 1/2 sum_j (mu_j^2 + sigma_j^2 - log sigma_j^2 - 1)  Appendix B
        distortion     = -E_q log p(x|z),    p(x|z) = N(D(z), s^2 I) on bytes
    (4) beta-VAE       L = distortion + beta rate                            Higgins et al. 2017; 1711.00464
    (5) free bits      rate_j is not charged below lambda nats               Kingma et al., 1606.04934, Appendix C.8

(2) needs no narrow door: noise alone keeps the network from copying. (1) says nothing
about where the latents lie, so nobody knows which z to draw. (3) does: its rate pulls
q(z|x) towards N(0, I), for every picture.

The width s of the decoder's Gaussian is learned (2006.13202). It is the exchange rate
between pixels and bits: left at a wrong value, all of the latent may collapse.

Chapter 04 (autoencoders) uses this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from dalle2_edu.diffusion.process import (
    discretised_gaussian_log_likelihood,
    normal_kl,
)
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.errors import Dalle2EduError

GROUPS = 8  # of the group norms
SCALE_STEP = 10.0  # units of log s in which it is learned
BYTE = 2 / 255  # the width of a byte where black is -1 and white 1


@dataclass(frozen=True)
class AutoencoderConfig:
    """The picture's size, the channels at 1/2, 1/4, 1/8 ... of it, and the latent's
    numbers.

    noise: standard deviation of what is added to the picture in training; above 0 this
    is a denoising autoencoder. Raises Dalle2EduError for sizes that can't be.
    """

    image_size: int = 32
    channels: tuple[int, ...] = (32, 64, 128)
    latent: int = 64
    noise: float = 0.0

    def __post_init__(self) -> None:
        _check_sizes(self)
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise Dalle2EduError(f"noise is {self.noise}; it must be 0 or above.")


@dataclass(frozen=True)
class VaeConfig:
    """As above; log_scale: where the learned log s begins. Pictures lie in [-1, 1]."""

    image_size: int = 32
    channels: tuple[int, ...] = (32, 64, 128)
    latent: int = 64
    log_scale: float = -1.0

    def __post_init__(self) -> None:
        _check_sizes(self)


# --- the two halves -------------------------------------------------------------------


class Encoder(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] -> numbers (B, outputs)."""

    def __init__(self, config: AutoencoderConfig | VaeConfig, outputs: int):
        super().__init__()
        channels = config.channels
        stages: list[nn.Module] = [
            nn.PixelUnshuffle(2),  # (B, 3, 32, 32) => (B, 12, 16, 16), nothing is lost
            _layer(12, channels[0]),
        ]
        for narrow, wide in pairwise(channels):
            # 16x16 => 8x8 => 4x4
            stages.append(_layer(narrow, wide, stride=2))
            stages.append(_layer(wide, wide))
        self.features = nn.Sequential(*stages)
        # flattened, not averaged: the latent must know where things are
        self.head = nn.Linear(channels[-1] * _smallest(config) ** 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)  # (B, C, s, s)
        return self.head(h.flatten(1))  # (B, C s s) => (B, outputs)


class Decoder(nn.Module):
    """Latents (B, latent) -> pictures (B, 3, S, S), about in [-1, 1]."""

    def __init__(self, config: AutoencoderConfig | VaeConfig):
        super().__init__()
        channels = config.channels[::-1]
        side = _smallest(config)
        stages: list[nn.Module] = [
            nn.Linear(config.latent, channels[0] * side**2),
            nn.Unflatten(1, (channels[0], side, side)),  # (B, C s s) => (B, C, s, s)
        ]
        for wide, narrow in pairwise(channels):
            # 4x4 => 8x8 => 16x16
            stages.append(_layer(wide, wide))
            stages.append(nn.Upsample(scale_factor=2))
            stages.append(_layer(wide, narrow))
        stages.append(nn.Conv2d(channels[-1], 12, 3, padding=1))
        stages.append(nn.PixelShuffle(2))  # (B, 12, 16, 16) => (B, 3, 32, 32)
        self.stages = nn.Sequential(*stages)

    def forward(self, z: Tensor) -> Tensor:
        return self.stages(z)


# --- autoencoder, denoising autoencoder -----------------------------------------------


class Autoencoder(nn.Module):
    """E and D of Eq. (1); with `config.noise` above 0 trained by Eq. (2)."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, config.latent)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Tensor:
        """E(x): pictures (B, 3, S, S) -> latents (B, latent)."""
        _check_pictures(x, self.config.image_size)
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """D(z): latents (B, latent) -> pictures (B, 3, S, S)."""
        _check_latents(z, self.config.latent)
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """The copy D(E(x)), shaped like x."""
        return self.decode(self.encode(x))


def denoising_loss(model: nn.Module, x: Tensor, sigma: float, eps: Tensor) -> Tensor:
    """Eq. (2), a scalar: the mean square error of the copy of x + sigma eps. With sigma
    = 0 it is Eq. (1).

    model: any network whose answer is shaped like x; x may be points (B, D) as well.
    """
    noisy = x + sigma * eps  # x~
    return (model(noisy) - x).square().mean()


def score_from_residual(denoised: Tensor, noisy: Tensor, sigma: float) -> Tensor:
    """(r(x~) - x~) / sigma^2, shaped like x~: what the network takes away, read as the
    gradient of log p_sigma; 1211.4246, Theorem 1.

    p_sigma is the density of the *noisy* data. For the best r this is exact at any
    sigma (Tweedie's formula). The paper lets sigma fall to 0, where p_sigma is the
    density of the data itself. Raises Dalle2EduError unless sigma is above 0.
    """
    if not sigma > 0:
        raise Dalle2EduError(
            f"sigma is {sigma}: without noise a residual says nothing about the score."
        )
    return (denoised - noisy) / sigma**2


# --- variational autoencoder ----------------------------------------------------------


class Vae(nn.Module):
    """q(z|x), p(x|z) and the prior N(0, I): equation (3) at the head of this file.
    Calling it gives the bound's two terms.
    """

    def __init__(self, config: VaeConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, 2 * config.latent)  # mu and log sigma^2
        self.decoder = Decoder(config)
        # Adam moves any number by about the learning rate a step, and log s has far to
        # go: counted in units of SCALE_STEP it arrives long before the pictures do.
        self.scale = nn.Parameter(torch.tensor(config.log_scale / SCALE_STEP))

    @property
    def log_scale(self) -> Tensor:
        """log s, a scalar."""
        return SCALE_STEP * self.scale

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """q(z|x): mean and log-variance, (B, latent) each."""
        _check_pictures(x, self.config.image_size)
        mean, log_variance = self.encoder(x).chunk(2, dim=1)  # (B, 2 latent) => two
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x|z): latents (B, latent) -> pictures (B, 3, S, S)."""
        _check_latents(z, self.config.latent)
        return self.decoder(z)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Distortion (B,) and rate (B, latent) of the bound, in nats, with one z for
        each picture.

        x: pictures (B, 3, S, S); eps: standard normal noise (B, latent). The distortion
        takes the Gaussian's density times the width of a byte. That is smooth, so it
        can be trained on; `bits_per_dim` counts the byte's mass exactly.
        """
        mean, log_variance = self.encode(x)
        z = reparameterise(mean, log_variance, eps)
        nll = gaussian_nll(x, self.decode(z), self.log_scale)  # (B, 3, S, S)
        return nll.flatten(1).sum(dim=1), kl_to_prior(mean, log_variance)

    @torch.no_grad()
    def bits_per_dim(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """The bound in bits per dimension, as its two terms (B,): distortion and
        rate. Their sum can be set beside `GaussianDiffusion.bits_per_dim`.

        x is made of bytes mapped to [-1, 1]. Arguments as in `forward`.
        """
        mean, log_variance = self.encode(x)
        z = reparameterise(mean, log_variance, eps)
        log_p = self.log_likelihood(x, z)  # (B,)
        rate = kl_to_prior(mean, log_variance).sum(dim=1)  # (B, latent) => (B,)
        unit = x[0].numel() * math.log(2)  # nats of a picture => bits per dimension
        return -log_p / unit, rate / unit

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) of bytes, in nats: (B,)."""
        log_scale = self.log_scale.expand_as(x)
        log_p = discretised_gaussian_log_likelihood(x, self.decode(z), log_scale)
        return log_p.flatten(1).sum(dim=1)  # (B, 3, S, S) => (B,)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Tensor:
        """One picture a seed, (B, 3, S, S): z from the prior, and the mean of p(x|z)."""
        noise = SeededNoise(seeds, self.scale.device)
        return self.decode(noise((len(seeds), self.config.latent)))


def reparameterise(mean: Tensor, log_variance: Tensor, eps: Tensor) -> Tensor:
    """z = mu + sigma eps, of N(mu, sigma^2), so that gradients reach mu and sigma;
    1312.6114, Section 2.4. All are shaped alike.
    """
    sigma = torch.exp(0.5 * log_variance)  # σ
    return mean + sigma * eps


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) of each latent number, in nats; shapes as given.
    1312.6114, Appendix B.
    """
    zero = torch.zeros_like(mean)  # the prior's mean, and its log-variance
    return normal_kl(mean, log_variance, zero, zero)


def gaussian_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log of (density of N(mean, s^2) times the width of a byte), in nats, element by
    element.
    """
    distance = (x - mean) * torch.exp(-log_scale)  # in units of s
    constant = 0.5 * math.log(2 * math.pi) - math.log(BYTE)
    return 0.5 * distance**2 + log_scale + constant


def free_bits(rate: Tensor, free: float) -> Tensor:
    """Eq. (5), a scalar: the rate that is charged when each latent number has `free`
    nats for nothing.

    rate (B, latent). The mean over the batch is what is compared: a number may be
    silent for one picture and speak for another.
    """
    each = rate.mean(dim=0)  # (B, latent) => (latent,)
    return each.clamp(min=free).sum()


def active_units(mean: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent numbers say anything: their mean differs between pictures, with a
    variance over `threshold`; Burda et al., 1509.00519, Section 5.2.

    mean: (N, latent), of q(z|x) for N pictures. Returns bool (latent,).
    """
    return mean.var(dim=0) > threshold


@torch.no_grad()
def importance_bound(vae: Vae, x: Tensor, eps: Tensor) -> Tensor:
    """A tighter bound than Eq. (3): log of the mean of p(x, z) / q(z|x) over K draws of
    z, (B,), in nats; Burda et al., 1509.00519, Eq. 8.

    eps: (K, B, latent). With K = 1 its mean is Eq. (3)'s; it grows with K, towards log
    p(x).
    """
    mean, log_variance = vae.encode(x)
    weights = []
    for noise in eps:
        z = reparameterise(mean, log_variance, noise)
        # log p(z) - log q(z|x): the constants and -|eps|^2 / 2 of q cancel or stay
        log_ratio = 0.5 * (noise**2 - z**2 + log_variance).sum(dim=1)  # (B,)
        weights.append(vae.log_likelihood(x, z) + log_ratio)
    return torch.stack(weights).logsumexp(dim=0) - math.log(len(eps))


# --- small parts ----------------------------------------------------------------------


def _layer(channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1),
        nn.GroupNorm(GROUPS, out_channels),
        nn.SiLU(),
    )


def _smallest(config: AutoencoderConfig | VaeConfig) -> int:
    """The side of the smallest map: halved once by folding, then at each stage."""
    return config.image_size // 2 ** len(config.channels)


def _check_sizes(config: AutoencoderConfig | VaeConfig) -> None:
    channels = config.channels
    if not channels or any(width < 1 or width % GROUPS for width in channels):
        raise Dalle2EduError(
            f"channels are {channels}: give one multiple of {GROUPS} or more."
        )
    if config.image_size < 1 or config.image_size % 2 ** len(channels):
        raise Dalle2EduError(
            f"Pictures of {config.image_size} pixels can't be halved {len(channels)}"
            " times, once for each of the channels."
        )
    if config.latent < 1:
        raise Dalle2EduError(f"latent is {config.latent}; it must be at least 1.")


def _check_pictures(x: Tensor, size: int) -> None:
    if x.ndim != 4 or x.shape[1:] != (3, size, size):
        raise Dalle2EduError(
            f"This network reads pictures (B, 3, {size}, {size}), not {tuple(x.shape)}."
        )


def _check_latents(z: Tensor, latent: int) -> None:
    if z.ndim != 2 or z.shape[1] != latent:
        raise Dalle2EduError(
            f"This network draws from latents (B, {latent}), not {tuple(z.shape)}."
        )
