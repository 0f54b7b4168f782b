"""Boundaries of label maps, all classes at once: bands along them, and contours that meet.

Both rest on one fact: a window holds a label other than that of its centre exactly where it holds
two neighbours that differ. So nothing here loops over classes.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCES = (1, 3, 5)
"""Pixels within which a contour of the boundary F counts as met."""
NOT_HERE, NOT_THERE, OUTSIDE = 253, 254, 255
"""No labels: pixels of one map and of the other that are on no contour, and beyond the image."""


def band_width(height: int, width: int) -> int:
    """Pixels of the band of Boundary IoU: 2 % of the image diagonal, at least 1 (Cheng et al.
    2021, "Boundary IoU")."""
    return max(1, round(0.02 * math.hypot(height, width)))


def band(label_map: Tensor, width: int, border: bool) -> Tensor:
    """Pixels of each class's mask that lie within `width` of a pixel that is not in it.

    label_map: uint8 [B,H,W] ids -> bool [B,H,W]: whether the (2 width + 1)^2 window around a pixel
    holds another label. border: whether the outside of the image is one, as in the official code of
    Boundary IoU, which erodes each mask inside a frame of zeros.
    """
    if border:
        label_map = F.pad(label_map, (1, 1, 1, 1), value=OUTSIDE)
    inner, reach = (slice(1, -1), width - 1) if border else (slice(None), width)
    below = (label_map[:, 1:] != label_map[:, :-1])[:, :, inner]
    beside = (label_map[:, :, 1:] != label_map[:, :, :-1])[:, inner]
    # 2 width pairs of neighbours lie in a window along their own direction, 2 width + 1 across it.
    below = _any_of(_any_of(below, 1, 2 * width, reach), 2, 2 * width + 1, width)
    beside = _any_of(_any_of(beside, 2, 2 * width, reach), 1, 2 * width + 1, width)
    return below | beside


def _any_of(pixels: Tensor, dim: int, size: int, padding: int) -> Tensor:
    """Whether any of `size` neighbours along dim 1 or 2 is set; bool [B,H,W], padded with False."""
    pixels = F.pad(pixels, (0, 0, padding, padding) if dim == 1 else (padding, padding))
    covered = 1
    while covered < size:  # twice as many with each step
        step = min(covered, size - covered)
        length = pixels.shape[dim] - step
        pixels = pixels.narrow(dim, 0, length) | pixels.narrow(dim, step, length)
        covered += step
    return pixels


def contour(label_map: Tensor) -> Tensor:
    """Pixels with another label among their 8 neighbours: uint8 [B,H,W] -> bool [B,H,W].

    The border of the image is none: a mask that it cuts off has no contour there.
    """
    return band(label_map, 1, border=False)


def contours_met(
    first: Tensor, second: Tensor, tolerances: Sequence[int] = TOLERANCES
) -> tuple[Tensor, Tensor]:
    """How closely each contour pixel of one label map is met by the other's of the same label.

    first, second: uint8 [B,H,W] ids. Returns for each map uint8 [B,H,W]: 0 off its contour; on it
    1, and 1 more for each of the (rising) tolerances within which, by Euclidean distance in pixels,
    the other map has a contour pixel of the same label.
    """
    on_first, on_second = contour(first), contour(second)
    here = first.masked_fill(~on_first, NOT_HERE)
    there = second.masked_fill(~on_second, NOT_THERE)
    met_here, met_there = torch.zeros_like(on_first), torch.zeros_like(on_second)
    level_here, level_there = on_first.byte(), on_second.byte()
    height, width = first.shape[1:]
    reached = -1
    for tolerance in tolerances:
        for down, right in _offsets(reached, tolerance):
            if abs(down) >= height or abs(right) >= width:
                continue
            (rows, other_rows), (columns, other_columns) = _overlap(down), _overlap(right)
            same = here[:, rows, columns] == there[:, other_rows, other_columns]
            met_here[:, rows, columns].bitwise_or_(same)
            met_there[:, other_rows, other_columns].bitwise_or_(same)
        level_here, level_there = level_here + met_here, level_there + met_there
        reached = tolerance
    return level_here, level_there


def _offsets(beyond: int, up_to: int) -> list[tuple[int, int]]:
    """Steps (down, right) longer than `beyond` and no longer than `up_to` pixels."""
    steps = range(-up_to, up_to + 1)
    inner = beyond * beyond if beyond >= 0 else -1
    return [(y, x) for y in steps for x in steps if inner < y * y + x * x <= up_to * up_to]


def _overlap(step: int) -> tuple[slice, slice]:
    """The part of an axis that, `step` further, is still on it; and where it then lies."""
    if step >= 0:
        return slice(None, -step or None), slice(step, None)
    return slice(-step, None), slice(None, step)
