"""A pinhole camera on a street, and the things that stand there, drawn far to near.

World coordinates in metres: X to the right of the camera, Y above the ground, Z ahead.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.sources.source import LABEL_ID

Floats = NDArray[np.floating[Any]]
Color = Sequence[float] | Floats

SUBPIXEL_BITS = 4
SUBPIXELS = 1 << SUBPIXEL_BITS
_ANGLES = np.linspace(0, 2 * np.pi, 14, endpoint=False)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES), np.zeros(14)], axis=1)


class Canvas:
    """Picture float32 [H,W,3] RGB about 0..1 and identities uint16 [H,W], drawn together.

    An identity is class * 1000 + n for a countable thing, the class id for anything else.
    """

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height, self.width = height, width
        self.image: NDArray[np.float32] = np.zeros((height, width, 3), np.float32)
        self.identity: NDArray[np.uint16] = np.zeros((height, width), np.uint16)
        self.focal = width * rng.uniform(1.0, 1.15)
        self.vanishing_x = width * rng.uniform(0.4, 0.6)
        self.horizon = height * rng.uniform(0.38, 0.46)
        self.eye = rng.uniform(1.25, 1.45)
        self.haze = tuple(np.array([0.74, 0.78, 0.82]) * rng.uniform(0.85, 1.1))
        self.haze_distance = rng.uniform(90, 260)
        self.sun_side = rng.choice([-1, 1])
        self.sun = rng.uniform(0.0, 0.35)
        self._scale = np.array([self.focal, -self.focal]) * SUBPIXELS
        self._center = np.array([self.vanishing_x, self.horizon]) * SUBPIXELS
        self._eye = np.array([0, self.eye])
        self._numbers: Counter[str] = Counter()

    def new_identity(self, name: str) -> int:
        """The identity of one more countable thing of this class."""
        self._numbers[name] += 1
        return LABEL_ID[name] * 1000 + self._numbers[name] - 1

    def shade(self, color: Color, distance: float, side: float = 0.0) -> tuple[float, ...]:
        """Colour of a surface in haze; side -1 or 1 is the way it faces, towards the sun or not."""
        clear = math.exp(-distance / self.haze_distance)
        light = (1 + self.sun * side * self.sun_side) * clear
        (red, green, blue), haze = color, self.haze
        fog = 1 - clear
        return (
            float(red * light + haze[0] * fog),
            float(green * light + haze[1] * fog),
            float(blue * light + haze[2] * fog),
        )

    def project(self, points: Sequence[Sequence[float]] | Floats) -> NDArray[np.int32]:
        """[N,3] metres -> [N,2] fixed point pixels for cv2."""
        world = np.asarray(points, np.float64)
        offset = (world[:, :2] - self._eye) * self._scale / np.maximum(world[:, 2:], 0.5)
        pixels: NDArray[np.int32] = (offset + self._center).astype(np.int32)
        return pixels

    def polygon(
        self, points: Sequence[Sequence[float]] | Floats, color: Color, identity: int
    ) -> None:
        """Fills a polygon of world points, already shaded colour."""
        pixels = self.project(points)
        cv2.fillPoly(self.image, [pixels], tuple(color), shift=SUBPIXEL_BITS)
        cv2.fillPoly(self.identity, [pixels], identity, shift=SUBPIXEL_BITS)

    def quad(
        self, x: tuple[float, float], y: tuple[float, float], z: float, color: Color, identity: int
    ) -> None:
        """Fills a rectangle that faces the camera."""
        corners = [(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]
        self.polygon(corners, color, identity)

    def ellipse(
        self, x: float, y: float, z: float, radii: tuple[float, float], color: Color, identity: int
    ) -> None:
        """Fills an ellipse that faces the camera."""
        scale = self.focal * SUBPIXELS / z
        center = (
            int(self._center[0] + x * scale),
            int(self._center[1] + (self.eye - y) * scale),
        )
        axes = (int(radii[0] * scale), int(radii[1] * scale))
        for array, value in ((self.image, color), (self.identity, identity)):
            cv2.ellipse(array, center, axes, 0, 0, 360, value, -1, cv2.LINE_8, SUBPIXEL_BITS)

    def darken(self, points: Sequence[Sequence[float]], factor: float) -> None:
        """Casts a shadow on whatever was drawn so far."""
        pixels = self.project(points)
        left, top = np.maximum(pixels.min(0) // SUBPIXELS, 0)
        right, bottom = pixels.max(0) // SUBPIXELS + 2
        region = self.image[top:bottom, left:right]
        if region.size:
            mask = np.zeros(region.shape[:2], np.uint8)
            offset = np.array([left, top]) * SUBPIXELS
            cv2.fillPoly(mask, [(pixels - offset).astype(np.int32)], 1, shift=SUBPIXEL_BITS)
            region[mask > 0] *= factor


def wheel(x: float, z: float, radius: float) -> Floats:
    """[14,3] points of a wheel that stands on the ground and rolls along Z."""
    return CIRCLE[:, [2, 1, 0]] * radius + (x, radius, z)


FACADES = (
    (0.62, 0.55, 0.45), (0.70, 0.66, 0.58), (0.55, 0.38, 0.32), (0.48, 0.46, 0.46),
    (0.66, 0.58, 0.40), (0.60, 0.60, 0.62), (0.72, 0.62, 0.55), (0.42, 0.33, 0.30),
)  # fmt: skip
GLASS = np.array([0.22, 0.27, 0.33])


def building(
    canvas: Canvas, rng: np.random.Generator, wall_x: float, near: float, far: float, height: float
) -> None:
    """A house along the street: the facade in the plane X = wall_x, and its end that faces us."""
    color = np.array(FACADES[rng.integers(len(FACADES))]) * rng.uniform(0.8, 1.15)
    style = Facade(color, rng)
    side = float(np.sign(wall_x))
    x_far = canvas.vanishing_x + canvas.focal * wall_x / far
    x_near = canvas.vanishing_x + canvas.focal * wall_x / near
    columns = _columns(canvas, x_near, x_far)
    if columns.size:
        depth = canvas.focal * wall_x / (columns - canvas.vanishing_x)
        _draw_facade(canvas, style, columns, depth, depth, height, -side)
    x_outer = canvas.vanishing_x + canvas.focal * (wall_x + side * 14) / near
    columns = _columns(canvas, x_near, x_outer)
    if columns.size:
        along = (columns - canvas.vanishing_x) * near / canvas.focal
        _draw_facade(canvas, style, columns, np.full(columns.shape, near), along, height, 0.0)


class Facade:
    """Colours and window grid of one house; lengths in metres."""

    def __init__(self, color: Floats, rng: np.random.Generator) -> None:
        self.color = color
        self.roof = np.array([0.45, 0.25, 0.2]) if rng.random() < 0.5 else color * 0.6
        self.shop = rng.uniform(0.15, 0.5) * color + [0.05, 0.05, 0.05]
        self.has_shop = rng.random() < 0.5
        self.floor = rng.uniform(2.8, 3.6)
        self.bay = rng.uniform(1.8, 3.4)
        self.window = rng.uniform(0.4, 0.65)
        self.panes = rng.uniform(0.6, 1.5, (8, 16))


def _columns(canvas: Canvas, one: float, other: float) -> NDArray[np.int64]:
    low, high = sorted((one, other))
    return np.arange(max(0, int(np.ceil(low))), min(canvas.width, int(np.ceil(high))))


def _draw_facade(
    canvas: Canvas,
    style: Facade,
    columns: NDArray[np.int64],
    depth: Floats,
    along: Floats,
    height: float,
    facing: float,
) -> None:
    """Columns [N] with their distance and their place along the wall, both [N], metres."""
    bottom = canvas.horizon + canvas.focal * canvas.eye / depth.min()
    top = int(max(0, canvas.horizon - canvas.focal * (height - canvas.eye) / depth.min()))
    rows = np.arange(top, min(canvas.height, int(bottom) + 1), dtype=np.float32)[:, None]
    depth, along = depth.astype(np.float32), along.astype(np.float32)
    level = canvas.eye - (rows - canvas.horizon) * depth / canvas.focal
    storey, bay = level / style.floor, along / style.bay
    in_storey, in_bay = storey % 1, bay % 1
    window = (abs(in_storey - 0.55) < 0.28) & (abs(in_bay - 0.5) < style.window / 2)
    window &= (storey >= 1) & (level < height - 0.8)
    color = np.empty((*level.shape, 3), np.float32)
    color[:] = style.color
    color *= (0.9 + 0.01 * level)[..., None]
    color[in_storey < 0.06] *= 0.85
    if style.has_shop:
        front = (storey < 0.85) & (abs(in_bay - 0.5) < 0.42)
        color[storey < 1] = style.shop
        color[front] = GLASS * 0.8
    pane = style.panes[storey.astype(int) % 8, np.broadcast_to(bay.astype(int) % 16, level.shape)]
    color[window] = GLASS * pane[window][:, None]
    color[level > height - 0.5] = style.roof
    inside = (level >= 0) & (level <= height)
    light = 1 + canvas.sun * facing * canvas.sun_side
    clear = np.exp(-depth / canvas.haze_distance)[:, None]
    color *= light * clear
    color += (np.array(canvas.haze) * (1 - clear)).astype(np.float32)
    region = (slice(top, top + len(rows)), slice(int(columns[0]), int(columns[-1]) + 1))
    canvas.image[region][inside] = color[inside]
    canvas.identity[region][inside] = LABEL_ID["building"]


def tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A trunk and a crown of many leafy blobs, brighter on top and towards the sun."""
    name = LABEL_ID["vegetation"]
    height, spread = rng.uniform(5, 10), rng.uniform(1.4, 2.8)
    canvas.darken(
        [(x + dx, 0, max(1, z + dz)) for dx, dz in ((-2, -1), (2, -1), (2, 1), (-2, 1))], 0.75
    )
    bark = np.array([0.25, 0.2, 0.16]) * rng.uniform(0.7, 1.2)
    canvas.quad((x - 0.16, x + 0.16), (0, height * 0.6), z, canvas.shade(bark, z), name)
    green = np.array([0.25, 0.36, 0.14]) * rng.uniform(0.75, 1.25) + [rng.uniform(-0.03, 0.1), 0, 0]
    for _ in range(22 if z < 30 else 12):
        dx, dy = rng.normal(0, 0.45 * spread), rng.normal(0, 0.17 * height)
        light = 0.85 + 0.35 * dy / height * 2 + canvas.sun * canvas.sun_side * dx / spread * 0.5
        color = canvas.shade(green * np.clip(light + rng.normal(0, 0.12), 0.4, 1.6), z)
        radius = spread * rng.uniform(0.25, 0.5)
        canvas.ellipse(x + dx, height * 0.72 + dy, z, (radius, radius * 0.85), color, name)


def pole(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A lamp post, a traffic light or a sign post, each on its pole, seen from the road."""
    name = LABEL_ID["pole"]
    grey = canvas.shade(np.array([0.4, 0.41, 0.4]) * rng.uniform(0.7, 1.3), z)
    inward = -np.sign(x)
    kind = rng.choice(["lamp", "light", "sign", "sign"])
    height = {"lamp": rng.uniform(6, 9), "light": rng.uniform(3, 4.2), "sign": 2.6}[kind]
    canvas.quad((x - 0.08, x + 0.08), (0, height), z, grey, name)
    if kind == "lamp":
        ends = sorted((x, x + 1.6 * inward))
        canvas.quad((ends[0], ends[1]), (height - 0.15, height), z, grey, name)
    elif kind == "light":
        name = LABEL_ID["traffic light"]
        canvas.quad(
            (x - 0.22, x + 0.22), (height - 1.1, height), z, canvas.shade((0.1,) * 3, z), name
        )
        lit = int(rng.integers(3))
        for lamp, color in enumerate([(1.0, 0.2, 0.1), (1.0, 0.7, 0.1), (0.2, 0.95, 0.4)]):
            color = color if lamp == lit else (0.2, 0.18, 0.16)
            canvas.ellipse(x, height - 0.22 - 0.33 * lamp, z, (0.13, 0.13), color, name)
    else:
        _sign(canvas, rng, x, height, z)


def _sign(canvas: Canvas, rng: np.random.Generator, x: float, y: float, z: float) -> None:
    name = LABEL_ID["traffic sign"]
    red, white = canvas.shade((0.8, 0.1, 0.1), z), canvas.shade((0.92, 0.92, 0.9), z)
    size = rng.uniform(0.35, 0.5)
    shape = rng.integers(3)
    if shape == 0:
        canvas.ellipse(x, y, z, (size, size), red, name)
        canvas.ellipse(x, y, z, (size * 0.7, size * 0.7), white, name)
    elif shape == 1:
        for scale, color in ((1.2, red), (0.7, white)):
            s = size * scale
            canvas.polygon(
                [(x - s, y - s * 0.6, z), (x + s, y - s * 0.6, z), (x, y + s, z)], color, name
            )
    else:
        plate = [(0.1, 0.25, 0.65), (0.95, 0.8, 0.1)][rng.integers(2)]
        canvas.quad((x - size, x + size), (y - size, y + size), z, canvas.shade(plate, z), name)
