"""Drawn farmland from above: a small data set of another world than streets, as files of a user.

A pure function of (seed, index): parcels of crops around a road and a brook, with trees and houses,
which have instances. docs/own_data.md is a walk through it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrestore.config.labels import LabelSet, load_labels

FIELDS: LabelSet = load_labels("fields")
CROPS = ("soil", "wheat", "meadow", "maize")
COLORS = {
    "soil": (0.45, 0.34, 0.24),
    "wheat": (0.78, 0.68, 0.38),
    "meadow": (0.42, 0.58, 0.28),
    "maize": (0.26, 0.46, 0.18),
    "water": (0.20, 0.32, 0.42),
    "road": (0.55, 0.53, 0.50),
    "tree": (0.13, 0.28, 0.12),
    "house": (0.62, 0.28, 0.22),
}
SMALLEST = 0.25
"""A parcel is divided until its longer side is less than this share of the picture's height."""


@dataclass(frozen=True)
class Scene:
    """image: uint8 [H,W,3]. mask: uint8 [H,W] ids of FIELDS. things: uint16 [H,W], a number for
    each tree and house, 0 elsewhere."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    things: NDArray[np.uint16]


def draw(seed: int, index: int, height: int, width: int) -> Scene:
    """The scene `index` of `seed`. The same arguments give the same scene on every machine with
    the same numpy and OpenCV."""
    return _Land(np.random.default_rng([seed, index]), height, width).scene()


class _Land:
    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.pixels = np.zeros((height, width, 3), np.float32)
        self.mask = np.zeros((height, width), np.uint8)
        self.things = np.zeros((height, width), np.uint16)
        self.rows, self.columns = np.mgrid[:height, :width].astype(np.float32)

    def scene(self) -> Scene:
        turn = self.rng.uniform(0, np.pi)
        along = np.cos(turn) * self.columns + np.sin(turn) * self.rows
        across = np.cos(turn) * self.rows - np.sin(turn) * self.columns
        self._divide(along, across, float(along.min()), float(along.max()),
                     float(across.min()), float(across.max()))  # fmt: skip
        self._band("water", along, across, 0.02, bend=0.08)
        self._band("road", across, along, 0.018, bend=0.0)
        for name, most in (("tree", 14), ("house", 7)):
            for _ in range(self.rng.integers(2, most)):
                self._thing(name)
        noise = self.rng.normal(0, 0.03, self.mask.shape).astype(np.float32)
        shade = cv2.GaussianBlur(self.rng.normal(0, 1.5, self.mask.shape).astype(np.float32),
                                 (0, 0), self.height / 8)  # fmt: skip
        shown = np.clip(self.pixels + noise[..., None] + shade[..., None], 0, 1)
        return Scene(np.rint(shown * 255).astype(np.uint8), self.mask, self.things)

    def _divide(
        self, along: NDArray[np.float32], across: NDArray[np.float32],
        left: float, right: float, top: float, bottom: float,
    ) -> None:  # fmt: skip
        """Parcels between these, with crops in rows."""
        long, high = right - left, bottom - top
        if max(long, high) > SMALLEST * self.height * self.rng.uniform(1, 3):
            at = self.rng.uniform(0.35, 0.65)
            if long > high:
                middle = left + at * long
                parts = ((left, middle, top, bottom), (middle, right, top, bottom))
            else:
                middle = top + at * high
                parts = ((left, right, top, middle), (left, right, middle, bottom))
            for part in parts:
                self._divide(along, across, *part)
            return
        inside = (along >= left) & (along <= right) & (across >= top) & (across <= bottom)
        name = str(self.rng.choice(CROPS))
        direction = along if self.rng.random() < 0.5 else across
        furrows = 0.05 * np.sin(direction * self.rng.uniform(0.8, 2.0))
        self._fill(name, inside, furrows[..., None])

    def _band(
        self, name: str, along: NDArray[np.float32], across: NDArray[np.float32],
        width: float, bend: float,
    ) -> None:  # fmt: skip
        middle = np.quantile(across, self.rng.uniform(0.25, 0.75))
        wave = bend * self.height * np.sin(along / self.height * self.rng.uniform(2, 5))
        half = width * self.height * self.rng.uniform(1, 2) + 1
        self._fill(name, np.abs(across - middle - wave) < half)

    def _thing(self, name: str) -> None:
        canvas = np.zeros(self.mask.shape, np.uint8)
        x, y = (int(self.rng.uniform(0, side)) for side in (self.width, self.height))
        size = self.height * self.rng.uniform(0.03, 0.06)
        if name == "tree":
            cv2.circle(canvas, (x, y), max(2, round(size)), 1, -1)
        else:
            box = ((float(x), float(y)), (2.4 * size, 1.4 * size), float(self.rng.uniform(0, 90)))
            cv2.fillPoly(canvas, [np.rint(cv2.boxPoints(box)).astype(np.int32)], 1)
        inside = canvas.astype(bool)
        self._fill(name, inside)
        self.things[inside] = self.things.max() + 1

    def _fill(
        self, name: str, inside: NDArray[np.bool_], texture: NDArray[np.float32] | float = 0.0
    ) -> None:
        color = np.array(COLORS[name]) * self.rng.uniform(0.85, 1.15, 3)
        shown = np.broadcast_to(color + texture, self.pixels.shape)
        self.pixels[inside] = shown[inside]
        self.mask[inside] = FIELDS.by_number[FIELDS.number[name]].id
        self.things[inside] = 0
