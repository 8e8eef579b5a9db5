"""The prior: what it may look at, the space it works in, and its size against
Karlo's.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import DIM, PRIOR, awake, conditioning

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.unclip.prior import (
    DiffusionPrior,
    PriorConfig,
    nearest_to_text,
    prior_diffusion,
    prior_mask,
)


def test_karlos_prior_has_the_released_networks_parameters() -> None:
    with torch.device("meta"):
        prior = DiffusionPrior(
            PriorConfig(
                clip_dim=768,
                text_width=768,
                context_length=77,
                width=2048,
                layers=20,
                heads=32,
            )
        )
    assert sum(parameter.numel() for parameter in prior.parameters()) == 1_022_028_544


def test_mask_is_causal_and_hides_padding() -> None:
    mask = prior_mask(torch.tensor([[True, True, False]]))[0].int()
    # columns: start, end, padding | text embedding, timestep, z_t, query
    expected = [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 0, 1, 1, 1, 0],
        [1, 1, 0, 1, 1, 1, 1],
    ]
    assert mask.tolist() == expected


def test_padding_changes_nothing_and_all_else_does() -> None:
    prior, z_t, t = (
        awake(DiffusionPrior(PRIOR)),
        torch.randn(2, DIM, requires_grad=True),
        torch.tensor([5, 700]),
    )
    given = conditioning(2, real=5)
    given["text_emb"].requires_grad_(), given["text_enc"].requires_grad_()
    prior(z_t, t, **given).square().sum().backward()
    by_token = given["text_enc"].grad.abs().sum(dim=(0, 2))  # (L,)
    assert (by_token[:5] > 0).all() and not by_token[5:].any()
    assert z_t.grad.any() and given["text_emb"].grad.any()
    assert not torch.equal(prior(z_t, t, **given), prior(z_t, t + 100, **given))


def test_standardised_embeddings_have_mean_0_and_variance_1_and_come_back() -> None:
    prior, z = (
        DiffusionPrior(PRIOR),
        torch.randn(500, DIM) * torch.linspace(0.01, 3, DIM) + 2,
    )
    prior.set_stats(z)
    standard = prior.standardise(z)
    torch.testing.assert_close(
        standard.mean(dim=0), torch.zeros(DIM), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(standard.std(dim=0), torch.ones(DIM))
    torch.testing.assert_close(prior.unstandardise(standard), z)


@torch.no_grad()
def test_a_whitening_prior_makes_the_directions_independent_and_equal() -> None:
    prior = DiffusionPrior(replace(PRIOR, whiten=True))
    mix = torch.randn(DIM, DIM) * torch.logspace(0, -1, DIM)[:, None]
    z = torch.randn(4000, DIM) @ mix + 0.3
    prior.set_stats(z)
    white = prior.standardise(z)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(DIM), rtol=0, atol=2e-3)
    torch.testing.assert_close(prior.unstandardise(white), z, rtol=0, atol=1e-4)


def test_one_picture_is_too_few_for_a_prior() -> None:
    with pytest.raises(Dalle2EduError, match="two pictures"):
        DiffusionPrior(PRIOR).set_stats(torch.randn(1, DIM))


def test_nearest_to_text_keeps_the_larger_dot_product() -> None:
    text_emb = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    candidates = torch.tensor(
        [[[0.25, 9.0], [0.5, 0.0]], [[0.0, 3.0], [9.0, 2.0]]]
    )  # (2, 2, 2)
    assert nearest_to_text(candidates, text_emb).tolist() == [[0.5, 0.0], [0.0, 3.0]]


def test_the_process_is_the_papers() -> None:
    diffusion = prior_diffusion()
    assert (diffusion.num_timesteps, diffusion.prediction) == (1000, "x0")


@torch.no_grad()
def test_it_exports_without_a_branch_on_data() -> None:
    prior, t = awake(DiffusionPrior(PRIOR)), torch.tensor([5, 700])
    exported = torch.export.export(
        prior, (torch.randn(2, DIM), t), conditioning(2, real=5)
    ).module()
    z_t, other = torch.randn(2, DIM), conditioning(2, real=9)
    torch.testing.assert_close(exported(z_t, t, **other), prior(z_t, t, **other))
