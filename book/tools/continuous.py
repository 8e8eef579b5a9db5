"""Draw the figure of the page on continuous time, book/assets/continuous.svg:

    python book/tools/continuous.py

Twenty-one starting points of noise are carried to two kinds of pictures (single
numbers, near -1 and near 2) by the probability-flow equation, and the same curves are
drawn in the coordinates of three papers. The labels are formulas, so one figure serves
both languages.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from dalle2_edu.diffusion.continuous import edm_sigmas, heun_sample

FILE = Path(__file__).parents[1] / "assets" / "continuous.svg"
MEANS = torch.tensor([-1.0, 2.0], dtype=torch.float64)
SHARES = torch.tensor([0.4, 0.6], dtype=torch.float64)
STD = 0.2
SIGMA_MAX = 20.0
ENDS = ["#0b5cad", "#c2410c"]  # the curves' colours, by where they end


def clean(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x] for x = x_0 + sigma eps: (B,) and (B,) -> (B,)."""
    variance = STD**2 + sigma[:, None] ** 2  # (B, 1)
    apart = x[:, None] - MEANS  # (B, 2)
    weights = (SHARES.log() - apart**2 / (2 * variance)).softmax(dim=1)
    return (weights * (MEANS + STD**2 / variance * apart)).sum(dim=1)


def main() -> None:
    """Compute the curves and write the figure."""
    sigmas = edm_sigmas(150, sigma_min=0.01, sigma_max=SIGMA_MAX)
    x = SIGMA_MAX * torch.linspace(-2, 2, 21, dtype=torch.float64)
    curve = [x]
    for i in range(len(sigmas) - 1):
        curve.append(heun_sample(clean, curve[-1], sigmas[i : i + 2]))
    path = torch.stack(curve)  # (levels, B)
    colours = [ENDS[int(end > 0.5)] for end in path[-1].tolist()]

    level = sigmas[:, None]
    vp_noise = (level / (1 + level**2).sqrt()).flatten()  # DDPM's sigma
    flow_time = (level / (1 + level)).flatten()
    panels = [
        (r"$x=x_0+\sigma\varepsilon$", r"$\sigma$", sigmas, path),
        (r"$x=\alpha x_0+\sigma\varepsilon,\ \alpha^2+\sigma^2=1$", r"$\sigma$", vp_noise,
         path / (1 + level**2).sqrt()),
        (r"$x=(1-t)\,x_0+t\,\varepsilon$", r"$t$", flow_time, path / (1 + level)),
    ]  # fmt: skip
    matplotlib.rcParams["svg.hashsalt"] = "dalle2_edu"  # the same file every time
    figure, axes = plt.subplots(3, 1, figsize=(4.6, 7.4), layout="constrained")
    for panel, (title, axis, where, values) in zip(axes, panels, strict=True):
        for i, colour in enumerate(colours):
            panel.plot(where, values[:, i], color=colour, linewidth=1)
        panel.set_title(title, fontsize=12)
        panel.set_xlabel(axis, fontsize=12)
        panel.set_ylabel("$x$", fontsize=12)
        panel.invert_xaxis()  # noise to the left, as sampling goes
    figure.savefig(FILE, metadata={"Date": None})
    print(FILE)


if __name__ == "__main__":
    main()
