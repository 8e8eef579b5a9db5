r"""Generative adversarial networks (GAN): two networks, and each is the other's teacher.

The generator G turns noise z into a picture. The discriminator D looks at a picture and
answers one number, the logit s(x): above 0 it takes the picture for real, below 0 for
generated. D learns to tell, G learns to be taken for real. No likelihood, no noise
schedule, no walk of fifty steps: one pass through G is a picture.

    (1) V(D, G) = E log D(x) + E log(1 - D(G(z))),   D = sigmoid(s)       arXiv 1406.2661, Eq. 1
    (2) D*(x)   = p(x) / (p(x) + q(x)),   q: the density of G(z)          Proposition 1
    (3) V(D*, G) = 2 JSD(p, q) - 2 log 2                                  Theorem 1

With log D = -softplus(-s) and log(1 - D) = -softplus(s), the losses of this file are

                     D minimises                          G minimises
    minimax          softplus(-s(x)) + softplus(s(G(z)))  -softplus(s(G(z)))
    non_saturating   the same                             softplus(-s(G(z)))        1406.2661, Section 3
    hinge            relu(1 - s(x)) + relu(1 + s(G(z)))   -s(G(z))                  1705.02894
    wasserstein      s(G(z)) - s(x)                       -s(G(z))                  1701.07875

and what keeps D smooth, so that its gradient can teach:

    r1               gamma/2 E |grad s(x)|^2 at real pictures                       1801.04406, Eq. 9
    gp               lambda E (|grad s(x)| - 1)^2 between real and generated        1704.00028, Eq. 3
    spectral norm    each layer of D divided by its largest singular value          1802.05957

The networks are DCGAN's (1511.06434) at 32 pixels: strided convolutions, no pooling, no
hidden dense layers. One thing differs: D has no batch norm, because the penalties are
about the gradient at *one* picture, and batch norm mixes the pictures of a batch.

`TextGan` is told what to draw, and its discriminator also sees real pictures beside
captions of other pictures: "real, but not what was asked for" (1605.05396, GAN-CLS).

Chapter 03 uses this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dalle2_edu import zoo
from dalle2_edu.baselines.transformer import Transformer
from dalle2_edu.data.text import CONTEXT, MOST_TOKENS, Tokenizer, default_tokenizer
from dalle2_edu.drawing.run import (
    SeededNoise,
    checked_device,
    checked_prompts,
    checked_seeds,
    mixed_seed,
)
from dalle2_edu.errors import Dalle2EduError

Kind = Literal["minimax", "non_saturating", "hinge", "wasserstein"]
FIRST_SIDE = 4  # pixels where the generator begins and the discriminator ends
LEAK = 0.2  # of the discriminator's leaky ReLU, as in DCGAN

# --- the game -------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """What the two networks minimise. r1 is gamma, gp is lambda; 0 leaves them out."""

    kind: Kind = "non_saturating"
    r1: float = 0.0
    gp: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise Dalle2EduError(f"There is no GAN loss {self.kind!r}; known: {known}.")
        if min(self.r1, self.gp) < 0:
            raise Dalle2EduError("A penalty's weight must be 0 or more.")


class Round(NamedTuple):
    """One round of the game: what was drawn, and the discriminator's logits.

    `shown` is the generated batch as the discriminator sees it, cut off from the
    generator. `points` lie between real and generated pictures; None without `share`.
    """

    fake: Tensor  # (B, ...)
    shown: Tensor  # (B, ...)
    on_real: Tensor  # (B,)
    on_fake: Tensor  # (B,)
    points: Tensor | None = None  # (B, ...)
    on_points: Tensor | None = None  # (B,)
    on_wrong: Tensor | None = None  # (B,), real pictures with other captions


def play(
    generator: nn.Module,
    discriminator: nn.Module,
    real: Tensor,
    z: Tensor,
    share: Tensor | None = None,
) -> Round:
    """Draw from noise z (B, latent), and judge it and real examples (B, ...).

    share: numbers in [0, 1], broadcast against `real`: how much of each point of the
    `gp` penalty is real.
    """
    fake = generator(z)
    shown = fake.detach().requires_grad_()
    on_real = discriminator(real)
    on_fake = discriminator(shown)
    if share is None:
        return Round(fake, shown, on_real, on_fake)
    points = share * real.detach() + (1 - share) * fake.detach()
    points.requires_grad_()
    return Round(fake, shown, on_real, on_fake, points, discriminator(points))


# --- losses ---------------------------------------------------------------------------


def discriminator_loss(kind: Kind, on_real: Tensor, on_fake: Tensor) -> Tensor:
    """The loss of D from its logits (B,) on real and generated examples."""
    if kind == "hinge":
        return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    if kind == "wasserstein":
        return on_fake.mean() - on_real.mean()
    # -log D(x) - log(1 - D(G(z)))
    return F.softplus(-on_real).mean() + F.softplus(on_fake).mean()


def generator_loss(kind: Kind, on_fake: Tensor) -> Tensor:
    """The loss of G from D's logits (B,) on what it generated."""
    if kind == "minimax":
        return -F.softplus(on_fake).mean()  # log(1 - D): flat where D is sure
    if kind == "non_saturating":
        return F.softplus(-on_fake).mean()  # -log D: steep where D is sure
    return -on_fake.mean()


def slopes(logits: Tensor, points: Tensor) -> Tensor:
    """|grad s(x)|^2 at each point: logits (B,), points (B, ...) => (B,)."""
    (gradient,) = torch.autograd.grad(logits.sum(), points, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1)


def r1_penalty(on_real: Tensor, real: Tensor) -> Tensor:
    """Half the mean squared slope at real examples: it pulls D flat where the data
    are. `real` must require a gradient.
    """
    return slopes(on_real, real).mean() / 2


def gradient_penalty(on_points: Tensor, points: Tensor) -> Tensor:
    """How far the slope is from 1, squared: a critic for the Wasserstein distance has
    slope 1 along the way from one distribution to the other.
    """
    # a root has no derivative at 0
    slope = (slopes(on_points, points) + 1e-12).sqrt()
    return (slope - 1).square().mean()


def losses(seen: Round, real: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """The two losses of a round, of D with its penalties and of G: two scalars."""
    on_fake = seen.on_fake
    if seen.on_wrong is not None:
        # two ways to be wrong, half of the weight each: 1605.05396, Algorithm 1
        on_fake = torch.cat([on_fake, seen.on_wrong])  # (2B,)
    of_d = discriminator_loss(objective.kind, seen.on_real, on_fake)
    if objective.r1:
        of_d = of_d + objective.r1 * r1_penalty(seen.on_real, real)
    if objective.gp and seen.points is not None and seen.on_points is not None:
        of_d = of_d + objective.gp * gradient_penalty(seen.on_points, seen.points)
    return of_d, generator_loss(objective.kind, seen.on_fake)


def joined(of_d: Tensor, of_g: Tensor, seen: Round) -> Tensor:
    """One scalar for one backward pass, which moves each network on its own loss only.

    G learns from D through a single thing: the gradient of its loss at the pictures it
    drew. So we take that gradient, hold it fixed, and let it pull at G's pictures. D's
    weights never see it.
    """
    (pull,) = torch.autograd.grad(of_g, seen.shown, retain_graph=True)  # (B, ...)
    through_g = (pull.detach() * seen.fake).sum()
    # the value is G's loss, the gradient is the pull's
    return of_d + of_g.detach() + through_g - through_g.detach()


# --- DCGAN ----------------------------------------------------------------------------


@dataclass(frozen=True)
class GanConfig:
    """The two networks: `channels` is their width at half the picture's side, doubled
    with each halving. Raises Dalle2EduError for a side that is no 8, 16, 32, ...
    """

    image_size: int = 32
    latent: int = 64  # numbers of noise behind a picture
    channels: int = 32
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        if self.halvings < 1 or FIRST_SIDE * 2**self.halvings != self.image_size:
            raise Dalle2EduError(
                f"image_size is {self.image_size}; it must be 8, 16, 32, 64, ..."
            )

    @property
    def halvings(self) -> int:
        """Steps between the picture and its 4 x 4 map."""
        return (self.image_size // FIRST_SIDE).bit_length() - 1

    @property
    def widths(self) -> list[int]:
        """Channels from the finest map to the 4 x 4 one: [32, 64, 128] at 32 pixels."""
        return [self.channels * 2**step for step in range(self.halvings)]


class Generator(nn.Module):
    """Noise (B, latent) -> pictures (B, 3, S, S) in [-1, 1]."""

    def __init__(self, config: GanConfig, told: int = 0):
        """told: how many numbers beside the noise say what to draw."""
        super().__init__()
        widths = config.widths[::-1]  # [128, 64, 32]
        self.widest = widths[0]
        self.first = nn.Linear(config.latent + told, self.widest * FIRST_SIDE**2)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.widest), nn.ReLU()]
        for wide, narrow in zip(widths, widths[1:], strict=False):
            # 4x4 => 8x8 => 16x16
            layers += [up(wide, narrow), nn.BatchNorm2d(narrow), nn.ReLU()]
        layers += [up(widths[-1], 3, bias=True), nn.Tanh()]  # 16x16 => 32x32
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z)  # (B, 128 * 16)
        h = h.reshape(len(z), self.widest, FIRST_SIDE, FIRST_SIDE)  # (B, 128, 4, 4)
        return self.layers(h)


class Features(nn.Module):
    """The discriminator's eye: pictures (B, 3, S, S) -> a map (B, 128, 4, 4)."""

    def __init__(self, config: GanConfig):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in config.widths:
            # 32x32 => 16x16 => 8x8 => 4x4
            layers += [down(channels, width, config), nn.LeakyReLU(LEAK)]
            channels = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Discriminator(nn.Module):
    """Pictures (B, 3, S, S) -> logits (B,): above 0 for "real"."""

    def __init__(self, config: GanConfig):
        super().__init__()
        self.features = Features(config)
        widest = config.widths[-1]
        self.head = normed(nn.Conv2d(widest, 1, FIRST_SIDE), config)  # 4x4 => 1x1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).flatten()  # (B, 1, 1, 1) => (B,)


def up(wide: int, narrow: int, bias: bool = False) -> nn.Module:
    """Twice the side. A bias before batch norm would be taken away again."""
    return nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=bias)


def down(narrow: int, wide: int, config: GanConfig) -> nn.Module:
    """Half the side."""
    return normed(nn.Conv2d(narrow, wide, 4, stride=2, padding=1), config)


def normed(layer: nn.Module, config: GanConfig) -> nn.Module:
    """The layer, its weight divided by its largest singular value if that is asked."""
    return spectral_norm(layer) if config.spectral_norm else layer


class Gan(nn.Module):
    """Both networks in one module, so that they are trained, averaged and saved as one."""

    def __init__(self, config: GanConfig = GanConfig()):
        super().__init__()
        self.config = config
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)

    def forward(self, real: Tensor, z: Tensor, share: Tensor | None = None) -> Round:
        """One round of the game, see `play`."""
        return play(self.generator, self.discriminator, real, z, share)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Tensor:
        """One picture a seed, (B, 3, S, S) in [-1, 1]; as `Ddpm.sample`, in one step."""
        noise = SeededNoise(seeds, next(self.parameters()).device)
        return self.generator(noise((len(seeds), self.config.latent)))


# --- told what to draw ----------------------------------------------------------------


@dataclass(frozen=True)
class TextGanConfig:
    """The two networks, and the small transformer that reads captions for both."""

    gan: GanConfig = field(default_factory=GanConfig)
    vocab_size: int = MOST_TOKENS
    context_length: int = CONTEXT
    width: int = 64
    layers: int = 2
    heads: int = 4


class Reader(nn.Module):
    """Tokens (B, L) -> what the caption says, (B, width)."""

    def __init__(self, config: TextGanConfig):
        super().__init__()
        width = config.width
        self.token = nn.Embedding(config.vocab_size, width)
        self.position = nn.Parameter(torch.randn(config.context_length, width) * 0.1)
        self.transformer = Transformer(width, config.layers, config.heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        real = tokens != 0  # 0 pads; (B, L)
        h = self.token(tokens) + self.position  # (B, L, width)
        h = self.transformer(h, mask=real[:, None])  # nobody looks at padding
        weight = real[..., None].to(h.dtype)  # (B, L, 1)
        mean = (h * weight).sum(dim=1) / weight.sum(dim=1)
        return self.norm(mean)


class MatchingDiscriminator(nn.Module):
    """Pictures and captions -> logits (B,): above 0 for "real, and what was asked"."""

    def __init__(self, config: TextGanConfig):
        super().__init__()
        gan = config.gan
        widest = gan.widths[-1]
        self.features = Features(gan)
        # reads picture and caption side by side: 1605.05396, Section 4.1
        self.join = normed(nn.Conv2d(widest + config.width, widest, 1), gan)
        self.head = normed(nn.Conv2d(widest, 1, FIRST_SIDE), gan)

    def match(self, seen: Tensor, told: Tensor) -> Tensor:
        """seen (B, 128, 4, 4), told (B, width) -> logits (B,)."""
        everywhere = told[:, :, None, None].expand(-1, -1, *seen.shape[2:])
        both = torch.cat([seen, everywhere], dim=1)  # (B, 128 + width, 4, 4)
        return self.head(F.leaky_relu(self.join(both), LEAK)).flatten()


class TextGan(nn.Module):
    """A generator that is told what to draw, and a discriminator that checks it.

    The reader belongs to the discriminator: to tell right captions from wrong ones it
    must learn to read. The generator gets what it read, and does not teach it.
    """

    def __init__(self, config: TextGanConfig = TextGanConfig()):
        super().__init__()
        self.config = config
        self.reader = Reader(config)
        self.generator = Generator(config.gan, told=config.width)
        self.discriminator = MatchingDiscriminator(config)

    @classmethod
    def from_zoo(cls, domain: str, device: str | torch.device = "cpu") -> TextGan:
        """The zoo's GAN of a domain: "shapes".

        Raises Dalle2EduError for another name and a device that PyTorch can't use.
        """
        known = zoo.known()
        drawn = [name for name in known if "text_gan" in known[name]]
        if drawn and domain not in drawn:
            raise Dalle2EduError(
                f"No text GAN draws {domain!r}; known: {', '.join(drawn)}."
            )
        model: TextGan = zoo.load(domain, "text_gan", checked_device(device))
        return model

    def forward(self, real: Tensor, z: Tensor, tokens: Tensor) -> Round:
        """One round; caption i (B, L) is picture i's, and a wrong one for picture
        i + 1.
        """
        told = self.reader(tokens)  # (B, width)
        fake = self.generator(torch.cat([z, told.detach()], dim=1))
        shown = fake.detach().requires_grad_()
        judge = self.discriminator
        seen = judge.features(real)  # once, for two captions
        return Round(
            fake=fake,
            shown=shown,
            on_real=judge.match(seen, told),
            on_fake=judge.match(judge.features(shown), told),
            on_wrong=judge.match(seen, told.roll(1, dims=0)),
        )

    @torch.no_grad()
    def draw(self, tokens: Tensor, seeds: Sequence[int]) -> Tensor:
        """Captions (B, L) and one seed each -> pictures (B, 3, S, S) in [-1, 1]."""
        device = next(self.parameters()).device
        noise = SeededNoise([mixed_seed("gan", seed) for seed in seeds], device)
        z = noise((len(seeds), self.config.gan.latent))
        told = self.reader(tokens.to(device))
        return self.generator(torch.cat([z, told], dim=1))

    def text_to_image(
        self,
        prompts: Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        tokenizer: Tokenizer | None = None,
    ) -> Tensor:
        """Prompts, Chinese or English -> pictures (B, 3, S, S) in [-1, 1], as
        `UnCLIP.text_to_image` gives them; S is 32 for the miniature.

        seed is one for all pictures, or a list with one each. tokenizer: the one that
        the model was trained with; the book's by default. Raises Dalle2EduError for an
        empty prompt and a wrong number of seeds.
        """
        tokenizer = tokenizer or default_tokenizer()
        read = checked_prompts(prompts, tokenizer)
        return self.draw(tokenizer(read), checked_seeds(seed, len(read)))


def fitted(config: TextGanConfig, tokenizer: Tokenizer) -> TextGanConfig:
    """The config with this tokenizer's vocabulary and context."""
    return replace(
        config,
        vocab_size=tokenizer.vocab_size,
        context_length=tokenizer.context_length,
    )
