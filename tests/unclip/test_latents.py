"""The sphere, the direction of words and the principal axes, against what geometry
says.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.unclip.latents import fit_pca, slerp, text_direction


def units(n: int, d: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d), dim=1)


def angle(a: Tensor, b: Tensor) -> Tensor:
    return torch.acos((a.double() * b.double()).sum(-1).clamp(-1, 1))


def test_slerp_is_the_papers_formula_where_that_works() -> None:
    a, b, theta = (
        units(50, 7).double(),
        units(50, 7).double(),
        torch.rand(50, dtype=torch.float64),
    )
    omega, share = angle(a, b)[:, None], theta[:, None]
    formula = (
        torch.sin((1 - share) * omega) * a + torch.sin(share * omega) * b
    ) / torch.sin(omega)
    torch.testing.assert_close(slerp(a, b, theta), formula)


def test_slerp_turns_evenly_on_the_sphere() -> None:
    a, b = units(20, 5), units(20, 5)
    for theta in (0.0, 0.25, 0.6, 1.0):
        point = slerp(a, b, theta)
        torch.testing.assert_close(point.norm(dim=1), torch.ones(20))
        torch.testing.assert_close(
            angle(a, point), theta * angle(a, b), rtol=0, atol=1e-3
        )  # acos of a float near 1


@pytest.mark.parametrize(
    "apart", [0.0, 1e-8, 1e-5, 1e-3, math.pi - 1e-3, math.pi - 1e-5, math.pi]
)
def test_slerp_of_the_nearly_parallel_and_the_nearly_opposite_stays_on_the_sphere(
    apart: float,
) -> None:
    a = units(6, 9)
    aside = units(6, 9)
    aside = torch.nn.functional.normalize(
        aside - (a * aside).sum(1, keepdim=True) * a, dim=1
    )
    b = math.cos(apart) * a + math.sin(apart) * aside
    middle = slerp(a, b, 0.5)
    torch.testing.assert_close(middle.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(
        angle(a, middle), torch.full((6,), apart / 2).double(), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b, rtol=0, atol=1e-5)


def test_slerp_of_a_zero_vector_keeps_the_others_direction() -> None:
    a, nothing = units(3, 4), torch.zeros(3, 4)
    torch.testing.assert_close(slerp(a, nothing, 0.25), 0.75 * a)
    torch.testing.assert_close(slerp(nothing, a, 0.25), 0.25 * a)
    assert torch.equal(slerp(nothing, nothing, 0.5), nothing)


def test_slerp_takes_pictures_of_noise_and_single_vectors() -> None:
    """The middle of two noises keeps their size, and so do neither the line's middle
    nor one angle for each pixel.
    """
    a, b = torch.randn(2, 4, 3, 16, 16)
    middle = slerp(a, b, 0.5)
    assert middle.shape == a.shape
    expected = (a.flatten(1).norm(dim=1) + b.flatten(1).norm(dim=1)) / 2
    torch.testing.assert_close(middle.flatten(1).norm(dim=1), expected)
    assert ((a + b) / 2).std() < 0.75 < middle.std()
    torch.testing.assert_close(
        slerp(a[0].flatten(), b[0].flatten(), 0.5), middle[0].flatten()
    )


@pytest.mark.parametrize("theta", [-0.01, 1.01, math.nan])
def test_slerp_refuses_a_theta_beyond_the_ends(theta: float) -> None:
    with pytest.raises(Dalle2EduError, match="theta"):
        slerp(torch.ones(2, 3), torch.ones(2, 3), theta)


def test_slerp_refuses_vectors_of_other_spaces() -> None:
    with pytest.raises(Dalle2EduError, match="must be the same"):
        slerp(torch.ones(2, 3), torch.ones(2, 4), 0.5)


def test_text_direction_is_the_difference_at_length_one() -> None:
    source, target = units(3, 8), units(3, 8)
    direction = text_direction(target, source)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(3))
    along = (direction * (target - source)).sum(1)
    torch.testing.assert_close(
        along, (target - source).norm(dim=1)
    )  # Cauchy-Schwarz with equality: parallel
    torch.testing.assert_close(text_direction(target), target)
    with pytest.raises(Dalle2EduError, match="same"):
        text_direction(target, target.clone())


def test_pca_finds_the_axes_that_the_data_were_made_with() -> None:
    turned, _ = torch.linalg.qr(torch.randn(5, 5).double())
    spread = torch.tensor([4.0, 2.0, 1.0, 0.1, 0.0]).double()
    data = torch.randn(20_000, 5).double() * spread @ turned.T + 3
    pca = fit_pca(data)
    torch.testing.assert_close(pca.variances.sqrt(), spread, rtol=0.03, atol=1e-6)
    assert ((pca.axes * turned.T).sum(1).abs()[:4] > 0.999).all()
    torch.testing.assert_close(pca.axes @ pca.axes.T, torch.eye(5).double())


def test_pca_loses_as_much_as_it_says_at_each_rank() -> None:
    data = (
        torch.randn(300, 6).double()
        * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.2]).double()
    )
    pca = fit_pca(data)
    whole = (data - data.mean(0)).square().sum()
    lost = torch.stack(
        [
            (data - pca.reconstruct(data, rank)).square().sum() / whole
            for rank in range(7)
        ]
    )
    torch.testing.assert_close(lost, pca.error())
    assert (lost.diff() < 0).all()
    rank = pca.rank_for(0.01)
    assert lost[rank] < 0.01 <= lost[rank - 1]
    torch.testing.assert_close(pca.restore(pca.project(data)), data)


@pytest.mark.parametrize("few", [torch.zeros(1, 3), torch.zeros(4), torch.ones(9, 3)])
def test_pca_needs_embeddings_that_differ(few: Tensor) -> None:
    with pytest.raises(Dalle2EduError):
        fit_pca(few)


@pytest.mark.parametrize("rank", [-1, 4])
def test_pca_has_no_other_ranks(rank: int) -> None:
    with pytest.raises(Dalle2EduError, match="from 0 to 3"):
        fit_pca(torch.randn(9, 3)).reconstruct(torch.randn(2, 3), rank)
