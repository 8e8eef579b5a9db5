"""Families of scenes: batches in which CLIP has to look closely.

In a batch of random scenes a caption can be found by its colours alone, and a CLIP that
may stop there keeps nothing else. So some scenes of a batch are relatives: they differ
from each other in one factor, or two objects have exchanged an attribute.

    a large red star above a small blue ring     the first of the family
    a large red heart above a small blue ring    one factor is another
    a large blue star above a small red ring     the colours are exchanged

Such negatives were proposed as a remedy for CLIP's weak binding (NegCLIP, arXiv
2210.01936); here a relative has a picture of its own too, so both directions of the
loss need it. A held-out composition is never among them: CLIP would learn as a wrong
answer what it must not see at all.

Chapters 12 and 21 use this file."""

from __future__ import annotations

import torch
from torch import Tensor

from dalle2_edu.data.shapes import (
    FACTORS,
    TWO,
    Scenes,
    applicable,
    is_held_out,
    sample_scenes,
)

# the factors that may change; these are the fainter ones, so they change less often
EASY = {"background", "place", "layout"}
EASY_SHARE = 0.4
CHANGEABLE = [name for name in FACTORS if name not in ("kind", "length")]
EXCHANGED = (  # what two objects may exchange; each of these is equally likely
    ("colour",),
    ("shape",),
    ("texture",),
    ("shape", "colour", "size", "texture"),  # they change places
)
EXCHANGE_SHARE = 0.5  # of the scenes with two objects
SAME_JITTER_SHARE = 0.5  # of the relatives stand exactly where the first one stands


def families(n: int, size: int, generator: torch.Generator) -> Scenes:
    """n scenes of the "seen" split in families of `size`: the first n / size of them
    are the families' firsts, and so on. n must be a multiple of size.
    """
    first = sample_scenes(n // size, generator)
    relatives = [relative(first, generator) for _ in range(size - 1)]
    return joined([first, *relatives])


def joined(parts: list[Scenes]) -> Scenes:
    """Several batches of scenes as one."""
    factors = {
        name: torch.cat([part.factors[name] for part in parts]) for name in FACTORS
    }
    return Scenes(factors, torch.cat([part.jitter for part in parts]))


def relative(scenes: Scenes, generator: torch.Generator) -> Scenes:
    """One relative of each scene. Where it would be held out, or look alike, a fresh
    scene.
    """
    n = len(scenes)
    exchanging = (scenes.factors["kind"] == TWO) & drawn(n, EXCHANGE_SHARE, generator)
    changed = with_one_changed(scenes, ~exchanging, generator)
    factors = with_exchanged(changed, exchanging, generator)
    stays = drawn(n, SAME_JITTER_SHARE, generator)[:, None, None]
    other = torch.rand(scenes.jitter.shape, generator=generator) * 2 - 1
    new = Scenes(factors, torch.where(stays, scenes.jitter, other))
    fresh = sample_scenes(n, generator)
    return chosen(is_held_out(new) | alike(new, scenes), fresh, new)


def drawn(n: int, share: float, generator: torch.Generator) -> Tensor:
    """True for about this share of n: bool (n,)."""
    return torch.rand(n, generator=generator) < share


def with_one_changed(
    scenes: Scenes, where: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """The factors, with one that has a meaning drawn anew in the scenes `where`, bool
    (B,).
    """
    masks = applicable(scenes)
    weights = torch.stack(
        [masks[name] * (EASY_SHARE if name in EASY else 1.0) for name in CHANGEABLE],
        dim=1,
    )  # (B, factors)
    pick = torch.multinomial(weights, 1, generator=generator)[:, 0]  # (B,)
    factors = dict(scenes.factors)
    for place, name in enumerate(CHANGEABLE):
        values = len(FACTORS[name])
        step = torch.randint(
            1, values, pick.shape, generator=generator
        )  # never back to itself
        another = (factors[name] + step) % values
        factors[name] = torch.where(where & (pick == place), another, factors[name])
    return factors


def with_exchanged(
    factors: dict[str, Tensor], where: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """The factors, with attributes exchanged between the two objects of the scenes
    `where`.
    """
    which = torch.randint(len(EXCHANGED), where.shape, generator=generator)
    factors = dict(factors)
    for place, attributes in enumerate(EXCHANGED):
        here = where & (which == place)
        for name in attributes:
            a, b = factors[f"{name}_a"], factors[f"{name}_b"]
            factors[f"{name}_a"] = torch.where(here, b, a)
            factors[f"{name}_b"] = torch.where(here, a, b)
    return factors


def alike(new: Scenes, old: Scenes) -> Tensor:
    """Whether a scene did not change, or has the same object twice: bool (B,)."""
    same = [new.factors[name] == old.factors[name] for name in FACTORS]
    shape = new.factors["shape_a"] == new.factors["shape_b"]
    colour = new.factors["colour_a"] == new.factors["colour_b"]
    twins = (new.factors["kind"] == TWO) & shape & colour
    return torch.stack(same).all(dim=0) | twins


def chosen(where: Tensor, yes: Scenes, no: Scenes) -> Scenes:
    """The scenes of `yes` where True, of `no` elsewhere."""
    factors = {
        name: torch.where(where, yes.factors[name], no.factors[name])
        for name in FACTORS
    }
    return Scenes(factors, torch.where(where[:, None, None], yes.jitter, no.jitter))
