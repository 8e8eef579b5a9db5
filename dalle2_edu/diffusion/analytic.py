r"""Analytic-DPM: the best variance of a step back, computed and not learned.

The idea: a step back is a Gaussian with the posterior's mean, x_0 guessed. The guess is
off by a spread that we can know without training anything. The true x_0, given x_t, has
some variance; the network predicts its mean; and the mean square of the *predicted
noise* says how much variance is left. Where the network predicts noise of full size, it
knows x_0 exactly; where it predicts little, x_0 could be many things, and the step
needs more fresh noise.

    sigma_t^2 = beta~_t + c_t^2 v_t,     c_t = sqrt(abar_(t-1)) beta_t / (1 - abar_t)     x_0's weight in the mean
    v_t       = E Var(x_0 | x_t) / d = (1 - abar_t) / abar_t (1 - N_t)
    N_t       = E |eps(x_t, t)|^2 / d                                         from noised data, once

Analytic-DPM (arXiv 2201.06503), Theorem 1 with lambda_t^2 = beta~_t; there N_t is (1 -
abar_t) Gamma_t, as the score is -eps / sqrt(1 - abar_t).

Why v_t: eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t) is standard normal, so its
second moment is 1. It splits into that of its conditional mean, N_t, and its
conditional variance, abar_t / (1 - abar_t) v_t.

Two bounds, both of which an imperfect network and a finite sample can break: v_t >= 0
(Theorem 2, lower), and v_t is at most the variance of the data (a conditional variance
is on average no larger than the whole). The second stands for the paper's upper bound,
which speaks of data in an interval.

unCLIP samples its prior with this variance (Table 3). With few steps it matters: beta~
is right for one known x_0 and too small for many.

Chapter 15 uses this file.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dalle2_edu.diffusion.process import Clip, GaussianDiffusion
from dalle2_edu.diffusion.samplers import Denoiser, Noise
from dalle2_edu.errors import Dalle2EduError


@torch.no_grad()
def noise_second_moment(
    batches: Iterable[tuple[Denoiser, Tensor, Noise]],
    diffusion: GaussianDiffusion,
    clip: Clip = None,
) -> Tensor:
    """N_t, the mean square of the predicted noise at each step of the process: float64
    (T,), on the CPU.

    batches: of each, the denoiser closed over its conditioning, the clean data x_0 (B,
    ...), and noise(shape). clip bounds the guessed x_0, as it does in sampling. Raises
    Dalle2EduError if there is no data.
    """
    steps = range(diffusion.num_timesteps)
    total = torch.zeros(len(steps), dtype=torch.float64)  # (T,)
    count = 0  # of clean data
    for model, x0, noise in batches:
        count += len(x0)  # B
        moments = [_batch_moment(model, diffusion, x0, i, noise, clip) for i in steps]
        total += torch.stack(moments).cpu()  # T scalars => (T,)
    if count == 0:
        raise Dalle2EduError(
            "The best variance is estimated from data: give one batch or more."
        )
    return total / count  # N_t, (T,)


def _batch_moment(
    model: Denoiser,
    diffusion: GaussianDiffusion,
    x0: Tensor,
    i: int,
    noise: Noise,
    clip: Clip,
) -> Tensor:
    """The mean square over dimensions, summed over the batch; a float64 scalar."""
    index = torch.full((len(x0),), i, dtype=torch.int64, device=x0.device)  # (B,)
    t = diffusion.original_timesteps(index)  # what the network calls this step
    eps = noise(x0.shape).to(x0.dtype)
    x_t = diffusion.q_sample(x0, index, eps)  # (B, ...)
    model_out = model(x_t, t)
    pred_x0 = diffusion.predict_start(model_out, x_t, index, clip)  # predicted x_0
    # predicted ε, of the clipped predicted x_0: the mean that sampling really uses
    eps_hat = diffusion.predict_noise_from_start(x_t, index, pred_x0)
    square = eps_hat.double().square().flatten(1)  # (B, d)
    return square.mean(dim=1).sum()  # |predicted ε|² / d, summed


def optimal_variance(
    diffusion: GaussianDiffusion, moment: Tensor, data_variance: float = 1.0
) -> Tensor:
    """sigma_t^2 of each step, float64 (T,), from N_t (T,); Theorem 1 with its bounds.

    data_variance: the data's variance per dimension, averaged. For the standardised
    embeddings of the prior it is 1. Raises Dalle2EduError if there are not as many
    moments as steps.
    """
    if moment.shape != diffusion.betas.shape:
        raise Dalle2EduError(
            f"The process has {diffusion.num_timesteps} steps, but there are {len(moment)}"
            " moments."
        )
    abar = diffusion.alphas_cumprod  # ᾱ_t
    data_noise = (1 - abar) / abar  # noise to signal, squared
    left = data_noise * (1 - moment)
    left = left.clamp(0, data_variance)  # v_t, within its two bounds
    weight = diffusion.posterior_mean_coef1  # c_t, of x_0 in the mean
    return diffusion.posterior_variance + weight**2 * left  # σ_t²


class AnalyticDiffusion(GaussianDiffusion):
    """A (respaced) process whose steps back have the variances (T,) given, whatever
    the fixed ones were.

    `ancestral_sample` walks over it like over any other. Respace first, then estimate:
    the best variance of a long step is not that of a short one.
    """

    def __init__(self, diffusion: GaussianDiffusion, variances: Tensor) -> None:
        super().__init__(
            diffusion.betas,
            diffusion.prediction,
            "fixed_small",  # not read: the method below replaces it
            diffusion.timestep_map.tolist(),
        )
        variances = variances.double().cpu()
        self.analytic_variance = variances
        # As with the posterior's: nothing is drawn at step 0, and 0 has no logarithm.
        clipped = torch.cat([variances[1:2], variances[1:]])  # (1,) + (T - 1,) => (T,)
        self.analytic_log_variance = clipped.log()

    def _reverse_variance(
        self, raw: Tensor | None, x_t: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The tables' entries, shaped like x_t."""
        variance = self.table("analytic_variance", index, x_t)  # (B, 1, 1, 1)
        log_variance = self.table("analytic_log_variance", index, x_t)
        return variance.expand_as(x_t), log_variance.expand_as(x_t)
