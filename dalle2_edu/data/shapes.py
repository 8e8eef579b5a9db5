"""Lesson: an endless captioned world, drawn from distances.

What a model can learn is bounded by its data, and with found data one never knows the truth
behind a picture. Here we do: a *scene* is drawn at random from a few factors, the factors are
kept, and both the picture and its captions are made from them. So a generator can be marked
exactly, attribute by attribute, and combinations that were never drawn in training show whether
it has learnt to compose or only to remember.

A scene is one object, two objects, or a sign on a post with one to three capital letters. Its
factors (`FACTORS`):

    kind                               one | two | sign
    background                         one of five pale colours
    shape_a colour_a size_a texture_a  the object; of two, the left or upper one. colour_a: a sign's, too
    shape_b colour_b size_b texture_b  the right or lower object of two
    place                              where a single object stands
    layout                             two objects side by side, or one above the other
    length letter_1 letter_2 letter_3  a sign's letters

Every factor is present for every scene as an index into its values; where it has no meaning it
is 0, and `applicable` says so. Beside the factors each object has a *jitter* of position, size
and angle, so that no two pictures are alike.

Drawing. A signed-distance function d(p) is negative inside a shape and positive outside
(`SDFS`). A pixel of width w whose centre lies at distance d from the edge is covered, to a good
approximation of averaging over its square, by

    coverage = clamp(1/2 - d / w, 0, 1),

which is why a picture drawn at 32 looks like one drawn at 128 and shrunk. All scenes of a batch
are drawn at once.

Held-out compositions. `HELD_OUT` pairs each shape with one colour, each colour once: 8 of the
64 pairs. Training (`split="seen"`) never draws such an object, alone or with another. Signs:
one three-letter word in eight, by the sum in `_word_class`, is never drawn in training either.
`split="held_out"` draws scenes of one or two objects of which at least one is a held-out pair,
and no signs; `split="all"` draws everything.

Used in chapter 02, and wherever a small model is trained from nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dalle2_edu.data import grammar, letters
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.errors import Dalle2EduError

# ---------------------------------------------------------------------------------------- the w

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
KIND_SHARES = {"seen": (0.4, 0.4, 0.2), "all": (0.4, 0.4, 0.2), "held_out": (0.5, 0.5, 0.0)}


@dataclass
class Scenes:
    """A batch of B scenes: the truth from which pictures and captions are made.

    `factors`: name -> int64 (B,), indices into `FACTORS[name]`; 0 where the factor has no
    meaning. `jitter`: float (B, 2, 4), uniform in [-1, 1]: for slots a and b, the push of x, y,
    size and angle. Zero if not given."""

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
            {name: value[index] for name, value in self.factors.items()}, self.jitter[index]
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
    """Scenes with chosen factors and no jitter: `scenes_from([{"kind": "one", "shape_a":
    "star"}])`.

    Factors that are not named take their first value. Raises Dalle2EduError for a name or value
    that isn't in FACTORS."""
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
            [values.index(d.get(name, values[0])) for d in descriptions], dtype=torch.int64
        )
        for name, values in FACTORS.items()
    }
    return Scenes(_blank_meaningless(columns))


def applicable(scenes: Scenes) -> dict[str, Tensor]:
    """Which factors have a meaning in which scene: name -> bool (B,)."""
    return _applicable(scenes.factors)


def _applicable(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    kind, length = factors["kind"], factors["length"]
    always, sign, two = torch.ones_like(kind, dtype=torch.bool), kind == SIGN, kind == TWO
    masks = {
        "kind": always,
        "background": always,
        "colour_a": always,
        "place": kind == ONE,
        "layout": two,
    }
    masks |= dict.fromkeys(("shape_a", "size_a", "texture_a"), ~sign)
    masks |= dict.fromkeys(("shape_b", "colour_b", "size_b", "texture_b"), two)
    masks |= {"length": sign} | {f"letter_{i + 1}": sign & (length >= i) for i in range(3)}
    return {name: masks[name] for name in FACTORS}


def _blank_meaningless(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Set every factor that has no meaning in its scene to 0."""
    masks = _applicable(factors)
    return {name: torch.where(masks[name], value, 0) for name, value in factors.items()}


# -------------------------------------------------------------------------------------- held-ou

PAIR_COUNT = len(SHAPES) * len(COLOURS)  # a pair's number is shape * 8 + colour
HELD_OUT_PAIRS = torch.tensor(
    [SHAPES.index(s) * len(COLOURS) + COLOURS.index(c) for s, c in HELD_OUT.items()]
)


def is_held_out(scenes: Scenes) -> Tensor:
    """Whether a scene is never drawn in training, for an object's pair or a sign's word: bool
    (B,).
    """
    factors, masks = scenes.factors, applicable(scenes)
    table = torch.zeros(PAIR_COUNT, dtype=torch.bool)
    table[HELD_OUT_PAIRS] = True
    table = table.to(scenes.device)
    held_a = table[factors["shape_a"] * len(COLOURS) + factors["colour_a"]] & masks["shape_a"]
    held_b = table[factors["shape_b"] * len(COLOURS) + factors["colour_b"]] & masks["shape_b"]
    return held_a | held_b | (_word_class(factors) == 0) & masks["letter_3"]


def _word_class(factors: dict[str, Tensor]) -> Tensor:
    """A three-letter word's class, 0..7; every letter is in all classes alike. Class 0 is held
    out.
    """
    first, second, third = (factors[f"letter_{i}"] for i in (1, 2, 3))
    return (
        first + 3 * second + 5 * third
    ) % HELD_OUT_WORD_SHARE  # odd weights: each letter alone decides the class


# ---------------------------------------------------------------------------------------------


def sample_scenes(
    n: int, generator: torch.Generator, split: str = "seen", device: torch.device | str = "cpu"
) -> Scenes:
    """Draw n scenes at random.

    All numbers are drawn on the generator's own device and then moved, so a CPU generator gives
    the same scenes for every `device`. Raises Dalle2EduError for n <= 0 or an unknown split.
    """
    if n <= 0:
        raise Dalle2EduError(f"cannot draw {n} scenes: ask for at least one")
    if split not in SPLITS:
        raise Dalle2EduError(f"unknown split '{split}': choose from {', '.join(SPLITS)}")
    home = generator.device
    home = generator.device
    factors = {
        k: torch.randint(len(v), (n,), generator=generator, device=home)
        for k, v in FACTORS.items()
    }
    shares = torch.tensor(KIND_SHARES[split], device=home)
    factors["kind"] = torch.multinomial(shares, n, replacement=True, generator=generator)
    sign = factors["kind"] == SIGN
    pair_a, pair_b = _sample_pairs(factors["kind"], generator, split)
    factors["shape_a"], factors["shape_b"] = pair_a // len(COLOURS), pair_b // len(COLOURS)
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

    "seen": neither is held out. "held_out": one of them is, and of a single object the first.
    "all": any two."""

    def draw(high: int) -> Tensor:
        return torch.randint(high, kind.shape, generator=generator, device=kind.device)

    held, everything = (
        HELD_OUT_PAIRS.to(kind.device),
        torch.arange(PAIR_COUNT, device=kind.device),
    )
    if split == "held_out":
        first = held[draw(len(held))]
        second = (first + 1 + draw(PAIR_COUNT - 1)) % PAIR_COUNT  # any pair but the first
        swap = (kind == TWO) & (draw(2) == 1)
        return torch.where(swap, second, first), torch.where(swap, first, second)
    allowed = everything if split == "all" else everything[~torch.isin(everything, held)]
    first = draw(len(allowed))
    second = (first + 1 + draw(len(allowed) - 1)) % len(allowed)
    return allowed[first], allowed[second]


# ------------------------------------------------------------------------------------------- si
#  Coordinates are in units of the object's radius, x to the right, y up; shapes reach about 1 from the middle
# and cover areas that look alike. The greatest of several half-planes' distances is exact along a polygon's
# edges, and only a bound beyond its corners, which is all that an edge one pixel wide needs.


def circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.9


def square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.8


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Three half-planes 0.55 from the centroid; moved down so that it stands centred."""
    y = y + 0.275
    slanted = math.cos(math.pi / 6) * x.abs() + math.sin(math.pi / 6) * y
    return torch.maximum(slanted, -y) - 0.55


def star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: mirror the plane into a tenth of a turn, where only one edge is left to
    measure.
    """
    x, y = x.abs(), y + 0.06
    for turn in (
        -0.2 * math.pi,
        -0.8 * math.pi,
    ):  # mirror lines beside the upper point; (nx, ny) is a line's normal
        nx, ny = math.cos(turn), math.sin(turn)
        beyond = 2 * (x * nx + y * ny).clamp(min=0)
        x, y = x - beyond * nx, y - beyond * ny
    tip, notch = 1.08, 0.50  # distance of the points and of the notches from the middle
    across, down = (
        notch * math.sin(0.2 * math.pi),
        tip - notch * math.cos(0.2 * math.pi),
    )  # the edge's two extents
    return (x.abs() * down + (y - tip) * across) / math.hypot(across, down)


def heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner, with a disc on each of the two upper edges."""
    x, y, d = x.abs(), y + 0.08, 0.8  # d: half the square's diagonal
    body = (x + y.abs() - d) * math.sqrt(0.5)
    lobe = torch.hypot(x - d / 2, y - d / 2) - d * math.sqrt(0.5)
    return torch.minimum(body, lobe)


def cross(x: Tensor, y: Tensor) -> Tensor:
    """Two bars; by symmetry the longer coordinate meets the bar's length, the shorter its
    width.
    """
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.maximum(x, y) - 0.95, torch.minimum(x, y) - 0.33)


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.71).abs() - 0.25


def diamond(x: Tensor, y: Tensor) -> Tensor:
    width, height = 0.72, 1.05
    return (x.abs() * height + y.abs() * width - width * height) / math.hypot(width, height)


SDFS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "cross": cross,
    "ring": ring,
    "diamond": diamond,
}

# ----------------------------------------------------------------------------------------------
#  The picture is the square [-1, 1] x [-1, 1], x to the right, y up; lengths below are in these units (32 px
# = 2).

PAINT = {  # 8-bit RGB
    "red": (219, 48, 46),
    "orange": (246, 138, 28),
    "yellow": (250, 207, 34),
    "green": (44, 158, 84),
    "blue": (38, 104, 222),
    "purple": (136, 72, 190),
    "pink": (246, 124, 184),
    "black": (40, 42, 54),
    "white": (253, 253, 251),
    "light blue": (203, 228, 250),
    "light green": (206, 240, 206),
    "light yellow": (255, 243, 186),
    "light pink": (253, 217, 227),
    "post": (150, 121, 93),
}
# stripes and dots are a deeper shade: white ones ate into the outline on pale backgrounds
DEEP = {
    "red": (136, 16, 30),
    "orange": (184, 78, 6),
    "yellow": (200, 134, 4),
    "green": (10, 86, 50),
    "blue": (14, 40, 124),
    "purple": (70, 24, 112),
    "pink": (186, 44, 116),
    "black": (134, 138, 156),
}
DARK_LETTERS = ("yellow", "pink", "orange")  # signs too bright for white letters

RADII = ((0.27, 0.53), (0.25, 0.37))  # alone: small, large; in a pair: small, large
# directions, in the order of FACTORS["place"]
PLACES = (
    (0.0, 0.0),
    (-1.0, 0.0),
    (1.0, 0.0),
    (0.0, 1.0),
    (0.0, -1.0),
)
REACH = (0.58, 0.33)  # how far from the middle a small, a large object stands
LAYOUTS = (
    (-0.51, 0.0),
    (0.0, 0.51),
)  # slot a, side by side and stacked; slot b stands opposite
POSITION_JITTER, SIZE_JITTER, ANGLE_JITTER = 0.03, 0.05, math.radians(8)

STRIPE_PERIOD, DOT_PERIOD, DOT_RADIUS = 0.21, 0.22, 0.07
LETTER_UNIT = 0.095  # one grid unit of the alphabet
LETTER_PITCH = 0.56  # from one letter's middle to the next
SIGN_Y, BOARD_HEIGHT, BOARD_MARGIN, BOARD_ROUNDING = 0.16, 0.92, 0.12, 0.08
POST_WIDTH = 0.12

CHUNK_PIXELS = 2**17  # pixels drawn at a time by `pairs`: what stays in a core's cache


def render(scenes: Scenes, size: int = 32) -> Tensor:
    """Draw the scenes: float (B, 3, size, size) in [-1, 1], on the scenes' device.

    Needs about 100 bytes a pixel: draw a large set in chunks, as `pairs` does. Raises
    Dalle2EduError for size < 8."""
    if size < 8:
        raise Dalle2EduError(f"cannot draw scenes at {size} pixels: use a size of at least 8")
    background = _paint(FACTORS["background"], scenes.device)[
        scenes.factors["background"]
    ]  # (B, 3)
    picture = background.unsqueeze(-1).repeat(
        1, 1, size * size
    )  # (B, 3, P), P = size * size pixels
    _paint_objects(picture, scenes, 0)
    _paint_objects(picture, scenes, 1)
    _paint_signs(picture, scenes)
    return picture.view(len(scenes), 3, size, size) * 2 - 1  # (B, 3, P) -> (B, 3, size, size)


def _paint(
    names: Sequence[str],
    device: torch.device,
    tints: Mapping[str, tuple[int, int, int]] = PAINT,
) -> Tensor:
    """Colours by name: float (len(names), 3) in [0, 1]."""
    return torch.tensor([tints[name] for name in names], device=device) / 255


def _pixel_centres(pixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x and y of every pixel's centre, row by row from the top: (P,), (P,)."""
    size = math.isqrt(pixels)
    steps = (torch.arange(size, device=device) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(-steps, steps, indexing="ij")  # (size, size): rows go down, y goes up
    return x.flatten(), y.flatten()


def _coverage(distance: Tensor) -> Tensor:
    """Share of each pixel that is inside: distance (..., P) in scene units -> (..., P) in [0,
    1].
    """
    pixel = 2 / math.isqrt(distance.shape[-1])
    return (0.5 - distance / pixel).clamp(0, 1)


def _blend(picture: Tensor, rows: Tensor, colour: Tensor, coverage: Tensor) -> None:
    """Lay colour (K, 3, P or 1) over the pictures `rows` (K,), as far as coverage (K, P)
    says.
    """
    picture[rows] = torch.lerp(picture[rows], colour, coverage.unsqueeze(1))


def _to_local(
    scenes: Scenes, centre: Tensor, jitter: Tensor, max_angle: float, pixels: int
) -> tuple[Tensor, Tensor]:
    """The pixels as the object sees them, from its centre (K, 2) and in its turned axes: (K,
    P), (K, P).
    """
    x, y = _pixel_centres(pixels, scenes.device)
    x, y = x - centre[:, :1], y - centre[:, 1:]  # (P,) - (K, 1) -> (K, P)
    angle = jitter[:, 3:] * max_angle  # (K, 1)
    cos, sin = angle.cos(), angle.sin()
    return x * cos + y * sin, y * cos - x * sin


def _paint_objects(picture: Tensor, scenes: Scenes, slot: int) -> None:
    """Paint slot 0 (a) or 1 (b) of every scene that has it, in place."""
    letter = "ab"[slot]
    rows = (
        applicable(scenes)[f"shape_{letter}"].nonzero().squeeze(1)
    )  # (K,): the scenes that have this object
    if len(rows) == 0:
        return
    scenes = scenes[rows]
    factors, jitter = scenes.factors, scenes.jitter[:, slot]
    centre, radius = _centres(scenes, slot), _radii(scenes, slot)
    u, v = _to_local(scenes, centre, jitter, ANGLE_JITTER, picture.shape[-1])
    distance = _shape_distances(factors[f"shape_{letter}"], u / radius, v / radius) * radius
    colour = _paint(COLOURS, scenes.device)[factors[f"colour_{letter}"]].unsqueeze(
        -1
    )  # (K, 3, 1)
    deep = _paint(COLOURS, scenes.device, DEEP)[factors[f"colour_{letter}"]].unsqueeze(
        -1
    )  # (K, 3, 1)
    marks = _texture(factors[f"texture_{letter}"], u, v).unsqueeze(1)  # (K, 1, P)
    _blend(picture, rows, torch.lerp(colour, deep, marks), _coverage(distance))


def _centres(scenes: Scenes, slot: int) -> Tensor:
    """Where the objects of a slot stand: (K, 2)."""
    factors, device = scenes.factors, scenes.device
    reach = torch.tensor(REACH, device=device)[factors["size_a"]].unsqueeze(1)  # (K, 1)
    alone = torch.tensor(PLACES, device=device)[factors["place"]] * reach  # (K, 2)
    paired = torch.tensor(LAYOUTS, device=device)[factors["layout"]] * (1 - 2 * slot)  # (K, 2)
    centre = torch.where(factors["kind"].unsqueeze(1) == ONE, alone, paired)
    return centre + scenes.jitter[:, slot, :2] * POSITION_JITTER


def _radii(scenes: Scenes, slot: int) -> Tensor:
    """The objects' radii: (K, 1)."""
    size = scenes.factors["size_" + "ab"[slot]]
    radius = torch.tensor(RADII, device=scenes.device)[scenes.factors["kind"], size]
    return (radius * (1 + SIZE_JITTER * scenes.jitter[:, slot, 2])).unsqueeze(1)


def _shape_distances(shape: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Each object's own signed distance, in its radii: shape (K,), u and v (K, P) -> (K, P)."""
    distance = torch.empty_like(u)
    for index, name in enumerate(SHAPES):
        rows = (shape == index).nonzero().squeeze(1)
        distance[rows] = SDFS[name](u[rows], v[rows])
    return distance


def _texture(texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """How much of each pixel is in the deep shade: texture (K,), u and v (K, P) -> (K, P) in
    [0, 1].
    """
    marks = torch.zeros_like(u)
    for name, distance in (("striped", _stripes), ("dotted", _dots)):
        rows = (texture == TEXTURES.index(name)).nonzero().squeeze(1)
        marks[rows] = _coverage(distance(u[rows], v[rows]))
    return marks


def _stripes(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to slanting stripes, half of the surface."""
    t = (u + v) * (math.sqrt(0.5) / STRIPE_PERIOD)
    return (
        (t - t.round()).abs() - 0.25
    ) * STRIPE_PERIOD  # one stripe through the object's middle


def _dots(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the nearest of a square lattice of dots, one of them in the object's
    middle.
    """
    u, v = u / DOT_PERIOD, v / DOT_PERIOD
    return torch.hypot(u - u.round(), v - v.round()) * DOT_PERIOD - DOT_RADIUS


def _paint_signs(picture: Tensor, scenes: Scenes) -> None:
    """Paint post, board and letters of every sign, in place."""
    rows = (scenes.factors["kind"] == SIGN).nonzero().squeeze(1)
    if len(rows) == 0:
        return
    scenes, device = scenes[rows], scenes.device
    jitter = scenes.jitter[:, 0]
    centre = jitter[:, :2] * POSITION_JITTER + torch.tensor([0.0, SIGN_Y], device=device)
    u, v = _to_local(scenes, centre, jitter, ANGLE_JITTER / 2, picture.shape[-1])
    post = torch.maximum(u.abs() - POST_WIDTH / 2, v)  # from the board's middle down
    _blend(picture, rows, _paint(["post"], device).unsqueeze(-1), _coverage(post))
    width = (scenes.factors["length"].unsqueeze(1) + 1) * LETTER_PITCH + BOARD_MARGIN  # (K, 1)
    board = _paint(COLOURS, device)[scenes.factors["colour_a"]].unsqueeze(-1)  # (K, 3, 1)
    _blend(
        picture,
        rows,
        board,
        _coverage(_rounded_box(u, v, width / 2, BOARD_HEIGHT / 2, BOARD_ROUNDING)),
    )
    ink = _paint(["black" if c in DARK_LETTERS else "white" for c in COLOURS], device)  # (8, 3)
    _blend(
        picture,
        rows,
        ink[scenes.factors["colour_a"]].unsqueeze(-1),
        _letter_coverage(scenes, u, v),
    )


def _rounded_box(
    u: Tensor, v: Tensor, half_width: Tensor, half_height: float, rounding: float
) -> Tensor:
    """Signed distance to a box with rounded corners: u, v (K, P), half_width (K, 1) -> (K,
    P).
    """
    du, dv = u.abs() - half_width + rounding, v.abs() - half_height + rounding
    return (
        torch.hypot(du.clamp(min=0), dv.clamp(min=0))
        + torch.maximum(du, dv).clamp(max=0)
        - rounding
    )


def _letter_coverage(scenes: Scenes, u: Tensor, v: Tensor) -> Tensor:
    """Ink of a sign's letters, from the board's middle: u, v (K, P) -> (K, P) in [0, 1]."""
    length, ink = scenes.factors["length"], torch.zeros_like(u)
    for position in range(3):
        rows = (length >= position).nonzero().squeeze(1)  # signs that have this letter
        middle = (position - length[rows].unsqueeze(1) / 2) * LETTER_PITCH  # (K', 1)
        x = (u[rows] - middle) / LETTER_UNIT  # grid units from the letter's middle
        which = scenes.factors[f"letter_{position + 1}"][rows]
        ink[rows] += _coverage(letters.distance(which, x, v[rows] / LETTER_UNIT) * LETTER_UNIT)
    return ink.clamp(max=1)


# ----------------------------------------------------------------------------------------- capt


def captions(
    scenes: Scenes,
    language: str = "en",
    generator: torch.Generator | None = None,
    detail: str = "full",
) -> list[str]:
    """One caption a scene, in English ("en") or Chinese ("zh").

    detail "full" names every factor that has a meaning in the scene; "mixed" leaves some out,
    as people do. The generator draws the wording; without one every scene gets the first
    wording of the grammar. Raises Dalle2EduError for an unknown language or detail."""
    if generator is None:
        luck = [(0.0,) * grammar.DRAWS] * len(scenes)
    else:
        luck = torch.rand(
            len(scenes), grammar.DRAWS, generator=generator, device=generator.device
        ).tolist()
    return grammar.captions(_truths(scenes), luck, language, detail)


def _truths(scenes: Scenes) -> list[grammar.Truth]:
    """What the grammar needs to know of each scene."""
    name = {k: [values[i] for i in scenes.factors[k].tolist()] for k, values in FACTORS.items()}
    a, b = (
        map(
            grammar.Thing,
            name[f"shape_{s}"],
            name[f"colour_{s}"],
            name[f"size_{s}"],
            name[f"texture_{s}"],
        )
        for s in "ab"
    )
    spelt = zip(
        name["letter_1"], name["letter_2"], name["letter_3"], name["length"], strict=True
    )
    words = [(first + second + third)[: int(length)] for first, second, third, length in spelt]
    return list(
        map(
            grammar.Truth,
            name["kind"],
            name["background"],
            a,
            b,
            name["place"],
            name["layout"],
            words,
        )
    )


def pairs(n: int, size: int, seed: int = 0, split: str = "seen") -> Pairs:
    """n scenes as 8-bit pictures, each with four captions: full and mixed English, full and
    mixed Chinese.

    The same seed gives the same pairs. Raises Dalle2EduError for n <= 0, size < 8 or an unknown
    split."""
    generator = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(n, generator, split)
    wordings = [
        captions(scenes, lang, generator, detail)
        for lang in ("en", "zh")
        for detail in ("full", "mixed")
    ]
    return Pairs(_drawn(scenes, size), [list(four) for four in zip(*wordings, strict=True)])


def single_objects(
    n: int, size: int = 16, seed: int = 0, split: str = "seen"
) -> tuple[Tensor, Tensor]:
    """The smallest world worth a diffusion model: one large plain object, which 16 pixels can
    still show.

    Returns 8-bit pictures, uint8 (n, 3, size, size), and each one's shape as an index into
    SHAPES, int64 (n,). Raises as `pairs` does."""
    generator = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(
        4 * n + 50 if n > 0 else n, generator, split
    )  # two scenes in five have a single object
    scenes = scenes[scenes.factors["kind"] == ONE][:n]
    scenes.factors["size_a"].fill_(SIZES.index("large"))
    scenes.factors["texture_a"].fill_(TEXTURES.index("plain"))
    return _drawn(scenes, size), scenes.factors["shape_a"]


def _drawn(scenes: Scenes, size: int) -> Tensor:
    """The scenes as 8-bit pictures, a chunk at a time: uint8 (B, 3, size, size)."""
    images = torch.empty(len(scenes), 3, size, size, dtype=torch.uint8)
    chunk = max(1, CHUNK_PIXELS // size**2)
    for start in range(0, len(scenes), chunk):
        batch = render(scenes[start : start + chunk], size)
        images[start : start + chunk] = ((batch + 1) * 127.5).round().to(torch.uint8)
    return images
