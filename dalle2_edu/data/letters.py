"""Lesson: an alphabet made of distances.

A signed-distance function (SDF) gives every point of the plane its distance to a drawn
edge: negative on the ink, positive off it. From the distance alone the same letter can
be drawn sharply at any size, as the shapes in `dalle2_edu.data.shapes` are. Here a
letter is a few straight pen strokes on a grid 4 wide and 6 high, and

    d(p) = min over strokes of |p - nearest point of the stroke| - half the pen's width.

Measuring that for every pixel of every sign would be slow, so the distances are
measured once, on a fine lattice, and `shapes.render` reads them back by bilinear
interpolation. Used in chapter 02 (data) and chapter 21 (spelling).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER_WIDTH = 4  # grid units
LETTER_HEIGHT = 6
# grid units around a letter in the atlas: room for the pen's width and the blur of one
# pixel
MARGIN = 1
PEN = 0.5  # half the pen's width, grid units: 1.8 pixels wide on a 32-pixel sign

# Strokes are separated by spaces; a stroke is a run of points "xy", x in 0..4 to the
# right, y in 0..6 upwards.
STROKES = {
    "A": "002640 1232",
    "B": "00063645443303 3342413000",
    "C": "4536160501103041",
    "D": "00062644422000",
    "E": "46060040 0333",
    "F": "460600 0333",
    "G": "45361605011030414323",
    "H": "0006 4046 0343",
    "I": "2026 1636 1030",
    "J": "4641301001",
    "K": "0006 460340",
    "L": "060040",
    "M": "0006234640",
    "N": "00064046",
    "O": "163645413010010516",
    "P": "00063645443303",
    "Q": "163645413010010516 2240",
    "R": "00063645443303 2340",
    "S": "453616050413334241301001",
    "T": "0646 2620",
    "U": "060110304146",
    "V": "062046",
    "W": "0610243046",
    "X": "0046 0640",
    "Y": "062346 2320",
    "Z": "06460040",
}


def segments(letter: str) -> Tensor:
    """The straight pen strokes of one letter: float (S, 2, 2), start and end point of
    each, in grid units.
    """
    ends = []
    for stroke in STROKES[letter].split():
        places = range(0, len(stroke), 2)  # two characters a point
        points = [(float(stroke[i]), float(stroke[i + 1])) for i in places]
        ends += list(zip(points[:-1], points[1:], strict=True))
    return torch.tensor(ends)  # (S, 2, 2)


def distance_to_segments(points: Tensor, ends: Tensor) -> Tensor:
    """Distance from each of `points` (..., 2) to the nearest of the segments `ends` (S,
    2, 2): (...).
    """
    start = ends[:, 0]  # (S, 2)
    along = ends[:, 1] - start  # (S, 2)
    offset = points.unsqueeze(-2) - start  # (..., 1, 2) - (S, 2) -> (..., S, 2)
    # where the foot of the perpendicular falls: 0 at the start, 1 at the end
    share = (offset * along).sum(-1) / along.square().sum(-1)  # (..., S)
    share = share.clamp(0, 1)  # beyond an end, the end itself is nearest
    nearest = share.unsqueeze(-1) * along  # (..., S, 1) * (S, 2) => (..., S, 2)
    distances = (offset - nearest).norm(dim=-1)  # (..., S)
    return distances.amin(-1)


@lru_cache(maxsize=4)
def atlas(device: str = "cpu", texels: int = 8) -> Tensor:
    """Signed distances of all 26 letters, measured on a lattice of `texels` points per
    grid unit.

    Returns float (26, 1, 8 * texels + 1, 6 * texels + 1), in grid units, rows from the
    top down. The lattice covers the letter and `MARGIN` around it, so its corners are
    the points (-1, 7) and (5, -1).
    """
    columns = (LETTER_WIDTH + 2 * MARGIN) * texels + 1
    rows = (LETTER_HEIGHT + 2 * MARGIN) * texels + 1
    x = torch.linspace(-MARGIN, LETTER_WIDTH + MARGIN, columns)
    y = torch.linspace(LETTER_HEIGHT + MARGIN, -MARGIN, rows)  # the top row first
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")  # (H, W) each
    points = torch.stack([grid_x, grid_y], dim=-1)  # (H, W, 2)
    distances = [
        # the pen's round tip
        distance_to_segments(points, segments(letter)) - PEN
        for letter in ALPHABET
    ]
    return torch.stack(distances).unsqueeze(1).to(device)  # (26, H, W) -> (26, 1, H, W)


def distance(letter: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to letters, read back from the atlas.

    letter: int64 (K,), index into ALPHABET. x, y: (K, P), grid units from the letter's
    middle. Returns (K, P) in grid units; far from the letter it is only "far": the
    lattice's edge goes on for ever.
    """
    half_width = LETTER_WIDTH / 2 + MARGIN
    half_height = LETTER_HEIGHT / 2 + MARGIN
    # [-1, 1] is what `grid_sample` reads; its rows go down, y goes up
    grid = torch.stack((x / half_width, -y / half_height), dim=-1)  # (K, P, 2)
    grid = grid.unsqueeze(1)  # (K, 1, P, 2): an image of one row
    fields = atlas(str(x.device))[letter]  # (K, 1, H, W)
    # border: beyond the lattice the edge's distance goes on
    read = F.grid_sample(
        fields, grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return read[:, 0, 0]  # (K, 1, 1, P) -> (K, P)
