"""Data whose best denoiser is known in closed form, so that samplers can be tested
without a network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dalle2_edu.diffusion.process import GaussianDiffusion


@dataclass(frozen=True)
class GaussianWorld:
    """Pixels drawn from N(mean, std^2), each by itself.

    x_0 and x_t are then jointly Gaussian, and E[x_0 | x_t] and Var[x_0 | x_t] follow
    from linear regression:
        E   = mean + sqrt(abar) std^2 / total (x_t - sqrt(abar) mean),   total = abar std^2 + 1 - abar
        Var = std^2 (1 - abar) / total
    """

    diffusion: GaussianDiffusion
    mean: float
    std: float

    def total(self, abar: Tensor) -> Tensor:
        return abar * self.std**2 + 1 - abar

    def abar(self, t: Tensor, x: Tensor) -> Tensor:
        """abar at the ORIGINAL timestep t, (B,) => (B, 1, ...)"""
        return (
            self.diffusion.alphas_cumprod[t]
            .to(x.dtype)
            .reshape(-1, *[1] * (x.dim() - 1))
        )

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The best answer a network could give, in whatever form the process wants
        it.
        """
        abar = self.abar(t, x_t)
        x0 = self.mean + abar.sqrt() * self.std**2 / self.total(abar) * (
            x_t - abar.sqrt() * self.mean
        )
        eps = (x_t - abar.sqrt() * x0) / (1 - abar).sqrt()
        v = abar.sqrt() * eps - (1 - abar).sqrt() * x0
        return {"eps": eps, "x0": x0, "v": v}[self.diffusion.prediction]

    def denoise_with_variance(
        self, process: GaussianDiffusion, x_t: Tensor, t: Tensor
    ) -> Tensor:
        """The same, with the raw output that makes a learned range the true variance of
        the step back.

        q(x_(t-1) | x_t) has variance beta~ + (coefficient of x_0)^2 Var[x_0 | x_t].
        """
        abar = self.abar(t, x_t)
        index = torch.searchsorted(
            process.timestep_map, t
        )  # original step => place in the (respaced) process
        spread = self.std**2 * (1 - abar) / self.total(abar)
        coefficient = process.table("posterior_mean_coef1", index, x_t)
        variance = (
            process.table("posterior_variance", index, x_t) + coefficient**2 * spread
        )
        small = process.table("posterior_log_variance", index, x_t)
        large = process.table("log_betas", index, x_t)
        share = (variance.log() - small) / (large - small)
        return torch.cat([self.denoise(x_t, t), (2 * share - 1).expand_as(x_t)], dim=1)

    def transport(self, x_T: Tensor, abar: float) -> Tensor:
        """Where noiseless DDIM with endless steps takes x_T: each value keeps its rank
        among the data.
        """
        total = abar * self.std**2 + 1 - abar
        return self.mean + self.std * (x_T - abar**0.5 * self.mean) / total**0.5


@pytest.fixture
def gaussian_world() -> Callable[[GaussianDiffusion, float, float], GaussianWorld]:
    return GaussianWorld
