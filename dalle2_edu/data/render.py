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
    return torch.hypot(x, y) - 0.9  # radius 0.9


def square(x: Tensor, y: Tensor) -> Tensor:
    farther = torch.maximum(x.abs(), y.abs())  # the coordinate that leaves first
    return farther - 0.8


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Three half-planes 0.55 from the centroid; moved down so that it stands
    centred.
    """
    y = y + 0.275  # the centroid lies at a third of the height
    # left and right
    slanted = math.cos(math.pi / 6) * x.abs() + math.sin(math.pi / 6) * y
    farthest = torch.maximum(slanted, -y)  # -y: the lower edge
    return farthest - 0.55


def star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: mirror the plane into a tenth of a turn, where only one edge is left
    to measure.
    """
    x = x.abs()
    y = y + 0.06  # moved down: the lower points reach less far from the middle
    # mirror lines beside the upper point, by their normal's angle
    for turn in (-0.2 * math.pi, -0.8 * math.pi):
        nx = math.cos(turn)
        ny = math.sin(turn)
        beyond = 2 * (x * nx + y * ny).clamp(min=0)  # how far a mirrored point moves
        x = x - beyond * nx
        y = y - beyond * ny
    tip = 1.08  # distance of the points from the middle
    notch = 0.50  # and of the notches
    across = notch * math.sin(0.2 * math.pi)  # the edge's two extents
    down = tip - notch * math.cos(0.2 * math.pi)
    # the half-plane below the line from the tip, (0, tip), to (across, tip - down)
    edge = x.abs() * down + (y - tip) * across
    return edge / math.hypot(across, down)


def heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner, with a disc on each of the two upper edges."""
    x = x.abs()
    y = y + 0.08
    d = 0.8  # half the square's diagonal
    body = (x + y.abs() - d) * math.sqrt(0.5)
    # a disc as wide as the edge, in the middle of it: (d/2, d/2)
    lobe = torch.hypot(x - d / 2, y - d / 2) - d * math.sqrt(0.5)
    return torch.minimum(body, lobe)  # either of them


def cross(x: Tensor, y: Tensor) -> Tensor:
    """Two bars; by symmetry the longer coordinate meets the bar's length, the shorter
    its width.
    """
    x = x.abs()
    y = y.abs()
    length = torch.maximum(x, y) - 0.95
    width = torch.minimum(x, y) - 0.33
    return torch.maximum(length, width)  # inside both


def ring(x: Tensor, y: Tensor) -> Tensor:
    from_band = (torch.hypot(x, y) - 0.71).abs()  # 0.71: the band's middle
    return from_band - 0.25  # half the band's width


def diamond(x: Tensor, y: Tensor) -> Tensor:
    width = 0.72  # half of it
    height = 1.05
    # |x| / width + |y| / height = 1 is the edge in one quarter
    edge = x.abs() * height + y.abs() * width - width * height
    return edge / math.hypot(width, height)


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
PLACES = ((0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
REACH = (0.58, 0.33)  # how far from the middle a small, a large object stands
# slot a, side by side and stacked; slot b stands opposite
LAYOUTS = ((-0.51, 0.0), (0.0, 0.51))
POSITION_JITTER = 0.03  # half a pixel of 32
SIZE_JITTER = 0.05  # a share of the radius
ANGLE_JITTER = math.radians(8)

STRIPE_PERIOD = 0.21  # a stripe and a gap: 3.4 pixels of 32
DOT_PERIOD = 0.22
DOT_RADIUS = 0.07
LETTER_UNIT = 0.095  # one grid unit of the alphabet
LETTER_PITCH = 0.56  # from one letter's middle to the next
SIGN_Y = 0.16  # the board's middle, a little above the picture's
BOARD_HEIGHT = 0.92
BOARD_MARGIN = 0.12  # beside the letters, left and right together
BOARD_ROUNDING = 0.08
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
    tints = _paint(FACTORS["background"], scenes.device)  # (5, 3)
    background = tints[scenes.factors["background"]]  # (B, 3)
    # (B, 3, P), P = size * size pixels
    picture = background.unsqueeze(-1).repeat(1, 1, size * size)
    paint_objects(picture, scenes, slot=0)  # the painter's order: later ones on top
    paint_objects(picture, scenes, slot=1)
    _paint_signs(picture, scenes)
    # (B, 3, P) => (B, 3, size, size)
    picture = picture.view(len(scenes), 3, size, size)
    return picture * 2 - 1  # [0, 1] => [-1, 1]


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
    middles = torch.arange(size, device=device) + 0.5  # in pixels
    steps = middles * 2 / size - 1  # in [-1, 1]
    # (size, size): rows go down, y goes up
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    return x.flatten(), y.flatten()


def _coverage(distance: Tensor) -> Tensor:
    """Share of each pixel that is inside: distance (..., P) in scene units -> (..., P)
    in [0, 1].
    """
    pixel = 2 / math.isqrt(distance.shape[-1])  # w
    return (0.5 - distance / pixel).clamp(0, 1)  # 1/2 - d / w


def _blend(picture: Tensor, rows: Tensor, colour: Tensor, coverage: Tensor) -> None:
    """Lay colour (K, 3, P or 1) over the pictures `rows` (K,), as far as coverage (K,
    P) says.
    """
    opacity = coverage.unsqueeze(1)  # (K, 1, P)
    picture[rows] = torch.lerp(picture[rows], colour, opacity)


def _to_local(
    scenes: Scenes, centre: Tensor, jitter: Tensor, max_angle: float, pixels: int
) -> tuple[Tensor, Tensor]:
    """The pixels in the object's coordinates: from its centre (K, 2), along its turned
    axes: (K, P), (K, P).
    """
    x, y = _pixel_centres(pixels, scenes.device)  # (P,) each
    x = x - centre[:, :1]  # (P,) - (K, 1) => (K, P)
    y = y - centre[:, 1:]
    angle = jitter[:, 3:] * max_angle  # (K, 1)
    cos = angle.cos()
    sin = angle.sin()
    u = x * cos + y * sin  # turned back by the angle
    v = y * cos - x * sin
    return u, v


def paint_objects(picture: Tensor, scenes: Scenes, slot: int) -> None:
    """Paint slot 0 (a) or 1 (b) of every scene that has it, in place."""
    letter = "ab"[slot]
    has_object = applicable(scenes)[f"shape_{letter}"]  # bool (B,)
    rows = has_object.nonzero().squeeze(1)  # (K,)
    if len(rows) == 0:
        return
    scenes = scenes[rows]
    jitter = scenes.jitter[:, slot]  # (K, 4)
    shape = scenes.factors[f"shape_{letter}"]
    shade = scenes.factors[f"colour_{letter}"]
    texture = scenes.factors[f"texture_{letter}"]

    centre = _centres(scenes, slot)  # (K, 2)
    radius = _radii(scenes, slot)  # (K, 1)
    u, v = _to_local(scenes, centre, jitter, ANGLE_JITTER, picture.shape[-1])
    in_radii = _shape_distances(shape, u / radius, v / radius)  # (K, P)
    coverage = _coverage(in_radii * radius)

    colour = _paint(COLOURS, scenes.device)[shade]  # (K, 3)
    deep = _paint(COLOURS, scenes.device, DEEP)[shade]
    marks = _texture(texture, u, v)  # (K, P): the object turns, its pattern with it
    # (K, 3, 1) and (K, 1, P) => (K, 3, P)
    paint = torch.lerp(colour.unsqueeze(-1), deep.unsqueeze(-1), marks.unsqueeze(1))
    _blend(picture, rows, paint, coverage)


def _centres(scenes: Scenes, slot: int) -> Tensor:
    """Where the objects of a slot stand: (K, 2)."""
    factors = scenes.factors
    device = scenes.device
    reach = torch.tensor(REACH, device=device)[factors["size_a"]]  # (K,)
    direction = torch.tensor(PLACES, device=device)[factors["place"]]  # (K, 2)
    alone = direction * reach.unsqueeze(1)
    side = 1 - 2 * slot  # b stands opposite a
    paired = torch.tensor(LAYOUTS, device=device)[factors["layout"]] * side  # (K, 2)
    is_alone = factors["kind"].unsqueeze(1) == ONE  # (K, 1)
    centre = torch.where(is_alone, alone, paired)
    push = scenes.jitter[:, slot, :2]  # in [-1, 1]
    return centre + push * POSITION_JITTER


def _radii(scenes: Scenes, slot: int) -> Tensor:
    """The objects' radii: (K, 1)."""
    size = scenes.factors["size_" + "ab"[slot]]
    # (K,)
    radius = torch.tensor(RADII, device=scenes.device)[scenes.factors["kind"], size]
    push = scenes.jitter[:, slot, 2]
    jittered = radius * (1 + SIZE_JITTER * push)
    return jittered.unsqueeze(1)


def _shape_distances(shape: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The objects' signed distances, in their radii: shape (K,), u and v (K, P) ->
    (K, P).
    """
    distance = torch.empty_like(u)
    for index, name in enumerate(SHAPES):
        rows = (shape == index).nonzero().squeeze(1)  # the objects of this shape
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
    # across the stripes, counted in periods
    t = (u + v) * (math.sqrt(0.5) / STRIPE_PERIOD)
    # t = 0, in the object's middle, is the middle of a stripe
    off = (t - t.round()).abs()
    return (off - 0.25) * STRIPE_PERIOD  # a quarter on both sides: half of the surface


def _dots(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the nearest of a square lattice of dots, one of them in the
    object's middle.
    """
    u = u / DOT_PERIOD  # dots lie where u and v are whole numbers
    v = v / DOT_PERIOD
    off = torch.hypot(u - u.round(), v - v.round())
    return off * DOT_PERIOD - DOT_RADIUS


def _paint_signs(picture: Tensor, scenes: Scenes) -> None:
    """Paint post, board and letters of every sign, in place."""
    rows = (scenes.factors["kind"] == SIGN).nonzero().squeeze(1)
    if len(rows) == 0:
        return
    scenes = scenes[rows]
    device = scenes.device
    colour = scenes.factors["colour_a"]
    jitter = scenes.jitter[:, 0]
    middle = torch.tensor([0.0, SIGN_Y], device=device)
    centre = jitter[:, :2] * POSITION_JITTER + middle  # (K, 2)
    # half the turn of an object: letters must stay easy to read
    u, v = _to_local(scenes, centre, jitter, ANGLE_JITTER / 2, picture.shape[-1])

    post = torch.maximum(u.abs() - POST_WIDTH / 2, v)  # from the board's middle down
    wood = _paint(["post"], device).unsqueeze(-1)  # (1, 3, 1)
    _blend(picture, rows, wood, _coverage(post))

    count = scenes.factors["length"].unsqueeze(1) + 1  # index 0 is one letter
    width = count * LETTER_PITCH + BOARD_MARGIN  # (K, 1)
    board = _rounded_box(u, v, width / 2, BOARD_HEIGHT / 2, BOARD_ROUNDING)
    tint = _paint(COLOURS, device)[colour].unsqueeze(-1)  # (K, 3, 1)
    _blend(picture, rows, tint, _coverage(board))

    inks = ["black" if name in DARK_LETTERS else "white" for name in COLOURS]
    ink = _paint(inks, device)[colour].unsqueeze(-1)  # (K, 3, 1)
    _blend(picture, rows, ink, _letter_coverage(scenes, u, v))


def _rounded_box(
    u: Tensor, v: Tensor, half_width: Tensor, half_height: float, rounding: float
) -> Tensor:
    """Signed distance to a box with rounded corners: u, v (K, P), half_width (K, 1) ->
    (K, P).
    """
    du = u.abs() - half_width + rounding  # beyond the inner box, whose corners are
    dv = v.abs() - half_height + rounding  # the centres of the rounded ones
    outside = torch.hypot(du.clamp(min=0), dv.clamp(min=0))
    inside = torch.maximum(du, dv).clamp(max=0)
    return outside + inside - rounding


def _letter_coverage(scenes: Scenes, u: Tensor, v: Tensor) -> Tensor:
    """Ink of a sign's letters, from the board's middle: u, v (K, P) -> (K, P) in [0,
    1].
    """
    length = scenes.factors["length"]  # index: 0 is one letter
    ink = torch.zeros_like(u)
    for position in range(3):
        rows = (length >= position).nonzero().squeeze(1)  # signs that have this letter
        shift = position - length[rows].unsqueeze(1) / 2  # the word is centred
        middle = shift * LETTER_PITCH  # (K', 1)
        x = (u[rows] - middle) / LETTER_UNIT  # grid units from the letter's middle
        which = scenes.factors[f"letter_{position + 1}"][rows]  # (K',)
        y = v[rows] / LETTER_UNIT
        in_units = letters.distance(which, x, y)  # (K', P)
        ink[rows] += _coverage(in_units * LETTER_UNIT)
    return ink.clamp(max=1)
