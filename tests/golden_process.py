"""Hold `GaussianDiffusion` to what the released process computed on a fixed model
output.

Schedule arrays are float64 on both sides and agree to 1e-6 relative, entry by entry (in
fact to 1e-13).

The per-step tensors were computed in float32, so we compute in float32 as well: the
same operations in the same order give the same rounding, and almost all of them come
out bit for bit. The bar is 1e-6 of the largest value in the picture. Three places need
a word: - The DDIM steps take sqrt(1 - abar), which the released code computes from abar
rounded to float32; near abar = 1 that
  loses three digits. We keep float64 there, so the check hands our formula the rounded abar; with the exact
  one the result differs by 6e-6.
- The KL terms (vb, the loss that holds it, the prior term) subtract numbers near 1, so
  one unit
  in the last place of a float32 1 (1.2e-7), in bits and scaled as they are, is granted on top.
- Nothing else: no tolerance was fitted to the result.
"""

import math

import torch
from torch import Tensor

from dalle2_edu.diffusion.classifier_guidance import shifted_start
from dalle2_edu.diffusion.process import GaussianDiffusion, Prediction
from dalle2_edu.diffusion.samplers import ddim_move
from dalle2_edu.diffusion.schedules import named_betas

OURS: dict[str, Prediction] = {"epsilon": "eps", "start_x": "x0", "v": "v"}
FLOAT32_ULP = 2.0**-23
RTOL = 1e-6


def check_process(config: dict, tensors: dict[str, Tensor]) -> None:
    """Assert that our process, built from the file's config, gives the file's outputs
    from its inputs.
    """
    assert config["loss"] == "rescaled_mse", f"unknown loss {config['loss']}"
    diffusion = GaussianDiffusion(
        named_betas(config["schedule"], config["steps"]),
        OURS[config["mean"]],
        config["variance"],
    ).respace(config["respacing"] or config["steps"])
    ours = arrays(diffusion) | steps(diffusion, tensors) | losses(diffusion, tensors)
    theirs = {
        name.removeprefix("output."): t
        for name, t in tensors.items()
        if name.startswith("output.")
    }
    assert theirs.keys() <= ours.keys(), (
        f"nothing of ours answers to {theirs.keys() - ours.keys()}"
    )
    for name, expected in theirs.items():
        assert_close(name, ours[name], expected, diffusion.num_timesteps)


def check_guided(config: dict, tensors: dict[str, Tensor]) -> None:
    """Assert that the mean and the score shifted by a fixed gradient are those of ADM's
    released code.
    """
    diffusion = GaussianDiffusion(
        named_betas(config["schedule"], config["steps"]),
        OURS[config["mean"]],
        config["variance"],
    ).respace(config["respacing"])
    index, x_t = tensors["input.index"], tensors["input.x_t"]
    gradient = tensors["input.gradient"]
    step = diffusion.p_mean_variance(tensors["input.model_out"], x_t, index, clip=1.0)
    x0 = shifted_start(step.pred_x0, gradient, x_t, index, diffusion)
    eps = diffusion.predict_noise_from_start(x_t, index, x0)
    # rounded, as the released code reads its tables
    abar_prev = diffusion.alphas_cumprod_prev[index].float().tolist()
    moved = [ddim_move(x0[b], eps[b], abar) for b, abar in enumerate(abar_prev)]
    ours = {
        "condition_mean": step.shifted(gradient).mean,
        "condition_score_pred_x0": x0,
        "condition_score_mean": diffusion.q_posterior(x0, x_t, index)[0],
        "ddim_step": torch.stack(moved),
    }
    for name, tensor in ours.items():
        assert_close(name, tensor, tensors[f"output.{name}"], diffusion.num_timesteps)


def arrays(diffusion: GaussianDiffusion) -> dict[str, Tensor]:
    names = ["timestep_map", "betas", "alphas_cumprod", "posterior_variance"]
    return {name: getattr(diffusion, name) for name in names}


def steps(
    diffusion: GaussianDiffusion, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    index, x_t = tensors["input.index"], tensors["input.x_t"]
    torch.testing.assert_close(
        diffusion.q_sample(tensors["input.x0"], index, tensors["input.noise"]),
        x_t,
        rtol=RTOL,
        atol=RTOL,
    )
    mean, _, log_variance = diffusion.q_posterior(tensors["input.x0"], x_t, index)
    step = diffusion.p_mean_variance(tensors["input.model_out"], x_t, index, clip=1.0)
    eps = diffusion.predict_noise_from_start(x_t, index, step.pred_x0)

    def move(abars: Tensor) -> Tensor:
        rounded = abars[index].float().tolist()  # as the released code reads its tables
        return torch.stack(
            [ddim_move(step.pred_x0[b], eps[b], abar) for b, abar in enumerate(rounded)]
        )

    return {
        "posterior_mean": mean,
        "posterior_log_variance": log_variance,
        "p_mean": step.mean,
        "p_log_variance": step.log_variance,
        "pred_x0": step.pred_x0,
        "ddim_step": move(diffusion.alphas_cumprod_prev),
        "ddim_reverse_step": move(diffusion.alphas_cumprod_next),
    }


def losses(
    diffusion: GaussianDiffusion, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    x0, index, noise = (
        tensors["input.x0"],
        tensors["input.index"],
        tensors["input.noise"],
    )
    terms = diffusion.training_losses(
        lambda x_t, t: tensors["input.model_out"], x0, index, noise
    )
    return {f"loss_{name}": term for name, term in terms.items()} | {
        "prior_bpd": diffusion.prior_bpd(x0)
    }


def assert_close(name: str, ours: Tensor, theirs: Tensor, num_timesteps: int) -> None:
    """Arrays entry by entry; the rest against the largest value of each picture."""
    assert ours.shape == theirs.shape, name
    assert ours.dtype == theirs.dtype, name
    if not theirs.dtype.is_floating_point:
        assert torch.equal(ours, theirs), name
        return
    scale = theirs.abs()
    if theirs.dim() > 1:
        scale = (
            scale.flatten(1).amax(dim=1).reshape(-1, *[1] * (theirs.dim() - 1))
        )  # (B, 1, 1, 1)
    error, allowed = (
        (ours - theirs).abs(),
        RTOL * scale + rounding_of_ones(name, num_timesteps),
    )
    assert bool((error <= allowed).all()), (
        f"{name}: off by {(error / allowed).max():.2f} times what is allowed"
    )


def rounding_of_ones(name: str, num_timesteps: int) -> float:
    bits = FLOAT32_ULP / math.log(2)
    if name in ("loss_vb", "loss_loss"):
        return bits * num_timesteps / 1000
    return bits if name == "prior_bpd" else 0.0
