r"""The diffusion process: from a picture to noise, and what the way back looks like.

Forward, a picture x_0 is covered with Gaussian noise step by step; since sums of
Gaussians are Gaussian, we can jump to any step at once. Backward, one step is again
nearly Gaussian, and if x_0 were known its mean and variance would be known exactly. It
isn't known, so a network predicts it: that prediction is all there is to learn.

    (1) q(x_t | x_(t-1))      = N(sqrt(1 - beta_t) x_(t-1), beta_t I)               DDPM Eq. 2, one step
    (2) q(x_t | x_0)          = N(sqrt(abar_t) x_0, (1 - abar_t) I)                 DDPM Eq. 4, the jump
        so  x_t               = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,   eps ~ N(0, I)
    (3) q(x_(t-1) | x_t, x_0) = N(mu~_t, beta~_t I)                                 DDPM Eqs. 6, 7
        mu~_t   = sqrt(abar_(t-1)) beta_t / (1 - abar_t) x_0
                + sqrt(1 - beta_t) (1 - abar_(t-1)) / (1 - abar_t) x_t
        beta~_t = (1 - abar_(t-1)) / (1 - abar_t) beta_t
    (4) p(x_(t-1) | x_t)      = N(mu~_t(x_t, predicted x_0), sigma_t^2 I)           DDPM Eq. 1, we sample it
    (5) L_simple              = E |target - network(x_t, t)|^2                      DDPM Eq. 14
    (6) L_vlb                 = L_T + L_(T-1) + ... + L_1 + L_0                     DDPM Eq. 5
        L_T     = KL(q(x_T | x_0) || N(0, I))
        L_(t-1) = KL(q(x_(t-1) | x_t, x_0) || p(x_(t-1) | x_t))   for t = 2 ... T
        L_0     = -log p(x_0 | x_1)

The papers count the steps t from 1 to T, the code counts their places from 0: `index` =
t - 1. So the term of the bound at an index is L_index, L_0 at the first and L_(T-1) at
the last.

(2) follows from (1) because a sum of Gaussians is Gaussian and the variances (1 -
beta_t)(1 - abar_(t-1)) + beta_t add up to 1 - abar_t. (3) follows from Bayes' rule:
multiply the Gaussians q(x_t | x_(t-1)) and q(x_(t-1) | x_0), both seen as functions of
x_(t-1); their precisions (1 - beta_t)/beta_t and 1/(1 - abar_(t-1)) add, and 1/(the
sum) is beta~_t.

The network may predict one of three things, and x_t turns each into the others: the
noise eps (DDPM, GLIDE, the unCLIP decoder), the clean x_0 (the unCLIP prior), or v =
sqrt(abar) eps - sqrt(1 - abar) x_0 (progressive distillation, 2202.00512, section 4;
Appendix D derives it), which stays well conditioned at both ends.

Chapter 7 (the mathematics of DDPM) derives all of this; chapter 9 learns the variance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from dalle2_edu.diffusion.schedules import (
    log_snr_timesteps,
    respaced_betas,
    space_timesteps,
)
from dalle2_edu.errors import Dalle2EduError

Prediction = Literal["eps", "x0", "v"]
Variance = Literal["fixed_small", "fixed_large", "learned_range"]
# what bounds a predicted x_0: [-clip, clip], a function of it, or nothing
Clip = float | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class ReverseStep:
    """p(x_(t-1) | x_t), and the predicted x_0 that it was made from. All are shaped
    like x_t.
    """

    mean: Tensor  # μ̃_t, at the predicted x_0
    variance: Tensor  # σ_t²
    log_variance: Tensor  # log σ_t²
    pred_x0: Tensor  # predicted x_0, clipped if the caller asked for it

    def shifted(self, gradient: Tensor) -> "ReverseStep":
        """The mean moved along a gradient of log p(y | x_t), the farther the less sure
        the step is of itself; ADM (2105.05233), Algorithm 1.
        """
        return replace(self, mean=self.mean + self.variance * gradient)


class GaussianDiffusion:
    """The arithmetic of one diffusion process: tables over its steps, and the
    equations that read them.

    A step is named by its `index`, int64 (B,), its place in this process from 0 (nearly
    clean) to num_timesteps - 1 (noise). The network was trained on the original,
    unrespaced process: its timestep is `timestep_map[index]`.

    The tables are float64 on the CPU: 1 - abar_0 is 4e-5, and in float32 the difference
    would keep three digits. Each is cast to the picture's type, and moved to the
    picture's device, once, when first used there.

    betas: (T,), each between 0 and 1. Raises Dalle2EduError on other betas, or an
    unknown prediction or variance.
    """

    def __init__(
        self,
        betas: Tensor,
        prediction: Prediction = "eps",
        variance: Variance = "fixed_small",
        timestep_map: Sequence[int] | None = None,
    ) -> None:
        _check_choice("prediction", prediction, get_args(Prediction))
        _check_choice("variance", variance, get_args(Variance))
        self.prediction = prediction
        self.variance = variance
        self.betas = _checked_betas(betas)
        self.num_timesteps = len(self.betas)
        if timestep_map is None:
            # not respaced: index i is the network's timestep i
            timestep_map = range(self.num_timesteps)
        self.timestep_map = torch.as_tensor(timestep_map, dtype=torch.int64)  # (T,)
        if len(self.timestep_map) != self.num_timesteps:
            raise Dalle2EduError(
                f"There are {self.num_timesteps} betas but {len(self.timestep_map)} timesteps."
            )
        self._copies: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self._tabulate_forward()
        self._tabulate_posterior()

    # --- tables -----------------------------------------------------------------------

    def _tabulate_forward(self) -> None:
        """What Eq. (2) and its inversions need at each step, all (T,).

        Before the first step all of the picture is left (abar = 1), past the last one
        nothing (abar = 0).
        """
        abar = torch.cumprod(1 - self.betas, dim=0)  # ᾱ_t
        before = abar.new_ones(1)  # all picture
        after = abar.new_zeros(1)  # all noise
        self.alphas_cumprod = abar
        self.alphas_cumprod_prev = torch.cat([before, abar[:-1]])  # ᾱ_(t-1)
        self.alphas_cumprod_next = torch.cat([abar[1:], after])  # ᾱ_(t+1)
        self.sqrt_alphas_cumprod = abar.sqrt()  # √ᾱ_t, of x_0
        self.sqrt_one_minus_alphas_cumprod = (1 - abar).sqrt()  # √(1 - ᾱ_t), of eps
        self.log_one_minus_alphas_cumprod = (1 - abar).log()  # log(1 - ᾱ_t)
        self.sqrt_recip_alphas_cumprod = (1 / abar).sqrt()  # 1 / √ᾱ_t
        self.sqrt_recipm1_alphas_cumprod = (1 / abar - 1).sqrt()  # √(1 / ᾱ_t - 1)

    def _tabulate_posterior(self) -> None:
        """What Eq. (3) and the variances of Eq. (4) need at each step, all (T,)."""
        betas = self.betas
        noise = 1 - self.alphas_cumprod  # 1 - ᾱ_t
        noise_prev = 1 - self.alphas_cumprod_prev  # 1 - ᾱ_(t-1)
        signal_prev = self.alphas_cumprod_prev.sqrt()  # √ᾱ_(t-1)
        self.posterior_mean_coef1 = signal_prev * betas / noise  # of x_0
        self.posterior_mean_coef2 = (1 - betas).sqrt() * noise_prev / noise  # of x_t
        self.posterior_variance = betas * noise_prev / noise  # β̃_t
        # β̃ is 0 at index 0 (x_0 is then known exactly) and has no logarithm: the next
        # step's stands in for it.
        first = self.posterior_variance[1:2] if self.num_timesteps > 1 else betas
        # (1,) + (T - 1,) => (T,)
        clipped = torch.cat([first, self.posterior_variance[1:]])
        self.posterior_log_variance = clipped.log()  # log β̃_t
        self.log_betas = betas.log()  # log β_t
        # Nothing is drawn at index 0, but L_0 is measured there, and the next step's β̃
        # suits it better than the first beta.
        # (1,) + (T - 1,) => (T,)
        self.fixed_large_variance = torch.cat([first, betas[1:]])
        self.fixed_large_log_variance = self.fixed_large_variance.log()

    def table(self, name: str, index: Tensor, x: Tensor) -> Tensor:
        """The entries of one table at each picture's step: (B,) => (B, 1, 1, 1), of
        x's type, on its device.

        The copy on the device is kept, so that a loop of a thousand steps never waits
        for the CPU.
        """
        table = self._copy(name, x.device, x.dtype)  # (T,)
        ones = [1] * (x.dim() - 1)  # one for each dimension of a picture
        return table[index].reshape(-1, *ones)  # (B,) => (B, 1, 1, 1)

    def original_timesteps(self, index: Tensor) -> Tensor:
        """The network's timestep: the step's number in the process it was trained on.
        int64 (B,), both.
        """
        return self._copy("timestep_map", index.device, torch.int64)[index]

    def _copy(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The table of this name, (T,), on a device: made once, then kept."""
        key = (name, device, dtype)
        if key not in self._copies:
            table: Tensor = getattr(self, name)
            # A tensor made in inference mode can't be trained with later: leave that
            # mode for the copy.
            with torch.inference_mode(False):
                self._copies[key] = table.to(dtype).to(device)
        return self._copies[key]

    def respace(self, spec: str | int) -> "GaussianDiffusion":
        """The same process walked in fewer steps; improved DDPM Eq. 19.

        spec is what `space_timesteps` takes, or "logsnr20": 20 steps, evenly spaced in
        the logarithm of the signal-to-noise ratio, see `log_snr_timesteps`.
        """
        if isinstance(spec, str) and spec.startswith("logsnr"):
            kept = log_snr_timesteps(self.alphas_cumprod, spec)
        else:
            kept = space_timesteps(self.num_timesteps, spec)
        # βs of the shorter process: 1 - ᾱ_(S_k) / ᾱ_(S_(k-1))
        return GaussianDiffusion(
            betas=respaced_betas(self.alphas_cumprod, kept),
            prediction=self.prediction,
            variance=self.variance,
            timestep_map=self.timestep_map[kept].tolist(),
        )

    # --- forward: from x_0 to x_t -----------------------------------------------------

    def q_sample(self, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Noise a picture to step t at once: x_t = sqrt(abar) x_0 + sqrt(1 - abar)
        eps; Eq. (2).

        x0, noise: (B, ...); index: int64 (B,). Returns x_t, shaped like x0.
        """
        signal = self.table("sqrt_alphas_cumprod", index, x0)  # √ᾱ_t, (B, 1, 1, 1)
        sigma = self.table("sqrt_one_minus_alphas_cumprod", index, x0)  # √(1 - ᾱ_t)
        return signal * x0 + sigma * noise

    def q_posterior(
        self, x0: Tensor, x_t: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step back if x_0 were known: the mean mu~, the variance beta~ and its
        logarithm; Eq. (3).

        x0, x_t: (B, ...). Returns three tensors shaped like x_t. The logarithm is
        clipped at the last step, where beta~ = 0.
        """
        of_x0 = self.table("posterior_mean_coef1", index, x_t)  # (B, 1, 1, 1)
        of_x_t = self.table("posterior_mean_coef2", index, x_t)
        mean = of_x0 * x0 + of_x_t * x_t  # μ̃_t
        variance = self.table("posterior_variance", index, x_t)  # β̃_t, (B, 1, 1, 1)
        log_variance = self.table("posterior_log_variance", index, x_t)
        return mean, variance.expand_as(x_t), log_variance.expand_as(x_t)

    # --- eps, x_0 and v: one from another ---------------------------------------------

    def predict_start_from_noise(
        self, x_t: Tensor, index: Tensor, noise: Tensor
    ) -> Tensor:
        """Eq. (2) solved for x_0: x_0 = x_t / sqrt(abar) - sqrt(1/abar - 1) eps.
        Shapes as x_t.
        """
        of_x_t = self.table("sqrt_recip_alphas_cumprod", index, x_t)  # 1 / √ᾱ_t
        # √(1 / ᾱ_t - 1)
        of_noise = self.table("sqrt_recipm1_alphas_cumprod", index, x_t)
        return of_x_t * x_t - of_noise * noise

    def predict_noise_from_start(
        self, x_t: Tensor, index: Tensor, x0: Tensor
    ) -> Tensor:
        """Eq. (2) solved for the noise: eps = (x_t / sqrt(abar) - x_0) / sqrt(1/abar -
        1). Shapes as x_t.
        """
        of_x_t = self.table("sqrt_recip_alphas_cumprod", index, x_t)  # 1 / √ᾱ_t
        # √(1 / ᾱ_t - 1)
        of_noise = self.table("sqrt_recipm1_alphas_cumprod", index, x_t)
        return (of_x_t * x_t - x0) / of_noise

    def calculate_v(self, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """The velocity v = sqrt(abar) eps - sqrt(1 - abar) x_0; 2202.00512, section 4.
        Shapes as x0.

        With sqrt(abar) = cos(phi), x_t = cos(phi) x_0 + sin(phi) eps turns on a circle,
        and v = d x_t / d phi (Appendix D).
        """
        cos = self.table("sqrt_alphas_cumprod", index, x0)  # cos φ = √ᾱ_t
        # sin φ = √(1 - ᾱ_t)
        sin = self.table("sqrt_one_minus_alphas_cumprod", index, x0)
        return cos * noise - sin * x0

    def predict_start_from_v(self, x_t: Tensor, index: Tensor, v: Tensor) -> Tensor:
        """Turn back by phi on that circle: x_0 = sqrt(abar) x_t - sqrt(1 - abar) v.
        Shapes as x_t.
        """
        cos = self.table("sqrt_alphas_cumprod", index, x_t)  # cos φ = √ᾱ_t
        # sin φ = √(1 - ᾱ_t)
        sin = self.table("sqrt_one_minus_alphas_cumprod", index, x_t)
        return cos * x_t - sin * v

    def predict_start(
        self, model_out: Tensor, x_t: Tensor, index: Tensor, clip: Clip = None
    ) -> Tensor:
        """x_0 from the network's output, whichever of the three it predicts. Shapes and
        clip as below.

        Pictures lie in [-1, 1] and a prediction outside can only be wrong: clip bounds
        it to [-clip, clip], or is a function that does (`guidance.dynamic_threshold`);
        None does not.
        """
        prediction, _ = self.split_output(model_out, x_t)  # (B, C, ...)
        if self.prediction == "eps":
            prediction = self.predict_start_from_noise(x_t, index, prediction)
        elif self.prediction == "v":
            prediction = self.predict_start_from_v(x_t, index, prediction)
        if clip is None:
            return prediction
        if callable(clip):
            return clip(prediction)
        return prediction.clamp(-clip, clip)

    def prediction_from_noise(
        self, x_t: Tensor, index: Tensor, noise: Tensor
    ) -> Tensor:
        """What the network would have answered if eps is this noise: eps, x_0 or v, as
        it predicts. Shapes as x_t.
        """
        if self.prediction == "eps":
            return noise
        x0 = self.predict_start_from_noise(x_t, index, noise)
        if self.prediction == "v":
            return self.calculate_v(x0, index, noise)
        return x0

    # --- backward: from x_t to x_(t-1) ------------------------------------------------

    def p_mean_variance(
        self, model_out: Tensor, x_t: Tensor, index: Tensor, clip: Clip = None
    ) -> ReverseStep:
        """One step of the way back, p(x_(t-1) | x_t), from the network's output;
        Eq. (4).

        model_out: shaped like x_t, (B, C, ...), or (B, 2C, ...) when the variance is
        learned: the second half says where it lies. clip bounds the predicted x_0.
        Returns a ReverseStep.
        """
        pred_x0 = self.predict_start(model_out, x_t, index, clip)  # predicted x_0
        # the prediction in place of x_0
        mean, _, _ = self.q_posterior(pred_x0, x_t, index)
        _, raw_variance = self.split_output(model_out, x_t)
        variance, log_variance = self._reverse_variance(raw_variance, x_t, index)
        return ReverseStep(mean, variance, log_variance, pred_x0)

    def split_output(
        self, model_out: Tensor, x_t: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The network's output as (prediction, raw variance), the second None unless
        the variance is learned.

        Both are of x_t's type, even if the network ran in half precision. Raises
        Dalle2EduError if the output has the wrong shape.
        """
        channels = x_t.shape[1]  # C
        learned = self.variance == "learned_range"
        expected = 2 * channels if learned else channels
        if model_out.shape != (len(x_t), expected, *x_t.shape[2:]):
            raise Dalle2EduError(
                f"With variance {self.variance} the network must answer an input of shape"
                f" {tuple(x_t.shape)} with {expected} channels, not with shape"
                f" {tuple(model_out.shape)}."
            )
        model_out = model_out.to(x_t.dtype)  # the equations run in x_t's precision
        if not learned:
            return model_out, None
        # (B, 2C, ...) => 2 x (B, C, ...)
        prediction, raw_variance = model_out.chunk(2, dim=1)
        return prediction, raw_variance

    def _reverse_variance(
        self, raw: Tensor | None, x_t: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """sigma_t^2 and its logarithm, shaped like x_t.

        beta~ is right if x_0 is a single known point, beta if x_0 is itself unit noise
        (DDPM, Section 3.2): the truth lies between them. A learned variance says where,
        on the log scale: improved DDPM (2102.09672), Eq. 15.
        """
        if raw is not None:
            small = self.table("posterior_log_variance", index, x_t)  # log β̃_t
            large = self.table("log_betas", index, x_t)  # log β_t
            # [-1, 1] => [0, 1], but unbounded: nothing keeps the network inside
            share = (raw + 1) / 2
            log_variance = share * large + (1 - share) * small  # (B, C, H, W)
            return log_variance.exp(), log_variance
        fixed_large = self.variance == "fixed_large"
        name = "fixed_large" if fixed_large else "posterior"  # β_t, or β̃_t
        variance = self.table(f"{name}_variance", index, x_t)  # σ_t², (B, 1, 1, 1)
        log_variance = self.table(f"{name}_log_variance", index, x_t)
        return variance.expand_as(x_t), log_variance.expand_as(x_t)  # => (B, C, H, W)

    # --- losses and the bound ---------------------------------------------------------

    def training_losses(
        self,
        model: Callable[..., Tensor],
        x0: Tensor,
        index: Tensor,
        noise: Tensor,
        **conditioning: Tensor,
    ) -> dict[str, Tensor]:
        """What training makes small, each (B,): "loss", its part "mse" and, if the
        variance is learned, "vb".

        loss = mse is L_simple, Eq. (5). A learned variance adds T/1000 L_index (in bits
        per dimension): DDPM's L_simple says nothing about the variance. Improved DDPM
        weighs the whole sum of T terms with 0.001, which is T/1000 for one of them
        drawn at random; and it lets no gradient of that term reach the mean (Section
        3.1, L_hybrid).

        model(x_t, t, **conditioning) returns what `p_mean_variance` reads. x0, noise:
        (B, C, ...); index: (B,).
        """
        x_t = self.q_sample(x0, index, noise)  # (B, C, ...)
        # (B, C or 2C, ...)
        model_out = model(x_t, self.original_timesteps(index), **conditioning)
        prediction, raw_variance = self.split_output(model_out, x_t)
        error = self._target(x0, index, noise) - prediction
        mse = _mean_over_picture(error**2)  # (B, ...) => (B,)
        if raw_variance is None:
            return {"loss": mse, "mse": mse}
        # 2 x (B, C, H, W) => (B, 2C, H, W)
        frozen_mean = torch.cat([prediction.detach(), raw_variance], dim=1)
        # the mean is detached: L_index trains the variance, "mse" trains the mean
        term = self.vlb_term(frozen_mean, x0, x_t, index)  # L_index, (B,)
        vb = term * self.num_timesteps / 1000  # 0.001 of T terms
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def vlb_losses(
        self,
        model: Callable[..., Tensor],
        x0: Tensor,
        index: Tensor,
        noise: Tensor,
        **conditioning: Tensor,
    ) -> dict[str, Tensor]:
        """The bound itself as the loss, its gradient free to reach the mean: "loss" =
        T L_index, (B,).

        The mean over uniformly drawn steps estimates Eq. (6), less L_T, which has
        nothing to learn, in bits per dimension. It is noisy: the terms differ by orders
        of magnitude (improved DDPM, Section 3.3), which is what
        `importance.ImportanceSampler` is for. Arguments as in `training_losses`.
        """
        x_t = self.q_sample(x0, index, noise)
        model_out = model(x_t, self.original_timesteps(index), **conditioning)
        term = self.vlb_term(model_out, x0, x_t, index)  # L_index, (B,)
        return {"loss": term * self.num_timesteps}  # one drawn term stands for all T

    def _target(self, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """What the network should predict."""
        if self.prediction == "eps":
            return noise
        if self.prediction == "v":
            return self.calculate_v(x0, index, noise)
        return x0

    def vlb_term(
        self,
        model_out: Tensor,
        x0: Tensor,
        x_t: Tensor,
        index: Tensor,
        clip: Clip = None,
    ) -> Tensor:
        """One term of the bound, Eq. (6): L_index, which is L_0 where index = 0. (B,),
        bits per dimension.
        """
        # q(x_(t-1) | x_t, x_0) against p(x_(t-1) | x_t)
        true_mean, _, true_log_variance = self.q_posterior(x0, x_t, index)
        step = self.p_mean_variance(model_out, x_t, index, clip)
        kl = normal_kl(true_mean, true_log_variance, step.mean, step.log_variance)
        log_sigma = 0.5 * step.log_variance  # log σ_t
        nll = -discretised_gaussian_log_likelihood(x0, step.mean, log_sigma)
        is_first = index == 0  # L_0 is a likelihood, the other terms are KLs
        nats = torch.where(is_first, _mean_over_picture(nll), _mean_over_picture(kl))
        return nats / math.log(2)  # nats => bits

    def prior_bpd(self, x0: Tensor) -> Tensor:
        """L_T of Eq. (6): what is left of the picture at the last step. (B,), bits per
        dimension.
        """
        T = self.num_timesteps
        # (B,)
        last = torch.full((len(x0),), T - 1, dtype=torch.int64, device=x0.device)
        mean = self.table("sqrt_alphas_cumprod", last, x0) * x0  # √ᾱ_T x_0
        # log(1 - ᾱ_T)
        log_variance = self.table("log_one_minus_alphas_cumprod", last, x0)
        zero = torch.zeros_like(x0)  # the mean, and the log-variance, of N(0, I)
        kl = normal_kl(mean, log_variance, zero, zero)
        return _mean_over_picture(kl) / math.log(2)

    @torch.no_grad()
    def vlb_terms(
        self,
        model: Callable[[Tensor, Tensor], Tensor],
        x0: Tensor,
        noise: Callable[[Sequence[int]], Tensor],
        clip: Clip = None,
    ) -> Tensor:
        """Every term of Eq. (6) but L_T, from L_0 on, each with fresh noise: (B, T),
        bits per dimension.

        model(x_t, t) is closed over its conditioning; noise(shape) gives standard
        normal noise; clip as in `predict_start`.
        """
        terms = []
        for i in range(self.num_timesteps):
            # (B,)
            index = torch.full((len(x0),), i, dtype=torch.int64, device=x0.device)
            eps = noise(x0.shape).to(x0.dtype)  # ε
            x_t = self.q_sample(x0, index, eps)
            model_out = model(x_t, self.original_timesteps(index))
            terms.append(self.vlb_term(model_out, x0, x_t, index, clip))
        return torch.stack(terms, dim=1)  # T x (B,) => (B, T)

    def bits_per_dim(
        self,
        model: Callable[[Tensor, Tensor], Tensor],
        x0: Tensor,
        noise: Callable[[Sequence[int]], Tensor],
        clip: Clip = None,
    ) -> Tensor:
        """The whole bound, Eq. (6): how many bits a dimension of the picture costs
        under this model. (B,).

        Arguments as in `vlb_terms`. x0 is made of bytes mapped to [-1, 1], so 8 is the
        price of knowing nothing.
        """
        terms = self.vlb_terms(model, x0, noise, clip)  # L_0 ... L_(T-1), (B, T)
        return self.prior_bpd(x0) + terms.sum(dim=1)


def index_timesteps(
    n: int, diffusion: GaussianDiffusion, generator: torch.Generator
) -> Tensor:
    """A random step of the process for each of n pictures, all equally likely: int64
    (n,).
    """
    return torch.randint(
        diffusion.num_timesteps,
        size=(n,),
        generator=generator,
        device=generator.device,
    )


def normal_kl(
    mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor
) -> Tensor:
    """KL(N1 || N2) of diagonal Gaussians, element by element, in nats; the arguments
    broadcast.
    """
    ratio = torch.exp(log_variance1 - log_variance2)  # σ_1² / σ_2²
    squared = (mean1 - mean2) ** 2
    distance = squared * torch.exp(-log_variance2)  # (μ_1 - μ_2)² / σ_2²
    return 0.5 * (-1.0 + log_variance2 - log_variance1 + ratio + distance)


def discretised_gaussian_log_likelihood(
    x: Tensor, mean: Tensor, log_scale: Tensor
) -> Tensor:
    """log of the Gaussian's mass on the byte that x stands for, in nats, element by
    element; DDPM Eq. 13.

    x: bytes mapped to [-1, 1], so a byte is 2/255 wide; log_scale: log of the standard
    deviation. The outermost bytes reach to infinity. The floor 1e-12 keeps the
    logarithm of a prediction that is far off finite.
    """
    inverse_scale = torch.exp(-log_scale)  # 1 / σ
    centred = x - mean
    below_upper_edge = normal_cdf(
        (centred + 1 / 255) * inverse_scale
    )  # CDF at x + 1/255
    below_lower_edge = normal_cdf(
        (centred - 1 / 255) * inverse_scale
    )  # CDF at x - 1/255
    mass = below_upper_edge - below_lower_edge
    mass = torch.where(x < -0.999, below_upper_edge, mass)  # byte 0, from -infinity
    mass = torch.where(x > 0.999, 1 - below_lower_edge, mass)  # byte 255, to infinity
    return mass.clamp(min=1e-12).log()


def normal_cdf(x: Tensor) -> Tensor:
    """The standard normal distribution function, in the tanh approximation of the
    released systems.

    It is off by 2e-4 at most. The exact erf would be as short, but then L_0 would
    differ from theirs.
    """
    bent = x + 0.044715 * x**3  # the cubic of GELU's tanh form
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * bent))


def _mean_over_picture(x: Tensor) -> Tensor:
    """(B, ...) => (B,)"""
    return x.flatten(start_dim=1).mean(dim=1)


def _checked_betas(betas: Tensor) -> Tensor:
    """A float64 copy on the CPU, if these are betas."""
    betas = betas.detach().to("cpu", torch.float64)
    inside = (betas > 0) & (betas < 1)
    if betas.dim() != 1 or len(betas) == 0 or not bool(inside.all()):
        raise Dalle2EduError(
            "Betas must be one row of numbers between 0 and 1: take them from a schedule."
        )
    return betas


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise Dalle2EduError(
            f"There is no {what} {value!r}: choose {', '.join(known[:-1])} or {known[-1]}."
        )
