"""tiling.py: label maps of any size through a network of one size."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskrestore.data.degrade import nearest_downsample
from maskrestore.data.tiles import blend, tile_starts, tile_window
from maskrestore.inference.tiling import (
    BAND,
    Shrunk,
    Tiles,
    decide,
    enlarge_rows,
    possible_classes,
    resize_nearest,
)

CLASSES = 5


def random_map(height: int, width: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, CLASSES, (height, width), generator=draw, dtype=torch.uint8)


def by_pixel(label_map: Tensor) -> Tensor:
    """A network that looks at each pixel alone: uint8 [h,w] -> [CLASSES,h,w]."""
    table = torch.tensor(
        [[(3 * a + b * b) % 7 / 2.0 for b in range(CLASSES)] for a in range(CLASSES)]
    )
    return table[label_map.long()].permute(2, 0, 1)


def blurred(label_map: Tensor) -> Tensor:
    """One that sees 5x5 pixels, and zeros beyond its tile, as a convolution does."""
    segmap = F.one_hot(label_map.long(), CLASSES).permute(2, 0, 1).float()
    return F.avg_pool2d(segmap[None], 5, 1, 2)[0] * 6


def through_tiles(tiles: Tiles, network: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    for piece in tiles.pieces():
        tiles.add(network(piece))
    return tiles.finish()


@given(
    tile=st.integers(1, 8),
    units=st.integers(0, 40),
    overlap=st.floats(0, 0.5),
    align=st.sampled_from([1, 2, 4, 8]),
)
def test_tiles_cover_a_side_evenly_and_overlap(
    tile: int, units: int, overlap: float, align: int
) -> None:
    tile, length = tile * align, (tile + units) * align
    starts = tile_starts(length, tile, overlap, align)
    assert starts[0] == 0
    assert starts[-1] == length - tile
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= max(align, int(tile * (1 - overlap)) + align) for step in steps)
    assert all(step <= tile for step in steps)
    assert all(start % align == 0 for start in starts)


@pytest.mark.parametrize("network", [by_pixel, blurred])
@pytest.mark.parametrize("size", [(32, 64), (70, 150), (150, 70), (64, 96)])
def test_evaluations_blend_tiles_as_restoring_does(
    size: tuple[int, int], network: Callable[[Tensor], Tensor]
) -> None:
    """All at once there, band by band here."""
    label_map = random_map(*size)
    decision = through_tiles(Tiles(label_map, (32, 64), 0.25), network)
    two = torch.stack([label_map, random_map(*size, seed=1)])
    logits = blend(lambda maps: torch.stack([*map(network, maps)]), [two], (32, 64), 0.25)
    for ours, theirs in zip(decision, decide(logits[0].softmax(0), label_map), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", [(32, 64), (70, 150), (150, 70), (33, 64), (32, 200)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_network_that_is_equal_everywhere_leaves_no_seam(
    size: tuple[int, int], overlap: float
) -> None:
    label_map = random_map(*size)
    decision = through_tiles(Tiles(label_map, (32, 64), overlap), by_pixel)
    whole = decide(by_pixel(label_map).softmax(0), label_map)
    for part, expected in zip(decision, whole, strict=True):
        assert torch.equal(part, expected)


def test_what_a_tile_sees_wrongly_at_its_border_is_outweighed() -> None:
    """With a hard cut instead of a window, the seams stand out."""
    label_map = random_map(70, 200)
    expected = decide(blurred(label_map).softmax(0), label_map).confidence.int()

    def worst(overlap: float) -> int:
        confidence = through_tiles(Tiles(label_map, (32, 64), overlap), blurred)[1].int()
        inner = (confidence - expected)[2:-2, 2:-2]
        return int(inner.abs().max())

    assert worst(0.0) > 30
    assert worst(0.25) < 10


def test_tiles_begin_where_the_blocks_of_a_small_map_do() -> None:
    label_map = random_map(12, 30).repeat_interleave(8, 0).repeat_interleave(8, 1)
    tiles = Tiles(label_map, (32, 64), 0.25, align=8)
    assert len(tiles) > 4
    for piece in tiles.pieces():
        small = nearest_downsample(piece[None], 8, "corner")
        assert torch.equal(small.repeat_interleave(8, 1).repeat_interleave(8, 2)[0], piece)


def test_other_maps_are_cut_like_the_first() -> None:
    label_map = random_map(70, 150)
    tiles = Tiles(label_map, (32, 64), 0.25)
    image = torch.stack([label_map, label_map, label_map])
    for piece, cut in zip(tiles.pieces(), tiles.cut(image), strict=True):
        assert torch.equal(cut[1], piece)


def test_the_window_is_positive_and_symmetric() -> None:
    window = tile_window(64, 0.25)
    assert (window > 0).all()
    assert torch.allclose(window, window.flip(0))
    assert (window[16:48] == 1).all()
    assert window[0] < 0.01


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
@settings(deadline=None)
def test_probabilities_are_enlarged_band_by_band_as_at_once(
    height: int, width: int, to_height: int, to_width: int
) -> None:
    values = torch.rand(3, height, width)
    whole = F.interpolate(values[None], (to_height, to_width), mode="bilinear")[0]
    bands = [
        enlarge_rows(values, (to_height, to_width), begin, min(begin + 16, to_height))
        for begin in range(0, to_height, 16)
    ]
    assert torch.allclose(torch.cat(bands, 1), whole, atol=1e-5)


@pytest.mark.parametrize("certainty", [0.1, 3, 30, 300])
@pytest.mark.parametrize("size", [(32, 64), (150, 100), (20, 31), (1, 200)])
def test_classes_that_are_passed_over_change_no_pixel(
    certainty: float, size: tuple[int, int]
) -> None:
    """Against all classes at all pixels, as it was done before."""
    torch.manual_seed(0)
    smooth = F.interpolate(torch.randn(1, 34, 4, 8), (32, 64), mode="bilinear")[0]
    smooth[5] = smooth[9]  # as likely as another one everywhere
    probabilities = (certainty * smooth).softmax(0)
    label_map = resize_nearest(random_map(32, 64), size)
    shrunk = Shrunk(label_map, random_map(32, 64))
    shrunk.add(certainty * smooth)
    bands = [
        decide(
            enlarge_rows(probabilities, size, begin, min(begin + BAND, size[0])),
            label_map[begin : begin + BAND],
        )
        for begin in range(0, size[0], BAND)
    ]
    for ours, parts in zip(shrunk.finish(), zip(*bands, strict=True), strict=True):
        assert torch.equal(ours, torch.cat(parts))


def test_few_classes_are_looked_at_where_the_network_is_sure() -> None:
    rows, labels = torch.full((34, 2, 3), 0.001), torch.tensor([[0, 7]], dtype=torch.uint8)
    rows[11], rows[20, 1, 1] = 0.9, 0.05
    assert possible_classes(rows, labels).tolist() == [0, 7, 11, 20]
    assert len(possible_classes(torch.full((34, 2, 3), 1 / 34), labels)) == 34


def test_a_shrunk_scene_comes_back_at_its_own_size() -> None:
    label_map = random_map(32, 64).repeat_interleave(3, 0).repeat_interleave(3, 1)
    shrunk = Shrunk(label_map, resize_nearest(label_map, (32, 64)))
    (piece,) = shrunk.pieces()
    shrunk.add(30 * F.one_hot(piece.long(), CLASSES).permute(2, 0, 1))
    labels, confidence, _ = shrunk.finish()
    centre = labels[1::3, 1::3]
    assert torch.equal(centre, piece)
    assert (confidence[1::3, 1::3] == 255).all()


@pytest.mark.parametrize("sampling", ["corner", "center"])
def test_resizing_keeps_the_pixels_that_training_keeps(sampling: str) -> None:
    label_map = random_map(32, 64)
    kept = resize_nearest(label_map, (8, 16), sampling)
    assert torch.equal(kept, nearest_downsample(label_map[None].long(), 4, sampling)[0].byte())


def test_confidence_of_the_given_label_stands_beside_that_of_the_likeliest() -> None:
    probabilities = torch.tensor([0.2, 0.7, 0.1])[:, None, None]
    labels, confidence, given_one = decide(probabilities, torch.tensor([[2]], dtype=torch.uint8))
    assert (labels.item(), confidence.item(), given_one.item()) == (1, 178, 26)
