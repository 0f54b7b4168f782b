"""What is counted of restored label maps, and the figures that sums of it give.

Every figure is a function of sums of integers that each sample has by itself. So it can be had of
any choice of samples: of all, of one, or of the resamples behind an interval; and it is the same to
the last bit on any number of processes. docs/evaluation.md gives the reason for each choice.
"""

import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from maskrestore.config.labels import UNANNOTATED, LabelSet
from maskrestore.evaluation.boundary import TOLERANCES, band, band_width, contours_met
from maskrestore.runs.figures import SHARES

NUM_BINS = 15
"""Of the confidence (Guo et al. 2017)."""
UNIT = 2**20
"""Confidences are summed as integers of 1 / UNIT, so that no order of summation shows."""


def shapes(labels: LabelSet) -> dict[str, tuple[int, ...]]:
    """What is counted of a sample: name -> shape; a row holds them one after the other. All of it
    grows as the number of classes C does, not as its square: there may be 200."""
    num_classes, num_evaluated = labels.num_classes, len(labels.evaluated)
    return {
        # [annotated in the input?, pixels: all and correct ones, true class]
        "true": (2, 2, num_classes),
        # [pixels: all that count, and those whose true class is evaluated, restored class]
        "restored": (2, num_classes),
        # Pixels on the band of Boundary IoU: of the true mask, of the restored one, of both.
        "bands": (3, num_evaluated),
        # [true or restored, contour pixels: met within each tolerance, then all, class]
        "contours": (2, len(TOLERANCES) + 1, num_evaluated),
        # Pixels, correct ones, and the sum of their confidences.
        "calibration": (3, NUM_BINS),
    }


def sizes(labels: LabelSet) -> list[int]:
    """Numbers of each part of a row."""
    return [math.prod(shape) for shape in shapes(labels).values()]


def count(
    labels: LabelSet,
    restored: Tensor,
    true: Tensor,
    annotated: Tensor,
    confidence: Tensor | None = None,
) -> Tensor:
    """The sums of each sample of a batch, int64 [B, sum(sizes)]; arguments as in `update`.

    Nothing in it makes a GPU wait for the CPU.
    """
    batch, height, width = true.shape
    num_classes = labels.num_classes
    true_bytes, restored_bytes = true.byte(), restored.byte()
    wide = band_width(height, width)
    # Which bands a pixel is on: 0 none, 1 the restored mask's, 2 the true one's, 3 both.
    on = 2 * band(true_bytes, wide, border=True).byte() + band(restored_bytes, wide, border=True)
    # Small integers, because most of the time goes into moving them.
    num_pairs = 2 * num_classes**2
    small = torch.int16 if 4 * num_pairs < 2**15 else torch.int32
    pairs = (annotated[:, 0].to(small) * num_classes + true_bytes) * num_classes + restored_bytes
    joint = _histogram(4 * pairs + on, 4 * num_pairs).view(batch, 2, num_classes, num_classes, 4)
    confusion = joint.sum(-1)  # [B, annotated, true, restored]
    # Pixels whose true class is ignored are on no band.
    numbers, evaluated = _evaluated(labels, true.device)
    valid = joint.sum(1).index_select(1, numbers)
    on_both = valid[..., 3].index_select(2, numbers).diagonal(dim1=1, dim2=2)
    on_restored = valid[..., 1::2].sum((1, 3)).index_select(1, numbers)
    bands = [valid[..., 2:].sum((2, 3)), on_restored, on_both]

    levels = contours_met(true_bytes, restored_bytes)
    num_levels = 2 + len(TOLERANCES)
    counts, contours = evaluated[true], []
    for label_map, level in zip((true_bytes, restored_bytes), levels, strict=True):
        index = label_map.to(small) * num_levels + level * counts
        counted = _histogram(index, num_classes * num_levels).view(batch, num_classes, num_levels)
        # A pixel met within 1 px is met within 3 px as well.
        reached = counted.index_select(1, numbers)[..., 1:].flip(-1).cumsum(-1)
        contours.append(reached.transpose(1, 2))

    calibration = torch.zeros(batch, 3, NUM_BINS, dtype=torch.int64, device=true.device)
    if confidence is not None:
        bins = (confidence.float() * NUM_BINS).ceil().sub_(1).clamp_(0, NUM_BINS - 1).long()
        counts = _counts(labels, true)
        calibration[:, 0] = _histogram(bins, NUM_BINS, counts)
        calibration[:, 1] = _histogram(bins, NUM_BINS, (restored == true) & counts)
        whole = (confidence.double() * UNIT).round() * counts
        calibration[:, 2] = _histogram(bins, NUM_BINS, whole)
    parts = [
        torch.stack([confusion.sum(3), confusion.diagonal(dim1=2, dim2=3)], 2),
        torch.stack([confusion[:, :, _counted(labels)].sum((1, 2)), valid.sum((1, 3))], 1),
        torch.stack(bands, 1),
        torch.stack(contours, 1),
        calibration,
    ]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def accuracies(restored: Tensor, true: Tensor, labels: LabelSet) -> Tensor:
    """Of each sample, float64 [B]: the share of correct pixels, of those that count."""
    counts = _counts(labels, true)
    return ((restored == true) & counts).flatten(1).sum(1).double() / counts.flatten(1).sum(1)


def _counts(labels: LabelSet, true: Tensor) -> Tensor:
    """bool [B,H,W]: whether a pixel has a true class."""
    return (
        torch.ones_like(true, dtype=torch.bool)
        if labels.has_unlabeled_class
        else (true != UNANNOTATED)
    )


def _counted(labels: LabelSet) -> slice:
    """The true classes that count."""
    return slice(0 if labels.has_unlabeled_class else UNANNOTATED + 1, None)


@cache
def _evaluated(labels: LabelSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """The numbers of the evaluated classes, int64 [E], and which of all they are, bool [C]."""
    numbers = torch.tensor(labels.evaluated)
    evaluated = torch.zeros(labels.num_classes, dtype=torch.bool).index_fill_(0, numbers, True)
    return numbers.to(device), evaluated.to(device)


def _histogram(index: Tensor, size: int, weight: Tensor | None = None) -> Tensor:
    """How often each of 0..size-1 occurs, or what weighs there: int [B,H,W] -> int64 [B,size].

    torch.bincount would wait for the largest index.
    """
    flat = index.flatten(1).long()
    one = torch.ones(1, 1, dtype=torch.int64, device=index.device)
    values = one.expand_as(flat) if weight is None else weight.flatten(1).long()
    return torch.zeros(len(flat), size, dtype=torch.int64, device=index.device).scatter_add_(
        1, flat, values
    )


def split(labels: LabelSet, sums: Tensor) -> dict[str, Tensor]:
    """float64 [..., sum(sizes)] -> name -> [..., *its shape]."""
    parts = sums.split(sizes(labels), dim=-1)
    return {
        name: part.unflatten(-1, shape)
        for (name, shape), part in zip(shapes(labels).items(), parts, strict=True)
    }


def figures(labels: LabelSet, sums: Tensor) -> dict[str, Tensor]:
    """SHARES of sums over samples, float64 [..., sum(sizes)] -> each [...], NaN where there is
    nothing to count."""
    parts, evaluated = split(labels, sums), list(labels.evaluated)
    counted = _counted(labels)
    unannotated, annotated = (part[..., counted] for part in parts["true"].unbind(-3))
    whole = parts["true"].sum(-3)
    true, correct = whole.unbind(-2)
    of_restored_class = parts["restored"][..., 0, :]
    iou = correct / (true + of_restored_class - correct)
    on_true, on_restored, on_both = parts["bands"].unbind(-2)
    pixels, hits, confidences = parts["calibration"].unbind(-2)
    values = {
        "accu": _accuracy(unannotated + annotated),
        "accu19": _accuracy(whole[..., evaluated]),
        "accu_annotated": _accuracy(annotated),
        "accu_unannotated": _accuracy(unannotated),
        "miou19": class_iou(labels, parts).nanmean(-1),
        "miou_all": iou.where(true > 0, math.nan)[..., counted].nanmean(-1),
        "boundary_iou": (on_both / (on_true + on_restored - on_both)).nanmean(-1),
        "ece": (hits - confidences / UNIT).abs().sum(-1) / pixels.sum(-1),
    }
    of_true, of_restored = parts["contours"].unbind(-3)
    for n, tolerance in enumerate(TOLERANCES):
        recall = of_true[..., n, :] / of_true[..., -1, :]
        precision = of_restored[..., n, :] / of_restored[..., -1, :]
        # A contour of one map alone: no precision or no recall, which is 0 and not absent.
        score = (2 * precision * recall / (precision + recall)).nan_to_num(0)
        occurs = of_true[..., -1, :] + of_restored[..., -1, :] > 0
        values[f"boundary_f{tolerance}"] = score.where(occurs, math.nan).nanmean(-1)
    return {name: values[name] for name in SHARES}


def class_iou(labels: LabelSet, parts: Mapping[str, Tensor]) -> Tensor:
    """IoU of the evaluated classes, of what `split` gives: float64 [..., E].

    The rules of cityscapesScripts (evalPixelLevelSemanticLabeling.py): pixels whose true class is
    ignored do not exist; an ignored class restored on another pixel is a miss of the true class
    and nobody's false alarm. NaN for a class that occurs in neither map.
    """
    evaluated = list(labels.evaluated)
    true, correct = parts["true"].sum(-3)[..., evaluated].unbind(-2)
    restored = parts["restored"][..., 1, :][..., evaluated]
    return correct / (true + restored - correct)


def _accuracy(true_and_correct: Tensor) -> Tensor:
    """float64 [..., pixels: all and correct ones, class] -> [...]."""
    true, correct = true_and_correct.sum(-1).unbind(-1)
    return correct / true
