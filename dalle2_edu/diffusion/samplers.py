r"""Samplers: the way from noise back to a picture, and with DDIM from a picture to its noise.

The denoiser looks at x_t and guesses the clean picture. Every sampler here repeats the same two
moves: ask for the guess, then step to a less noisy x_(t-1) that lies between the guess and x_t.
They differ in how much fresh noise a step adds. Ancestral sampling adds all that the posterior
has; DDIM with eta = 0 adds none, so that the picture is a function of the noise it started
from, and the walk can be turned round.

    ancestral  x_(t-1) = mean + sigma_t z,   z ~ N(0, I)                    DDPM (2006.11239), Algorithm 2
    DDIM       x_(t-1) = sqrt(abar_(t-1)) x_0
                       + sqrt(1 - abar_(t-1) - sigma_t^2) eps + sigma_t z   DDIM (2010.02502), Eq. 12
               sigma_t = eta sqrt((1 - abar_(t-1)) / (1 - abar_t))
                             sqrt(1 - abar_t / abar_(t-1))                  the same, Eq. 16
    DPM++ 2M   x_(t-1) = sigma_(t-1)/sigma_t x_t
                       + alpha_(t-1) (1 - e^(-h)) D                         DPM-Solver++ (2211.01095), Algorithm 2
    inversion  x_(t+1) = sqrt(abar_(t+1)) x_0 + sqrt(1 - abar_(t+1)) eps    ADM (2105.05233), Appendix F

x_0 and eps are guesses, made from x_t. With eta = 1, sigma_t^2 is the posterior variance
beta~_t and DDIM is ancestral sampling with the variance fixed_small. In DPM++, alpha =
sqrt(abar), sigma = sqrt(1 - abar), h is the step in lambda = log(alpha / sigma), and D is x_0
led on along the line through the last two guesses; with D = x_0 alone it is DDIM. Fewer steps
are no other sampler: call `diffusion.respace("25")` first ("strided" sampling), and any sampler
here walks over 25 steps.

The samplers are pure functions around `model(x_t, t)`, a denoiser closed over its conditioning.
They know no network, and they never read a value back from the device, so a GPU is not kept
waiting.

Chapters 7 (ancestral), 9 (strided, DDIM, DPM-Solver++) and 19 (inversion: variations, blends
and text diffs)."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.schedules import half_log_snr
from dalle2_edu.errors import Dalle2EduError

Denoiser = Callable[[Tensor, Tensor], Tensor]  # model(x_t, t), t int64 (B,)
Noise = Callable[[Sequence[int]], Tensor]  # noise(shape): standard normal
Callback = Callable[[int, Tensor, Tensor], object]  # callback(step, x after the step, pred_x0)


@torch.no_grad()
def ancestral_sample(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x_T: Tensor,
    noise: Noise,
    clip: float | None = 1.0,
    callback: Callback | None = None,
    progress: str | None = None,
) -> Tensor:
    """Walk back from x_T, adding the posterior's noise at each step but the last; DDPM,
    Algorithm 2.

    x_T: (B, C, ...) standard normal. noise(shape) gives the noise of each step. clip bounds the
    guessed x_0. callback(step, x, pred_x0) is called after each step, steps counted from 0.
    progress labels a bar; None shows none. Returns x_0, shaped like x_T."""
    x = x_T
    for step, i in enumerate(_steps(range(diffusion.num_timesteps)[::-1], progress)):
        index = _index(x, i)
        out = diffusion.p_mean_variance(
            model(x, diffusion.original_timesteps(index)), x, index, clip
        )
        x = out.mean
        if i > 0:  # the last step returns the mean: noise there would only be seen as grain
            x = x + torch.exp(0.5 * out.log_variance) * noise(x.shape).to(x.dtype)
        if callback is not None:
            callback(step, x, out.pred_x0)
    return x


@torch.no_grad()
def ddim_sample(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x_T: Tensor,
    noise: Noise,
    eta: float = 0.0,
    clip: float | None = 1.0,
    callback: Callback | None = None,
    progress: str | None = None,
) -> Tensor:
    """Walk back from x_T with as much fresh noise as eta says, none (0) to the posterior's (1);
    DDIM Eq. 12.

    Arguments and result as in `ancestral_sample`; with eta = 0 noise is never called. The
    network's variance, if it has one, is not used. Raises Dalle2EduError unless 0 <= eta <= 1.
    """
    abar_prev, sigmas = (
        diffusion.alphas_cumprod_prev.tolist(),
        ddim_sigmas(diffusion, eta).tolist(),
    )
    x = x_T
    for step, i in enumerate(_steps(range(diffusion.num_timesteps)[::-1], progress)):
        pred_x0, eps = _guess(model, diffusion, x, i, clip)
        x = ddim_move(pred_x0, eps, abar_prev[i], sigmas[i])
        if sigmas[i] > 0:
            x = x + sigmas[i] * noise(x.shape).to(x.dtype)
        if callback is not None:
            callback(step, x, pred_x0)
    return x


@torch.no_grad()
def ddim_invert(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x0: Tensor,
    clip: float | None = 1.0,
    callback: Callback | None = None,
    progress: str | None = None,
) -> Tensor:
    """Walk forward from a picture to the noise x_T from which `ddim_sample` with eta = 0 paints
    it again.

    DDIM without noise follows a curve; each step here follows it the other way, with the guess
    made at the near end instead of the far one. The two agree better the more steps there are:
    25 give a likeness, 1000 the picture. Use the same clip as for sampling. The picture counts
    as step 0, whose noise is too weak to see, so K - 1 moves reach the step K - 1 where the
    sampler starts.

    x0: (B, C, ...). Returns x_T, shaped like x0. callback(step, x, pred_x0) as in
    `ancestral_sample`. Source: ADM, Appendix F."""
    abar_next = diffusion.alphas_cumprod_next.tolist()
    x = x0
    for i in _steps(range(diffusion.num_timesteps - 1), progress):
        pred_x0, eps = _guess(model, diffusion, x, i, clip)
        x = ddim_move(pred_x0, eps, abar_next[i])
        if callback is not None:
            callback(i, x, pred_x0)
    return x


@torch.no_grad()
def dpm_solver_sample(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x_T: Tensor,
    clip: float | None = 1.0,
    order: int = 2,
    callback: Callback | None = None,
    progress: str | None = None,
) -> Tensor:
    """Walk back from x_T along the probability flow ODE; DPM-Solver++ 2M, 2211.01095, Algorithm
    2.

    DDIM takes the guessed x_0 for constant over a step. This solver lets it go on along the
    line through this guess and the one before, in lambda, at no further call of the network:
    the error then falls with the square of the step. The first step has no guess before it, and
    the last one, to lambda = infinity, no end to follow a line to: these two are of order 1.
    Take the steps of `respace("logsnr25")`, which spaces them evenly in lambda: even in t, the
    last ones are so long in lambda that a line is no guide.

    Arguments and result as in `ancestral_sample`; order 1 is DDIM with eta = 0. Raises
    Dalle2EduError unless order is 1 or 2."""
    if order not in (1, 2):
        raise Dalle2EduError(f"DPM-Solver++ is built here with order 1 or 2, not {order}.")
    abar, abar_prev = diffusion.alphas_cumprod.tolist(), diffusion.alphas_cumprod_prev.tolist()
    lambdas = half_log_snr(
        diffusion.alphas_cumprod
    ).tolist()  # (T,), falling: step 0 is the cleanest
    x, before = x_T, None
    for step, i in enumerate(_steps(range(diffusion.num_timesteps)[::-1], progress)):
        pred_x0, _ = _guess(model, diffusion, x, i, clip)
        led = pred_x0
        if order == 2 and before is not None and i > 0:
            led = extrapolate(pred_x0, before, lambdas[i + 1], lambdas[i], lambdas[i - 1])
        x = dpm_move(x, led, abar[i], abar_prev[i])
        before = pred_x0
        if callback is not None:
            callback(step, x, pred_x0)
    return x


def extrapolate(
    pred_x0: Tensor, before: Tensor, lambda_before: float, lambda_now: float, lambda_next: float
) -> Tensor:
    """D = (1 + 1/(2r)) x_0 - 1/(2r) x_0 of the step before, r = h before / h: the line's value
    half a step ahead.
    """
    r = (lambda_now - lambda_before) / (lambda_next - lambda_now)
    return (1 + 0.5 / r) * pred_x0 - 0.5 / r * before


def dpm_move(x: Tensor, pred_x0: Tensor, abar: float, abar_next: float) -> Tensor:
    """From the level abar to abar_next, exactly if x_0 is constant: the ODE's linear part is
    solved, not stepped.

    sigma'/sigma x - alpha' (e^(-h) - 1) x_0, where alpha' e^(-h) = alpha sigma'/sigma: so
    nothing is infinite at abar_next = 1."""
    ratio = math.sqrt((1 - abar_next) / (1 - abar))  # sigma' / sigma
    return ratio * x + (math.sqrt(abar_next) - math.sqrt(abar) * ratio) * pred_x0


def ddim_sigmas(diffusion: GaussianDiffusion, eta: float) -> Tensor:
    """The fresh noise of every step, float64 (T,): 0 for eta = 0, sqrt(beta~) for eta = 1; DDIM
    Eq. 16.
    """
    if not 0 <= eta <= 1:
        raise Dalle2EduError(
            f"eta is the share of fresh noise in each step, from 0 to 1, not {eta}."
        )
    abar, abar_prev = diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev
    return eta * ((1 - abar_prev) / (1 - abar)).sqrt() * (1 - abar / abar_prev).sqrt()


def ddim_move(pred_x0: Tensor, eps: Tensor, abar: float, sigma: float = 0.0) -> Tensor:
    """The guessed picture and the guessed noise put together at the level abar; DDIM Eq. 12
    without sigma z.

    Room is left for fresh noise of variance sigma^2. abar is abar_(t-1) on the way back,
    abar_(t+1) in inversion."""
    return math.sqrt(abar) * pred_x0 + math.sqrt(max(1 - abar - sigma**2, 0.0)) * eps


def _guess(
    model: Denoiser, diffusion: GaussianDiffusion, x_t: Tensor, i: int, clip: float | None
) -> tuple[Tensor, Tensor]:
    """The network's x_0, clipped, and the eps that goes with it: together they make x_t again,
    Eq. (2).
    """
    index = _index(x_t, i)
    pred_x0 = diffusion.predict_start(
        model(x_t, diffusion.original_timesteps(index)), x_t, index, clip
    )
    return pred_x0, diffusion.predict_noise_from_start(x_t, index, pred_x0)


def _index(x: Tensor, i: int) -> Tensor:
    """The same step for every picture: int64 (B,), made on x's device."""
    return torch.full((len(x),), i, dtype=torch.int64, device=x.device)


def _steps(indices: Sequence[int], progress: str | None) -> Iterable[int]:
    """The indices, behind a progress bar if it has a label."""
    return indices if progress is None else tqdm(indices, desc=progress)
