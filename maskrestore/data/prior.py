"""What an incomplete mask says of its unannotated pixels without any training.

Plain tensor operations, exact and the same on every device: the training loop, the evaluation,
restore.py and the exported network all start from the same prior.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.config.labels import UNANNOTATED
from maskrestore.data.segmap import one_hot

REACH = 1 / 16
"""Distance at which closeness is a half, as a share of the image's height: 6 pixels of 96."""
COLUMNS = 32
"""Candidates that are compared at a time: the memory is this many maps."""


def nearest_annotated(annotated: Tensor) -> tuple[Tensor, Tensor]:
    """The annotated pixel that is nearest to each pixel (Euclidean), and how far it is.

    bool [B,H,W] -> its place row * W + column, int64 [B,H,W], and the squared distance in pixels,
    int64 [B,H,W]. Of equally near ones the leftmost, and in its column the upper one. In a map
    without an annotated pixel the places mean nothing and the squared distance is at least
    (H + W)**2.

    Two passes (Felzenszwalb & Huttenlocher 2012): along each column, then along the rows over what
    the columns found. A place and its distance travel in one number, whose smallest is sought.
    """
    height, width = annotated.shape[1:]
    far = height + width
    rows = torch.arange(height, device=annotated.device)[:, None]
    columns = torch.arange(width, device=annotated.device)
    of_column = torch.where(annotated, rows, far * height + rows)  # distance * height + row
    step = 1
    while step < height:
        beyond = 2 * far * height
        above = F.pad(of_column[:, :-step], (0, 0, step, 0), value=beyond) + step * height
        below = F.pad(of_column[:, step:], (0, 0, 0, step), value=beyond) + step * height
        of_column = torch.minimum(of_column, torch.minimum(above, below))
        step *= 2
    distance = (of_column // height).clamp(max=far)
    largest = (far**2 + width**2) * width
    dtype = torch.int32 if largest < 2**31 else torch.int64  # half the memory
    vertical = (distance**2 * width + columns).to(dtype)
    horizontal = ((columns[:, None] - columns) ** 2 * width).to(dtype)
    # squared distance * width + column
    best = torch.full_like(vertical, torch.iinfo(dtype).max)
    for at in range(0, width, COLUMNS):
        some = slice(at, at + COLUMNS)
        best = torch.minimum(best, (vertical[..., some, None] + horizontal[some]).amin(2))
    column = best.long() % width
    row = (of_column % height).gather(2, column)
    return row * width + column, best.long() // width


def nearest_label(label_map: Tensor, place: Tensor) -> Tensor:
    """int64 [B,H,W] and the places of `nearest_annotated` -> int64 [B,H,W]: each pixel with the
    label of the annotated pixel nearest to it."""
    return label_map.flatten(1).gather(1, place.flatten(1)).view_as(label_map)


def interpolated(label_map: Tensor, num_classes: int, factor: int, first: int) -> Tensor:
    """The one-hot maps of the kept pixels, interpolated bilinearly: float32 [B,C,H,W], sums to 1.

    label_map: int64 [B,H,W], each kept pixel repeated over its factor x factor block. first: row
    and column of the first kept pixel. Before it and behind the last one nothing changes.
    """
    small = one_hot(label_map[:, ::factor, ::factor], num_classes)
    height, width = label_map.shape[1:]
    down = _weights(height, factor, first, small.device)
    right = _weights(width, factor, first, small.device)
    # Whole numbers up to factor**2 until the end, exact in bf16 and TF32 too: equally likely
    # classes are equal to the last bit.
    counted: Tensor = down @ small @ right.T
    return counted.float() / factor**2


def _weights(size: int, factor: int, first: int, device: torch.device) -> Tensor:
    """float32 [size, size / factor]: what each kept pixel of a side counts for, 0..factor."""
    last = size // factor - 1
    place = (torch.arange(size, device=device) - first).clamp(0, last * factor)[:, None]
    kept = torch.arange(last + 1, device=device) * factor
    return (factor - (place - kept).abs()).clamp(min=0).float()


def closeness(squared_distance: Tensor) -> Tensor:
    """int64 [B,H,W] or [H,W], in pixels -> float32 of that shape: 1 on annotated pixels, a half at
    REACH, towards 0 where nothing is near."""
    reach = REACH * squared_distance.shape[-2]
    return 1 / (1 + squared_distance.float().sqrt() / reach)


def polygon_prior(label_map: Tensor, num_classes: int, annotated: Tensor) -> tuple[Tensor, Tensor]:
    """Class probabilities of an incomplete mask, the nearest label's, and how close that is.

    int64 [B,H,W], bool [B,1,H,W] -> float32 [B,C,H,W] and [B,1,H,W] in 0..1. A mask without any
    annotated pixel says nothing: all classes are equally likely, and closeness is 0.
    """
    place, distance = nearest_annotated(annotated[:, 0])
    known = annotated.flatten(1).any(1)[:, None, None, None]
    segmap = one_hot(nearest_label(label_map, place), num_classes)
    uniform = 1 / segmap.shape[1]
    return torch.where(known, segmap, uniform), closeness(distance)[:, None] * known


def small_map_prior(
    label_map: Tensor,
    num_classes: int,
    factor: int,
    first: int,
    annotated: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Class probabilities of a map made smaller, `interpolated`, and how close each pixel is to a
    kept one: float32 [B,C,H,W] and [B,1,H,W] in 0..1.

    annotated: bool [B,1,H,W], where not all kept pixels hold a class; the others then say nothing.
    Between kept pixels none of which does, the nearest label is taken, as of a polygon.
    """
    if annotated is not None:
        kept = torch.zeros_like(annotated)
        at = (..., slice(first, None, factor), slice(first, None, factor))
        kept[at] = annotated[at]
        nearest, near = polygon_prior(label_map, num_classes, kept)
        segmap = interpolated(label_map, num_classes, factor, first)
        unknown = segmap[:, UNANNOTATED : UNANNOTATED + 1].clone()  # shares of factor**2: exact
        segmap[:, UNANNOTATED] = 0
        return torch.where(unknown < 1, segmap / (1 - unknown), nearest), near
    batch, height, width = label_map.shape
    down, right = (_offsets(side, factor, first, label_map.device) for side in (height, width))
    near = closeness(down[:, None] ** 2 + right**2).expand(batch, 1, height, width)
    return interpolated(label_map, num_classes, factor, first), near


def _offsets(size: int, factor: int, first: int, device: torch.device) -> Tensor:
    """int64 [size]: pixels to the nearest kept one along a side."""
    place = torch.arange(size, device=device)
    kept = torch.arange(first, size, factor, device=device)
    return (place[:, None] - kept).abs().amin(1)
