"""Precision and recall against a case that can be counted by hand, and against SciPy's
search tree.
"""

import pytest
import torch
from scipy.spatial import cKDTree

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation.precision_recall import inside, precision_recall, radii


def test_by_hand() -> None:
    # On a line, k = 1. Real 0, 1, 10, 12: radii 1, 1, 2, 2, so the balls cover
    # [-1, 2] and [8, 14]. Generated 0.5, 3, 13: radii 2.5, 2.5, 10.
    real = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    generated = torch.tensor([[0.5], [3.0], [13.0]])
    assert radii(real, 1).tolist() == [1, 1, 2, 2]
    assert radii(generated, 1).tolist() == [2.5, 2.5, 10]
    assert inside(generated, real, 1).tolist() == [True, False, True]
    assert inside(real, generated, 1).tolist() == [True] * 4
    found = precision_recall(real, generated, 1)
    assert found.precision.value == pytest.approx(200 / 3)
    assert found.recall.value == 100


def test_as_a_search_tree_finds_it() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(150, 5, generator=generator)
    generated = 0.7 * torch.randn(120, 5, generator=generator) + 0.9
    found = precision_recall(real, generated, 3)
    for points, cloud, share in (
        (generated, real, found.precision.value),
        (real, generated, found.recall.value),
    ):
        tree = cKDTree(cloud.double().numpy())
        reach = tree.query(cloud.double().numpy(), k=4)[0][:, 3]  # itself is the first
        asked = points.double().numpy()
        hits = [
            any(((point - cloud.double().numpy()) ** 2).sum(1) <= reach**2)
            for point in asked
        ]
        assert share == pytest.approx(100 * sum(hits) / len(hits))
    assert 0 < found.recall.value < found.precision.value < 100


def test_a_generator_that_repeats_itself_has_precision_and_no_recall() -> None:
    generator = torch.Generator().manual_seed(1)
    real = torch.randn(200, 8, generator=generator)
    found = precision_recall(real, real[:1].repeat(50, 1))
    assert found.precision.value == 100
    assert found.recall.value == 0.5  # the one picture that it repeats


@pytest.mark.parametrize(
    ("real", "generated", "k"),
    [
        (torch.zeros(9, 2), torch.zeros(9, 3), 3),
        (torch.zeros(9, 2), torch.zeros(3, 2), 3),
        (torch.zeros(9, 2), torch.zeros(9, 2), 0),
        (torch.zeros(9, 2), torch.full((9, 2), torch.nan), 3),
    ],
)
def test_what_can_not_be_measured(
    real: torch.Tensor, generated: torch.Tensor, k: int
) -> None:
    with pytest.raises(Dalle2EduError):
        precision_recall(real, generated, k)
