r"""Worlds in which a GAN's behaviour is known exactly.

A GAN on pictures has no ground truth: nobody knows p(x), the best discriminator or
where the game ends. In three small worlds all of it is known.

    two densities    the best D is p / (p + q), and the Jensen-Shannon divergence is an integral
    Dirac-GAN        data at 0, G draws theta, D(x) = psi x: two numbers play, and near
                     (0, 0) they move like a linear system, whose eigenvalues say all
    eight bumps      a ring of Gaussians: count how many of them G has found

The eigenvalues (arXiv 1801.04406, Lemma 2.3 and Section 4.1), with f'(0) = 1/2 for the
minimax and the non-saturating loss and 1 for Wasserstein's:

    without a penalty    lambda = +- i f'(0)                              circles for ever
    with R1              lambda = -gamma/2 +- sqrt(gamma^2/4 - f'(0)^2)   falls to (0, 0)

Chapter 03 uses this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.baselines.gan import (
    Kind,
    Objective,
    Round,
    discriminator_loss,
    generator_loss,
    joined,
    losses,
    play,
    r1_penalty,
)
from dalle2_edu.errors import Dalle2EduError

# --- two densities --------------------------------------------------------------------


def optimal_discriminator(log_p: Tensor, log_q: Tensor) -> Tensor:
    """D* = p / (p + q) from log-densities, in [0, 1]; any shape. Its logit is the
    logarithm of the densities' ratio.
    """
    return torch.sigmoid(log_p - log_q)


def jensen_shannon(log_p: Tensor, log_q: Tensor, cell: float) -> Tensor:
    """JSD(p, q) in nats by integration, from the log-densities on a grid whose cells
    have the size `cell`. It lies between 0 and log 2.
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)  # m = (p + q) / 2
    kl_p = (log_p.exp() * (log_p - log_m)).sum() * cell  # KL(p || m)
    kl_q = (log_q.exp() * (log_q - log_m)).sum() * cell  # KL(q || m)
    return (kl_p + kl_q) / 2


def jensen_shannon_estimate(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """What a discriminator's logits say of the JSD: log 2 + V / 2, by Eq. (3) of
    `gan.py`. No discriminator says more than the truth, except by chance.
    """
    value = -discriminator_loss("minimax", on_real, on_fake)  # V(D, G)
    return math.log(2) + value / 2


# --- Dirac-GAN ------------------------------------------------------------------------


def dirac_force(theta: Tensor, psi: Tensor, kind: Kind, r1: float = 0.0) -> Tensor:
    """Where gradient descent pushes the two players: (-dL_G/dtheta, -dL_D/dpsi), (2,).

    theta, psi: scalars that require a gradient. The losses are those of `gan.py`.
    """
    real = torch.zeros(1, 1, dtype=theta.dtype, requires_grad=True)  # the only datum
    on_real = (psi * real).reshape(1)  # D(x) = psi x
    on_fake = (psi * theta).reshape(1)
    of_d = discriminator_loss(kind, on_real, on_fake) + r1 * r1_penalty(on_real, real)
    of_g = generator_loss(kind, on_fake)
    (push_g,) = torch.autograd.grad(of_g, theta, create_graph=True)
    (push_d,) = torch.autograd.grad(of_d, psi, create_graph=True)
    return -torch.stack([push_g, push_d])


def dirac_jacobian(kind: Kind, r1: float = 0.0) -> Tensor:
    """The derivative of the force at the goal (0, 0), (2, 2), float64, by autograd."""

    def force(place: Tensor) -> Tensor:
        return dirac_force(place[0], place[1], kind, r1)

    return torch.autograd.functional.jacobian(force, torch.zeros(2).double())


def dirac_eigenvalues(slope: float, r1: float = 0.0) -> Tensor:
    """The formula for the eigenvalues of that matrix, complex (2,); slope: f'(0)."""
    root = torch.tensor(r1**2 / 4 - slope**2 + 0j, dtype=torch.complex128).sqrt()
    return torch.stack([-r1 / 2 - root, -r1 / 2 + root])


def dirac_walk(
    kind: Kind,
    steps: int,
    rate: float = 0.2,
    r1: float = 0.0,
    start: tuple[float, float] = (1.0, 0.0),
    in_turns: bool = False,
) -> Tensor:
    """The path of (theta, psi) under gradient descent, (steps + 1, 2), float64.

    in_turns: D moves first, and G answers to where D is now; otherwise both move at
    once.
    """
    place = torch.tensor(start, dtype=torch.float64)
    path = [place]
    for _ in range(steps):
        if in_turns:
            moved = place + rate * _push(place, kind, r1) * torch.tensor([0.0, 1.0])
            place = moved + rate * _push(moved, kind, r1) * torch.tensor([1.0, 0.0])
        else:
            place = place + rate * _push(place, kind, r1)
        path.append(place)
    return torch.stack(path)


def _push(place: Tensor, kind: Kind, r1: float) -> Tensor:
    theta, psi = place.clone().requires_grad_()
    return dirac_force(theta, psi, kind, r1).detach()


# --- eight bumps ----------------------------------------------------------------------

BUMPS = 8
RADIUS = 2.0
SPREAD = 0.05  # the standard deviation of a bump


def ring_centres() -> Tensor:
    """The middles of the bumps, (8, 2)."""
    angles = torch.arange(BUMPS) * (2 * math.pi / BUMPS)
    return RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)


def ring_points(n: int, generator: torch.Generator) -> Tensor:
    """Data of the ring, (n, 2)."""
    chosen = torch.randint(BUMPS, (n,), generator=generator)
    return ring_centres()[chosen] + SPREAD * torch.randn(n, 2, generator=generator)


def modes_covered(points: Tensor, near: float = 4 * SPREAD) -> tuple[int, float]:
    """How many bumps hold at least 1% of the points (N, 2), and the share of points
    that lie on a bump at all: within four standard deviations.
    """
    distance, nearest = torch.cdist(points, ring_centres()).min(dim=1)  # (N,)
    on_bump = distance < near
    counts = torch.bincount(nearest[on_bump], minlength=BUMPS)  # (8,)
    found = int((counts >= 0.01 * len(points)).sum())
    return found, float(on_bump.float().mean())


@dataclass(frozen=True)
class RingTraining:
    """How a small GAN learns the ring. packed: how many points D sees at a time."""

    objective: Objective = Objective()
    steps: int = 1500
    batch_size: int = 128
    rate: float = 1e-3  # the generator's learning rate
    judge_rate: float = 1e-3  # the discriminator's
    width: int = 64
    latent: int = 8
    packed: int = 1

    def __post_init__(self) -> None:
        if self.packed < 1 or self.batch_size % self.packed:
            raise Dalle2EduError(
                f"A batch of {self.batch_size} can't be cut into packs of {self.packed}."
            )


class Mlp(nn.Sequential):
    """Three layers, (B, inputs) -> (B, outputs), or (B,) for a single output."""

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__(
            nn.Linear(inputs, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)


class Packed(nn.Module):
    """A discriminator that judges several points together (PacGAN, 1712.04086): a pack
    of equal ones gives a collapsed generator away.
    """

    def __init__(self, training: RingTraining):
        super().__init__()
        self.packed = training.packed
        self.judge = Mlp(2 * training.packed, training.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.judge(x.reshape(len(x) // self.packed, -1))  # (B / packed,)


def train_ring(
    training: RingTraining,
    seed: int,
    watch: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Train on the ring; return 2,000 points of the generator, (2000, 2).

    watch(step, points) is called eight times on the way. Both players move at once, as
    in `recipes/gan.py`.
    """
    torch.manual_seed(seed)  # the first weights
    generator = torch.Generator().manual_seed(seed)
    player = Mlp(training.latent, training.width, 2)
    judge = Packed(training)
    players = [
        {"params": player.parameters(), "lr": training.rate},
        {"params": judge.parameters(), "lr": training.judge_rate},
    ]
    adam = torch.optim.Adam(players, betas=(0.5, 0.99))
    look = max(1, training.steps // 8)
    for step in range(1, training.steps + 1):
        loss = ring_loss(player, judge, training, generator)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if watch and step % look == 0:
            watch(step, drawn(player, training, seed))
    return drawn(player, training, seed)


def ring_loss(
    player: nn.Module, judge: nn.Module, training: RingTraining, seed: torch.Generator
) -> Tensor:
    """One round on a fresh batch, as one scalar."""
    real = ring_points(training.batch_size, seed).requires_grad_()
    z = torch.randn(training.batch_size, training.latent, generator=seed)
    share = None
    if training.objective.gp:
        share = torch.rand(training.batch_size, 1, generator=seed)
    seen: Round = play(player, judge, real, z, share)
    of_d, of_g = losses(seen, real, training.objective)
    return joined(of_d, of_g, seen)


@torch.no_grad()
def drawn(
    player: nn.Module, training: RingTraining, seed: int, n: int = 2000
) -> Tensor:
    """Points of the generator, (n, 2), from noise that training never saw."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    return player(torch.randn(n, training.latent, generator=generator))


# --- a discriminator for two densities ------------------------------------------------


def train_discriminator(
    p: Callable[[int, torch.Generator], Tensor],
    q: Callable[[int, torch.Generator], Tensor],
    seed: int,
    steps: int = 600,
    batch_size: int = 512,
    width: int = 64,
) -> nn.Module:
    """A small network that learns to tell draws of p from draws of q, both (n, D) from
    (n, generator). It minimises Eq. (1) of `gan.py`.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    judge = Mlp(p(1, generator).shape[1], width, 1)
    adam = torch.optim.Adam(judge.parameters(), 3e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        on_p = judge(p(batch_size, generator))
        on_q = judge(q(batch_size, generator))
        loss = F.softplus(-on_p).mean() + F.softplus(on_q).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
    return judge.eval()
