"""Scenes: the truth behind each picture of the shapes world, drawn at random from a few
factors.

What a model can learn is bounded by its data, and with found data one never knows the
truth behind a picture. Here we do: a *scene* is drawn at random from a few factors, the
factors are kept, and both the picture (`render`) and its captions (`shapes`) are made
from them. So a generator can be marked exactly, attribute by attribute, and
combinations that were never drawn in training show whether it has learnt to compose or
only to remember.

A scene is one object, two objects, or a sign on a post with one to three capital
letters. Its factors (`FACTORS`):

    kind                               one | two | sign
    background                         one of five pale colours
    shape_a colour_a size_a texture_a  the object; of two, the left or upper one. colour_a: a sign's, too
    shape_b colour_b size_b texture_b  the right or lower object of two
    place                              where a single object stands
    layout                             two objects side by side, or one above the other
    length letter_1 letter_2 letter_3  a sign's letters

Every factor is present for every scene as an index into its values; where it has no
meaning it is 0, and `applicable` says so. Beside the factors each object has a *jitter*
of position, size and angle, so that no two pictures are alike.

Held-out compositions. `HELD_OUT` pairs each shape with one colour, each colour once: 8
of the 64 pairs. Training (`split="seen"`) never draws such an object, alone or with
another. Signs: one three-letter word in eight, by the sum in `_word_class`, is never
drawn in training either. `split="held_out"` draws scenes of one or two objects of which
at least one is a held-out pair, and no signs; `split="all"` draws everything.

Chapter 02 uses this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dalle2_edu.data import letters
from dalle2_edu.errors import Dalle2EduError

# --- factors --------------------------------------------------------------------------

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
KINDS = ("one", "two", "sign")
ONE, TWO, SIGN = range(3)

FACTORS: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "background": ("white", "light blue", "light green", "light yellow", "light pink"),
    "shape_a": SHAPES,
    "colour_a": COLOURS,
    "size_a": SIZES,
    "texture_a": TEXTURES,
    "shape_b": SHAPES,
    "colour_b": COLOURS,
    "size_b": SIZES,
    "texture_b": TEXTURES,
    "place": ("middle", "left", "right", "top", "bottom"),
    "layout": ("side by side", "stacked"),
    "length": ("1", "2", "3"),
    "letter_1": tuple(letters.ALPHABET),
    "letter_2": tuple(letters.ALPHABET),
    "letter_3": tuple(letters.ALPHABET),
}

HELD_OUT = {
    "circle": "purple",
    "square": "pink",
    "triangle": "black",
    "star": "blue",
    "heart": "green",
    "cross": "yellow",
    "ring": "orange",
    "diamond": "red",
}
HELD_OUT_WORD_SHARE = 8  # one three-letter word in this many is never drawn in training

SPLITS = ("seen", "held_out", "all")
KIND_SHARES = {
    "seen": (0.4, 0.4, 0.2),
    "all": (0.4, 0.4, 0.2),
    "held_out": (0.5, 0.5, 0.0),
}


@dataclass
class Scenes:
    """A batch of B scenes: the truth from which pictures and captions are made.

    `factors`: name -> int64 (B,), indices into `FACTORS[name]`; 0 where the factor has
    no meaning. `jitter`: float (B, 2, 4), uniform in [-1, 1]: for slots a and b, the
    push of x, y, size and angle. Zero if not given.
    """

    factors: dict[str, Tensor]
    jitter: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        if len(self.jitter) == 0:
            self.jitter = torch.zeros(len(self), 2, 4, device=self.device)

    def __len__(self) -> int:
        return len(self.factors["kind"])

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> Scenes:
        """Some of the scenes, always as a batch: an int gives a batch of one."""
        if isinstance(index, int):
            index = [index]
        return Scenes(
            {name: value[index] for name, value in self.factors.items()},
            self.jitter[index],
        )

    @property
    def device(self) -> torch.device:
        return self.factors["kind"].device

    def to(self, device: torch.device | str) -> Scenes:
        return Scenes(
            {name: value.to(device) for name, value in self.factors.items()},
            self.jitter.to(device),
        )

    def describe(self, index: int) -> dict[str, str]:
        """The applicable factors of one scene, by value name."""
        masks = applicable(self)
        return {
            k: FACTORS[k][int(v[index])]
            for k, v in self.factors.items()
            if bool(masks[k][index])
        }


def scenes_from(descriptions: Sequence[Mapping[str, str]]) -> Scenes:
    """Scenes with chosen factors and no jitter: `scenes_from([{"kind": "one",
    "shape_a": "star"}])`.

    Factors that are not named take their first value. Raises Dalle2EduError for a name
    or value that isn't in FACTORS.
    """
    for description in descriptions:
        for name, value in description.items():
            if name not in FACTORS:
                raise Dalle2EduError(
                    f"unknown factor '{name}': choose from {', '.join(FACTORS)}"
                )
            if value not in FACTORS[name]:
                raise Dalle2EduError(
                    f"unknown {name} '{value}': choose from {', '.join(FACTORS[name])}"
                )
    columns = {
        name: torch.tensor(
            [values.index(d.get(name, values[0])) for d in descriptions],
            dtype=torch.int64,
        )
        for name, values in FACTORS.items()
    }
    return Scenes(_blank_meaningless(columns))


def applicable(scenes: Scenes) -> dict[str, Tensor]:
    """Which factors have a meaning in which scene: name -> bool (B,)."""
    return _applicable(scenes.factors)


def _applicable(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    kind, length = factors["kind"], factors["length"]
    always, sign, two = (
        torch.ones_like(kind, dtype=torch.bool),
        kind == SIGN,
        kind == TWO,
    )
    masks = {
        "kind": always,
        "background": always,
        "colour_a": always,
        "place": kind == ONE,
        "layout": two,
    }
    masks |= dict.fromkeys(("shape_a", "size_a", "texture_a"), ~sign)
    masks |= dict.fromkeys(("shape_b", "colour_b", "size_b", "texture_b"), two)
    masks |= {"length": sign} | {
        f"letter_{i + 1}": sign & (length >= i) for i in range(3)
    }
    return {name: masks[name] for name in FACTORS}


def _blank_meaningless(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Set every factor that has no meaning in its scene to 0."""
    masks = _applicable(factors)
    return {name: torch.where(masks[name], value, 0) for name, value in factors.items()}


# --- held-out compositions ------------------------------------------------------------

PAIR_COUNT = len(SHAPES) * len(COLOURS)  # a pair's number is shape * 8 + colour
HELD_OUT_PAIRS = torch.tensor(
    [SHAPES.index(s) * len(COLOURS) + COLOURS.index(c) for s, c in HELD_OUT.items()]
)


def is_held_out(scenes: Scenes) -> Tensor:
    """Whether a scene is never drawn in training, for an object's pair or a sign's
    word: bool (B,).
    """
    factors, masks = scenes.factors, applicable(scenes)
    table = torch.zeros(PAIR_COUNT, dtype=torch.bool)
    table[HELD_OUT_PAIRS] = True
    table = table.to(scenes.device)
    held_a = (
        table[factors["shape_a"] * len(COLOURS) + factors["colour_a"]]
        & masks["shape_a"]
    )
    held_b = (
        table[factors["shape_b"] * len(COLOURS) + factors["colour_b"]]
        & masks["shape_b"]
    )
    return held_a | held_b | (_word_class(factors) == 0) & masks["letter_3"]


def _word_class(factors: dict[str, Tensor]) -> Tensor:
    """A three-letter word's class, 0..7; every letter is in all classes alike. Class 0
    is held out.
    """
    first, second, third = (factors[f"letter_{i}"] for i in (1, 2, 3))
    return (
        first + 3 * second + 5 * third
    ) % HELD_OUT_WORD_SHARE  # odd weights: each letter alone decides the class


# --- sampling -------------------------------------------------------------------------


def sample_scenes(
    n: int,
    generator: torch.Generator,
    split: str = "seen",
    device: torch.device | str = "cpu",
) -> Scenes:
    """Draw n scenes at random.

    All numbers are drawn on the generator's own device and then moved, so a CPU
    generator gives the same scenes for every `device`. Raises Dalle2EduError for n <= 0
    or an unknown split.
    """
    if n <= 0:
        raise Dalle2EduError(f"cannot draw {n} scenes: ask for at least one")
    if split not in SPLITS:
        raise Dalle2EduError(
            f"unknown split '{split}': choose from {', '.join(SPLITS)}"
        )
    home = generator.device
    factors = {
        k: torch.randint(len(v), (n,), generator=generator, device=home)
        for k, v in FACTORS.items()
    }
    shares = torch.tensor(KIND_SHARES[split], device=home)
    factors["kind"] = torch.multinomial(
        shares, n, replacement=True, generator=generator
    )
    sign = factors["kind"] == SIGN
    pair_a, pair_b = _sample_pairs(factors["kind"], generator, split)
    factors["shape_a"], factors["shape_b"] = (
        pair_a // len(COLOURS),
        pair_b // len(COLOURS),
    )
    factors["colour_a"] = torch.where(sign, factors["colour_a"], pair_a % len(COLOURS))
    factors["colour_b"] = pair_b % len(COLOURS)
    if split == "seen":
        # the next letter of the alphabet is always in another class, also from Z to A
        respelt = (factors["letter_3"] + 1) % len(letters.ALPHABET)
        factors["letter_3"] = torch.where(
            _word_class(factors) == 0, respelt, factors["letter_3"]
        )
    jitter = torch.rand(n, 2, 4, generator=generator, device=home) * 2 - 1
    return Scenes(_blank_meaningless(factors), jitter).to(device)


def _sample_pairs(
    kind: Tensor, generator: torch.Generator, split: str
) -> tuple[Tensor, Tensor]:
    """Two different (shape, colour) pairs a scene, by number: int64 (n,), (n,).

    "seen": neither is held out. "held_out": one of them is, and of a single object the
    first. "all": any two.
    """

    def draw(high: int) -> Tensor:
        return torch.randint(high, kind.shape, generator=generator, device=kind.device)

    held, everything = (
        HELD_OUT_PAIRS.to(kind.device),
        torch.arange(PAIR_COUNT, device=kind.device),
    )
    if split == "held_out":
        first = held[draw(len(held))]
        # any pair but the first
        second = (first + 1 + draw(PAIR_COUNT - 1)) % PAIR_COUNT
        swap = (kind == TWO) & (draw(2) == 1)
        return torch.where(swap, second, first), torch.where(swap, first, second)
    allowed = (
        everything if split == "all" else everything[~torch.isin(everything, held)]
    )
    first = draw(len(allowed))
    second = (first + 1 + draw(len(allowed) - 1)) % len(allowed)
    return allowed[first], allowed[second]
