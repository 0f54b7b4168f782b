"""What is counted, on label sets of any size: equal to what a confusion matrix says."""

import math

import numpy as np
import pytest
import torch
from label_sets import CITYSCAPES

from maskrestore.config.labels import LabelSet, load_labels
from maskrestore.evaluation.counts import accuracies, count, figures, sizes
from maskrestore.evaluation.segmentation import SegmentationMetrics


def maps(labels: LabelSet, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """True and restored maps of a few classes, int64 [3,16,24], and where was annotated."""
    draw = np.random.default_rng(seed)
    some = draw.permutation(labels.num_classes)[:7]
    true, restored = (torch.from_numpy(draw.choice(some, (3, 16, 24))) for _ in range(2))
    restored = torch.where(torch.from_numpy(draw.random((3, 16, 24)) < 0.6), true, restored)
    return true, restored, torch.from_numpy(draw.random((3, 1, 16, 24)) < 0.5)


@pytest.mark.parametrize("name", ["cityscapes", "fields", "pascal_voc", "ade20k", "coco_stuff"])
def test_figures_equal_those_of_a_confusion_matrix(name: str) -> None:
    labels = load_labels(name)
    true, restored, annotated = maps(labels, 1)
    values = figures(labels, count(labels, restored, true, annotated).sum(0).double())
    counts = (
        true != 0 if not labels.has_unlabeled_class else torch.ones_like(true, dtype=torch.bool)
    )
    confusion = np.zeros((labels.num_classes, labels.num_classes))
    np.add.at(confusion, (true.numpy(), restored.numpy()), 1)

    def accuracy(where: torch.Tensor) -> float:
        return float((restored == true)[where].double().mean())

    assert values["accu"] == pytest.approx(accuracy(counts))
    assert values["accu_annotated"] == pytest.approx(accuracy(counts & annotated[:, 0]))
    assert values["accu_unannotated"] == pytest.approx(accuracy(counts & ~annotated[:, 0]))
    evaluated = list(labels.evaluated)
    judged = torch.isin(true, torch.tensor(evaluated))
    assert values["accu19"] == pytest.approx(accuracy(judged))
    ious = []
    for number in evaluated:
        hits = confusion[number, number]
        union = confusion[number].sum() + confusion[evaluated, number].sum() - hits
        ious.append(hits / union if union else math.nan)
    assert values["miou19"] == pytest.approx(np.nanmean(ious))
    accus = accuracies(restored, true, labels)
    for sample in range(3):
        hit = (restored == true)[sample][counts[sample]].double().mean()
        assert accus[sample] == pytest.approx(float(hit))


def test_what_nobody_knows_changes_no_figure() -> None:
    labels = load_labels("fields")
    true, restored, annotated = maps(labels, 2)
    true[:, :4] = 0
    other = restored.clone()
    other[:, :2] = 3  # rows that touch no pixel whose class is known
    confidence = torch.rand(true.shape)
    one, two = (
        figures(labels, count(labels, guess, true, annotated, confidence).sum(0).double())
        for guess in (restored, other)
    )
    for key in (
        "accu",
        "accu19",
        "accu_annotated",
        "accu_unannotated",
        "miou19",
        "miou_all",
        "ece",
    ):
        assert one[key] == two[key], key


def test_a_sample_of_182_classes_takes_numbers_in_proportion() -> None:
    many, few = (sum(sizes(load_labels(name))) for name in ("coco_stuff", "cityscapes"))
    ratio = load_labels("coco_stuff").num_classes / CITYSCAPES.num_classes
    assert many / few < 1.5 * ratio


def test_classes_are_called_by_their_names() -> None:
    labels = load_labels("fields")
    metrics = SegmentationMetrics(labels)
    true, restored, annotated = maps(labels, 3)
    metrics.update(["a", "b", "c"], restored, true, annotated)
    assert set(metrics.compute()["iou"]) == {entry.name for entry in labels.classes}
