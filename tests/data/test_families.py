"""Families of scenes: what relatives differ in, and what is never among them."""

from __future__ import annotations

import torch

from dalle2_edu.data.families import EXCHANGED, families, relative
from dalle2_edu.data.shapes import FACTORS, TWO, is_held_out, sample_scenes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_family_has_a_held_out_composition() -> None:
    scenes = families(4000, 4, generator())
    assert len(scenes) == 4000
    assert not is_held_out(scenes).any()


def test_a_relative_differs_in_one_factor_or_has_attributes_exchanged() -> None:
    first = sample_scenes(3000, generator(1))
    second = relative(first, generator(2))
    differing = torch.stack(
        [first.factors[k] != second.factors[k] for k in FACTORS], dim=1
    )
    count = differing.sum(dim=1)  # (B,)
    assert (count > 0).all()
    assert (
        (count == 1).float().mean()
    ) > 0.55  # one factor, or an exchange that shows once
    exchanged = torch.ones(len(first), dtype=torch.bool)
    for name in EXCHANGED[-1]:  # the objects changed places
        exchanged &= first.factors[f"{name}_a"] == second.factors[f"{name}_b"]
        exchanged &= first.factors[f"{name}_b"] == second.factors[f"{name}_a"]
    two = first.factors["kind"] == TWO
    assert 0.06 < float((exchanged & two)[two].float().mean()) < 0.2


def test_a_family_is_a_function_of_its_seed() -> None:
    first, second = families(40, 4, generator(3)), families(40, 4, generator(3))
    assert torch.equal(first.jitter, second.jitter)
    other = families(40, 4, generator(4))
    assert not torch.equal(first.jitter, other.jitter)
