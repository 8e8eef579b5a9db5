r"""Continuous time: the score, the flow of probability, EDM and flow matching.

DDPM walks T steps. Let T grow and the steps shrink, and the walk becomes a differential
equation. Then one sees what the methods of later papers share: each is a straight line
through a picture and a noise, and they differ in the coordinates only.

    x = alpha x_0 + sigma eps        one noisy picture, in four papers:

    DDPM, unCLIP   alpha^2 + sigma^2 = 1     variance preserving          DDPM (2006.11239), Eq. 4
    EDM            alpha = 1                 variance exploding           EDM (2206.00364), section 2
    flow matching  alpha = 1 - sigma         a straight line in time      2210.02747, 2209.03003

What a network learns is in all of them the mean of the clean pictures that x could be,
E[x_0 | x]; everything else follows from it:

    eps   = (x - alpha E[x_0 | x]) / sigma                            the noise
    score = -eps / sigma = grad log p(x)                              Tweedie's formula
    dx    = x_0 dalpha + eps dsigma                                   the probability-flow equation

The last line carries every x along a curve on which the density stays that of the noisy
pictures: score SDE (2011.13456), Eq. 13; EDM, Eq. 1. With alpha = 1 it is dx/dsigma =
eps, so a sampler only has to choose at which sigmas it looks, and how well it follows a
bent curve.

The page "Score and continuous time" uses this file; read it after chapter 09.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError

# E[x_0 | x]: noisy pictures (B, ...) and their noise level sigma (B,) -> clean pictures
# (B, ...)
CleanGuess = Callable[[Tensor, Tensor], Tensor]  # also a flow's velocity: see below


# --- four names for one guess ---------------------------------------------------------


def noise_from_clean(x: Tensor, x0: Tensor, alpha: float, sigma: float) -> Tensor:
    """The noise in x = alpha x_0 + sigma eps."""
    return (x - alpha * x0) / sigma  # eps


def score_from_clean(x: Tensor, x0: Tensor, alpha: float, sigma: float) -> Tensor:
    """grad log p(x), where x0 is E[x_0 | x]: minus the noise, divided by sigma."""
    return -noise_from_clean(x, x0, alpha, sigma) / sigma  # -eps / sigma


def flow_velocity(x0: Tensor, eps: Tensor) -> Tensor:
    """What flow matching learns: the speed dx/dt on the line x = (1 - t) x_0 + t
    eps.
    """
    return eps - x0


def clean_from_velocity(x: Tensor, velocity: Tensor, t: float) -> Tensor:
    """x_0 on that line: go back for the time t at this speed."""
    return x - t * velocity


def to_variance_preserving(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """EDM's sigma as (alpha, sigma) of DDPM: divide x by the length of (1, sigma).

    So a network of one family can be used by a sampler of the other: the ratio sigma /
    alpha, which says how noisy the picture is, stays.
    """
    length = (1 + sigma**2).sqrt()  # |(1, σ)|
    alpha = 1 / length
    return alpha, sigma / length  # α² + σ² = 1
    return 1 / length, sigma / length


# --- EDM: which sigmas, which network, which steps ------------------------------------


def edm_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """The levels of noise that a sampler visits, (steps + 1,), falling, the last one
    0.

    Evenly spaced in sigma^(1/rho): with rho = 7 most of them are small, where a step's
    error shows; EDM, Eq. 5. Raises Dalle2EduError for fewer than 2 steps.
    """
    if steps < 2:
        raise Dalle2EduError(f"steps must be 2 or more, not {steps}.")
    share = torch.linspace(0, 1, steps, dtype=torch.float64)  # (steps,), 0 ... 1
    highest = sigma_max ** (1 / rho)  # sigma_max^(1/rho)
    lowest = sigma_min ** (1 / rho)
    sigmas = (highest + share * (lowest - highest)) ** rho  # (steps,)
    return torch.cat([sigmas, sigmas.new_zeros(1)])  # the picture itself: no noise left


@dataclass(frozen=True)
class Preconditioning:
    """How EDM wraps a network F so that all it reads and all it answers has variance
    1.

        E[x_0 | x] = c_skip x + c_out F(c_in x)                            EDM, Eq. 7 and Table 1

    sigma_data is the standard deviation of the pictures. At small sigma nearly all of
    the answer is x itself and F corrects a little; at large sigma F draws the picture.
    The prediction v does the same for DDPM's coordinates.
    """

    sigma_data: float = 0.5

    def c_skip(self, sigma: Tensor) -> Tensor:
        variance = sigma**2 + self.sigma_data**2  # of x
        return self.sigma_data**2 / variance

    def c_out(self, sigma: Tensor) -> Tensor:
        variance = sigma**2 + self.sigma_data**2
        return sigma * self.sigma_data / variance.sqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        variance = sigma**2 + self.sigma_data**2
        return 1 / variance.sqrt()  # c_in x has variance 1


@torch.no_grad()
def euler_sample(clean: CleanGuess, x: Tensor, sigmas: Tensor) -> Tensor:
    """Follow dx/dsigma = eps in straight pieces: DDIM, in EDM's coordinates.

    x (B, ...): noise of standard deviation sigmas[0]. Returns the picture at
    sigmas[-1].
    """
    levels = sigmas.tolist()
    for now, following in zip(levels[:-1], levels[1:], strict=True):
        slope = _slope(clean, x, now)  # dx/dσ
        x = x + (following - now) * slope  # the step is negative: σ falls
    return x


@torch.no_grad()
def heun_sample(clean: CleanGuess, x: Tensor, sigmas: Tensor) -> Tensor:
    """The same in bent pieces: look at the slope at both ends, and take their mean.

    EDM, Algorithm 1 without its fresh noise. Two evaluations a step in place of one,
    and an error that falls with the square of the step in place of the step. The last
    step, down to sigma = 0, has no slope at its end and stays straight.
    """
    levels = sigmas.tolist()
    for now, following in zip(levels[:-1], levels[1:], strict=True):
        step = following - now  # < 0: σ falls
        slope = _slope(clean, x, now)  # dx/dσ here
        straight = x + step * slope  # Euler's step, a first guess
        if following > 0:
            at_the_end = _slope(clean, straight, following)  # dx/dσ there
            x = x + step * (slope + at_the_end) / 2
        else:
            x = straight
    return x


def _slope(clean: CleanGuess, x: Tensor, sigma: float) -> Tensor:
    """dx/dsigma = eps, where alpha = 1."""
    levels = x.new_full((len(x),), sigma)  # σ of each picture, (B,)
    return noise_from_clean(x, clean(x, levels), alpha=1.0, sigma=sigma)


# --- flow matching --------------------------------------------------------------------


def flow_pair(x0: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """A training example of flow matching: the point on the line at times t (B,), and
    its speed.

    The loss is the mean squared error of the network's answer at (point, t) to the
    speed; rectified flow (2209.03003), Eq. 1.
    """
    share = t.reshape(-1, *[1] * (x0.dim() - 1))  # (B, 1, ..., 1)
    point = (1 - share) * x0 + share * eps  # x_t = (1 - t) x_0 + t ε
    return point, flow_velocity(x0, eps)


@torch.no_grad()
def flow_sample(velocity: CleanGuess, x: Tensor, steps: int) -> Tensor:
    """From noise at t = 1 to a picture at t = 0 in equal steps of time.

    velocity(x, t) -> dx/dt, (B, ...) and (B,) -> (B, ...). Raises Dalle2EduError for no
    step.
    """
    if steps < 1:
        raise Dalle2EduError(f"steps must be 1 or more, not {steps}.")
    for i in range(steps):  # t = 1, 1 - 1/K, ... 1/K
        t = x.new_full((len(x),), 1 - i / steps)  # (B,)
        x = x - velocity(x, t) / steps  # dt = -1/K
    return x
