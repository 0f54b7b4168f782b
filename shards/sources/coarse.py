"""Coarse annotation, simulated: what an annotator draws in a few minutes instead of an hour."""

from collections.abc import Collection

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrestore.config.labels import UNANNOTATED


def simulate_coarse(
    fine: NDArray[np.uint8],
    instance: NDArray[np.uint16],
    rng: np.random.Generator,
    frame: Collection[int] = (),
) -> NDArray[np.uint8]:
    """Polygons inside each region: fine uint8 [H,W], instance uint16 [H,W] -> uint8 [H,W].

    Modelled on gtCoarse of Cityscapes (Cordts et al. 2016, section 2.2: 67.5 % of the pixels are
    annotated, 97 % of those agree with the fine mask): few vertices, gaps along every border,
    small things missing. 0 = not annotated. The margins grow with the height of the image.
    frame: classes of the camera itself, which are never redrawn.
    """
    height, width = fine.shape
    # About 33 pixels at the full size of Cityscapes.
    margin = max(1.0, height / 31)
    min_area = height * width / 1000
    coarse = np.full_like(fine, UNANNOTATED)
    identity = np.where(instance >= 1000, instance, fine.astype(np.uint16))
    regions, sizes = np.unique(identity, return_counts=True)
    # Large regions first: things stand in front of the stuff that surrounds them.
    for region in regions[np.argsort(-sizes, kind="stable")]:
        mask = (identity == region).astype(np.uint8)
        label = int(fine[np.unravel_index(mask.argmax(), mask.shape)])
        if label in frame:
            coarse[mask > 0] = label
            continue
        # Outside the image counts as inside the region: annotators draw up to the image border.
        padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
        shrunk = (depth > margin * rng.uniform(0.5, 1.5)).astype(np.uint8)
        contours, _ = cv2.findContours(shrunk, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        polygons = []
        for contour in contours:
            if cv2.contourArea(contour) >= min_area:
                polygon = cv2.approxPolyDP(contour, margin * rng.uniform(1.0, 2.0), True)
                slip = rng.normal(0, 0.8 * margin, polygon.shape)
                polygons.append(np.rint(polygon + slip).astype(np.int32))
        # Filled by parity, so that the contours of holes stay holes.
        cv2.fillPoly(coarse, polygons, label)
    return coarse
