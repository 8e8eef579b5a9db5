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
ONE, TWO, SIGN = range(3)  # their places in KINDS

FACTORS: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "background": ("white", "light blue", "light green", "light yellow", "light pink"),
    "shape_a": SHAPES,
    "colour_a": COLOURS,  # of a sign: its board's
    "size_a": SIZES,
    "texture_a": TEXTURES,
    "shape_b": SHAPES,
    "colour_b": COLOURS,
    "size_b": SIZES,
    "texture_b": TEXTURES,
    "place": ("middle", "left", "right", "top", "bottom"),  # of one object
    "layout": ("side by side", "stacked"),  # of two
    "length": ("1", "2", "3"),  # of a sign's word
    "letter_1": tuple(letters.ALPHABET),
    "letter_2": tuple(letters.ALPHABET),
    "letter_3": tuple(letters.ALPHABET),
}

HELD_OUT = {  # shape: the colour that it never has in training
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
KIND_SHARES = {  # of one object, two, a sign
    "seen": (0.4, 0.4, 0.2),  # a fifth are signs
    "all": (0.4, 0.4, 0.2),
    "held_out": (0.5, 0.5, 0.0),  # a sign holds no object that could be held out
}


@dataclass
class Scenes:
    """A batch of B scenes: the truth from which pictures and captions are made.

    `factors`: name -> int64 (B,), indices into `FACTORS[name]`; 0 where the factor has
    no meaning. `jitter`: float (B, 2, 4), uniform in [-1, 1]: for slots a and b, the
    push of x, y, size and angle. Zero if not given.
    """

    factors: dict[str, Tensor]  # each int64 (B,)
    jitter: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        # scenes with chosen factors stand exactly where their names say
        if len(self.jitter) == 0:
            self.jitter = torch.zeros(len(self), 2, 4, device=self.device)

    def __len__(self) -> int:
        return len(self.factors["kind"])

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> Scenes:
        """Some of the scenes, always as a batch: an int gives a batch of one."""
        if isinstance(index, int):
            index = [index]  # a slice of one: the batch axis stays
        factors = {name: value[index] for name, value in self.factors.items()}
        return Scenes(factors, self.jitter[index])

    @property
    def device(self) -> torch.device:
        return self.factors["kind"].device

    def to(self, device: torch.device | str) -> Scenes:
        factors = {name: value.to(device) for name, value in self.factors.items()}
        return Scenes(factors, self.jitter.to(device))

    def describe(self, index: int) -> dict[str, str]:
        """The applicable factors of one scene, by value name."""
        masks = applicable(self)
        named = {}
        for name, value in self.factors.items():
            if bool(masks[name][index]):
                named[name] = FACTORS[name][int(value[index])]
        return named


def scenes_from(descriptions: Sequence[Mapping[str, str]]) -> Scenes:
    """Scenes with chosen factors and no jitter: `scenes_from([{"kind": "one",
    "shape_a": "star"}])`.

    Factors that are not named take their first value. Raises Dalle2EduError for a name
    or value that isn't in FACTORS.
    """
    for description in descriptions:
        for name, value in description.items():
            # a misspelt factor would silently take its first value
            if name not in FACTORS:
                raise Dalle2EduError(
                    f"unknown factor '{name}': choose from {', '.join(FACTORS)}"
                )
            if value not in FACTORS[name]:
                raise Dalle2EduError(
                    f"unknown {name} '{value}': choose from {', '.join(FACTORS[name])}"
                )
    columns = {}
    for name, values in FACTORS.items():
        chosen = [values.index(scene.get(name, values[0])) for scene in descriptions]
        columns[name] = torch.tensor(chosen, dtype=torch.int64)  # (B,)
    return Scenes(_blank_meaningless(columns))


def applicable(scenes: Scenes) -> dict[str, Tensor]:
    """Which factors have a meaning in which scene: name -> bool (B,)."""
    return _applicable(scenes.factors)


def _applicable(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    kind = factors["kind"]
    length = factors["length"]  # index: 0 is one letter
    always = torch.ones_like(kind, dtype=torch.bool)
    sign = kind == SIGN
    two = kind == TWO
    masks = {
        "kind": always,
        "background": always,
        "colour_a": always,  # a sign's board has a colour, too
        "place": kind == ONE,
        "layout": two,  # the others in groups: they share a condition
    }
    masks |= dict.fromkeys(("shape_a", "size_a", "texture_a"), ~sign)
    masks |= dict.fromkeys(("shape_b", "colour_b", "size_b", "texture_b"), two)
    masks["length"] = sign
    for i in range(3):
        masks[f"letter_{i + 1}"] = sign & (length >= i)
    return {name: masks[name] for name in FACTORS}  # in the order of FACTORS


def _blank_meaningless(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Set every factor that has no meaning in its scene to 0."""
    masks = _applicable(factors)  # so that equal scenes have equal factors
    return {name: torch.where(masks[name], value, 0) for name, value in factors.items()}


# --- held-out compositions ------------------------------------------------------------

PAIR_COUNT = len(SHAPES) * len(COLOURS)  # a pair's number is shape * 8 + colour
# (8,)
HELD_OUT_PAIRS = torch.tensor(
    [SHAPES.index(s) * len(COLOURS) + COLOURS.index(c) for s, c in HELD_OUT.items()]
)


def is_held_out(scenes: Scenes) -> Tensor:
    """Whether a scene is never drawn in training, for an object's pair or a sign's
    word: bool (B,).
    """
    factors = scenes.factors
    masks = applicable(scenes)
    table = torch.zeros(PAIR_COUNT, dtype=torch.bool)  # by pair number
    table[HELD_OUT_PAIRS] = True
    table = table.to(scenes.device)
    pair_a = factors["shape_a"] * len(COLOURS) + factors["colour_a"]  # (B,)
    pair_b = factors["shape_b"] * len(COLOURS) + factors["colour_b"]
    held_a = table[pair_a] & masks["shape_a"]
    held_b = table[pair_b] & masks["shape_b"]
    held_word = (_word_class(factors) == 0) & masks["letter_3"]  # of three letters only
    return held_a | held_b | held_word


def _word_class(factors: dict[str, Tensor]) -> Tensor:
    """A three-letter word's class, 0..7; every letter is in all classes alike. Class 0
    is held out.
    """
    first, second, third = (factors[f"letter_{i}"] for i in (1, 2, 3))
    # odd weights: whatever the other two are, one letter reaches every class
    return (first + 3 * second + 5 * third) % HELD_OUT_WORD_SHARE


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
    home = generator.device  # where the generator lives
    # every factor is drawn for every scene; what has no meaning is blanked at the end
    factors = {}
    for name, values in FACTORS.items():
        factors[name] = torch.randint(
            len(values), (n,), generator=generator, device=home
        )
    shares = torch.tensor(KIND_SHARES[split], device=home)
    factors["kind"] = torch.multinomial(
        shares, n, replacement=True, generator=generator
    )
    # shape and colour are drawn together, so that a pair can be held out
    pair_a, pair_b = _sample_pairs(factors["kind"], generator, split)
    factors["shape_a"] = pair_a // len(COLOURS)
    factors["shape_b"] = pair_b // len(COLOURS)
    sign = factors["kind"] == SIGN  # keeps its colour: any board is allowed
    factors["colour_a"] = torch.where(sign, factors["colour_a"], pair_a % len(COLOURS))
    factors["colour_b"] = pair_b % len(COLOURS)
    if split == "seen":
        # a held-out word takes the next letter of the alphabet, which is always in
        # another class: 5 is no multiple of 8, nor are the 125 back from Z to A
        letter = factors["letter_3"]
        respelt = (letter + 1) % len(letters.ALPHABET)
        held = _word_class(factors) == 0
        factors["letter_3"] = torch.where(held, respelt, letter)
    jitter = torch.rand(n, 2, 4, generator=generator, device=home) * 2 - 1  # in [-1, 1]
    return Scenes(_blank_meaningless(factors), jitter).to(device)


def _sample_pairs(
    kind: Tensor, generator: torch.Generator, split: str
) -> tuple[Tensor, Tensor]:
    """Two different (shape, colour) pairs for each scene, by number: int64 (n,), (n,).

    "seen": neither is held out. "held_out": one of them is, and of a single object the
    first. "all": any two.
    """

    def draw(high: int) -> Tensor:
        return torch.randint(high, kind.shape, generator=generator, device=kind.device)

    held = HELD_OUT_PAIRS.to(kind.device)  # (8,)
    everything = torch.arange(PAIR_COUNT, device=kind.device)  # (64,)
    if split == "held_out":
        first = held[draw(len(held))]  # (n,)
        # any pair but the first
        second = (first + 1 + draw(PAIR_COUNT - 1)) % PAIR_COUNT
        # of two objects, either may be the held-out one
        swap = (kind == TWO) & (draw(2) == 1)
        a = torch.where(swap, second, first)
        b = torch.where(swap, first, second)
        return a, b
    in_training = everything[~torch.isin(everything, held)]  # (56,)
    allowed = everything if split == "all" else in_training
    first = draw(len(allowed))  # places in `allowed`, (n,)
    # a step of 1 ... len - 1 round the list never comes back to the first
    second = (first + 1 + draw(len(allowed) - 1)) % len(allowed)
    return allowed[first], allowed[second]
