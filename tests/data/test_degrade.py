"""Incomplete masks and the untrained baselines."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from label_sets import CITYSCAPES, NUM_CLASSES
from PIL import Image

from maskrestore.config.run import load_config
from maskrestore.data.degrade import degrade, nearest_downsample, nearest_upsample
from maskrestore.data.segmap import colorize
from maskrestore.evaluation.baselines import (
    bilinear,
    fill,
    random_walker,
    realign,
    restore_untrained,
)


def blobs(height: int = 32, width: int = 64) -> torch.Tensor:
    """Smooth regions, as in a street scene: int64 [2,H,W]."""
    noise = torch.randn(2, 34, height // 8, width // 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(noise, (height, width), mode="bicubic").argmax(1)


def test_corner_sampling_is_the_papers_interpolate_nearest() -> None:
    label_map = blobs()
    small = F.interpolate(label_map[:, None].float(), scale_factor=1 / 8, mode="nearest")
    back = F.interpolate(small, scale_factor=8, mode="nearest")[:, 0].long()
    config = load_config(["task=super_resolution"])
    degraded, valid = degrade(config, label_map, torch.zeros_like(label_map))
    assert torch.equal(degraded, back)
    assert valid.all()


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_centre_sampling_is_pils_nearest(factor: int) -> None:
    label_map = blobs()
    small = nearest_downsample(label_map, factor, "center")
    for ours, full in zip(small, label_map, strict=True):
        image = Image.fromarray(full.numpy().astype(np.uint8))
        size = (full.shape[1] // factor, full.shape[0] // factor)
        pil = np.asarray(image.resize(size, Image.Resampling.NEAREST))
        assert np.array_equal(ours.numpy(), pil)


def test_sizes_that_do_not_divide_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="30x64 is not a multiple of factor=8"):
        nearest_downsample(torch.zeros(1, 30, 64, dtype=torch.long), 8, "corner")


def test_densify_takes_the_coarse_mask_where_somebody_annotated() -> None:
    fine, coarse = blobs(), blobs()
    coarse[:, :, :20] = 0
    degraded, valid = degrade(load_config(["task=densify"]), fine, coarse)
    assert torch.equal(degraded, coarse)
    assert torch.equal(valid[:, 0], coarse != 0)


def test_realign_takes_the_nearest_kept_pixel() -> None:
    label_map, factor = blobs(), 8
    degraded = nearest_upsample(nearest_downsample(label_map, factor, "corner"), factor)
    realigned = realign(degraded, factor, "corner")
    for y in range(0, 32, 3):
        for x in range(0, 64, 5):
            row, column = min((y + 4) // 8, 3) * 8, min((x + 4) // 8, 7) * 8
            assert torch.equal(realigned[:, y, x], label_map[:, row, column])
    accuracy = [(m == label_map).double().mean().item() for m in (degraded, realigned)]
    assert accuracy[1] > accuracy[0] + 0.05
    assert torch.equal(realign(degraded, factor, "center"), degraded)


def test_bilinear_by_hand() -> None:
    """One row of blocks of 4: kept pixels of ids 5, 9, 7, at columns 0, 4, 8 or 2, 6, 10."""
    label_map = nearest_upsample(torch.tensor([[[5, 9, 7]]]), 4)
    corner = bilinear(label_map, NUM_CLASSES, 4, "corner")[0]
    assert corner.tolist() == [[5, 5, 5, 9, 9, 9, 7, 7, 7, 7, 7, 7]] * 4  # ties at columns 2, 6
    center = bilinear(label_map, NUM_CLASSES, 4, "center")[0]
    assert center.tolist() == [[5, 5, 5, 5, 5, 9, 9, 9, 7, 7, 7, 7]] * 4  # ties at columns 4, 8


@pytest.mark.parametrize("sampling", ["corner", "center"])
@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_bilinear_is_the_argmax_of_the_interpolated_one_hot_map(factor: int, sampling: str) -> None:
    small = torch.randint(0, 6, (2, 4, 6), generator=torch.Generator().manual_seed(factor))
    kept = [np.arange(n) * factor + (0 if sampling == "corner" else factor // 2) for n in (4, 6)]
    for label, restored in zip(
        small.numpy(),
        bilinear(nearest_upsample(small, factor), NUM_CLASSES, factor, sampling),
        strict=True,
    ):
        soft = np.eye(34)[label]  # [4,6,34]
        soft = np.apply_along_axis(
            lambda values: np.interp(np.arange(6 * factor), kept[1], values), 1, soft
        )
        soft = np.apply_along_axis(
            lambda values: np.interp(np.arange(4 * factor), kept[0], values), 0, soft
        )
        assert np.array_equal(restored.numpy(), soft.argmax(-1))


def test_fill_takes_the_nearest_annotated_label() -> None:
    coarse = blobs()
    coarse[torch.rand(coarse.shape, generator=torch.Generator().manual_seed(2)) < 0.9] = 0
    coarse[1] = 0  # nobody annotated anything: left as it is
    valid = (coarse != 0)[:, None]
    filled = fill(coarse, valid)
    ys, xs = torch.nonzero(valid[0, 0], as_tuple=True)
    for y, x in [(0, 0), (5, 40), (31, 63), (16, 9)]:
        distance = (ys - y) ** 2 + (xs - x) ** 2
        nearest = {
            coarse[0, ys[i], xs[i]].item() for i in torch.where(distance == distance.min())[0]
        }
        assert filled[0, y, x].item() in nearest
    assert torch.equal(filled[0][valid[0, 0]], coarse[0][valid[0, 0]])
    assert (filled[1] == 0).all()


def test_the_random_walker_keeps_to_the_edges_of_the_image() -> None:
    """Two seeds far from the border between two colours, one of them much closer to it."""
    image = torch.zeros(3, 3, 32, 64, dtype=torch.uint8)
    image[:, :, :, 40:] = 200
    image[1] = 7  # of one colour: the nearest label
    seeds = torch.zeros(3, 32, 64, dtype=torch.bool)
    label_map = torch.zeros(3, 32, 64, dtype=torch.int64)
    seeds[:2, 16, 4] = seeds[:2, 16, 44] = True
    label_map[:, 16, 4], label_map[:, 16, 44] = 7, 26
    restored = random_walker(label_map, seeds, image)
    assert (restored[0, :, :40] == 7).all()
    assert (restored[0, :, 40:] == 26).all()
    assert torch.equal(restored[1], fill(label_map, seeds[:, None])[1])
    assert torch.equal(restored[2], label_map[2])  # nobody annotated anything


@pytest.mark.parametrize(
    "words",
    [
        ["task=densify", "baseline=fill"],
        ["task=super_resolution", "baseline=realign"],
        ["task=super_resolution", "baseline=bilinear"],
        ["task=densify", "baseline=random_walker"],
        ["task=super_resolution", "baseline=random_walker"],
        ["task=densify"],
    ],
)
def test_the_configs_baseline_is_what_runs(words: list[str]) -> None:
    config = load_config(["loss=none", *words])
    coarse = blobs()
    coarse[:, 10:20] = 0
    degraded, valid = degrade(config, blobs(), coarse)
    image = colorize(blobs(), CITYSCAPES)
    kept = torch.zeros(valid[:, 0].shape, dtype=torch.bool)
    kept[:, ::8, ::8] = True
    expected = {
        "fill": lambda: fill(degraded, valid),
        "realign": lambda: realign(degraded, 8, "corner"),
        "bilinear": lambda: bilinear(degraded, NUM_CLASSES, 8, "corner"),
        "random_walker": lambda: random_walker(
            degraded, kept if config.task == "super_resolution" else valid[:, 0], image
        ),
        "input": lambda: degraded,
    }[config.baseline]()
    assert torch.equal(restore_untrained(config, degraded, valid, image), expected)
