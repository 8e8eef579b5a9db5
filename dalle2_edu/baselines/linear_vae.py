r"""The one VAE that can be solved with a pencil: everything in it is linear.

The idea in five lines. Let the decoder be a matrix and the data be anything. The model
is then probabilistic PCA: x is Gaussian, its exact likelihood is one determinant, its
best weights are the data's principal axes, and the true posterior is Gaussian with a
covariance that is the same for all x. So the encoder of a *linear* VAE can be perfect,
the bound touches the likelihood, and every claim about VAEs has a number to be held to.

    (1) model          x = W z + b + s eps,     z ~ N(0, I),  eps ~ N(0, I)          Tipping and Bishop 1999, Eq. 2
        likelihood     log p(x) = log N(x; b, C),    C = W W^T + s^2 I               Eq. 4
        posterior      p(z|x) = N(M^-1 W^T (x - b), s^2 M^-1),   M = W^T W + s^2 I   Eq. 6
    (2) best weights   W = U (Lambda - s^2 I)^(1/2),   s^2 = mean of the variances left out   Eqs. 7, 8
    (3) the bound      log p(x) - KL(q(z|x) || p(z|x)),   largest over q for the true posterior
    (4) collapse       with s^2 or beta given, number j of z stays silent
                       if lambda_j <= beta s^2                                       1911.02469, section 4
    (5) rate, distortion at theta = beta s^2: each axis of variance lambda_j costs
                       rate_j = max(0, log(lambda_j / theta) / 2),   leaves min(lambda_j, theta)
                       Shannon's reverse water-filling, Cover and Thomas, Theorem 10.3.3

lambda_j are the eigenvalues of the data's covariance, U their axes. (5) is what any
coder of a Gaussian source can reach at best, so a linear beta-VAE *is* an optimal
coder, and beta is its price. (4) is the same formula read the other way: water above
the mountain.

Chapter 04 (autoencoders) uses this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dalle2_edu.baselines.autoencoders import kl_to_prior
from dalle2_edu.errors import Dalle2EduError


@dataclass(frozen=True)
class Ppca:
    """Probabilistic PCA, Eq. (1); D dimensions of data, K of the latent."""

    weight: Tensor  # W, (D, K)
    bias: Tensor  # b, (D,)
    variance: Tensor  # s^2, a scalar

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x), exactly, in nats: (N, D) => (N,)."""
        noise = self.variance * torch.eye(len(self.bias), dtype=x.dtype)
        covariance = self.weight @ self.weight.T + noise  # C, (D, D)
        normal = torch.distributions.MultivariateNormal(self.bias, covariance)
        return normal.log_prob(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """p(z|x): its means (N, K), and the covariance (K, K) that all x share."""
        identity = torch.eye(self.weight.shape[1], dtype=x.dtype)
        inverse = torch.linalg.inv(
            self.weight.T @ self.weight + self.variance * identity
        )  # M^-1, (K, K)
        mean = (x - self.bias) @ self.weight @ inverse  # (N, D) (D, K) (K, K)
        return mean, self.variance * inverse


def spectrum(x: Tensor) -> tuple[Tensor, Tensor]:
    """The variances lambda (D,) along the data's principal axes, largest first, and the
    axes U (D, D), one a column. x: (N, D).

    The covariance is divided by N, as maximum likelihood has it.
    """
    if x.ndim != 2 or len(x) < 2:
        raise Dalle2EduError(
            f"A spectrum is of two or more points (N, D), not of {tuple(x.shape)}."
        )
    covariance = torch.cov(x.T, correction=0)  # (D, D)
    variances, axes = torch.linalg.eigh(covariance)  # smallest first
    return variances.flip(0), axes.flip(1)


def fit_ppca(x: Tensor, latent: int) -> Ppca:
    """The weights of highest likelihood for x (N, D), Eq. (2): no search is needed.

    Raises Dalle2EduError unless 1 <= latent < D.
    """
    if not 1 <= latent < x.shape[1]:
        raise Dalle2EduError(
            f"latent is {latent}; of {x.shape[1]} dimensions it must leave out one or"
            " more, and keep one."
        )
    variances, axes = spectrum(x)
    noise = variances[latent:].mean()  # s^2: what the axes left out have on average
    lengths = (variances[:latent] - noise).sqrt()  # (Lambda - s^2 I)^(1/2)
    return Ppca(axes[:, :latent] * lengths, x.mean(dim=0), noise)


class LinearVae(nn.Module):
    """A VAE whose encoder and decoder are matrices; it knows the bound in closed form.

    The posterior's variances are the same for all x: for this model that is no
    restriction, Eq. (1). Its axes are those of z, which is one.
    """

    def __init__(self, dimensions: int, latent: int):
        super().__init__()
        self.encoder = nn.Linear(dimensions, latent)  # mu(x)
        self.log_variance = nn.Parameter(torch.zeros(latent))  # log sigma^2
        self.decoder = nn.Linear(latent, dimensions)  # W, b
        self.log_scale = nn.Parameter(torch.zeros(()))  # log s

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distortion (N,) and rate (N, K), in nats, with no noise drawn: (N, D) in.

        E_q |x - W z - b|^2 = |x - W mu - b|^2 + sum_j |w_j|^2 sigma_j^2.
        """
        error = self.squared_error(x)  # (N,)
        D = x.shape[1]
        constant = D * (self.log_scale + 0.5 * math.log(2 * math.pi))
        distortion = 0.5 * error * torch.exp(-2 * self.log_scale) + constant
        mean = self.encoder(x)  # (N, K)
        return distortion, kl_to_prior(mean, self.log_variance.expand_as(mean))

    def squared_error(self, x: Tensor) -> Tensor:
        """E_q |x - W z - b|^2: (N, D) => (N,)."""
        missed = (x - self.decoder(self.encoder(x))).square().sum(dim=1)  # (N,)
        lengths = self.decoder.weight.square().sum(dim=0)  # |w_j|^2, (D, K) => (K,)
        return missed + lengths @ self.log_variance.exp()

    def as_ppca(self) -> Ppca:
        """The decoder alone, as the model that it is."""
        variance = torch.exp(2 * self.log_scale.detach())
        weight = self.decoder.weight.detach()
        return Ppca(weight, self.decoder.bias.detach(), variance)

    @torch.no_grad()
    def set_exact(self, model: Ppca) -> None:
        """Take over a model's decoder, and the best encoder for it: the posterior's
        mean, and the best variances that have no covariances between them.

        Those are 1 / the diagonal of the posterior's precision M / s^2. They are the
        true ones if W's columns are at right angles.
        """
        W, s2 = model.weight, model.variance
        M = W.T @ W + s2 * torch.eye(W.shape[1], dtype=W.dtype)
        inward = torch.linalg.solve(M, W.T)  # M^-1 W^T, (K, D)
        self.encoder.weight.copy_(inward)
        self.encoder.bias.copy_(-inward @ model.bias)
        self.log_variance.copy_((s2 / M.diagonal()).log())
        self.decoder.weight.copy_(W)
        self.decoder.bias.copy_(model.bias)
        self.log_scale.copy_(0.5 * s2.log())


def water_filling(variances: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """The fewest nats with which a Gaussian source can be written down, and the mean
    square error that is left, both for each axis; Eq. (5).

    variances (D,). theta is the water level: an axis below it is not written at all.
    Raises Dalle2EduError unless theta is above 0.
    """
    if not theta > 0:
        raise Dalle2EduError(f"theta is {theta}; an error of 0 takes endless bits.")
    rate = 0.5 * (variances / theta).clamp(min=1).log()
    return rate, variances.clamp(max=theta)
