"""Figures of restored label maps: by hand, against plain loops, in any order."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from label_sets import CITYSCAPES, LABEL_ID, LABELS
from torch import Tensor

from maskrestore.evaluation.counts import figures as figures_of
from maskrestore.evaluation.segmentation import SegmentationMetrics
from maskrestore.runs.figures import SHARES


def segmentation_figures(
    restored: Tensor, true: Tensor, annotated: Tensor | None = None
) -> dict[str, Any]:
    metric = SegmentationMetrics(CITYSCAPES)
    everywhere = torch.ones_like(true, dtype=torch.bool)
    keys = [str(number) for number in range(len(true))]
    metric.update(keys, restored, true, (everywhere if annotated is None else annotated)[:, None])
    return metric.compute()


def official_iou_of_class(true: np.ndarray, restored: np.ndarray, own: int) -> float:
    """Pixel by pixel, as the benchmark's rules read."""
    hits = misses = false_alarms = 0
    for t, r in zip(true.flat, restored.flat, strict=True):
        if LABELS[t].evaluated is False:
            continue
        hits += t == own and r == own
        misses += t == own and r != own
        false_alarms += t != own and r == own
    total = hits + misses + false_alarms
    return hits / total if total else float("nan")


def test_miou19_follows_the_official_rules() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 30, (2, 12, 16))  # train, motorcycle, bicycle: never true
    restored = np.where(rng.random(true.shape) < 0.5, true, rng.integers(0, 32, true.shape))
    figures = segmentation_figures(torch.from_numpy(restored), torch.from_numpy(true))
    expected = {
        label.name: official_iou_of_class(true, restored, label.id)
        for label in LABELS
        if label.evaluated
    }
    assert len(expected) == 19
    absent = {name for name, iou in expected.items() if np.isnan(iou)}
    assert absent == {"motorcycle", "bicycle"}
    assert expected["train"] == 0  # restored, but never true: an error, not absent
    for name, iou in expected.items():
        assert figures["iou"][name] == (None if name in absent else pytest.approx(iou))
    assert figures["miou19"] == pytest.approx(np.nanmean(list(expected.values())))


def test_ignored_classes_in_the_official_rules() -> None:
    road, car, void = LABEL_ID["road"], LABEL_ID["car"], LABEL_ID["ego vehicle"]
    true = torch.tensor([[[road, road, road, car, void, void]]])
    restored = torch.tensor([[[road, void, car, car, road, void]]])
    figures = segmentation_figures(restored, true)
    assert figures["iou"]["road"] == pytest.approx(1 / 3)  # road over void costs nothing
    assert figures["iou"]["car"] == pytest.approx(1 / 2)
    assert figures["miou19"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    # Over all ids nothing is ignored: road 1/4, car 1/2, void 1/3.
    assert figures["miou_all"] == pytest.approx((1 / 4 + 1 / 2 + 1 / 3) / 3)


def test_accuracy_counts_all_pixels_void_too() -> None:
    true = torch.tensor([[[1, 1, 7, 7], [7, 7, 26, 0]]])
    restored = torch.tensor([[[1, 7, 7, 7], [0, 0, 26, 0]]])
    annotated = restored != 0
    figures = segmentation_figures(restored, true, annotated)
    assert figures["accu"] == 5 / 8
    assert figures["accu_annotated"] == 4 / 5
    assert figures["accu_unannotated"] == 1 / 3
    assert figures["num_samples"] == 1


def test_miou_all_averages_the_ids_of_the_true_masks() -> None:
    true = torch.tensor([[[1, 1, 7, 7]]])
    restored = torch.tensor([[[1, 33, 7, 7]]])
    assert segmentation_figures(restored, true)["miou_all"] == pytest.approx((1 / 2 + 1) / 2)


def test_a_part_without_pixels_has_no_accuracy() -> None:
    true = torch.tensor([[[7, 7]]])
    figures = segmentation_figures(true, true)
    assert figures["accu_unannotated"] is None
    assert figures["accu"] == figures["accu_annotated"] == figures["miou19"] == 1


def test_accu19_counts_pixels_whose_true_class_is_evaluated() -> None:
    road, car, void = LABEL_ID["road"], LABEL_ID["car"], LABEL_ID["ego vehicle"]
    true = torch.tensor([[[road, road, road, car, void, void]]])
    restored = torch.tensor([[[road, void, car, car, road, void]]])
    figures = segmentation_figures(restored, true)
    assert figures["accu"] == 3 / 6
    assert figures["accu19"] == 2 / 4
    assert segmentation_figures(true[..., 4:], true[..., 4:])["accu19"] is None


def test_calibration_error_by_hand() -> None:
    metric = SegmentationMetrics(CITYSCAPES)
    true, restored = torch.tensor([[[7, 7, 7, 7, 7]]]), torch.tensor([[[7, 8, 7, 7, 7]]])
    confidence = torch.tensor([[[0.95, 0.97, 0.5, 0.5, 1.0]]])
    metric.update(["a"], restored, true, torch.ones(1, 1, 1, 5).bool(), confidence)
    # Bin 15: 2 of 3 correct at 0.9733 on average. Bin 8: both correct at 0.5.
    expected = 3 / 5 * (0.95 + 0.97 + 1.0 - 2) / 3 + 2 / 5 * (1 - 0.5)
    assert metric.compute()["ece"] == pytest.approx(expected, abs=1e-6)
    # A bin holds its upper end: 0.6 is in bin 9, as 0.55 is.
    metric = SegmentationMetrics(CITYSCAPES)
    confidence = torch.tensor([[[0.6, 0.55]]])
    metric.update(
        ["a"], restored[..., :2], true[..., :2], torch.ones(1, 1, 1, 2).bool(), confidence
    )
    assert metric.compute()["ece"] == pytest.approx((0.6 + 0.55 - 1) / 2, abs=1e-6)


def random_samples(count: int) -> tuple[list[str], list[Tensor]]:
    """Keys; restored, true, annotated, confidence."""
    draw = torch.Generator().manual_seed(0)
    true = torch.randint(0, 34, (count, 6, 9), generator=draw)
    true = true.repeat_interleave(4, 1).repeat_interleave(4, 2)
    rates = torch.linspace(0.1, 0.6, count)[:, None, None]
    wrong = torch.rand(true.shape, generator=draw) < rates
    restored = torch.where(wrong, torch.randint(0, 34, true.shape, generator=draw), true)
    annotated = (torch.rand(true.shape, generator=draw) < 0.5)[:, None]
    confidence = torch.rand(true.shape, generator=draw) * 0.9 + 0.1
    keys = [f"sample_{number * 7 % count}" for number in range(count)]
    return keys, [restored, true, annotated, confidence]


def counted(keys: list[str], tensors: list[Tensor], *batches: list[int]) -> SegmentationMetrics:
    metric = SegmentationMetrics(CITYSCAPES)
    for batch in batches:
        metric.update([keys[n] for n in batch], *(tensor[batch] for tensor in tensors))
    return metric


def test_calibration_error_is_that_of_a_loop_over_bins() -> None:
    keys, tensors = random_samples(5)
    restored, true, _, confidence = (tensor.numpy() for tensor in tensors)
    expected, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            accuracy = (restored == true)[inside].mean()
            expected += inside.mean() * abs(accuracy - confidence[inside].mean(dtype=np.float64))
    values = counted(keys, tensors, [0, 1], [2, 3, 4]).compute()
    assert values["ece"] == pytest.approx(expected, abs=1e-6)
    assert counted(keys, tensors[:3], [0, 1]).compute()["ece"] is None


def test_figures_depend_on_no_order_and_no_batch() -> None:
    keys, tensors = random_samples(9)
    metric = counted(keys, tensors, list(range(9)))
    figures = metric.compute()
    assert all(value is not None for value in figures["iou"].values())
    for batches in ([[8, 3, 1], [0], [7, 2, 6, 4, 5]], [[n] for n in reversed(range(9))]):
        other = counted(keys, tensors, *batches)
        assert other.compute() == figures
        assert other.samples == metric.samples


def test_each_sample_has_the_figures_that_it_has_alone() -> None:
    keys, tensors = random_samples(9)
    metric = counted(keys, tensors, list(range(9)))
    metric.compute()
    assert [sample["key"] for sample in metric.samples] == sorted(keys)
    for sample in metric.samples:
        alone = counted(keys, tensors, [keys.index(sample["key"])]).compute()
        assert set(sample) == {"key", "accu", "miou19", "boundary_f3"}
        for name in ("accu", "miou19", "boundary_f3"):
            assert sample[name] == pytest.approx(alone[name], rel=1e-12)
    void = torch.zeros(1, 4, 4, dtype=torch.int64)
    metric = counted(["a"], [void, void, void[:, None].bool()], [0])
    metric.compute()
    assert metric.samples == [{"key": "a", "accu": 1.0, "miou19": None, "boundary_f3": None}]


@pytest.mark.slow
def test_intervals_are_those_of_samples_drawn_again_and_again() -> None:
    count, names = 9, ("accu", "accu_annotated", "miou19", "boundary_f3", "boundary_iou", "ece")
    keys, tensors = random_samples(count)
    metric = counted(keys, tensors, list(range(count)))
    random_state = torch.get_rng_state()
    figures = metric.compute()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert set(figures["intervals"]) == set(SHARES)
    by_key = sorted(range(count), key=keys.__getitem__)
    drawn = torch.randint(count, (1000, count), generator=torch.Generator().manual_seed(0))
    plain = []
    for picks in drawn[:25].tolist():  # each one as an evaluation of its own
        again = counted(keys, tensors, *([by_key[pick]] for pick in picks)).compute()
        plain.append([again[name] for name in names])
    rows = torch.cat(metric.rows).view(count, -1).double()[by_key]
    times = torch.stack([torch.bincount(picks, minlength=count) for picks in drawn]).double()
    resampled = figures_of(CITYSCAPES, times @ rows)
    for n, name in enumerate(names):
        expected = pytest.approx([values[n] for values in plain], rel=1e-12)
        assert resampled[name][:25].tolist() == expected
        low, high = np.percentile(resampled[name].numpy(), (2.5, 97.5))
        assert figures["intervals"][name] == pytest.approx([low, high], rel=1e-12)
        assert low < figures[name] < high


def test_what_no_sample_has_gets_no_interval() -> None:
    true = torch.full((3, 4, 4), LABEL_ID["road"])
    figures = segmentation_figures(true, true)
    assert set(figures["intervals"]) == {
        "accu",
        "accu19",
        "accu_annotated",
        "miou19",
        "miou_all",
        "boundary_iou",
    }
    assert figures["intervals"]["accu"] == [1, 1]
    # One sample of two has unannotated pixels: a figure in most resamples, though not in all.
    annotated = torch.tensor([True, False])[:, None, None].expand(2, 4, 4)
    intervals = segmentation_figures(true[:2], true[:2], annotated)["intervals"]
    assert intervals["accu_unannotated"] == [1, 1]


def test_no_sample_at_all_has_no_figure() -> None:
    metric = SegmentationMetrics(CITYSCAPES)
    figures = metric.compute()
    assert (figures["num_samples"], figures["intervals"], metric.samples) == (0, {}, [])
    assert all(figures[name] is None for name in SHARES)


def test_kinds_of_damage_are_told_apart() -> None:
    keys, tensors = random_samples(5)
    metric = SegmentationMetrics(CITYSCAPES)
    kinds = ["labels", "drop", "drop", "labels", "drop"]
    for batch in ([3, 1, 0], [4, 2]):
        parts = [tensor[batch] for tensor in tensors]
        metric.update([keys[n] for n in batch], *parts, [kinds[n] for n in batch])
    by_kind = metric.compute()["by_degradation"]
    names = ("accu", "accu19", "miou19", "num_samples")
    for kind, batch in (("drop", [1, 2, 4]), ("labels", [0, 3])):
        alone = counted(keys, tensors, batch).compute()
        assert by_kind[kind] == {name: alone[name] for name in names}
    assert list(by_kind) == ["drop", "labels"]
    assert counted(keys, tensors, [0]).compute()["by_degradation"] is None


def test_keys_of_any_length_and_alphabet() -> None:
    true = torch.full((2, 4, 4), LABEL_ID["road"])
    metric = counted(["straße/ü" * 40, "a"], [true, true, true[:, None].bool()], [0, 1])
    metric.compute()
    assert [sample["key"] for sample in metric.samples] == ["a", "straße/ü" * 40]
