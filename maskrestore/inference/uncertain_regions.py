"""What a person should look at in a restored mask: its least confident regions, and an overlay."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maskrestore.config.labels import LabelSet
from maskrestore.data.label_tables import colors_of
from maskrestore.data.pictures import Pixels

HALF = 128
"""Confidences below this are less than 0.5."""
CONTRADICTED = (255, 0, 255)
"""The overlay's colour of annotated pixels that the network contradicts: no class has it."""


def least_confident(confidence: Pixels, num_regions: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) in pixels, the last two exclusive, of connected regions of
    confidence below 0.5; those that lack most of it in all come first.

    confidence: uint8 [H,W], times 255. There may be fewer than num_regions.
    """
    regions, num_found = ndimage.label(confidence < HALF)
    if num_found == 0 or num_regions == 0:
        return []
    lacking = np.bincount(regions.ravel(), weights=255.0 - confidence.ravel())[1:]
    worst = np.argsort(-lacking, kind="stable")[:num_regions]
    boxes = ndimage.find_objects(regions)
    return [
        (box[1].start, box[0].start, box[1].stop, box[0].stop)
        for box in (boxes[index] for index in worst)
    ]


def overlay(
    restored: Pixels,
    labels: LabelSet,
    added: NDArray[np.bool_],
    contradicted: NDArray[np.bool_],
    image: Pixels | None,
) -> Pixels:
    """uint8 [H,W,3] to look at. restored: class numbers, uint8 [H,W]; image: uint8 [H,W,3].

    With an image, half of it and half of the classes' colours. Without one the colours, those
    `added` to the annotation lighter, and `contradicted` annotation in CONTRADICTED.
    """
    colors = colors_of(labels)[restored]
    if image is not None:
        return colors // 2 + image // 2
    colors[added] = colors[added] // 2 + 127
    colors[contradicted] = CONTRADICTED
    return colors


def figures(
    annotated: NDArray[np.bool_], contradicted: NDArray[np.bool_], confidence: Pixels, num: int
) -> dict[str, Any]:
    """A line of summary.csv; shares and confidence 0..1. num: regions to name at most."""
    num_annotated = int(annotated.sum())
    return {
        "height": annotated.shape[0],
        "width": annotated.shape[1],
        "annotated": round(num_annotated / annotated.size, 4),
        "contradicted": round(int(contradicted.sum()) / num_annotated, 4)
        if num_annotated
        else None,
        "confidence": round(float(confidence.mean()) / 255, 4),
        "below_half": round(float((confidence < HALF).mean()), 4),
        "regions": "; ".join(" ".join(map(str, box)) for box in least_confident(confidence, num)),
    }
