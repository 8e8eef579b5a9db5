"""Scenes drawn from distances.

A signed-distance function d(p) is negative inside a shape and positive outside
(`SDFS`). A pixel of width w whose centre lies at distance d from the edge is covered,
to a good approximation of averaging over its square, by

    coverage = clamp(1/2 - d / w, 0, 1),

which is why a picture drawn at 32 looks like one drawn at 128 and shrunk. All scenes of
a batch are drawn at once: `render` lays the first objects, the second ones and the
signs over the background, one after the other.

Chapter 02 uses this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dalle2_edu.data import letters
from dalle2_edu.data.scenes import (
    COLOURS,
    FACTORS,
    ONE,
    SHAPES,
    SIGN,
    TEXTURES,
    Scenes,
    applicable,
)
from dalle2_edu.errors import Dalle2EduError

# --- signed distances -----------------------------------------------------------------
# Coordinates are in units of the object's radius, x to the right, y up; shapes reach about 1 from
# the middle and cover areas that look alike. The greatest of several half-planes' distances is
# exact along a polygon's edges, and only a bound beyond its corners, which is all that an edge
# one pixel wide needs.


def circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.9


def square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.8


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Three half-planes 0.55 from the centroid; moved down so that it stands
    centred.
    """
    y = y + 0.275
    slanted = math.cos(math.pi / 6) * x.abs() + math.sin(math.pi / 6) * y
    return torch.maximum(slanted, -y) - 0.55


def star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: mirror the plane into a tenth of a turn, where only one edge is left
    to measure.
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
    """Two bars; by symmetry the longer coordinate meets the bar's length, the shorter
    its width.
    """
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.maximum(x, y) - 0.95, torch.minimum(x, y) - 0.33)


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.71).abs() - 0.25


def diamond(x: Tensor, y: Tensor) -> Tensor:
    width, height = 0.72, 1.05
    return (x.abs() * height + y.abs() * width - width * height) / math.hypot(
        width, height
    )


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

# --- paint and measures ---------------------------------------------------------------
# The picture is the square [-1, 1] x [-1, 1], x to the right, y up; lengths below are in these
# units (32 px = 2).

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
# stripes and dots are a deeper shade: white ones ate into the outline on pale
# backgrounds
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


def render(scenes: Scenes, size: int = 32) -> Tensor:
    """Draw the scenes: float (B, 3, size, size) in [-1, 1], on the scenes' device.

    Needs about 100 bytes a pixel: draw a large set in chunks, as `shapes.pairs` does.
    Raises Dalle2EduError for size < 8.
    """
    if size < 8:
        raise Dalle2EduError(
            f"cannot draw scenes at {size} pixels: use a size of at least 8"
        )
    background = _paint(FACTORS["background"], scenes.device)[
        scenes.factors["background"]
    ]  # (B, 3)
    picture = background.unsqueeze(-1).repeat(
        1, 1, size * size
    )  # (B, 3, P), P = size * size pixels
    paint_objects(picture, scenes, 0)
    paint_objects(picture, scenes, 1)
    _paint_signs(picture, scenes)
    # (B, 3, P) -> (B, 3, size, size)
    return picture.view(len(scenes), 3, size, size) * 2 - 1


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
    # (size, size): rows go down, y goes up
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    return x.flatten(), y.flatten()


def _coverage(distance: Tensor) -> Tensor:
    """Share of each pixel that is inside: distance (..., P) in scene units -> (..., P)
    in [0, 1].
    """
    pixel = 2 / math.isqrt(distance.shape[-1])
    return (0.5 - distance / pixel).clamp(0, 1)


def _blend(picture: Tensor, rows: Tensor, colour: Tensor, coverage: Tensor) -> None:
    """Lay colour (K, 3, P or 1) over the pictures `rows` (K,), as far as coverage (K,
    P) says.
    """
    picture[rows] = torch.lerp(picture[rows], colour, coverage.unsqueeze(1))


def _to_local(
    scenes: Scenes, centre: Tensor, jitter: Tensor, max_angle: float, pixels: int
) -> tuple[Tensor, Tensor]:
    """The pixels as the object sees them, from its centre (K, 2) and in its turned
    axes: (K, P), (K, P).
    """
    x, y = _pixel_centres(pixels, scenes.device)
    x, y = x - centre[:, :1], y - centre[:, 1:]  # (P,) - (K, 1) -> (K, P)
    angle = jitter[:, 3:] * max_angle  # (K, 1)
    cos, sin = angle.cos(), angle.sin()
    return x * cos + y * sin, y * cos - x * sin


def paint_objects(picture: Tensor, scenes: Scenes, slot: int) -> None:
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
    distance = (
        _shape_distances(factors[f"shape_{letter}"], u / radius, v / radius) * radius
    )
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
    # (K, 2)
    paired = torch.tensor(LAYOUTS, device=device)[factors["layout"]] * (1 - 2 * slot)
    centre = torch.where(factors["kind"].unsqueeze(1) == ONE, alone, paired)
    return centre + scenes.jitter[:, slot, :2] * POSITION_JITTER


def _radii(scenes: Scenes, slot: int) -> Tensor:
    """The objects' radii: (K, 1)."""
    size = scenes.factors["size_" + "ab"[slot]]
    radius = torch.tensor(RADII, device=scenes.device)[scenes.factors["kind"], size]
    return (radius * (1 + SIZE_JITTER * scenes.jitter[:, slot, 2])).unsqueeze(1)


def _shape_distances(shape: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Each object's own signed distance, in its radii: shape (K,), u and v (K, P) ->
    (K, P).
    """
    distance = torch.empty_like(u)
    for index, name in enumerate(SHAPES):
        rows = (shape == index).nonzero().squeeze(1)
        distance[rows] = SDFS[name](u[rows], v[rows])
    return distance


def _texture(texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """How much of each pixel is in the deep shade: texture (K,), u and v (K, P) -> (K,
    P) in [0, 1].
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
    """Signed distance to the nearest of a square lattice of dots, one of them in the
    object's middle.
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
    centre = jitter[:, :2] * POSITION_JITTER + torch.tensor(
        [0.0, SIGN_Y], device=device
    )
    u, v = _to_local(scenes, centre, jitter, ANGLE_JITTER / 2, picture.shape[-1])
    post = torch.maximum(u.abs() - POST_WIDTH / 2, v)  # from the board's middle down
    _blend(picture, rows, _paint(["post"], device).unsqueeze(-1), _coverage(post))
    # (K, 1)
    width = (scenes.factors["length"].unsqueeze(1) + 1) * LETTER_PITCH + BOARD_MARGIN
    # (K, 3, 1)
    board = _paint(COLOURS, device)[scenes.factors["colour_a"]].unsqueeze(-1)
    _blend(
        picture,
        rows,
        board,
        _coverage(_rounded_box(u, v, width / 2, BOARD_HEIGHT / 2, BOARD_ROUNDING)),
    )
    # (8, 3)
    ink = _paint(["black" if c in DARK_LETTERS else "white" for c in COLOURS], device)
    _blend(
        picture,
        rows,
        ink[scenes.factors["colour_a"]].unsqueeze(-1),
        _letter_coverage(scenes, u, v),
    )


def _rounded_box(
    u: Tensor, v: Tensor, half_width: Tensor, half_height: float, rounding: float
) -> Tensor:
    """Signed distance to a box with rounded corners: u, v (K, P), half_width (K, 1) ->
    (K, P).
    """
    du, dv = u.abs() - half_width + rounding, v.abs() - half_height + rounding
    return (
        torch.hypot(du.clamp(min=0), dv.clamp(min=0))
        + torch.maximum(du, dv).clamp(max=0)
        - rounding
    )


def _letter_coverage(scenes: Scenes, u: Tensor, v: Tensor) -> Tensor:
    """Ink of a sign's letters, from the board's middle: u, v (K, P) -> (K, P) in [0,
    1].
    """
    length, ink = scenes.factors["length"], torch.zeros_like(u)
    for position in range(3):
        rows = (length >= position).nonzero().squeeze(1)  # signs that have this letter
        middle = (position - length[rows].unsqueeze(1) / 2) * LETTER_PITCH  # (K', 1)
        x = (u[rows] - middle) / LETTER_UNIT  # grid units from the letter's middle
        which = scenes.factors[f"letter_{position + 1}"][rows]
        ink[rows] += _coverage(
            letters.distance(which, x, v[rows] / LETTER_UNIT) * LETTER_UNIT
        )
    return ink.clamp(max=1)
