"""Boundaries, held equal to plain loops over classes and pixels."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from label_sets import CITYSCAPES, EVALUATED_IDS, LABEL_ID, NUM_CLASSES
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from maskrestore.evaluation.boundary import band, band_width, contour, contours_met
from maskrestore.evaluation.segmentation import SegmentationMetrics

ROAD, CAR, VOID = LABEL_ID["road"], LABEL_ID["car"], LABEL_ID["ego vehicle"]
Map = NDArray[np.uint8]


def scenes(count: int, height: int, width: int, seed: int) -> Map:
    """Label maps of blobs with ragged borders, uint8 [count,height,width]."""
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.random((height, width, 9)), (0, 0), 3) for _ in range(count)]
    ids = rng.choice(NUM_CLASSES, 9, replace=False).astype(np.uint8)
    return np.stack([ids[scores.argmax(2)] for scores in noise])


def disturbed(maps: Map, seed: int) -> Map:
    """The maps moved a little, with spots of other labels."""
    rng = np.random.default_rng(seed)
    moved = np.stack([np.roll(label_map, rng.integers(-3, 4, 2), (0, 1)) for label_map in maps])
    spots = rng.random(maps.shape) < 0.02
    return np.where(spots, rng.integers(0, NUM_CLASSES, maps.shape), moved).astype(np.uint8)


def official_band(mask: Map, width: int) -> NDArray[np.bool_]:
    """Of one class, as the code of Boundary IoU does it: eroded inside a frame of zeros."""
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)
    return (mask - eroded[1:-1, 1:-1]).astype(bool)


def plain_contour(label_map: Map) -> NDArray[np.bool_]:
    height, width = label_map.shape
    at_border = np.zeros(label_map.shape, bool)
    for y in range(height):
        for x in range(width):
            around = label_map[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            at_border[y, x] = (around != label_map[y, x]).any()
    return at_border


def plain_figures(true: Map, restored: Map) -> dict[str, float]:
    """boundary_f1, f3, f5 and boundary_iou: class by class and pixel by pixel."""
    wide = band_width(*true.shape[1:])
    contours = [
        (plain_contour(t_map), plain_contour(r_map))
        for t_map, r_map in zip(true, restored, strict=True)
    ]
    ious, scores = [], {1: [], 3: [], 5: []}
    for own in EVALUATED_IDS:
        union = shared = 0
        counts = {t: np.zeros(4) for t in scores}  # met and all of true, met and all of restored
        for t_map, r_map, edges in zip(true, restored, contours, strict=True):
            counted = np.isin(t_map, EVALUATED_IDS)
            on_true = official_band((t_map == own).astype(np.uint8), wide) & counted
            on_restored = official_band((r_map == own).astype(np.uint8), wide) & counted
            shared += (on_true & on_restored).sum()
            union += (on_true | on_restored).sum()
            t_contour, r_contour = edges[0] & (t_map == own), edges[1] & (r_map == own)
            far = np.full((t_contour.sum(), r_contour.sum()), np.inf)
            if far.size:
                far = cdist(np.argwhere(t_contour), np.argwhere(r_contour))
            # Pixels on which the true class is ignored are not counted, but may be met.
            to_restored = far.min(1, initial=np.inf)[counted[t_contour]]
            to_true = far.min(0, initial=np.inf)[counted[r_contour]]
            for t in counts:
                met = (to_restored <= t).sum(), to_restored.size
                counts[t] += *met, (to_true <= t).sum(), to_true.size
        if union:
            ious.append(shared / union)
        for t, (true_met, num_true, restored_met, num_restored) in counts.items():
            if num_true + num_restored:
                recall = true_met / num_true if num_true else 0.0
                precision = restored_met / num_restored if num_restored else 0.0
                both = precision + recall
                scores[t].append(2 * precision * recall / both if precision and recall else 0.0)
    means = {f"boundary_f{t}": float(np.mean(values)) for t, values in scores.items()}
    return means | {"boundary_iou": float(np.mean(ious))}


def figures(true: Tensor, restored: Tensor) -> dict[str, Any]:
    metric = SegmentationMetrics(CITYSCAPES)
    keys = [str(number) for number in range(len(true))]
    metric.update(keys, restored.long(), true.long(), torch.ones_like(true[:, None]).bool())
    return metric.compute()


def test_two_halves_two_pixels_apart() -> None:
    true, restored = torch.full((1, 4, 12), CAR), torch.full((1, 4, 12), CAR)
    true[..., :6], restored[..., :8] = ROAD, ROAD
    values = figures(true, restored)
    assert (values["boundary_f1"], values["boundary_f3"], values["boundary_f5"]) == (0, 1, 1)
    # Bands of 1 px, the image border too. Road: 16 and 20 px, 14 of both. Car: 16, 12 and 10.
    assert values["boundary_iou"] == pytest.approx((14 / 22 + 10 / 18) / 2)


def test_precision_and_recall_are_counted_apart() -> None:
    true, restored = torch.full((1, 9, 30), ROAD), torch.full((1, 9, 30), ROAD)
    true[:, 4, 4] = restored[:, 4, 4] = CAR
    restored[:, 4, 20] = CAR  # nowhere near
    # Car: precision 1/2, recall 1. Road: a ring of 8 around each, precision 8/16, recall 1.
    assert figures(true, restored)["boundary_f1"] == pytest.approx(2 / 3)
    assert figures(restored, true)["boundary_f5"] == pytest.approx(2 / 3)


def test_a_contour_in_one_map_alone_is_an_error_and_none_in_both_is_nothing() -> None:
    true, restored = torch.full((1, 9, 9), ROAD), torch.full((1, 9, 9), ROAD)
    assert figures(true, restored)["boundary_f5"] is None
    restored[:, 4, 4] = CAR
    assert figures(true, restored)["boundary_f5"] == 0
    assert figures(restored, true)["boundary_f5"] == 0


def test_pixels_whose_true_class_is_ignored_may_be_met_but_are_not_counted() -> None:
    true, restored = torch.full((1, 8, 20), ROAD), torch.full((1, 8, 20), ROAD)
    true[:, 4, 4] = restored[:, 4, 4] = CAR
    true[..., 12:], restored[..., 14:] = VOID, CAR
    values = figures(true, restored)
    # Car: one spot, the same in both. Road: a ring of 8 around it; and 8 pixels along the void,
    # which the restored road leaves 2 px further, where nothing counts against it.
    assert values["boundary_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["boundary_f3"] == 1
    true[..., 12:] = CAR  # and without the void all of it counts
    assert figures(true, restored)["boundary_f1"] == pytest.approx((8 / 16 + 1 / 9) / 2)


def test_the_width_of_the_band_is_that_of_the_official_code() -> None:
    assert [band_width(*size) for size in ((256, 512), (1024, 2048), (4, 8))] == [11, 46, 1]


@pytest.mark.parametrize("width", [1, 2, 5, 11])
def test_bands_are_the_official_erosion_of_each_class(width: int) -> None:
    maps = scenes(3, 30, 41, seed=0)
    bands = band(torch.from_numpy(maps), width, border=True).numpy()
    for label_map, on_band in zip(maps, bands, strict=True):
        for own in np.unique(label_map):
            mask = label_map == own
            assert np.array_equal(on_band & mask, official_band(mask.astype(np.uint8), width))
    assert 0 < bands.mean() <= 1


def test_contours_stop_at_the_border_of_the_image() -> None:
    maps = scenes(2, 20, 27, seed=1)
    contours = contour(torch.from_numpy(maps)).numpy()
    assert np.array_equal(contours, np.stack([plain_contour(label_map) for label_map in maps]))
    assert not contour(torch.full((1, 5, 5), ROAD, dtype=torch.uint8)).any()


def test_contours_met_are_those_of_the_distances_between_all_pixels() -> None:
    true, restored = scenes(2, 25, 33, seed=2), disturbed(scenes(2, 25, 33, seed=2), seed=3)
    levels = contours_met(torch.from_numpy(true), torch.from_numpy(restored), (1, 3, 5))
    for maps, others, met in ((true, restored, levels[0]), (restored, true, levels[1])):
        for n, label_map in enumerate(maps):
            other, expected = plain_contour(others[n]), np.zeros(label_map.shape)
            for y, x in np.argwhere(plain_contour(label_map)):
                same = np.argwhere(other & (others[n] == label_map[y, x]))
                nearest = np.hypot(*(same - (y, x)).T).min() if len(same) else np.inf
                expected[y, x] = 1 + sum(nearest <= tolerance for tolerance in (1, 3, 5))
            assert np.array_equal(met[n].numpy(), expected)
    assert set(levels[0].unique().tolist()) == {0, 1, 2, 3, 4}


def test_maps_smaller_than_a_tolerance() -> None:
    true = torch.tensor([[[ROAD, CAR], [CAR, CAR]]], dtype=torch.uint8)
    here, there = contours_met(true, true)
    assert torch.equal(here, torch.full_like(here, 4))
    assert torch.equal(there, here)


@pytest.mark.parametrize("size", [(24, 40), (70, 60)])
def test_figures_are_those_of_plain_loops_over_classes(size: tuple[int, int]) -> None:
    true = scenes(3, *size, seed=4)
    restored = disturbed(true, seed=5)
    values = figures(torch.from_numpy(true), torch.from_numpy(restored))
    expected = plain_figures(true, restored)
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert 0.1 < expected["boundary_f1"] < expected["boundary_f3"] < expected["boundary_f5"] < 1
    ignored = ~np.isin(true, EVALUATED_IDS)
    assert 0.05 < ignored.mean() < 0.95
