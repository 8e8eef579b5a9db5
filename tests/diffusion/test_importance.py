"""Importance sampling of timesteps: unbiased whatever it remembers, and less noisy
where it knows.
"""

import pytest
import torch
from torch import distributed

from dalle2_edu.diffusion.importance import HISTORY, UNIFORM_SHARE, ImportanceSampler

T = 20
LOSSES = torch.logspace(
    0, -4, T, dtype=torch.float64
)  # as in a diffusion bound, the first step costs most


def warm(losses: torch.Tensor = LOSSES) -> ImportanceSampler:
    sampler = ImportanceSampler(len(losses))
    for _ in range(HISTORY):
        sampler.record(torch.arange(len(losses)), losses)
    return sampler


def test_uniform_until_every_step_has_its_history():
    sampler = ImportanceSampler(T)
    for _ in range(HISTORY - 1):
        sampler.record(torch.arange(T), LOSSES)
    sampler.record(torch.arange(T - 1), LOSSES[:-1])
    assert not sampler.is_warm()
    assert torch.equal(
        sampler.probabilities(), torch.full((T,), 1 / T, dtype=torch.float64)
    )
    index, weights = sampler.draw(64, torch.Generator().manual_seed(0))
    assert torch.allclose(weights, torch.ones(64)) and index.unique().numel() > T / 2
    sampler.record(torch.tensor([T - 1]), LOSSES[-1:])
    assert sampler.is_warm()


def test_probabilities_follow_the_root_of_the_second_moment():
    sampler = warm()
    expected = LOSSES / LOSSES.sum() * (1 - UNIFORM_SHARE) + UNIFORM_SHARE / T
    assert torch.allclose(sampler.probabilities(), expected)
    # the same mean, but now it varies: the second moment is larger
    for loss in range(HISTORY):
        sampler.record(torch.tensor([3]), LOSSES[3:4] * (2.0 if loss % 2 else 0.0))
    raised = sampler.probabilities()[3] / sampler.probabilities()[4]
    before = expected[3] / expected[4]
    assert (raised / before).item() == pytest.approx(2**0.5, rel=0.01)


def test_weights_leave_the_mean_alone_and_the_variance_small():
    sampler = warm()
    p = sampler.probabilities()
    exact = (p * LOSSES / (T * p)).sum()
    assert exact.item() == pytest.approx(LOSSES.mean().item(), rel=1e-12)
    index, weights = sampler.draw(20_000, torch.Generator().manual_seed(0))
    drawn = LOSSES[index] * weights
    assert drawn.mean().item() == pytest.approx(LOSSES.mean().item(), rel=0.01)
    uniform = LOSSES[
        torch.randint(T, (20_000,), generator=torch.Generator().manual_seed(0))
    ]
    assert drawn.std() < 0.1 * uniform.std()


def test_a_step_twice_in_a_batch_is_remembered_twice_and_only_the_newest_ten_stay():
    sampler = ImportanceSampler(2)
    sampler.record(torch.tensor([1, 1, 0]), torch.tensor([5.0, 6.0, 7.0]))
    assert sampler.counts.tolist() == [1, 2]
    assert sampler.history[1, :2].tolist() == [5, 6]
    sampler.record(
        torch.ones(HISTORY, dtype=torch.int64), torch.arange(10.0, 10.0 + HISTORY)
    )
    assert sorted(sampler.history[1].tolist()) == list(range(10, 10 + HISTORY))


def test_saved_and_loaded_it_draws_the_same():
    sampler, other = warm(), ImportanceSampler(T)
    other.load_state_dict(sampler.state_dict())
    draws = [
        each.draw(32, torch.Generator().manual_seed(1)) for each in (sampler, other)
    ]
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(
        draws[0][1], draws[1][1]
    )


def test_among_processes_it_remembers_what_all_of_them_saw(tmp_path):
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        assert torch.equal(warm().history, LOSSES[:, None].expand(T, HISTORY))
    finally:
        distributed.destroy_process_group()
