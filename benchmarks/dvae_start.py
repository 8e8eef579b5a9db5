"""How a small dVAE can begin: four ways, the same networks, pictures and steps.

    python benchmarks/dvae_start.py --steps 500

    codes, squared error      a VQ-VAE (`VqDvae`), as the recipe `vq-dvae` trains it
    codes, logit-Laplace      the same with the dVAE's likelihood in place of the error
    words, the bound          a dVAE from scratch: Gumbel noise, temperature 1 -> 1/16, beta 0 -> 6.6
    words, squared error      the same with the squared error beside the likelihood, beta 0

Printed for each: the squared error of 400 fresh pictures of shapes drawn from their
likeliest words, how many words are in use (perplexity), and the processor's minutes.
Chapter 05 shows the table. One thread; one seed.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.baselines.dvae import (
    SMALL,
    Dvae,
    cosine_ramp,
    dvae_loss,
    logit_laplace_nll,
    squeeze,
    unsqueeze,
)
from dalle2_edu.baselines.vqvae import VqDvae, perplexity
from dalle2_edu.data import shapes
from dalle2_edu.recipes.codes import BETA, ERROR_WEIGHT, KEPT, LEAST_LN_B, few_pictures
from dalle2_edu.recipes.data import to_float

BATCH = 16
RATE = 2e-3


def codes_loss(model: VqDvae, images: Tensor, laplace: bool) -> Tensor:
    """The loss of a VQ-VAE, with either likelihood."""
    x = squeeze((images + 1) / 2)
    out = model.quantizer(model.encoder(x))
    mu, ln_b = model.decoder(out.z_q).chunk(2, dim=1)
    error = ERROR_WEIGHT * F.mse_loss(torch.sigmoid(mu), x)
    if laplace:
        error = logit_laplace_nll(x, mu, ln_b.clamp_min(LEAST_LN_B)).mean()
    return error + BETA * out.commitment


def words_loss(
    model: Dvae, images: Tensor, progress: float, squared: bool, noise: torch.Generator
) -> Tensor:
    """The loss of a dVAE, with or without the squared error."""
    temperature = cosine_ramp(1.0, 1 / 16, progress / 0.75)
    beta = 0.0 if squared else cosine_ramp(0.0, 6.6, progress / 0.02)
    logits, mu, ln_b = model(images, temperature, noise)
    loss, _, _ = dvae_loss(images, logits, mu, ln_b.clamp_min(LEAST_LN_B), beta)
    if squared:
        x = squeeze((images + 1) / 2)
        loss = loss + KEPT * F.mse_loss(torch.sigmoid(mu), x)
    return loss


def trained(name: str, pictures: Tensor, steps: int) -> nn.Module:
    """One of the four, after so many steps."""
    torch.manual_seed(0)
    model = VqDvae() if name.startswith("codes") else Dvae(SMALL)
    adam = torch.optim.Adam(model.parameters(), RATE, betas=(0.9, 0.99))
    noise = torch.Generator().manual_seed(0)
    for step in range(steps):
        rise = min(1.0, (step + 1) / 50)
        for group in adam.param_groups:
            group["lr"] = RATE * rise * 0.5 * (1 + math.cos(math.pi * step / steps))
        images = to_float(
            pictures[torch.randint(len(pictures), (BATCH,), generator=noise)]
        )
        if isinstance(model, VqDvae):
            loss = codes_loss(model, images, laplace=name.endswith("Laplace"))
        else:
            squared = name.endswith("error")
            loss = words_loss(model, images, step / steps, squared, noise)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    return model.eval()


@torch.no_grad()
def measure(model: nn.Module, real: Tensor) -> tuple[float, float]:
    """The squared error in [-1, 1], and the perplexity of the words."""
    if isinstance(model, VqDvae):
        drawn, _, codes = model(real)
        back = 2 * unsqueeze(drawn) - 1
    else:
        codes = model.encode(real)
        back = model.decode(codes)
    return F.mse_loss(back, real).item(), perplexity(codes, SMALL.vocab_size).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=500)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    pictures = few_pictures("shared", "cpu", 32)
    real = to_float(shapes.pairs(400, 32, seed=5).images)
    for name in (
        "codes, squared error",
        "codes, logit-Laplace",
        "words, the bound",
        "words, squared error",
    ):
        begun = time.process_time()
        error, used = measure(trained(name, pictures, steps), real)
        minutes = (time.process_time() - begun) / 60
        print(
            f"{name:22} error {error:.4f}  perplexity {used:5.0f}  {minutes:.1f} minutes",
            flush=True,
        )


if __name__ == "__main__":
    main()
