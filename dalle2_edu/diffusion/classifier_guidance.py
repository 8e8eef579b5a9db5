r"""Classifier guidance: a second network pulls the walk towards a class.

The idea: a classifier that reads noisy pictures knows log p(y | x_t), and its gradient
with respect to the picture says which change of the pixels makes the class more likely.
By Bayes' rule that gradient, added to the score of all pictures, is the score of the
pictures of one class. So a diffusion model can be steered by a network that it never
met in training.

    grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t)                 Bayes' rule
    mean'  = mean + s Sigma grad log p(y | x_t)                                 ADM (2105.05233), Algorithm 1:
                                                                                `ancestral_sample(..., gradient=)`
    eps'   = eps - s sqrt(1 - abar) grad log p(y | x_t)                         ADM, Algorithm 2

Algorithm 1 shifts the mean of a noisy step, and is a first-order expansion: good where
the step is short. Algorithm 2 changes the score itself, so it works without noise too
(DDIM). s > 1 makes the pull stronger than Bayes' rule has it: then the pictures fit
their class better and vary less. What distribution the walk then draws from is another
question, which chapter 10 answers in a world where it can be computed (`mixtures.py`):
it is not p(x) p(y | x)^s.

Chapter 10 uses this file.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu.diffusion.process import Clip, GaussianDiffusion
from dalle2_edu.diffusion.samplers import Denoiser

Classifier = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> logits (B, classes)
Gradient = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> shaped like x_t


def class_gradient(classifier: Classifier, y: Tensor, scale: float = 1.0) -> Gradient:
    """s grad log p(y | x_t), as a function of (x_t, t); y (B,) are the wished classes.

    Each picture's logarithm hangs on its own pixels alone, so the gradient of the sum
    holds all B gradients side by side. Works inside of `torch.no_grad()`.
    """

    def gradient(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            log_probabilities = F.log_softmax(classifier(x, t), dim=-1)  # (B, classes)
            wished = log_probabilities.gather(1, y[:, None]).sum()
            (grad,) = torch.autograd.grad(wished, x)
        return scale * grad

    return gradient


def shifted_start(
    x0: Tensor,
    gradient: Tensor,
    x_t: Tensor,
    index: Tensor,
    diffusion: GaussianDiffusion,
) -> Tensor:
    """ADM, Algorithm 2, for a predicted x_0: turn it into eps, take s sqrt(1 - abar) grad log
    p(y | x_t) away, turn it back. All shaped like x_t; index (B,).

    gradient already holds the scale. The answer is (1 - abar) / sqrt(abar) gradient
    larger, far outside of [-1, 1] where the noise is strong.
    """
    eps = diffusion.predict_noise_from_start(x_t, index, x0)
    sigma = diffusion.table("sqrt_one_minus_alphas_cumprod", index, eps)  # √(1 - ᾱ_t)
    return diffusion.predict_start_from_noise(x_t, index, eps - sigma * gradient)


def classifier_guided(
    model: Denoiser,
    gradient: Gradient,
    diffusion: GaussianDiffusion,
    clip: Clip = 1.0,
) -> Denoiser:
    """A denoiser (x_t, t) whose prediction is changed by Algorithm 2, for any sampler.

    diffusion: the process that the network was trained on, not respaced, so that t is
    the step's index in it. clip bounds the network's own x_0 before the gradient is
    added, as ADM's code does; the sampler's clip comes after it, and ADM has none there.
    What the network predicts, eps, x_0 or v, stays what the new denoiser answers. A
    learned variance is passed on as it is.
    """

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        out = model(x_t, t)  # (B, C or 2C, ...)
        channels = x_t.shape[1]
        variance = out[:, channels:]  # (B, 0 or C, ...)
        x0 = diffusion.predict_start(out, x_t, t, clip)
        x0 = shifted_start(x0, gradient(x_t, t), x_t, t, diffusion)
        eps = diffusion.predict_noise_from_start(x_t, t, x0)
        prediction = diffusion.prediction_from_noise(x_t, t, eps)
        return torch.cat([prediction, variance], dim=1)

    return guided
