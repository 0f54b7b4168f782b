"""Drawn street scenes: the data set for whoever has none, a pure function of (seed, index).

A street is laid out in metres (road, pavements, houses, trees, traffic), seen by a pinhole camera
behind the windscreen of a car, and drawn from far to near at twice the size. Frequencies of the
classes follow Cityscapes roughly.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrestore.config.data import SourceConfig
from maskrestore.data.sample import Sample
from maskrestore.utils.errors import ConfigError
from shards.sources.canvas import Canvas, Floats, building, pole, tree
from shards.sources.coarse import simulate_coarse
from shards.sources.source import FRAME_IDS, LABEL_ID, NUM_CLASSES, Item, Source
from shards.sources.traffic import bicycle, bin_box, car, large_vehicle, person

OVERSAMPLING = 2
VAL_OFFSET = 1_000_000_000
"""Index of the first scene of val: no number of training scenes reaches it."""

GROUND = ("terrain", "sidewalk", "road", "sidewalk", "terrain")
"""From left to right; the houses stand on the outer border of the terrain."""


def draw(seed: int, index: int, height: int, width: int) -> Sample:
    """The scene `index` of the data set `seed`, height x width pixels, with simulated coarse mask.

    The same arguments give the same sample on every machine with the same numpy and OpenCV.
    """
    rng = np.random.default_rng([seed, index])
    canvas = Canvas(height * OVERSAMPLING, width * OVERSAMPLING, rng)
    layout = _Layout(rng)
    _sky(canvas, rng)
    _ground(canvas, layout, rng)
    _houses(canvas, layout, rng)
    for _, thing in sorted(_things(canvas, layout, rng), key=lambda pair: -pair[0]):
        thing()
    _hood(canvas, rng)
    _texture(canvas, rng)
    image = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    instance = np.ascontiguousarray(canvas.identity[::OVERSAMPLING, ::OVERSAMPLING])
    fine = np.where(instance >= 1000, instance // 1000, instance).astype(np.uint8)
    coarse = simulate_coarse(fine, instance, rng, FRAME_IDS)
    return Sample(f"scene_{seed}_{index:010}", pixels, fine, coarse, instance)


def open_source(config: SourceConfig) -> Source:
    """The scenes that the settings ask for."""
    counts = {"train": (0, config.num_train), "val": (VAL_OFFSET, config.num_val)}
    unknown = [split for split in config.splits if split not in counts]
    if unknown:
        raise ConfigError(f"splits={','.join(unknown)}: streetscenes has train and val")
    splits = {}
    for split in config.splits:
        first, count = counts[split]
        splits[split] = tuple(Item(str(index)) for index in range(first, first + count))
    note = "drawn scenes; coarse masks are simulated: polygons inside each region"
    return Source("simulated", (note,), splits, partial(_read, config))


def _read(config: SourceConfig, item: Item) -> Sample:
    return draw(config.source_seed, int(item.key), *config.height_width)


class _Layout:
    """The street in metres, relative to the camera."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.left = -rng.uniform(2.6, 7.0)
        self.right = rng.uniform(2.4, 5.5)
        self.pavements = rng.uniform(1.6, 4.0, 2)
        self.greenery = float(rng.beta(1.2, 1.6))
        verges = rng.uniform(0.5, 5.0, 2) * (rng.random(2) < 0.15 + 0.6 * self.greenery)
        self.walls = (
            self.left - self.pavements[0] - verges[0],
            self.right + self.pavements[1] + verges[1],
        )
        self.end = rng.uniform(60, 140)

    @property
    def borders(self) -> tuple[float, float, float, float]:
        return (
            self.left - self.pavements[0], self.left, self.right, self.right + self.pavements[1]
        )  # fmt: skip


def _noise(rng: np.random.Generator, canvas: Canvas, rows: int, cell: int) -> NDArray[np.float32]:
    """[rows,W] smooth noise of unit scale, with blobs of about `cell` pixels."""
    small = rng.standard_normal((rows // cell + 2, canvas.width // cell + 2), dtype=np.float32)
    return np.asarray(cv2.resize(small, (canvas.width, rows), interpolation=cv2.INTER_LINEAR))


def _sky(canvas: Canvas, rng: np.random.Generator) -> None:
    rows = int(canvas.horizon) + 2
    blue, bright = np.array([0.42, 0.58, 0.82]), np.array([0.88, 0.91, 0.95])
    zenith = blue + (bright - blue) * rng.uniform(0, 0.9)
    ramp = np.linspace(0, 1, rows)[:, None, None] ** 0.8
    sky = zenith * (1 - ramp) + bright * ramp
    clouds = np.clip(_noise(rng, canvas, rows, canvas.height // 8 + 1) - 0.2, 0, 1)[..., None]
    canvas.image[:rows] = sky + (0.97 - sky) * clouds * rng.uniform(0, 0.8)
    canvas.identity[:rows] = LABEL_ID["sky"]


def _ground(canvas: Canvas, layout: _Layout, rng: np.random.Generator) -> None:
    top = int(np.ceil(canvas.horizon + 0.5))
    rows = np.arange(top, canvas.height, dtype=np.float32)
    z = (canvas.focal * canvas.eye / (rows - canvas.horizon))[:, None]
    x = (np.arange(canvas.width, dtype=np.float32)[None] - canvas.vanishing_x) * z / canvas.focal
    zone = np.digitize(x, layout.borders)
    asphalt = np.array([0.33, 0.33, 0.35]) * rng.uniform(0.75, 1.2)
    paving = np.array([0.58, 0.53, 0.52]) * rng.uniform(0.85, 1.1)
    grass = np.array([0.36, 0.43, 0.2]) * rng.uniform(0.85, 1.2)
    color = np.array([grass, paving, asphalt, paving * 0.97, grass], np.float32)[zone]
    # Grey bands worn by wheels, slabs of the pavement, kerbs.
    color *= (1 + 0.05 * np.cos(x * 3.6 + rng.uniform(0, 6)) * (zone == 2))[..., None]
    pavement = (zone == 1) | (zone == 3)
    joints = pavement & (z < 30) & (((x % 1.0) < 0.06) | ((z % 1.4) < 0.08))
    color[joints] *= 0.85
    kerb = pavement & (np.minimum(abs(x - layout.left), abs(x - layout.right)) < 0.16)
    color[kerb] = np.array([0.68, 0.67, 0.65])
    _markings(color, x, z, zone == 2, layout, rng)
    # The houses on the sunny side throw their shadow over the street.
    if canvas.sun > 0.12:
        edge = rng.uniform(layout.left, layout.right)
        shade = (x - edge) * canvas.sun_side > 0
        color[shade] *= 1 - canvas.sun
    clear = np.exp(-z / canvas.haze_distance)[..., None]
    canvas.image[top:] = color * clear + (np.array(canvas.haze) * (1 - clear)).astype(np.float32)
    ids = np.array([LABEL_ID[name] for name in GROUND], np.uint16)
    canvas.identity[top:] = ids[zone]


def _markings(
    color: Floats,
    x: Floats,
    z: Floats,
    road: NDArray[np.bool_],
    layout: _Layout,
    rng: np.random.Generator,
) -> None:
    """Lane lines, an edge line and perhaps a zebra crossing, worn to a different degree."""
    paint = np.array([0.85, 0.85, 0.82]) * rng.uniform(0.75, 1.05)
    middle = (layout.left + layout.right) / 2 if rng.random() < 0.5 else -1.75
    dashed = (abs(x - middle) < 0.08) & ((z + rng.uniform(0, 9)) % 9 < rng.choice([4.5, 9.0]))
    edge = abs(x - layout.right + 0.5) < (0.07 if rng.random() < 0.5 else 0)
    lines = (dashed | edge) & (z < 70)
    if rng.random() < 0.3:
        start = rng.uniform(8, 30)
        lines |= (z > start) & (z < start + 3.5) & (x % 1.0 < 0.5)
    color[lines & road] = paint


def _houses(canvas: Canvas, layout: _Layout, rng: np.random.Generator) -> None:
    houses = []
    for wall in layout.walls:
        typical = rng.uniform(6, 17)
        near = rng.uniform(-10, 6)
        while near < layout.end:
            far = near + rng.uniform(7, 22)
            if rng.random() > 0.25 * layout.greenery and far > 2.5:
                setback = np.sign(wall) * rng.uniform(0, 1.5)
                height = typical * rng.uniform(0.7, 1.3)
                houses.append((max(near, 1.5), far, wall + setback, height))
            near = far + (rng.uniform(2, 10) if rng.random() < 0.15 + 0.35 * layout.greenery else 0)
    # What closes the street in the distance.
    if rng.random() < 0.6:
        near, x = layout.end, rng.uniform(-30, 10)
        facade = [(x, 0, near), (x, 9, near), (x + 20, 9, near), (x + 20, 0, near)]
        canvas.polygon(facade, canvas.shade((0.5, 0.45, 0.4), near), LABEL_ID["building"])
    for _ in range(int(rng.integers(5, 16))):
        x, radius = rng.uniform(-40, 40), rng.uniform(2, 5)
        green = canvas.shade(np.array([0.25, 0.34, 0.16]) * rng.uniform(0.7, 1.2), layout.end)
        name = LABEL_ID["vegetation"]
        canvas.ellipse(x, radius * 0.8, layout.end, (radius * 1.6, radius), green, name)
    for near, far, wall, height in sorted(houses, key=lambda house: -house[0]):
        building(canvas, rng, wall, near, far, height)
        if rng.random() < 0.15 + 0.2 * layout.greenery:
            _barrier(canvas, rng, wall, near, far)


def _barrier(
    canvas: Canvas, rng: np.random.Generator, wall: float, near: float, far: float
) -> None:
    """A fence or a low wall in front of a house."""
    x = wall - np.sign(wall) * 0.3
    height = rng.uniform(0.9, 1.6)
    facing = -float(np.sign(wall))
    near = max(near, 2.0)
    middle = (near + far) / 2
    if rng.random() < 0.5:
        color = canvas.shade(np.array([0.5, 0.47, 0.44]), middle, facing)
        face = [(x, 0, near), (x, height, near), (x, height, far), (x, 0, far)]
        canvas.polygon(face, color, LABEL_ID["wall"])
        return
    base = np.array([(0.32, 0.36, 0.33), (0.45, 0.33, 0.22)][rng.integers(2)])
    face = [(x, 0, near), (x, height, near), (x, height, far), (x, 0, far)]
    canvas.polygon(face, canvas.shade(base * 0.7, middle, facing), LABEL_ID["fence"])
    for z in np.arange(near, min(far, 25), 0.5):
        bar = [(x, 0, z), (x, height, z), (x, height, z + 0.25), (x, 0, z + 0.25)]
        canvas.polygon(bar, canvas.shade(base * 1.3, z, facing), LABEL_ID["fence"])


def _things(
    canvas: Canvas, layout: _Layout, rng: np.random.Generator
) -> list[tuple[float, Callable[[], None]]]:
    """(distance, how to draw it) of everything that stands in front of the houses."""
    things: list[tuple[float, Callable[[], None]]] = []

    def put(function: Callable[..., None], x: float, z: float, *more: object) -> None:
        child = np.random.default_rng(rng.integers(2**63))
        things.append((z, partial(function, canvas, child, x, z, *more)))

    outer_left, left, right, outer_right = layout.borders
    for side, kerb, outer in ((-1, left, outer_left), (1, right, outer_right)):
        if rng.random() < 0.3 + 0.6 * layout.greenery:
            for z in np.arange(rng.uniform(5, 14), 80, rng.uniform(6, 14)):
                put(tree, (kerb + outer) / 2 + rng.normal(0, 0.3), z + rng.normal(0, 0.8))
        if rng.random() < 0.65:
            density = rng.uniform(0.3, 0.95)
            for z in np.arange(rng.uniform(4, 10), 70, 6.2):
                if rng.random() < density:
                    put(car, kerb - side * 1.0, z + rng.uniform(0, 0.8), rng.random() < 0.3)
        for z in rng.uniform(9, 45, rng.integers(1, 4)):
            put(pole, kerb + side * 0.45, z)
        for z in rng.uniform(6, 40, rng.poisson(2.2)):
            put(person, rng.uniform(min(kerb, outer), max(kerb, outer)), z)
        for z in rng.uniform(6, 30, rng.poisson(0.6)):
            put(bicycle, kerb + side * 0.8, z, False)
        if rng.random() < 0.3:
            put(bin_box, outer - side * 0.5, rng.uniform(6, 25))
    lane = max(left + 1.5, -3.0)
    for z in np.cumsum(rng.uniform(8, 30, 3)) + 2:
        if rng.random() < 0.55:
            put(car, rng.normal(0.2, 0.2), z, False)
        if left < -4 and rng.random() < 0.5:
            put(car, lane, z + rng.uniform(-4, 4), True)
    if rng.random() < 0.22:
        name, paint = (
            ("bus", (0.75, 0.6, 0.15)) if rng.random() < 0.5 else ("truck", (0.6, 0.62, 0.66))
        )
        tint = np.array(paint) * rng.uniform(0.7, 1.2, 3)
        put(large_vehicle, rng.choice([lane, 0.4]), rng.uniform(14, 40), name, tint)
    for z in rng.uniform(8, 28, rng.poisson(0.35)):
        put(bicycle, rng.uniform(left + 1, right - 0.5), z, True)
    if rng.random() < 0.15:
        put(person, rng.uniform(left, right), rng.uniform(10, 25))
    return things


def _hood(canvas: Canvas, rng: np.random.Generator) -> None:
    """The bonnet of the car that carries the camera: dark, with the sky in it."""
    rise = rng.uniform(0.05, 0.1)
    x = np.linspace(-1, 1, canvas.width, dtype=np.float32)
    top = int(canvas.height * (1 - rise))
    edge = canvas.height * (1 - rise * (1 - 0.45 * np.abs(x) ** 3))
    depth = (np.arange(top, canvas.height)[:, None] - edge) / (canvas.height * rise)
    hood = depth > 0
    gloss = np.array([0.2, 0.21, 0.23]) * rng.uniform(0.6, 1.3)
    reflection = np.exp(-(((x - rng.uniform(-0.3, 0.3)) / 0.5) ** 2)) * 0.35
    color = gloss * (1 + reflection[None] + 0.5 * np.exp(-depth * 6))[..., None]
    canvas.image[top:][hood] = color[hood]
    canvas.identity[top:][hood] = LABEL_ID["ego vehicle"]


GRAIN = {"sky": 0.005, "vegetation": 0.2, "terrain": 0.14, "road": 0.05, "sidewalk": 0.05,
         "building": 0.04, "fence": 0.08, "ego vehicle": 0.01}  # fmt: skip


def _texture(canvas: Canvas, rng: np.random.Generator) -> None:
    """Grain per class, leaves, blotches, and the colour cast and exposure of the scene."""
    strength = np.full(NUM_CLASSES, 0.03, np.float32)
    for name, value in GRAIN.items():
        strength[LABEL_ID[name]] = value
    label = np.where(canvas.identity >= 1000, canvas.identity // 1000, canvas.identity)
    grain = 0.6 * _noise(rng, canvas, canvas.height, 2) + 0.5 * _noise(
        rng, canvas, canvas.height, 5
    )
    blotch = 0.03 * _noise(rng, canvas, canvas.height, canvas.height // 8 + 1)
    cast = rng.uniform(0.85, 1.12) * (1 + rng.uniform(-0.04, 0.04, 3))
    canvas.image *= (1 + strength[label] * grain + blotch)[..., None] * cast.astype(np.float32)
    np.power(np.clip(canvas.image, 0, 1), np.float32(rng.uniform(0.85, 1.15)), out=canvas.image)
