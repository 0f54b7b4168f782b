"""People, bicycles, cars and larger vehicles of a street scene."""

import numpy as np

from shards.sources.canvas import GLASS, Canvas, Floats, wheel
from shards.sources.source import LABEL_ID

CLOTHES = (
    (0.12, 0.12, 0.15), (0.2, 0.22, 0.35), (0.6, 0.15, 0.15), (0.35, 0.35, 0.36),
    (0.75, 0.72, 0.68), (0.2, 0.32, 0.25), (0.5, 0.4, 0.3), (0.7, 0.5, 0.15),
)  # fmt: skip
SKINS = ((0.85, 0.68, 0.56), (0.72, 0.53, 0.4), (0.45, 0.31, 0.22))


def person(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, name: str = "person"
) -> None:
    """A pedestrian in mid-stride, or (name="rider") the one who sits on a bicycle."""
    identity = canvas.new_identity(name)
    tall = rng.uniform(1.55, 1.9)
    shirt, trousers = (np.array(CLOTHES[rng.integers(len(CLOTHES))]) for _ in range(2))
    skin = canvas.shade(SKINS[rng.integers(len(SKINS))], z)
    cloth, leg = canvas.shade(shirt, z), canvas.shade(trousers * 0.8, z)
    stride = rng.uniform(0.05, 0.3)
    foot = 0.35 if name == "rider" else 0.0
    hip = tall * 0.5 + foot * 0.3
    for way in (-1, 1):
        heel = x + way * stride
        legs = [
            (x - 0.12, hip, z),
            (x + 0.12, hip, z),
            (heel + 0.08, foot, z),
            (heel - 0.08, foot, z),
        ]
        canvas.polygon(legs, leg, identity)
    shoulder = tall * 0.83 + foot * 0.3
    torso = [(x - 0.16, hip - 0.05, z), (x - 0.24, shoulder, z), (x + 0.24, shoulder, z),
             (x + 0.16, hip - 0.05, z)]  # fmt: skip
    canvas.polygon(torso, cloth, identity)
    swing = rng.uniform(0.0, 0.15)
    for way in (-1, 1):
        hand = x + way * (0.3 + swing)
        arm = [(x + way * 0.16, shoulder, z), (x + way * 0.26, shoulder, z), (hand, hip, z),
               (hand - way * 0.1, hip, z)]  # fmt: skip
        canvas.polygon(arm, canvas.shade(shirt * 0.85, z), identity)
    head = shoulder + 0.17
    canvas.ellipse(x, head, z, (0.11, 0.15), skin, identity)
    hair = canvas.shade(np.array([0.2, 0.14, 0.1]) * rng.uniform(0.4, 2.2), z)
    canvas.ellipse(x, head + 0.09, z, (0.12, 0.08), hair, identity)


def bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float, ridden: bool) -> None:
    """A bicycle seen from the side, with its rider if `ridden`."""
    identity = canvas.new_identity("bicycle")
    tyre = canvas.shade((0.1, 0.1, 0.11), z)
    spokes = canvas.shade((0.42, 0.42, 0.43), z)
    paint = canvas.shade(np.array(CLOTHES[rng.integers(len(CLOTHES))]) * 1.1, z)
    for hub in (x - 0.52, x + 0.52):
        canvas.ellipse(hub, 0.34, z, (0.35, 0.35), tyre, identity)
        canvas.ellipse(hub, 0.34, z, (0.27, 0.27), spokes, identity)
    for start, end in (((-0.52, 0.34), (-0.12, 0.85)), ((-0.12, 0.85), (0.4, 0.85)),
                       ((0.4, 0.95), (0.52, 0.34)), ((-0.08, 0.36), (0.4, 0.8))):  # fmt: skip
        bar = [(x + start[0], start[1], z), (x + end[0], end[1], z),
               (x + end[0], end[1] + 0.08, z), (x + start[0], start[1] + 0.08, z)]  # fmt: skip
        canvas.polygon(bar, paint, identity)
    if ridden:
        person(canvas, rng, x - 0.05, z, "rider")


def large_vehicle(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, name: str, paint: Floats
) -> None:
    """A bus or a truck from behind: a tall box with its visible side."""
    identity = canvas.new_identity(name)
    half, height = 1.25, rng.uniform(2.8, 3.4)
    length = 11.0 if name == "bus" else rng.uniform(5, 8)
    facing = -float(np.sign(x))
    side_x = x + facing * half
    canvas.darken(
        [(x - half, 0, z - 0.3), (x + half, 0, z - 0.3), (x + half, 0, z + length),
         (x - half, 0, z + length)], 0.4,
    )  # fmt: skip
    glass = canvas.shade(GLASS * 0.8, z)
    tyre = canvas.shade((0.06, 0.06, 0.07), z)

    def side(low: float, high: float, start: float, end: float) -> list[tuple[float, float, float]]:
        near, far = z + start * length, z + end * length
        return [(side_x, low, near), (side_x, high, near), (side_x, high, far), (side_x, low, far)]

    canvas.polygon(side(0.35, height, 0, 1), canvas.shade(paint * 0.85, z, facing), identity)
    if name == "bus":
        canvas.polygon(side(1.3, height - 0.5, 0.04, 0.96), glass, identity)
    for start in (0.1, 0.7):
        canvas.polygon(side(0, 0.8, start, start + 0.8 / length), tyre, identity)
    for tyre_x in (x - half + 0.25, x + half - 0.25):
        canvas.quad((tyre_x - 0.18, tyre_x + 0.18), (0, 0.5), z, tyre, identity)
    canvas.quad((x - half, x + half), (0.4, height), z, canvas.shade(paint, z), identity)
    if name == "bus":
        canvas.quad((x - half + 0.15, x + half - 0.15), (1.5, height - 0.45), z, glass, identity)
    else:
        canvas.quad(
            (x - 0.03, x + 0.03), (0.7, height - 0.2), z, canvas.shade(paint * 0.6, z), identity
        )
    canvas.quad((x - half, x + half), (0.4, 0.7), z, canvas.shade((0.2,) * 3, z), identity)
    lamp = canvas.shade((0.75, 0.08, 0.05), z)
    for edge in (x - half + 0.05, x + half - 0.3):
        canvas.quad((edge, edge + 0.25), (0.75, 1.05), z, lamp, identity)


def bin_box(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A rubbish bin or a switch box on the pavement (class "static")."""
    color = np.array([(0.25, 0.3, 0.25), (0.45, 0.45, 0.43), (0.5, 0.42, 0.2)][rng.integers(3)])
    half, height = rng.uniform(0.2, 0.45), rng.uniform(0.8, 1.3)
    name = LABEL_ID["static"]
    canvas.quad((x - half, x + half), (0, height), z, canvas.shade(color, z), name)
    lid = canvas.shade(color * 0.7, z)
    canvas.quad((x - half, x + half), (height - 0.12, height), z, lid, name)


CAR_PAINTS = (
    (0.75, 0.76, 0.78), (0.12, 0.12, 0.14), (0.5, 0.52, 0.55), (0.9, 0.9, 0.9), (0.55, 0.1, 0.1),
    (0.12, 0.2, 0.42), (0.2, 0.21, 0.23), (0.35, 0.37, 0.4), (0.16, 0.3, 0.22),
)  # fmt: skip


def car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, oncoming: bool) -> None:
    """A car that stands or drives along the street, its rear or front at distance z."""
    identity = canvas.new_identity("car")
    paint = np.array(CAR_PAINTS[rng.integers(len(CAR_PAINTS))]) * rng.uniform(0.85, 1.1)
    half, length = rng.uniform(0.84, 0.95), rng.uniform(3.9, 4.8)
    belt, top = rng.uniform(0.85, 1.0), rng.uniform(1.42, 1.7)
    near, far = z, z + length
    visible = -float(np.sign(x)) * half + x
    facing = -float(np.sign(x))
    canvas.darken(
        [(x - half - 0.15, 0, near - 0.2), (x + half + 0.15, 0, near - 0.2),
         (x + half + 0.15, 0, far), (x - half - 0.15, 0, far)], 0.45,
    )  # fmt: skip
    glass = canvas.shade(GLASS * rng.uniform(0.5, 1.1), z)
    tyre = canvas.shade((0.06, 0.06, 0.07), z)
    side = canvas.shade(paint * 0.85, z, facing)
    back = canvas.shade(paint, z)
    cabin = 0.78 * half
    front_of_cabin, back_of_cabin = near + 0.12 * length, far - 0.28 * length
    # The side that we see: body, windows, wheels.
    body = [
        (visible, 0.25, near),
        (visible, belt, near),
        (visible, belt, far),
        (visible, 0.25, far),
    ]
    inner = x + facing * cabin
    canvas.polygon(body, side, identity)
    pillars = [(visible, belt, near + 0.1), (inner, top, front_of_cabin + 0.2),
               (inner, top, back_of_cabin - 0.5), (visible, belt, back_of_cabin + 0.5)]  # fmt: skip
    canvas.polygon(pillars, side, identity)
    window = np.array(pillars)
    canvas.polygon(window.mean(0) + (window - window.mean(0)) * [1, 0.72, 0.85], glass, identity)
    for place in (near + 0.2 * length, far - 0.18 * length):
        canvas.polygon(wheel(visible, place, 0.33), tyre, identity)
        canvas.polygon(wheel(visible, place, 0.18), canvas.shade((0.5,) * 3, z), identity)
    # The end that faces us: tyres, body, window, lights, bumper, plate.
    for wheel_x in (x - half + 0.12, x + half - 0.12):
        canvas.quad((wheel_x - 0.12, wheel_x + 0.12), (0, 0.4), near, tyre, identity)
    canvas.quad((x - half, x + half), (0.25, belt), near, back, identity)
    cab = [(x - half, belt, near), (x - cabin, top, front_of_cabin),
           (x + cabin, top, front_of_cabin), (x + half, belt, near)]  # fmt: skip
    canvas.polygon(cab, back, identity)
    screen = np.array(cab)
    canvas.polygon(screen.mean(0) + (screen - screen.mean(0)) * [0.86, 0.74, 1], glass, identity)
    canvas.quad((x - half, x + half), (0.25, 0.42), near, canvas.shade(paint * 0.45, z), identity)
    lamp = canvas.shade((0.95, 0.95, 0.85) if oncoming else (0.7, 0.06, 0.05), z)
    for edge in (-1, 1):
        inner_x, outer_x = x + edge * half * 0.62, x + edge * half * 0.97
        ends = (min(inner_x, outer_x), max(inner_x, outer_x))
        canvas.quad(ends, (belt - 0.28, belt - 0.08), near, lamp, identity)
    canvas.quad((x - 0.26, x + 0.26), (0.45, 0.56), near, canvas.shade((0.88,) * 3, z), identity)
