r"""Classifier-free guidance: follow the text more strongly than the network does by
itself.

A network that was trained with its condition dropped now and then (10-20% of the time)
knows two answers: one with the condition, one without. Their difference points towards
what the condition adds. Guidance goes further in that direction than the network would:
the pictures fit their texts better, and vary less.

    guided = null + s (conditional - null)                Imagen (2205.11487), Eq. 2; GLIDE has the same s

s = 1 is the plain conditional network: guidance is off. s = 0 ignores the condition. Ho
and Salimans (2207.12598), who found the method, count from the other side: (1 + w)
conditional - w null, so w = s - 1.

Why it works: the answer eps is, up to a factor, minus the gradient of log p(x_t | y)
(Chapter 10), and by Bayes' rule the difference of the two is the gradient of log p(y |
x_t): that of a classifier which nobody trained. s > 1 makes that
classifier count more. It is often said that one then samples from p(x) p(y | x)^s; that
is not so (`mixtures.py`), but both are sharper around y.

Three variations. A *negative prompt* stands where the null condition does: guidance
then leads away from it. Guidance *in an interval* of timesteps (2404.07724) leaves it
out where it only harms: at the highest noise it narrows the choice of pictures, at the
lowest it changes nothing but contrast. And *dynamic thresholding* (Imagen, section 2.3)
answers what a large scale does to the predicted x_0, which leaves [-1, 1]: clipping
cuts each pixel for itself and saturates the colours, thresholding shrinks the whole
picture.

    x_0 -> clip(x_0, -c, c) / c,    c = max(1, the p-quantile of |x_0|)

Chapter 11 (classifier-free guidance). The unCLIP paper guides its decoder (chapter 16)
and leaves the prior unguided (chapter 15).
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError

Denoiser = Callable[[Tensor, Tensor], Tensor]  # model(x_t, t)


def classifier_free(
    model: Callable[..., Tensor],
    scale: float,
    null_conditioning: Mapping[str, Tensor],
    conditioning: Mapping[str, Tensor],
) -> Denoiser:
    """A denoiser (x_t, t) that guides model(x_t, t, **conditioning) by the scale s.

    The two conditionings hold the same names and shapes, each tensor (B, ...). Null and
    conditional run as one batch of 2B, so a step is one call of the network; with s = 1
    it is one call of B, and the null is not used. If the network answers 2C channels
    for C, the second half is its variance: that stays the conditional one, since the
    difference says where the mean should go and nothing about how sure it is. Raises
    Dalle2EduError if the conditionings differ in form, and for a scale that is no
    number.
    """
    if not math.isfinite(scale):  # every pixel would be nan, which is drawn as black
        raise Dalle2EduError(
            f"The guidance scale must be a finite number, not {scale}."
        )
    _check_alike(null_conditioning, conditioning)
    if scale == 1:
        # null + 1 (conditional - null): the null would be computed in vain
        return lambda x_t, t: model(x_t, t, **conditioning)
    # 2 x (B, ...) => (2B, ...), null first
    both = {
        name: torch.cat([null_conditioning[name], conditioning[name]])
        for name in conditioning
    }

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        x_twice = torch.cat([x_t, x_t])  # (2B, C, ...)
        t_twice = torch.cat([t, t])  # (2B,)
        out = model(x_twice, t_twice, **both)  # (2B, C or 2C, ...)
        null, conditional = out.chunk(2)  # (B, C or 2C, ...) each
        return guide(null, conditional, scale, channels=x_t.shape[1])

    return guided


def guide(null: Tensor, conditional: Tensor, scale: float, channels: int) -> Tensor:
    """null + s (conditional - null) in the first `channels` channels; the others stay
    the conditional's.
    """
    null_mean = null[:, :channels]  # (B, C, ...)
    conditional_mean = conditional[:, :channels]  # (B, C, ...)
    variance = conditional[:, channels:]  # (B, 0 or C, ...)
    guided = null_mean + scale * (conditional_mean - null_mean)
    return torch.cat([guided, variance], dim=1)  # (B, C or 2C, ...)


def within(guided: Denoiser, plain: Denoiser, low: int, high: int) -> Denoiser:
    """Guided for timesteps from low to high, plain outside of them; 2404.07724,
    section 3.

    plain is the conditional network without guidance: outside of the interval a step
    costs one pass in place of two. t must be the same for the whole batch, as the
    samplers have it. Raises Dalle2EduError for an empty interval.
    """
    if low > high:
        raise Dalle2EduError(f"Guidance from timestep {low} to {high} is never on.")

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        inside = low <= int(t[0]) <= high
        return guided(x_t, t) if inside else plain(x_t, t)

    return model


def dynamic_threshold(x0: Tensor, quantile: float = 0.995) -> Tensor:
    """Each picture's predicted x_0 (B, ...) brought into [-1, 1] by its own largest
    values; Imagen (2205.11487), section 2.3 and Figure A.10.

    c is the quantile of the picture's |x_0|. Where c <= 1 it is plain clipping.
    """
    sizes = x0.flatten(1).abs()  # (B, C H W)
    c = torch.quantile(sizes, quantile, dim=1).clamp(min=1)  # (B,)
    c = c.reshape(-1, *[1] * (x0.dim() - 1))  # (B, 1, 1, 1)
    return torch.minimum(torch.maximum(x0, -c), c) / c


def _check_alike(null: Mapping[str, Tensor], conditional: Mapping[str, Tensor]) -> None:
    if null.keys() != conditional.keys():
        raise Dalle2EduError(
            f"The null condition holds {sorted(null)}, the condition {sorted(conditional)}."
        )
    for name, tensor in conditional.items():
        shape = tuple(tensor.shape)
        # tensors that do not match would broadcast or fail deep in the network
        null_shape = tuple(null[name].shape)
        if null_shape != shape:
            raise Dalle2EduError(
                f"The null {name} is shaped {null_shape}, the condition {shape}."
            )
