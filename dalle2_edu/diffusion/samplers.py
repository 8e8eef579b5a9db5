r"""Samplers: the way from noise back to a picture, and with DDIM from a picture to its
noise.

The denoiser looks at x_t and predicts the clean picture x_0. Every sampler here repeats
the same two moves: ask for the prediction, then step to a less noisy x_(t-1) that lies
between the prediction and x_t. They differ in how much fresh noise a step adds.
Ancestral sampling adds all that the posterior has; DDIM with eta = 0 adds none, so that
the picture is a function of the noise it started from, and the walk can be turned
round.

    ancestral  x_(t-1) = mean + sigma_t z,   z ~ N(0, I)                    DDPM (2006.11239), Algorithm 2
    DDIM       x_(t-1) = sqrt(abar_(t-1)) x_0
                       + sqrt(1 - abar_(t-1) - sigma_t^2) eps + sigma_t z   DDIM (2010.02502), Eq. 12
               sigma_t = eta sqrt((1 - abar_(t-1)) / (1 - abar_t))
                             sqrt(1 - abar_t / abar_(t-1))                  the same, Eq. 16
    DPM++ 2M   x_(t-1) = sigma_(t-1)/sigma_t x_t
                       + alpha_(t-1) (1 - e^(-h)) D                         DPM-Solver++ (2211.01095), Algorithm 2
    inversion  x_(t+1) = sqrt(abar_(t+1)) x_0 + sqrt(1 - abar_(t+1)) eps    ADM (2105.05233), Appendix F

x_0 and eps are predictions, made from x_t. With eta = 1, sigma_t^2 is the posterior
variance beta~_t and DDIM is ancestral sampling with the variance fixed_small. In DPM++,
alpha = sqrt(abar), sigma = sqrt(1 - abar), h is the step in lambda = log(alpha /
sigma), and D is x_0 extrapolated linearly from the last two predictions; with D = x_0
alone it is DDIM. Sampling in fewer steps ("strided" sampling) needs no other sampler:
call `diffusion.respace("25")` first, and any sampler here walks over 25 steps.

The samplers are pure functions around `model(x_t, t)`, a denoiser closed over its
conditioning. They know no network, and they never read a value back from the device, so
a GPU is not kept waiting.

Chapters 7 (ancestral), 9 (strided, DDIM, DPM-Solver++) and 19 (inversion: variations,
blends and text diffs).
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dalle2_edu.diffusion.process import Clip, GaussianDiffusion
from dalle2_edu.diffusion.schedules import half_log_snr
from dalle2_edu.errors import Dalle2EduError

Denoiser = Callable[[Tensor, Tensor], Tensor]  # model(x_t, t), t int64 (B,)
Noise = Callable[[Sequence[int]], Tensor]  # noise(shape): standard normal
# callback(step, x after the step, pred_x0)
Callback = Callable[[int, Tensor, Tensor], object]


@torch.no_grad()
def ancestral_sample(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x_T: Tensor,
    noise: Noise,
    clip: Clip = 1.0,
    callback: Callback | None = None,
    progress: str | None = None,
    gradient: Denoiser | None = None,
) -> Tensor:
    """Walk back from x_T, adding the posterior's noise at each step but the last;
    DDPM, Algorithm 2.

    x_T: (B, C, ...) standard normal. noise(shape) gives the noise of each step. clip
    bounds the predicted x_0. callback(step, x, pred_x0) is called after each step,
    steps counted from 0. progress labels a bar; None shows none. gradient(x_t, t)
    shifts each step's mean by variance times gradient: classifier guidance, ADM's
    Algorithm 1. Returns x_0, shaped like x_T.
    """
    x = x_T
    for step, i in _steps_back(diffusion, progress):
        index = _index(x, i)  # (B,)
        t = diffusion.original_timesteps(index)  # what the network calls this step
        out = diffusion.p_mean_variance(model(x, t), x, index, clip)
        if gradient is not None:
            out = out.shifted(gradient(x, t))
        x = out.mean  # μ̃_t, at the predicted x_0
        # the last step returns the mean: noise there would only be seen as grain
        if i > 0:
            sigma = torch.exp(0.5 * out.log_variance)  # σ_t
            x = x + sigma * noise(x.shape).to(x.dtype)  # + σ_t z
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
    clip: Clip = 1.0,
    callback: Callback | None = None,
    progress: str | None = None,
) -> Tensor:
    """Walk back from x_T with as much fresh noise as eta says, none (0) to the
    posterior's (1); DDIM Eq. 12.

    Arguments and result as in `ancestral_sample`; with eta = 0 noise is never called.
    The network's variance, if it has one, is not used. Raises Dalle2EduError unless 0
    <= eta <= 1.
    """
    abar_prev = diffusion.alphas_cumprod_prev.tolist()  # ᾱ_(t-1) of each step
    sigmas = ddim_sigmas(diffusion, eta).tolist()  # σ_t of each step
    x = x_T
    for step, i in _steps_back(diffusion, progress):
        # the clipped predicted x_0, and the ε that goes with it
        pred_x0, eps = _predict(model, diffusion, x, i, clip)
        x = ddim_move(pred_x0, eps, abar_prev[i], sigmas[i])  # before σ_t z
        if sigmas[i] > 0:
            x = x + sigmas[i] * noise(x.shape).to(x.dtype)  # + σ_t z
        if callback is not None:
            callback(step, x, pred_x0)
    return x


@torch.no_grad()
def ddim_invert(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x0: Tensor,
    clip: Clip = 1.0,
    callback: Callback | None = None,
    progress: str | None = None,
) -> Tensor:
    """Walk forward from a picture to the noise x_T from which `ddim_sample` with eta =
    0 paints it again.

    DDIM without noise follows a curve; each step here follows it the other way, with
    the prediction made at the near end instead of the far one. The two agree better the
    more steps there are: 25 give a likeness, 1000 the picture. Use the same clip as for
    sampling. The picture counts as step 0, whose noise is too weak to see, so K - 1
    moves reach the step K - 1 where the sampler starts.

    x0: (B, C, ...). Returns x_T, shaped like x0. callback(step, x, pred_x0) as in
    `ancestral_sample`. Source: ADM, Appendix F.
    """
    abar_next = diffusion.alphas_cumprod_next.tolist()  # ᾱ_(t+1) of each step
    x = x0
    for i in _with_bar(range(diffusion.num_timesteps - 1), progress):
        # predicted at the near end of the move; the sampler predicts at the far end
        pred_x0, eps = _predict(model, diffusion, x, i, clip)
        x = ddim_move(pred_x0, eps, abar_next[i])  # up to ᾱ_(t+1)
        if callback is not None:
            callback(i, x, pred_x0)
    return x


@torch.no_grad()
def dpm_solver_sample(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x_T: Tensor,
    clip: Clip = 1.0,
    order: int = 2,
    callback: Callback | None = None,
    progress: str | None = None,
) -> Tensor:
    """Walk back from x_T along the probability flow ODE; DPM-Solver++ 2M, 2211.01095,
    Algorithm 2.

    DDIM takes the predicted x_0 for constant over a step. This solver extrapolates it
    along the line through this prediction and the one before, in lambda, at no further
    call of the network: the error then falls with the square of the step. The first
    step has no prediction before it, and the last one, to lambda = infinity, no end to
    follow a line to: these two are of order 1. Take the steps of `respace("logsnr25")`,
    which spaces them evenly in lambda: even in t, the last ones are so long in lambda
    that a line is no guide.

    Arguments and result as in `ancestral_sample`; order 1 is DDIM with eta = 0. Raises
    Dalle2EduError unless order is 1 or 2.
    """
    if order not in (1, 2):
        raise Dalle2EduError(
            f"DPM-Solver++ is built here with order 1 or 2, not {order}."
        )
    abar = diffusion.alphas_cumprod.tolist()  # ᾱ_t of each step
    abar_prev = diffusion.alphas_cumprod_prev.tolist()  # ᾱ_(t-1) of each step
    # λ_t, falling: 0 is the cleanest
    lambdas = half_log_snr(diffusion.alphas_cumprod).tolist()
    x = x_T
    before = None  # x_0 as predicted one step earlier
    for step, i in _steps_back(diffusion, progress):
        pred_x0, _ = _predict(model, diffusion, x, i, clip)  # predicted x_0
        extrapolated = pred_x0  # D, of order 1
        # the step to λ = ∞ (i = 0) has no end to which a line could be drawn
        if order == 2 and before is not None and i > 0:
            extrapolated = extrapolate(
                pred_x0, before, lambdas[i + 1], lambdas[i], lambdas[i - 1]
            )
        x = dpm_move(x, extrapolated, abar[i], abar_prev[i])  # on to ᾱ_(t-1)
        before = pred_x0
        if callback is not None:
            callback(step, x, pred_x0)
    return x


# --- one move -------------------------------------------------------------------------


def extrapolate(
    pred_x0: Tensor,
    before: Tensor,
    lambda_before: float,
    lambda_now: float,
    lambda_next: float,
) -> Tensor:
    """D = (1 + 1/(2r)) x_0 - 1/(2r) x_0 of the step before, r = h before / h: the
    line's value half a step ahead.
    """
    h_before = lambda_now - lambda_before  # of the step before
    h = lambda_next - lambda_now  # of this step
    weight = 0.5 / (h_before / h)  # 1/(2r)
    return (1 + weight) * pred_x0 - weight * before


def dpm_move(x: Tensor, pred_x0: Tensor, abar: float, abar_next: float) -> Tensor:
    """From the level abar to abar_next, exactly if x_0 is constant: the ODE's linear
    part is solved, not stepped.

    sigma'/sigma x - alpha' (e^(-h) - 1) x_0, where alpha' e^(-h) = alpha sigma'/sigma:
    so nothing is infinite at abar_next = 1.
    """
    ratio = math.sqrt((1 - abar_next) / (1 - abar))  # σ' / σ
    alpha = math.sqrt(abar)  # α
    alpha_next = math.sqrt(abar_next)  # α'
    return ratio * x + (alpha_next - alpha * ratio) * pred_x0


def ddim_sigmas(diffusion: GaussianDiffusion, eta: float) -> Tensor:
    """The fresh noise of every step, float64 (T,): 0 for eta = 0, sqrt(beta~) for eta
    = 1; DDIM Eq. 16.
    """
    if not 0 <= eta <= 1:
        raise Dalle2EduError(
            f"eta is the share of fresh noise in each step, from 0 to 1, not {eta}."
        )
    abar = diffusion.alphas_cumprod  # ᾱ_t, (T,)
    abar_prev = diffusion.alphas_cumprod_prev  # ᾱ_(t-1), (T,)
    # noise after the step / noise before it
    left = ((1 - abar_prev) / (1 - abar)).sqrt()
    new = (1 - abar / abar_prev).sqrt()  # sqrt(beta_t)
    return eta * left * new


def ddim_move(pred_x0: Tensor, eps: Tensor, abar: float, sigma: float = 0.0) -> Tensor:
    """The predicted picture and the predicted noise put together at the level abar;
    DDIM Eq. 12 without sigma z.

    Room is left for fresh noise of variance sigma^2. abar is abar_(t-1) on the way
    back, abar_(t+1) in inversion.
    """
    kept_variance = max(1 - abar - sigma**2, 0.0)  # rounding may bring it below 0
    signal = math.sqrt(abar)  # √ᾱ
    eps_scale = math.sqrt(kept_variance)  # √(1 - ᾱ - σ²)
    return signal * pred_x0 + eps_scale * eps


# --- small parts ----------------------------------------------------------------------


def _predict(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x_t: Tensor,
    i: int,
    clip: Clip,
) -> tuple[Tensor, Tensor]:
    """The network's x_0, clipped, and the eps that goes with it: together they make
    x_t again, Eq. (2).
    """
    index = _index(x_t, i)  # (B,)
    t = diffusion.original_timesteps(index)  # the network's count of the steps
    model_out = model(x_t, t)  # (B, C or 2C, ...)
    pred_x0 = diffusion.predict_start(model_out, x_t, index, clip)  # predicted x_0
    # from the clipped predicted x_0: the network's own ε would no longer fit it
    return pred_x0, diffusion.predict_noise_from_start(x_t, index, pred_x0)


def _index(x: Tensor, i: int) -> Tensor:
    """The same step for every picture: int64 (B,), made on x's device."""
    return torch.full((len(x),), i, dtype=torch.int64, device=x.device)


def _steps_back(
    diffusion: GaussianDiffusion, progress: str | None
) -> Iterable[tuple[int, int]]:
    """(0, T - 1), (1, T - 2), ... (T - 1, 0): how many steps were made, and which
    comes now.
    """
    indices = range(diffusion.num_timesteps)[::-1]  # noisiest first
    return enumerate(_with_bar(indices, progress))


def _with_bar(indices: Sequence[int], progress: str | None) -> Iterable[int]:
    """The indices, behind a progress bar if it has a label."""
    return indices if progress is None else tqdm(indices, desc=progress)
