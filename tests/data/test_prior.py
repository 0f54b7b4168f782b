"""What an incomplete mask says of its unannotated pixels, against plain programs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_sets import NUM_CLASSES, one_hot
from scipy import ndimage
from torch import Tensor

from maskrestore.config.run import load_config
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.data.prior import (
    closeness,
    interpolated,
    nearest_annotated,
    polygon_prior,
    small_map_prior,
)


def by_looking_at_all(annotated: Tensor) -> tuple[Tensor, Tensor]:
    """nearest_annotated of one map [H,W], pixel by pixel."""
    height, width = annotated.shape
    rows, columns = torch.nonzero(annotated, as_tuple=True)
    y, x = torch.arange(height)[:, None, None], torch.arange(width)[None, :, None]
    distance = (y - rows) ** 2 + (x - columns) ** 2
    # Of equally near ones the leftmost, then the upper one.
    order = (distance * width + columns) * height + rows
    best = order.argmin(-1)
    return rows[best] * width + columns[best], distance.amin(-1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 2**31 - 1))
def test_the_nearest_annotated_pixel_is_the_one_that_looking_at_all_finds(
    height: int, width: int, share: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    annotated = torch.rand(2, height, width, generator=draw) < share
    annotated[:, int(seed % height), int(seed % width)] = True
    places, distances = nearest_annotated(annotated)
    for one, place, distance in zip(annotated, places, distances, strict=True):
        expected = by_looking_at_all(one)
        assert torch.equal(place, expected[0])
        assert torch.equal(distance, expected[1])


@pytest.mark.slow
def test_large_maps_have_scipys_distances() -> None:
    """512x1024: the numbers that are compared do not fit into 32 bits."""
    annotated = torch.rand(1, 512, 1024, generator=torch.Generator().manual_seed(0)) < 1e-4
    _, distance = nearest_annotated(annotated)
    expected = ndimage.distance_transform_edt(~annotated[0].numpy())
    assert np.array_equal(distance[0].numpy(), np.rint(expected**2).astype(np.int64))


def test_a_mask_without_annotation_says_nothing_and_says_so() -> None:
    label_map = torch.zeros(2, 32, 64, dtype=torch.int64)
    label_map[0, 5, 7] = 23
    segmap, near = polygon_prior(label_map, NUM_CLASSES, (label_map != 0)[:, None])
    assert torch.equal(segmap[0], one_hot(torch.full((1, 32, 64), 23))[0])
    assert near[0, 0, 5, 7] == 1
    assert torch.equal(segmap[1], torch.full((34, 32, 64), 1 / 34))
    assert near[1].max() == 0


def test_closeness_is_a_half_at_a_sixteenth_of_the_height() -> None:
    squared = torch.tensor([0, 36, 144]).repeat(96, 1)
    assert closeness(squared)[0].tolist() == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize(("factor", "first"), [(2, 0), (4, 2), (8, 0), (8, 4), (16, 8)])
def test_a_small_maps_prior_is_its_interpolated_classes(factor: int, first: int) -> None:
    small = torch.randint(0, 6, (2, 2, 4), generator=torch.Generator().manual_seed(factor))
    label_map = small.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    segmap, near = small_map_prior(label_map, NUM_CLASSES, factor, first)
    assert torch.equal(segmap, interpolated(label_map, NUM_CLASSES, factor, first))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(segmap, interpolated(label_map, NUM_CLASSES, factor, first))
    torch.testing.assert_close(segmap.sum(1), torch.ones(label_map.shape))
    kept = segmap[..., first::factor, first::factor]
    assert torch.equal(kept, one_hot(small))
    assert (near[..., first::factor, first::factor] == 1).all()
    assert (near < 1).sum() == near.numel() - small.numel()


@pytest.mark.parametrize(
    ("words", "channels"),
    [
        (["task=densify"], [34, 1, 1]),
        (["task=super_resolution"], [34, 1, 1]),
        (["task=densify", "mask_generator.start=input"], [34, 1]),
        (["task=super_resolution", "condition=mask_image"], [34, 1, 1, 3]),
        (["task=super_resolution", "condition=image"], [34, 1, 1, 3]),
    ],
)
def test_what_the_mask_generator_is_shown(words: list[str], channels: list[int]) -> None:
    config = load_config(words)
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 3, (2, 32, 64), generator=draw)
    image = torch.randint(0, 256, (2, 3, 32, 64), generator=draw, dtype=torch.uint8)
    label_map, valid = degrade(config, coarse, coarse)
    shown = mask_generator_input(config, label_map, valid, image)
    assert [part.shape[1] for part in shown] == channels
    assert {part.dtype for part in shown} == {torch.float32}
    if config.condition == "image":  # nothing of the mask is in it
        other = mask_generator_input(config, label_map.flip(2), valid, image)
        assert all(torch.equal(one, two) for one, two in zip(shown, other, strict=True))
        assert shown[0].unique().tolist() == pytest.approx([1 / 34])
        assert shown[1].max() == shown[2].max() == 0
