"""What else than the paper's may damage a mask: masks that were left unfinished, or drawn wrongly.

Each function makes, of the true maps of a scene, the mask that somebody could have annotated:
uint8 [H,W], where 0 = not annotated (so the 0 of the true mask, unlabeled, reads as that).
Its random numbers all come from the generator that it is given.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from maskrestore.config.labels import UNANNOTATED
from maskrestore.data.sample import Sample

Ids = NDArray[np.uint8]
Numbers = NDArray[np.integer]

FACTORS = (4, 8, 16)
"""By which the smaller maps of degradation=mixture are smaller, per side."""
KINDS = ("task", "drop", "scribbles", "boundary", "labels", *(f"smaller_{f}" for f in FACTORS))
"""What damages a single mask; task: nothing more, the coarse polygons are taken as they are.
degradation=mixture draws one of these, each as often as the others."""

DROPPED = 0.5
"""Share of the polygons that drop leaves out (rounded down, so that one is left): as much missing
as kept, between a mask that is whole and none at all."""
MIN_REGION = 0.001
"""Share of the image from which on a region gets strokes, or a wrong name: as in shards/coarse.py,
smaller ones are passed over by whoever draws in a hurry."""
MAX_STROKES = 3
"""A region gets 1 to this many strokes (Lin et al. 2016), each as long as the root of its area, in
pixels: about 5 % of the pixels of a drawn scene of 256x512."""
MAX_WIDTH = 3
"""A stroke is 1 to this many pixels wide."""
SQUARES = {
    width: np.indices((width, width)).reshape(2, -1) - (width - 1) // 2
    for width in range(1, MAX_WIDTH + 1)
}
"""Width -> int [2, width**2]: the pixels that a stroke covers, from those of its path."""
TURN = 0.2
"""Standard deviation of a stroke's turn at each pixel, in radians: it bends within 25 pixels."""
BENDS = tuple(math.radians(angle) for angle in (0, 45, -45, 90, -90, 135, -135, 180))
"""What a stroke tries, in this order, where the border of its region is in the way."""
SHIFT = 1 / 128
"""Standard deviation of a border's displacement, as a share of the image's height, at least a
pixel: 2 pixels of 256, or 8 at the full size of Cityscapes, where an annotator's hand slips."""
SMOOTHNESS = 1 / 16
"""Distance over which the displacement changes, as a share of the image's height."""
WRONG = 0.2
"""Share of the regions whose name labels makes wrong, at least one."""

Groups = Sequence[Sequence[int]]
"""Classes, by their numbers, that are taken for one another; what is in none keeps its name."""


def damage(
    sample: Sample, degradation: str, sampling: str, seed: int, groups: Groups
) -> tuple[Sample, str]:
    """The sample with another coarse mask, and what damaged it, one of KINDS.

    degradation: one of KINDS, or mixture, which draws one. sampling: corner or center, of the
    smaller maps. The same arguments give the same mask.
    """
    if degradation == "task":
        return sample, degradation
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(KINDS)) if degradation == "mixture" else degradation
    if kind == "task":
        return sample, kind
    if kind == "drop":
        coarse = drop(sample.coarse, rng)
    elif kind == "scribbles":
        coarse = scribbles(sample.fine, sample.instance, rng)
    elif kind == "boundary":
        coarse = boundary(sample.fine, rng)
    elif kind == "labels":
        coarse = labels(sample.fine, sample.instance, rng, groups)
    else:
        coarse = smaller(sample.fine, int(kind.removeprefix("smaller_")), sampling)
    return replace(sample, coarse=coarse), kind


def drop(coarse: Ids, rng: np.random.Generator) -> Ids:
    """Polygons left out at random."""
    number = regions(coarse)
    polygons = np.unique(number[coarse != UNANNOTATED])
    kept = np.ones(number.max() + 1, bool)
    kept[rng.permutation(polygons)[: int(DROPPED * len(polygons))]] = False
    return np.where(kept[number], coarse, np.uint8(UNANNOTATED))


def scribbles(fine: Ids, instance: Numbers, rng: np.random.Generator) -> Ids:
    """A few thin strokes within each region: paths of neighbouring pixels, that never leave it."""
    number = regions(_identity(fine, instance))
    scribbled = np.full_like(fine, UNANNOTATED)
    areas = np.bincount(number.ravel())
    for region, box in enumerate(ndimage.find_objects(number), start=1):
        if areas[region] < MIN_REGION * fine.size:
            continue
        inside = number[box] == region
        for _ in range(rng.integers(1, MAX_STROKES, endpoint=True)):
            path = _stroke(inside, math.isqrt(areas[region]), rng)
            width = int(rng.integers(1, MAX_WIDTH, endpoint=True))
            wide = (path[:, :, None] + SQUARES[width][:, None]).reshape(2, -1)
            rows, columns = np.clip(wide, 0, np.array(inside.shape)[:, None] - 1)
            within = inside[rows, columns]
            rows, columns = rows[within], columns[within]
            scribbled[box][rows, columns] = fine[box][rows, columns]
    return scribbled


def _stroke(inside: NDArray[np.bool_], length: int, rng: np.random.Generator) -> Numbers:
    """int [2,N], N <= length: rows and columns of a path within bool [h,w], that seldom turns."""
    width = inside.shape[1] + 2
    free = np.pad(
        inside, 1
    ).tobytes()  # looked up faster than an array, and without asking for ends
    y, x = divmod(float(rng.choice(np.flatnonzero(inside))), inside.shape[1])
    heading = rng.uniform(0, 2 * math.pi)
    sin, cos = math.sin, math.cos
    path = [round(y + 1) * width + round(x + 1)]
    for turn in rng.normal(0, TURN, length - 1).tolist():
        heading += turn
        for bend in BENDS:
            below, right = y + sin(heading + bend), x + cos(heading + bend)
            place = (round(below) + 1) * width + round(right) + 1
            if free[place]:
                break
        else:
            break  # a corner without a way out
        y, x, heading = below, right, heading + bend
        path.append(place)
    return np.array(np.divmod(path, width)) - 1


def boundary(fine: Ids, rng: np.random.Generator) -> Ids:
    """Borders that wander: each pixel takes the id of one nearby, displaced smoothly."""
    height, width = fine.shape
    spacing = max(2, round(SMOOTHNESS * height))
    knots = height // spacing + 1, width // spacing + 1
    drawn = rng.normal(0, max(1.0, SHIFT * height), (2, *knots))
    # Along one axis and then along the other.
    rows, columns = _spline(height, knots[0]) @ drawn @ _spline(width, knots[1]).T
    rows += np.arange(height)[:, None]
    columns += np.arange(width)
    for places, size in ((rows, height), (columns, width)):
        np.rint(places, out=places).clip(0, size - 1, out=places)
    rows *= width
    rows += columns
    wandered: Ids = fine.ravel()[rows.astype(np.intp)]
    return wandered


@cache
def _spline(length: int, number: int) -> NDArray[np.float64]:
    """[length, number]: the cubic splines between so many knots, one in each column."""
    splines: NDArray[np.float64] = ndimage.zoom(np.eye(number), (length / number, 1), order=3)
    return splines


def labels(fine: Ids, instance: Numbers, rng: np.random.Generator, groups: Groups) -> Ids:
    """Whole regions with a wrong name: of a class that it is taken for, or, as often, another one
    of the same mask."""
    number = regions(_identity(fine, instance))
    names = np.zeros(number.max() + 1, np.uint8)
    names[number] = fine  # all pixels of a region say the same
    areas = np.bincount(number.ravel())
    known = np.isin(names, [number for group in groups for number in group])
    eligible = np.flatnonzero(known & (areas >= MIN_REGION * fine.size))
    present = [int(name) for name in np.unique(names[eligible])]
    for region in rng.permutation(eligible)[: max(1, round(WRONG * len(eligible)))]:
        names[region] = _wrong_name(int(names[region]), present, rng, groups)
    return names[number]


def _wrong_name(name: int, present: Sequence[int], rng: np.random.Generator, groups: Groups) -> int:
    alike = [other for group in groups if name in group for other in group if other != name]
    others = [other for other in present if other != name]
    first, second = (alike, others) if rng.random() < 0.5 else (others, alike)
    return int(rng.choice(first or second or [name]))


def smaller(fine: Ids, factor: int, sampling: str) -> Ids:
    """The map made `factor` times smaller and back, as in degrade.nearest_downsample."""
    start = 0 if sampling == "corner" else factor // 2
    return fine[start::factor, start::factor].repeat(factor, 0).repeat(factor, 1)


def regions(ids: Numbers) -> NDArray[np.int32]:
    """int [H,W] -> int32 [H,W]: a number from 1 on for each set of pixels of one id that hang
    together (4 neighbours), in the order of their first pixels, row by row."""
    # Runs of equal pixels along the rows, joined where those of neighbouring rows meet: so few that
    # to go through them costs less than to go through the pixels.
    starts = np.ones(ids.shape, bool)
    starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
    run = np.cumsum(starts, dtype=np.int32).reshape(ids.shape) - 1
    meet = (ids[1:] == ids[:-1]) & (starts[1:] | starts[:-1])  # once for each two
    pair, num_runs = (run[:-1][meet], run[1:][meet]), int(run[-1, -1]) + 1
    graph = sparse.coo_array((np.ones(len(pair[0]), bool), pair), shape=(num_runs, num_runs))
    number: NDArray[np.int32] = csgraph.connected_components(graph, directed=False)[1]
    return (number + 1)[run]


def _identity(fine: Ids, instance: Numbers) -> Numbers:
    """What a region is one of: its instance if it is countable, else its class."""
    return np.where(instance >= 1000, instance, fine)
