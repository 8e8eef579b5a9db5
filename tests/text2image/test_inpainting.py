"""Inpainting by replacement: the walk, what is kept, what resampling is good for, and
the seam.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.inpainting import repaint, repaint_walk, seam

CORRELATION = 0.9


def process(steps: int) -> GaussianDiffusion:
    return GaussianDiffusion(cosine_betas(1000), prediction="x0").respace(steps)


class TwinPixels:
    """Pictures of two pixels, N(0, [[1, rho], [rho, 1]]): the best guess E[x_0 | x_t]
    is linear in x_t.
    """

    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]])
    abar = GaussianDiffusion(cosine_betas(1000)).alphas_cumprod.float()

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        abar = self.abar[t[0]]
        noisy = abar * self.covariance + (1 - abar) * torch.eye(2)
        gain = abar.sqrt() * self.covariance @ torch.linalg.inv(noisy)  # (2, 2)
        return (x_t.flatten(1) @ gain.T).reshape(x_t.shape)


def paint_the_second_pixel(n: int, resamples: int) -> tuple[Tensor, Tensor]:
    first = torch.randn(n, 1, 1, 1)
    known, mask = first.expand(n, 1, 1, 2), torch.tensor([False, True])
    painted = repaint(
        TwinPixels(),
        process(40),
        known,
        mask,
        torch.randn,
        jump=8,
        resamples=resamples,
        clip=None,
    )
    assert torch.equal(painted[..., :1], first)
    return first.flatten(), painted[..., 1].flatten()


def slope(x: Tensor, y: Tensor) -> float:
    return ((x * y).mean() / x.square().mean()).item()


def test_resampling_brings_the_hole_to_what_fits() -> None:
    """The truth is known: the second pixel given the first is N(rho first, 1 -
    rho^2).
    """
    first, once = paint_the_second_pixel(4000, resamples=1)
    # the hole heard of its surroundings too late
    assert slope(first, once) < CORRELATION - 0.1
    first, often = paint_the_second_pixel(4000, resamples=12)
    assert slope(first, often) == pytest.approx(CORRELATION, abs=0.05)
    assert (often - CORRELATION * first).var().item() == pytest.approx(
        1 - CORRELATION**2, abs=0.05
    )


def test_the_walk_of_the_paper_has_4570_moves() -> None:
    walk = repaint_walk(250, jump=10, resamples=10)
    assert len(walk) - 1 == 4570
    assert (walk[0], walk[-1], max(walk), min(walk)) == (250, 0, 250, 0)
    assert all(abs(before - after) == 1 for before, after in pairwise(walk))


def test_walks_by_hand() -> None:
    assert repaint_walk(4, jump=2, resamples=1) == [4, 3, 2, 1, 0]
    assert repaint_walk(4, jump=2, resamples=2) == [4, 3, 2, 1, 2, 3, 2, 1, 0]
    assert repaint_walk(3, jump=1, resamples=3) == [3, 2, 3, 2, 3, 2, 1, 2, 1, 2, 1, 0]
    assert repaint_walk(3, jump=10, resamples=5) == [
        3,
        2,
        1,
        0,
    ]  # a jump longer than the walk is never taken
    for bad in ((0, 1, 1), (4, 0, 1), (4, 1, 0)):
        with pytest.raises(Dalle2EduError, match="1 or more"):
            repaint_walk(*bad)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_known_pixels_come_back_exactly_and_nothing_leaks_from_under_the_mask(
    eta: float,
) -> None:
    known, mask = (
        torch.rand(2, 3, 8, 8) * 2 - 1,
        torch.zeros(1, 1, 8, 8, dtype=torch.bool),
    )
    mask[..., 2:6, 3:7] = True

    def paint(picture: Tensor) -> Tensor:
        blur = torch.nn.AvgPool2d(3, stride=1, padding=1)
        return repaint(
            lambda x, t: blur(x),
            process(6),
            picture,
            mask,
            SeededNoise([1, 2]),
            2,
            2,
            eta=eta,
        )

    painted = paint(known)
    keep = ~mask.expand_as(known)
    assert torch.equal(painted[keep], known[keep])
    assert torch.equal(
        painted, paint(torch.where(mask, torch.full_like(known, torch.nan), known))
    )
    assert not torch.allclose(painted, known)


def test_the_empty_and_the_full_mask() -> None:
    known = torch.rand(1, 3, 4, 4)
    nowhere = repaint(
        lambda x, t: x, process(4), known, torch.tensor(False), SeededNoise([0])
    )
    assert torch.equal(nowhere, known)
    everywhere = [
        repaint(
            lambda x, t: x, process(4), picture, torch.tensor(True), SeededNoise([0])
        )
        for picture in (known, -known)
    ]
    assert torch.equal(*everywhere)


@pytest.mark.parametrize(
    "mask", [torch.zeros(1, 1, 5, 5, dtype=torch.bool), torch.zeros(1, 1, 4, 4)]
)
def test_a_mask_of_another_size_or_type_is_refused(mask: Tensor) -> None:
    with pytest.raises(Dalle2EduError, match="mask must be bool"):
        repaint(
            lambda x, t: x, process(4), torch.rand(1, 3, 4, 4), mask, SeededNoise([0])
        )


def test_the_seam_by_hand() -> None:
    row = torch.tensor([0.0, 0.0, 0.5, 0.6, 0.7, 0.0]).expand(
        1, 3, 2, 6
    )  # painted: the three in the middle
    mask = torch.tensor([False, False, True, True, True, False]).expand(1, 1, 2, 6)
    found = seam(row, mask)
    torch.testing.assert_close(found.across, torch.tensor([(0.5 + 0.7) / 2]))
    # Inside: two neighbours to the right in each of two rows, and three pairs one above
    # the other, which are equal.
    torch.testing.assert_close(found.inside, torch.tensor([(4 * 0.1) / (4 + 3)]))
    torch.testing.assert_close(found.ratio, found.across / found.inside)
    assert seam(row, torch.ones_like(mask)).across.isnan().all()
