"""Overlapping tiles of a map that is larger than what a network takes, and one map made of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: float, align: int = 1) -> list[int]:
    """Where tiles of one side begin so that they cover 0..length, evenly spread.

    length >= tile. Neighbours share `overlap` (0..0.5) of a tile or more, less what it takes to
    begin at multiples of `align`, of which length - tile must be one.
    """
    stride = max(align, int(tile * (1 - overlap)))
    num_strides = -(-(length - tile) // stride)
    if num_strides == 0:
        return [0]
    units = (length - tile) // align
    return [units * number // num_strides * align for number in range(num_strides + 1)]


def tile_window(tile: int, overlap: float) -> Tensor:
    """float32 [tile]: 1 in the middle, falling smoothly towards 0 over `overlap` of a tile."""
    ramp = max(1, int(tile * overlap))
    distance = (torch.arange(tile) + 0.5).minimum(tile - torch.arange(tile) - 0.5)
    return torch.sin(torch.pi / 2 * (distance / ramp).clamp(max=1)) ** 2


def corners(
    size: Sequence[int], tile: Sequence[int], overlap: float, align: int = 1
) -> list[tuple[int, int]]:
    """(y, x) of each tile's first pixel, along the longer side of a map of `size` (height, width)
    and at each step across it."""
    rows, columns = (tile_starts(*sides, overlap, align) for sides in zip(size, tile, strict=True))
    if size[0] > size[1]:
        return [(y, x) for y in rows for x in columns]
    return [(y, x) for x in columns for y in rows]


def blend(
    network: Callable[..., Tensor],
    maps: Sequence[Tensor],
    tile: tuple[int, int],
    overlap: float,
    align: int = 1,
) -> Tensor:
    """What `network` says of maps [...,H,W] of one size, in tiles of them, blended by a smooth
    window so that no seam shows: float32 [B,C,H,W] of [B,C,*tile]. Of maps that are one tile, what
    it says of them."""
    size, (height, width) = maps[0].shape[-2:], tile
    if tuple(size) == tile:
        return network(*maps).float()
    window = tile_window(height, overlap)[:, None] * tile_window(width, overlap)
    window = window.to(maps[0].device)
    weights, scores = window.new_zeros(size), None
    for y, x in corners(size, tile, overlap, align):
        at = (..., slice(y, y + height), slice(x, x + width))
        logits = network(*(part[at] for part in maps)).float()
        if scores is None:
            scores = logits.new_zeros(*logits.shape[:2], *size)
        scores[at] += logits * window
        weights[at] += window
    if scores is None:
        raise ValueError(f"maps of {size[0]}x{size[1]} hold no tile of {height}x{width}")
    return scores / weights
