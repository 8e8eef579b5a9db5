"""Muon: a matrix is moved by the same length in each of its directions.

The idea in five lines. A layer's gradient is a matrix, and a few of its singular values
are far larger than the others: plain descent moves the weights along a few directions
only. Muon replaces the (averaged) gradient U S V^T by U V^T, the nearest orthogonal
matrix, so that rare directions are learned as fast as common ones. A singular value
decomposition would be slow; five steps of a polynomial that pushes all singular values
towards 1 do nearly the same.

    M_t = mu M_{t-1} + G_t
    W  <- W - lr (0.2 sqrt(max(rows, columns)) Orth(mu M_t + G_t) + decay W)

K. Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024). The factor
0.2 sqrt(max(rows, columns)) gives an update the size that AdamW's has (arXiv
2502.16982), so both share one learning rate. A convolution's kernel (out, in, 3, 3) is
read as the matrix (out, in * 9). Vectors, embeddings and the first and last layers are
not matrices in this sense: they stay with AdamW.

The zoo's networks were trained with it (RESULTS.md has the comparison).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# The quintic's coefficients (a, b, c): steep at 0, so that small singular values grow
# fast.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(gradients: Tensor, steps: int = 5) -> Tensor:
    """Matrices (N, rows, columns) -> about the nearest orthogonal ones, singular values
    0.7-1.2.

    Newton-Schulz: X <- a X + b (X X^T) X + c (X X^T)^2 X acts on the singular values
    alone."""
    a, b, c = QUINTIC
    tall = gradients.shape[1] > gradients.shape[2]
    x = gradients.mT if tall else gradients  # the smaller side first: X X^T is small
    x = x / (
        x.flatten(1).norm(dim=1)[:, None, None] + 1e-7
    )  # all singular values below 1
    for _ in range(steps):
        gram = x @ x.mT  # (N, r, r)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


# what is no matrix inside the network: its first and last layer, and tables of vectors
EDGES = {
    "stem",
    "head",
    "token",
    "position",
    "query",
    "token_embedding",
    "positional_embedding",
}


def is_hidden_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon takes this parameter: a matrix or a kernel inside the network."""
    return weight.dim() >= 2 and EDGES.isdisjoint(name.split("."))


class Muon(torch.optim.Optimizer):
    """Muon for a network's matrices and AdamW for the rest, as one optimiser."""

    def __init__(
        self,
        model: nn.Module,
        lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
    ):
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        matrices = [p for n, p in trained.items() if is_hidden_matrix(n, p)]
        others = [p for n, p in trained.items() if not is_hidden_matrix(n, p)]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "muon": True, "weight_decay": weight_decay},
            {"params": others, "muon": False, "weight_decay": 0.0},
        ]
        settings = {"lr": lr, "momentum": momentum, "betas": betas}
        super().__init__([group for group in groups if group["params"]], settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "Muon evaluates nothing itself"
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self.move_matrices(weights, group)
            else:
                self.move_with_adam(weights, group)

    def move_matrices(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Muon's step. Matrices of one shape are orthogonalised together."""
        alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for weight in weights:
            alike[weight.flatten(1).shape].append(weight)
        for shape, several in alike.items():
            gradients = [self.nesterov(weight, group["momentum"]) for weight in several]
            updates = orthogonalise(torch.stack(gradients))  # (N, rows, columns)
            size = 0.2 * max(shape) ** 0.5
            for weight, update in zip(several, updates, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view_as(weight), alpha=-group["lr"] * size)

    def nesterov(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """The averaged gradient, one step ahead: mu M_t + G_t as a matrix."""
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        average = state["momentum"].mul_(momentum).add_(weight.grad)  # M_t
        return weight.grad.add(average, alpha=momentum).flatten(1)

    def move_with_adam(
        self, weights: list[nn.Parameter], group: dict[str, Any]
    ) -> None:
        """AdamW's step, without decay: what is no matrix is small."""
        beta1, beta2 = group["betas"]
        for weight in weights:
            assert weight.grad is not None
            state = self.state[weight]
            if "step" not in state:
                state["step"] = torch.zeros(())
                state["mean"] = torch.zeros_like(weight)
                state["square"] = torch.zeros_like(weight)
            state["step"] += 1
            k = float(state["step"])
            state["mean"].lerp_(weight.grad, 1 - beta1)
            state["square"].lerp_(weight.grad.square(), 1 - beta2)
            mean = state["mean"] / (1 - beta1**k)
            spread = (state["square"] / (1 - beta2**k)).sqrt_().add_(1e-8)
            weight.addcdiv_(mean, spread, value=-group["lr"])
