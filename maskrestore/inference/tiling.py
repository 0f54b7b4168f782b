"""Label maps of any size through a network of one size: cut into tiles, or shrunk as a whole.

Both hand out pieces of the network's size and take their logits back in the same order. What they
keep per pixel is a few bytes; class by class they hold only one band of the map at a time.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maskrestore.data.degrade import nearest_upsample
from maskrestore.data.pictures import Pixels
from maskrestore.data.tiles import corners, tile_window

BAND = 64
"""Rows that are enlarged at a time."""
Pieces = Iterator[tuple[Tensor, Tensor]]
"""Of a map, uint8 [h,w], and of its image, uint8 [3,h,w] or NO_IMAGE, at the network's size."""
NO_IMAGE = torch.empty(0, dtype=torch.uint8)


def repeat(ids: Tensor, factor: int) -> Tensor:
    """[h,w] -> [h*factor,w*factor], each label repeated."""
    return ids if factor == 1 else nearest_upsample(ids[None], factor)[0]


class Decision(NamedTuple):
    """Each uint8 [H,W], on the CPU. labels: the likeliest class. confidence: its probability,
    times 255. confidence_given: that of the class in the map that was given."""

    labels: Tensor
    confidence: Tensor
    confidence_given: Tensor


def decide(probabilities: Tensor, label_map: Tensor) -> Decision:
    """float [C,H,W] that sums to 1 over C, and the given map, uint8 [H,W]."""
    best, labels = probabilities.max(0)
    given = probabilities.gather(0, label_map.to(probabilities.device).long()[None])[0]
    parts = (labels, (255 * best).round(), (255 * given).round())
    return Decision(*(part.to(torch.uint8).cpu() for part in parts))


def nearest_indices(num_before: int, num_after: int, sampling: str = "center") -> Tensor:
    """int64 [num_after]: the pixels that are kept when a side is resized.

    sampling: center, as PIL's NEAREST, or corner, as F.interpolate(mode="nearest").
    """
    shift = 1 if sampling == "center" else 0
    return (2 * torch.arange(num_after) + shift) * num_before // (2 * num_after)


def resize_nearest(label_map: Tensor, size: tuple[int, int], sampling: str = "center") -> Tensor:
    """[H,W] -> [*size] by `nearest_indices`."""
    rows, columns = (
        nearest_indices(before, after, sampling)
        for before, after in zip(label_map.shape, size, strict=True)
    )
    return label_map[rows[:, None], columns]


class Tiles:
    """Overlapping tiles of a map, their logits blended by a smooth window, so that no seam shows.

    label_map: uint8 [H,W], at least as large as `size`, the network's (height, width); overlap and
    align as for `tiles.tile_starts`. The class scores held at a time span the shorter side of the
    map and one tile of the longer.
    """

    def __init__(
        self, label_map: Tensor, size: tuple[int, int], overlap: float, align: int = 1
    ) -> None:
        self._label_map, self._size = label_map, size
        self._swapped = label_map.shape[0] > label_map.shape[1]
        self._corners = corners(label_map.shape, size, overlap, align)
        windows = [tile_window(side, overlap) for side in size]
        across, along = (1, 0) if self._swapped else (0, 1)
        self._window = windows[across][:, None] * windows[along]
        self._across, self._along = label_map.shape[across], size[along]
        self._length = label_map.shape[along]
        self._scores = self._weights = torch.empty(0)
        self._begin, self._num_added = 0, 0
        given = label_map.T if self._swapped else label_map
        self._given = given
        self._decision = Decision(*(torch.zeros_like(given) for _ in range(3)))

    def __len__(self) -> int:
        return len(self._corners)

    def cut(self, array: Tensor) -> Iterator[Tensor]:
        """[...,H,W] -> each tile of it, [...,*size]."""
        height, width = self._size
        return (array[..., y : y + height, x : x + width] for y, x in self._corners)

    def pieces(self) -> Iterator[Tensor]:
        """uint8 [*size], in the order in which `add` wants their logits."""
        return self.cut(self._label_map)

    def add(self, logits: Tensor) -> None:
        """float [C,*size] of the next tile, on any one device."""
        logits = (logits.transpose(1, 2) if self._swapped else logits).float()
        if self._num_added == 0:
            self._window = self._window.to(logits.device)
            shape = (self._across, self._along)
            self._scores = logits.new_zeros(len(logits), *shape)
            self._weights = logits.new_zeros(shape)
        y, x = self._corners[self._num_added]
        across, along = (x, y) if self._swapped else (y, x)
        self._advance(along)
        rows = slice(across, across + logits.shape[1])
        self._scores[:, rows] += logits * self._window
        self._weights[rows] += self._window
        self._num_added += 1

    def _advance(self, to: int) -> None:
        """Decide what no further tile touches: all before `to`, on the longer side."""
        num = to - self._begin
        if num == 0:
            return
        ours = slice(self._begin, to)
        probabilities = (self._scores[..., :num] / self._weights[..., :num]).softmax(0)
        for whole, part in zip(
            self._decision, decide(probabilities, self._given[:, ours]), strict=True
        ):
            whole[:, ours] = part
        for blended in (self._scores, self._weights):
            blended[..., : self._along - num] = blended[..., num:].clone()
            blended[..., self._along - num :] = 0
        self._begin = to

    def finish(self) -> Decision:
        """The whole map's, when all tiles were added."""
        self._advance(self._length)
        return Decision(*(part.T if self._swapped else part for part in self._decision))


class Shrunk:
    """A map that goes through the network as a whole, shrunk (or enlarged) to its size.

    label_map: uint8 [H,W]; piece: uint8 [*size], the same scene at the network's size.
    """

    def __init__(self, label_map: Tensor, piece: Tensor) -> None:
        self._label_map, self._piece = label_map, piece
        self._decision: Decision | None = None

    def __len__(self) -> int:
        return 1

    def pieces(self) -> Iterator[Tensor]:
        """The one piece."""
        return iter((self._piece,))

    def add(self, logits: Tensor) -> None:
        """float [C,*size]; its probabilities are enlarged as by F.interpolate(mode="bilinear")."""
        probabilities = logits.float().softmax(0)
        size, bands = self._label_map.shape, []
        for begin in range(0, size[0], BAND):
            given = self._label_map[begin : begin + BAND]
            end = begin + len(given)
            above, below, _ = source_rows(len(probabilities[0]), size[0], begin, end)
            classes = possible_classes(probabilities[:, above[0] : below[-1] + 1], given)
            kept = probabilities[classes.to(probabilities.device)]
            enlarged = enlarge_rows(kept, size, begin, end)
            places = torch.zeros(len(probabilities), dtype=torch.uint8)
            places[classes] = torch.arange(len(classes), dtype=torch.uint8)
            decision = decide(enlarged, _looked_up(places, given))
            labels = _looked_up(classes.byte(), decision.labels)
            bands.append(decision._replace(labels=labels))
        self._decision = Decision(*(torch.cat(parts) for parts in zip(*bands, strict=True)))

    def finish(self) -> Decision:
        """The whole map's, when its logits were added."""
        if self._decision is None:
            raise RuntimeError("no logits were added")
        return self._decision


def _looked_up(table: Tensor, places: Tensor) -> Tensor:
    """uint8 [N], uint8 [H,W] -> uint8 [H,W]."""
    return table.index_select(0, places.flatten().int()).reshape(places.shape)


def possible_classes(rows: Tensor, given: Tensor) -> Tensor:
    """int64 [K] on the CPU, sorted: the classes that can be the likeliest at or between the pixels
    of `rows`, float [C,h,w] that sums to 1 over C, and those in the map that was given, uint8
    [H,W].

    The likeliest of C has 1/C or more anywhere; what has less at all pixels has so between them.
    Of a trained network's 34 classes that leaves about 8 in a band of a street scene.
    """
    is_possible = rows.amax((1, 2)) > 0.99 / len(rows)  # less what rounding takes away
    is_given = torch.bincount(given.flatten(), minlength=len(rows)) > 0
    return (is_possible.cpu() | is_given).nonzero()[:, 0]


def source_rows(before: int, after: int, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where rows begin..end of `after` come from when `before` rows are enlarged: the rows above
    and below, int64 [end-begin], and the part of the latter, float."""
    at = ((torch.arange(begin, end) + 0.5) * before / after - 0.5).clamp(min=0)
    above = at.floor().long()
    return above, (above + 1).clamp(max=before - 1), at - above


def enlarge_rows(values: Tensor, size: tuple[int, ...], begin: int, end: int) -> Tensor:
    """Rows begin..end of F.interpolate(values, size, mode="bilinear"): [C,h,w] -> [C,rows,W]."""
    above, below, part = (
        rows.to(values.device) for rows in source_rows(values.shape[1], size[0], begin, end)
    )
    part = part[:, None]
    rows = values[:, above] * (1 - part) + values[:, below] * part
    return F.interpolate(rows[None], (end - begin, size[1]), mode="bilinear")[0]


def fit_whole(
    ids: Tensor, image: Pixels | None, size: tuple[int, int], factor: int, sampling: str
) -> tuple[Shrunk, Pieces]:
    """A map, and its image, through a network of this size as a whole: fit=resize.

    ids: uint8 [h,w], to be restored `factor` times larger; the network sees it at `size`, but of
    ids resized to a map `factor` times smaller. image: uint8 [h*factor,w*factor,3].
    """
    small = resize_nearest(ids, (size[0] // factor, size[1] // factor), sampling)
    shrunk, piece = Shrunk(repeat(ids, factor), repeat(small, factor)), NO_IMAGE
    if image is not None:  # resized as the training images were
        resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
        piece = _channels_first(np.asarray(resized))
    return shrunk, ((label_piece, piece) for label_piece in shrunk.pieces())


def fit_tiles(
    ids: Tensor, image: Pixels | None, size: tuple[int, int], factor: int, overlap: float
) -> tuple[Tiles, Pieces]:
    """The same in tiles, which begin at multiples of `factor`: fit=tile.

    A map smaller than `size` gets a border that is not annotated, on the right and below; `finish`
    then gives the map with it.
    """
    given = repeat(ids, factor).numpy()
    border = [(0, max(0, side - there)) for side, there in zip(size, given.shape, strict=True)]
    # A network that has always seen all annotated gets the edge repeated instead.
    mode: Any = "edge" if factor > 1 else "constant"
    tiles = Tiles(torch.from_numpy(np.pad(given, border, mode)), size, overlap, factor)
    if image is None:
        return tiles, ((piece, NO_IMAGE) for piece in tiles.pieces())
    whole = _channels_first(np.pad(image, [*border, (0, 0)], "edge"))
    return tiles, zip(tiles.pieces(), tiles.cut(whole), strict=True)


def _channels_first(image: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
