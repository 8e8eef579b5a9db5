r"""How much noise, and when: the schedule of a diffusion process.

A diffusion process blurs a picture into noise in T small steps. Step t keeps the share
sqrt(1 - beta_t) of what was there and adds fresh noise of variance beta_t. This file
answers two questions: which betas, and, when sampling has to be fast, which of the T
steps to keep.

The idea in five lines: the product abar_t = (1 - beta_0)(1 - beta_1)...(1 - beta_t)
says how much of the picture is left at step t, and it is all the network ever notices.
The linear schedule (DDPM) lets abar fall so fast that the last third of the steps is
almost pure noise. The cosine schedule (improved DDPM) lets it fall evenly. A network
that was trained on T steps may be sampled on fewer: keep some of the steps, walk over
those, and the noise between two kept steps follows from the ratio of their abars.

    linear   beta_t from 1e-4 to 0.02 in T = 1000 equal steps           DDPM (2006.11239), Section 4
    cosine   abar_t = f(t) / f(0)                                       improved DDPM (2102.09672), Eq. 17
             f(t) = cos^2((t/T + s)/(1 + s) pi/2),  s = 0.008
             beta_t = min(1 - abar_t / abar_(t-1), 0.999)               the same, below Eq. 17
    respaced beta'_k = 1 - abar_(S_k) / abar_(S_(k-1))                  the same, Eq. 19

Indices start at 0 here, as in every released implementation: beta_0 is the papers'
beta_1.

Chapter 7 (the mathematics of DDPM) plots the schedules; chapter 9 (better and faster)
respaces them.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError

# GLIDE's upsampler: many steps where the picture is nearly clean, few in the noise
FAST27 = "10,10,3,2,2"


def linear_betas(num_timesteps: int) -> Tensor:
    """Betas that grow linearly from 1e-4 to 0.02, stretched or squeezed to T steps.

    Fewer steps have to add the same noise in all, so both ends are scaled by 1000 / T
    (ADM's rule); abar then ends near 4e-5 for any large T. Returns float64 (T,). Raises
    Dalle2EduError if T < 20: the last beta would exceed 1. Source: DDPM (2006.11239),
    Section 4.
    """
    if num_timesteps < 20:
        raise Dalle2EduError(
            f"A linear schedule needs 20 steps or more, not {num_timesteps}: or use cosine."
        )
    scale = 1000 / num_timesteps  # 1 at the published T = 1000
    return torch.linspace(
        scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64
    )


def cosine_betas(
    num_timesteps: int, s: float = 0.008, max_beta: float = 0.999
) -> Tensor:
    """Betas whose abar falls as a squared cosine: evenly, and gently at both ends.

    The offset s keeps the very first noise visible (sqrt(beta_0) a little below one
    grey level of 1/127.5); without it the first steps have nothing to predict. At the
    far end abar reaches 0, so the last beta would be 1 and divide by zero later on:
    max_beta caps it. Returns float64 (T,). Source: improved DDPM (2102.09672), Eq. 17.
    """
    if num_timesteps < 1:
        raise Dalle2EduError(f"A schedule needs at least 1 step, not {num_timesteps}.")
    # t/T, (T + 1,)
    time = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    angle = (time + s) / (1 + s) * math.pi / 2  # from nearly 0 to pi/2
    f = torch.cos(angle) ** 2  # f(t), (T + 1,)
    ratio = f[1:] / f[:-1]  # ᾱ_t / ᾱ_(t-1), (T,)
    return (1 - ratio).clamp(max=max_beta)  # β_t, (T,)


def named_betas(schedule: str, num_timesteps: int) -> Tensor:
    """The betas of "linear" or "cosine", as a configuration names them. Returns
    float64 (T,).

    Raises Dalle2EduError if the schedule is neither.
    """
    if schedule == "linear":
        return linear_betas(num_timesteps)
    if schedule == "cosine":
        return cosine_betas(num_timesteps)
    raise Dalle2EduError(
        f"There is no noise schedule {schedule!r}: choose linear or cosine."
    )


def respaced_betas(alphas_cumprod: Tensor, kept: Sequence[int]) -> Tensor:
    """The betas of the process that visits only the kept steps: beta'_k = 1 -
    abar_(S_k) / abar_(S_(k-1)).

    The marginals q(x_t | x_0) stay what they were at each kept step, so the trained
    network still knows where it is. alphas_cumprod: float64 (T,). Returns float64 (K,).
    Source: improved DDPM (2102.09672), Eq. 19.
    """
    places = torch.as_tensor(kept, dtype=torch.int64)  # S_k, (K,)
    abar = alphas_cumprod[places]  # ᾱ at the kept steps: (T,) => (K,)
    abar_prev = torch.cat([abar.new_ones(1), abar[:-1]])  # (1,) + (K - 1,) => (K,)
    return 1 - abar / abar_prev  # β'_k, (K,)


def space_timesteps(num_timesteps: int, spec: str | int) -> list[int]:
    """The steps to keep, sorted, when a process of T steps is walked in fewer.

    spec is one of
      25 or "25"       25 evenly spaced reals from 0 to T - 1, rounded: both ends are kept (improved DDPM)
      "ddim25"         an integer stride, 0, 40, 80, ... 960: the noisiest steps are left out (DDIM)
      "10,10,3,2,2"    T cut into five equal ranges, from clean to noisy, with so many even steps each (GLIDE)
      "fast27"         10,10,3,2,2 with the last step T - 1 replaced by T - 3 (999 => 997): the steps of
                       GLIDE's released upsampler
    Raises Dalle2EduError if the spec can't be read or asks for more steps than there
    are.
    """
    if spec == "fast27":
        # one exception in GLIDE's released code; the equal ranges would end at T - 1
        kept = space_timesteps(num_timesteps, FAST27)
        return [*kept[:-1], num_timesteps - 3]
    if isinstance(spec, str) and spec.startswith("ddim"):
        # an integer stride: DDIM's list ends well before T - 1
        counts = _counts(spec.removeprefix("ddim"), spec)
        return _integer_stride(num_timesteps, counts[0])
    counts = _counts(str(spec), spec)
    return _sections(num_timesteps, counts)


def half_log_snr(alphas_cumprod: Tensor) -> Tensor:
    """lambda = log(sqrt(abar) / sqrt(1 - abar)), half the logarithm of the
    signal-to-noise ratio. Shape as abar.

    The time in which DPM-Solver counts (2206.00927, Section 3). Infinite where abar is
    1.
    """
    log_signal = alphas_cumprod.log()  # log ᾱ
    log_noise = torch.log1p(-alphas_cumprod)  # log(1 - ᾱ)
    return 0.5 * (log_signal - log_noise)  # λ, (T,)


# Here the picture's amplitude is 0.6% of the noise's: further out nothing can be
# predicted.
LAMBDA_MIN = -5.1


def log_snr_timesteps(alphas_cumprod: Tensor, spec: str) -> list[int]:
    """The spec "logsnr20" keeps 20 steps, sorted, as evenly spaced in lambda as can
    be, from the cleanest one.

    They reach to the noisiest with lambda >= -5.1, the bound of DPM-Solver's released
    code. That is all of the linear schedule; the cosine's last steps go down to -9.9
    and would take a third of the way. Near the clean picture the steps of a process lie
    further apart than the even spacing, so some of the wanted places fall on the same
    step; such a place takes the next free one. alphas_cumprod: float64 (T,). Raises
    Dalle2EduError if the spec can't be read or asks for more steps than there are.
    Source: DPM-Solver (2206.00927), which counts in lambda.
    """
    count = _counts(spec.removeprefix("logsnr"), spec)[0]
    lambdas = half_log_snr(alphas_cumprod)  # (T,), falling
    usable = int((lambdas >= LAMBDA_MIN).sum())  # how many lie before the bound
    lambdas = lambdas[: max(1, usable)]
    if count > len(lambdas):
        raise Dalle2EduError(
            f"Can't take {count} steps out of {len(lambdas)}: ask for fewer."
        )
    # λ of the first step and of the last usable one
    cleanest, noisiest = lambdas[[0, -1]].tolist()
    wanted = torch.linspace(cleanest, noisiest, count, dtype=torch.float64)  # even in λ
    kept: list[int] = []
    for place, wanted_lambda in enumerate(wanted):
        nearest = int((lambdas - wanted_lambda).abs().argmin())  # its index
        free = kept[-1] + 1 if kept else 0  # a step is kept only once
        last = len(lambdas) - (count - place)  # leaves room for the steps that follow
        kept.append(min(max(nearest, free), last))
    return kept


def _counts(text: str, spec: str | int) -> list[int]:
    """The step counts that a spec lists, each at least 1."""
    # what is no number counts as 0, which is refused below
    counts = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    takes_one = str(spec).startswith(("ddim", "logsnr"))
    if min(counts) < 1 or (takes_one and len(counts) > 1):
        raise Dalle2EduError(
            f"Can't read the step spacing {spec!r}: write 25, ddim25, logsnr25, fast27, or a"
            f" list such as {FAST27}."
        )
    return counts


def _integer_stride(num_timesteps: int, count: int) -> list[int]:
    """The smallest integer stride that visits exactly `count` steps, starting at 0."""
    for stride in range(1, num_timesteps + 1):
        if len(range(0, num_timesteps, stride)) == count:
            return list(range(0, num_timesteps, stride))
    # refuse, and name the count that is nearest to the wish
    strides = range(1, num_timesteps + 1)
    possible = {len(range(0, num_timesteps, stride)) for stride in strides}
    nearest = min(possible, key=lambda other: abs(other - count))
    raise Dalle2EduError(
        f"No integer stride takes {count} of {num_timesteps} steps: use ddim{nearest}."
    )


def _sections(num_timesteps: int, counts: Sequence[int]) -> list[int]:
    """Cut T steps into len(counts) ranges, a remainder going to the first ones; space
    each evenly.
    """
    size, remainder = divmod(num_timesteps, len(counts))
    start = 0  # where the range begins
    kept: list[int] = []
    for section, count in enumerate(counts):
        length = size + (section < remainder)  # the first ranges are one longer
        if count > length:
            raise Dalle2EduError(
                f"Can't take {count} steps out of {length}: ask for at most {length} there."
            )
        positions = _even_positions(length, count)
        # Python rounds halves to even, as the released code does
        kept += [start + round(position) for position in positions]
        start += length
    return kept


def _even_positions(length: int, count: int) -> Iterable[float]:
    """`count` evenly spaced reals from 0 to length - 1.

    The stride is added step by step, as the released code does it. A product i * stride
    rounds differently where a position falls on a half: 21 of 1000 steps would then
    hold 500 instead of 499.
    """
    # position count - 1 is then length - 1: both ends are kept
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    position = 0.0
    for _ in range(count):
        yield position
        position += stride
