"""Drawn scenes are a pure function of (seed, index) and look like Cityscapes to a counter."""

import numpy as np
import pytest
from label_sets import LABEL_ID, LABELS, NUM_CLASSES

from maskrestore.data.sample import Sample
from shards.sources.coarse import simulate_coarse
from shards.sources.source import FRAME_IDS
from shards.sources.streetscenes import VAL_OFFSET, draw

SIZE = (64, 128)


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    return [draw(0, index, *SIZE) for index in range(20)]


def test_same_arguments_give_the_same_scene_and_others_do_not(scenes: list[Sample]) -> None:
    again = draw(0, 3, *SIZE)
    for name in ("image", "fine", "coarse", "instance"):
        assert np.array_equal(getattr(again, name), getattr(scenes[3], name))
    others = [*scenes[:3], draw(1, 3, *SIZE), draw(0, VAL_OFFSET + 3, *SIZE)]
    assert all((other.image != again.image).mean() > 0.5 for other in others)
    assert len({scene.key for scene in [*others, again]}) == 6


def test_shapes_dtypes_and_ids(scenes: list[Sample]) -> None:
    for scene in scenes:
        assert scene.image.shape == (*SIZE, 3)
        assert scene.fine.shape == scene.coarse.shape == scene.instance.shape == SIZE
        assert scene.image.dtype == scene.fine.dtype == scene.coarse.dtype == np.uint8
        assert scene.instance.dtype == np.uint16
        assert scene.fine.max() < NUM_CLASSES
        assert "." not in scene.key


def test_instances_agree_with_classes(scenes: list[Sample]) -> None:
    countable = [label.id for label in LABELS if label.instances]
    for scene in scenes:
        label = np.where(scene.instance >= 1000, scene.instance // 1000, scene.instance)
        assert np.array_equal(label, scene.fine)
        assert np.array_equal(scene.instance >= 1000, np.isin(scene.fine, countable))
    cars = [np.unique(s.instance[s.fine == LABEL_ID["car"]]).size for s in scenes]
    assert max(cars) >= 4


def test_class_frequencies_are_roughly_those_of_cityscapes(scenes: list[Sample]) -> None:
    pixels = np.bincount(np.concatenate([s.fine.ravel() for s in scenes]), minlength=NUM_CLASSES)
    share = pixels / pixels.sum()
    ranges = {
        "road": (0.2, 0.42), "building": (0.12, 0.32), "vegetation": (0.06, 0.22),
        "car": (0.04, 0.18), "sidewalk": (0.01, 0.1), "sky": (0.01, 0.12),
        "ego vehicle": (0.02, 0.1), "person": (0.001, 0.04), "pole": (0.001, 0.03),
        "traffic sign": (0.0005, 0.02), "traffic light": (0.0002, 0.02), "terrain": (0.001, 0.05),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        assert low < share[LABEL_ID[name]] < high, name


def test_colours_tell_classes_apart_but_are_not_flat(scenes: list[Sample]) -> None:
    """Sky is brighter and bluer than road, vegetation greener than either; none is flat."""
    means = {}
    for name in ("sky", "road", "vegetation"):
        pixels = np.concatenate([s.image[s.fine == LABEL_ID[name]] for s in scenes]).astype(float)
        means[name] = pixels.mean(0)
        assert pixels.std(0).min() > 8, name
    red, green, blue = 0, 1, 2
    assert means["sky"].mean() > means["road"].mean() + 60
    assert means["sky"][blue] > means["sky"][red]
    assert means["vegetation"][green] > means["vegetation"][[red, blue]].max() + 8


def test_coarse_is_as_dense_and_as_right_as_in_cityscapes(scenes: list[Sample]) -> None:
    """Cityscapes: 67.5 % of the pixels annotated, 97 % of those as in the fine mask."""
    annotated = np.stack([scene.coarse for scene in scenes]) > 0
    right = np.stack([scene.coarse == scene.fine for scene in scenes])
    assert 0.58 < annotated.mean() < 0.76
    assert 0.96 < right[annotated].mean() < 0.997


def test_coarse_keeps_the_camera_and_drops_small_things() -> None:
    fine = np.full((64, 128), LABEL_ID["road"], np.uint8)
    fine[56:] = LABEL_ID["ego vehicle"]
    fine[10:13, 10:13] = LABEL_ID["traffic sign"]
    fine[20:50, 30:80] = LABEL_ID["car"]
    instance = fine.astype(np.uint16)
    instance[fine == LABEL_ID["car"]] = 26000
    instance[20:50, 55:80] += 1
    coarse = simulate_coarse(fine, instance, np.random.default_rng(0), FRAME_IDS)
    assert np.array_equal(coarse == LABEL_ID["ego vehicle"], fine == LABEL_ID["ego vehicle"])
    assert LABEL_ID["traffic sign"] not in coarse
    # Two cars side by side: two polygons with a gap between them.
    row = coarse[35, 30:80] == LABEL_ID["car"]
    assert np.count_nonzero(np.diff(row.astype(int)) == 1) == 2
    assert not np.any(coarse[20:50, 54:56])
