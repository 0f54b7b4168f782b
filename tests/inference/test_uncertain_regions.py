"""uncertain_regions.py: where a person should look."""

import numpy as np
from label_sets import CITYSCAPES, LABELS

from maskrestore.inference.uncertain_regions import figures, least_confident, overlay


def test_regions_that_lack_most_confidence_come_first() -> None:
    confidence = np.full((20, 30), 255, np.uint8)
    confidence[2:4, 5:7] = 0
    confidence[10:16, 10:25] = 100
    confidence[18, 29] = 127
    confidence[0, 0] = 128
    boxes = [(10, 10, 25, 16), (5, 2, 7, 4), (29, 18, 30, 19)]
    assert least_confident(confidence, 5) == boxes
    assert least_confident(confidence, 1) == boxes[:1]
    assert least_confident(confidence, 0) == []
    assert least_confident(np.full((4, 4), 200, np.uint8), 5) == []


def test_figures_of_a_mask() -> None:
    confidence = np.array([[255, 255, 51, 51]], np.uint8)
    annotated = np.array([[True, True, False, False]])
    row = figures(annotated, annotated & [[True, False, False, False]], confidence, 5)
    assert row == {
        "height": 1,
        "width": 4,
        "annotated": 0.5,
        "contradicted": 0.5,
        "confidence": 0.6,
        "below_half": 0.5,
        "regions": "2 0 4 1",
    }
    nothing = np.zeros_like(annotated)
    assert figures(nothing, nothing, confidence, 5)["contradicted"] is None


def test_the_overlay_tells_added_kept_and_contradicted_apart() -> None:
    restored = np.array([[7, 7, 26]], np.uint8)
    added, contradicted = np.array([[False, True, False]]), np.array([[False, False, True]])
    road = np.array(LABELS[7].color)
    pixels = overlay(restored, CITYSCAPES, added, contradicted, None)
    assert pixels.tolist() == [[road.tolist(), (road // 2 + 127).tolist(), [255, 0, 255]]]
    image = np.full((1, 3, 3), 200, np.uint8)
    assert (
        overlay(restored, CITYSCAPES, added, contradicted, image)[0, 1].tolist()
        == (road // 2 + 100).tolist()
    )
