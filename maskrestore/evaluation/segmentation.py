"""Figures of restored label maps: accuracy, IoU, boundaries, calibration.

Every figure is a function of sums of integers that each sample has by itself. So it can be had of
any choice of samples: of all, of one, or of the resamples behind an interval; and it is the same to
the last bit on any number of processes. docs/evaluation.md gives the reason for each choice.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from maskrestore.data.labels import EVALUATED_IDS, LABELS, NUM_CLASSES
from maskrestore.distributed.processes import gather_parts
from maskrestore.evaluation.boundary import TOLERANCES, band, band_width, contours_met
from maskrestore.runs.figures import KIND_FIGURES, SAMPLE_FIGURES, SHARES

NUM_BINS = 15
"""Of the confidence (Guo et al. 2017)."""
UNIT = 2**20
"""Confidences are summed as integers of 1 / UNIT, so that no order of summation shows."""
NUM_RESAMPLES = 1000
EVALUATED = list(EVALUATED_IDS)
SHAPES = {
    # [annotated in the input?, true id, restored id]
    "confusion": (2, NUM_CLASSES, NUM_CLASSES),
    # Pixels on the band of Boundary IoU: of the true mask, of the restored one, of both.
    "bands": (3, len(EVALUATED_IDS)),
    # [true or restored, contour pixels: met within each tolerance, then all, class]
    "contours": (2, len(TOLERANCES) + 1, len(EVALUATED_IDS)),
    # Pixels, correct ones, and the sum of their confidences.
    "calibration": (3, NUM_BINS),
}
"""What is counted of a sample: name -> shape. A row holds them one after the other."""
SIZES = [math.prod(shape) for shape in SHAPES.values()]


class SegmentationMetrics:
    """Figures of restored label maps, with their intervals, from exact counts per sample."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self._names: list[tuple[str, str]] = []
        """Key and kind of each sample."""
        self.samples: list[dict[str, Any]] = []
        """key, accu, miou19 and boundary_f3 of each sample in the order of keys, once the figures
        are computed."""
        self.resamples: dict[str, Any] = {"images": "", "figures": {}}
        """images: sha256 of the keys in their order. figures: name -> its value in each of
        NUM_RESAMPLES resamples, None where it has none; where `images` is the same, so are the
        resamples."""

    def update(
        self,
        keys: Sequence[str],
        restored: Tensor,
        true: Tensor,
        annotated: Tensor,
        confidence: Tensor | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        """Count a batch. restored, true: int64 [B,H,W] ids 0..33. annotated: bool [B,1,H,W].

        confidence: float [B,H,W], the probability in 0..1 that was given to the restored class.
        kinds: what damaged each mask, to be told apart; or nothing.
        """
        self.rows.append(count(restored, true, annotated, confidence))
        self._names += zip(keys, kinds or [""] * len(keys), strict=True)

    def compute(self) -> dict[str, Any]:
        """SHARES in 0..1, None where there is nothing to count; iou {class name: 0..1 or None};
        num_samples, the label maps counted; intervals {figure: [low, high]}, 95 % of resamples of
        the samples, for each figure that is not None; by_degradation {kind: {accu, accu19, miou19,
        num_samples}}, None without kinds. docs/evaluation.md defines them.
        """
        names = gather_parts(self._names)
        keys, kinds = [key for key, _ in names], [kind for _, kind in names]
        counted = gather_parts([batch.cpu() for batch in self.rows])
        # In an order that does not depend on who saw which sample.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        nothing = torch.empty(0, sum(SIZES), dtype=torch.int64)
        rows = torch.cat([nothing, *counted]).double()[order]
        of_samples, total = figures(rows), rows.sum(0)
        self.samples = [
            {"key": keys[at], **{name: number(of_samples[name][n]) for name in SAMPLE_FIGURES}}
            for n, at in enumerate(order)
        ]
        resampled = figures(resample(rows))
        self.resamples = {
            "images": hashlib.sha256("\0".join(sorted(keys)).encode()).hexdigest(),
            "figures": {
                # Nine digits are far more than an interval shows.
                name: [
                    None if value != value else float(f"{value:.9g}") for value in values.tolist()
                ]
                for name, values in resampled.items()
            },
        }
        iou = official_iou(split(total)["confusion"].sum(0))
        of_kinds = {
            kind: rows[[kinds[at] == kind for at in order]] for kind in sorted({*kinds} - {""})
        }
        return {
            **{name: number(value) for name, value in figures(total).items()},
            "iou": {LABELS[i].name: number(iou[n]) for n, i in enumerate(EVALUATED_IDS)},
            "intervals": intervals(resampled),
            "by_degradation": {kind: _in_short(some) for kind, some in of_kinds.items()} or None,
            "num_samples": len(keys),
        }


def count(
    restored: Tensor, true: Tensor, annotated: Tensor, confidence: Tensor | None = None
) -> Tensor:
    """The sums of each sample of a batch, int64 [B, sum(SIZES)]; arguments as in `update`.

    Nothing in it makes a GPU wait for the CPU.
    """
    batch, height, width = true.shape
    true_bytes, restored_bytes = true.byte(), restored.byte()
    wide = band_width(height, width)
    # Which bands a pixel is on: 0 none, 1 the restored mask's, 2 the true one's, 3 both.
    on = 2 * band(true_bytes, wide, border=True).byte() + band(restored_bytes, wide, border=True)
    # Small integers, because most of the time goes into moving them.
    pairs = (annotated[:, 0].short() * NUM_CLASSES + true_bytes) * NUM_CLASSES + restored_bytes
    joint = _histogram(4 * pairs + on, 4 * SIZES[0]).view(batch, *SHAPES["confusion"], 4)
    # Pixels whose true class is ignored are on no band.
    ids, evaluated = _evaluated(true.device)
    valid = joint.sum(1).index_select(1, ids)
    on_both = valid[..., 3].index_select(2, ids).diagonal(dim1=1, dim2=2)
    on_restored = valid[..., 1::2].sum((1, 3)).index_select(1, ids)
    bands = [valid[..., 2:].sum((2, 3)), on_restored, on_both]

    levels = contours_met(true_bytes, restored_bytes)
    num_levels = 2 + len(TOLERANCES)
    counts, contours = evaluated[true], []
    for label_map, level in zip((true_bytes, restored_bytes), levels, strict=True):
        index = label_map * num_levels + level * counts
        counted = _histogram(index, NUM_CLASSES * num_levels).view(batch, NUM_CLASSES, num_levels)
        # A pixel met within 1 px is met within 3 px as well.
        reached = counted.index_select(1, ids)[..., 1:].flip(-1).cumsum(-1)
        contours.append(reached.transpose(1, 2))

    calibration = torch.zeros(batch, 3, NUM_BINS, dtype=torch.int64, device=true.device)
    if confidence is not None:
        bins = (confidence.float() * NUM_BINS).ceil().sub_(1).clamp_(0, NUM_BINS - 1).long()
        calibration[:, 0] = _histogram(bins, NUM_BINS)
        calibration[:, 1] = _histogram(bins, NUM_BINS, restored == true)
        whole = (confidence.double() * UNIT).round()
        calibration[:, 2] = _histogram(bins, NUM_BINS, whole)
    parts = [joint.sum(-1), torch.stack(bands, 1), torch.stack(contours, 1), calibration]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


@cache
def _evaluated(device: torch.device) -> tuple[Tensor, Tensor]:
    """The ids of the evaluated classes, int64 [19], and which of all ids they are, bool [34]."""
    ids = torch.tensor(EVALUATED_IDS)
    evaluated = torch.zeros(NUM_CLASSES, dtype=torch.bool).index_fill_(0, ids, True)
    return ids.to(device), evaluated.to(device)


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


def split(sums: Tensor) -> dict[str, Tensor]:
    """float64 [..., sum(SIZES)] -> name -> [..., *SHAPES[name]]."""
    parts = sums.split(SIZES, dim=-1)
    return {
        name: part.unflatten(-1, shape)
        for (name, shape), part in zip(SHAPES.items(), parts, strict=True)
    }


def figures(sums: Tensor) -> dict[str, Tensor]:
    """SHARES of sums over samples, float64 [..., sum(SIZES)] -> each [...], NaN where there is
    nothing to count."""
    parts = split(sums)
    unannotated, annotated = parts["confusion"].unbind(-3)
    confusion = unannotated + annotated
    correct = confusion.diagonal(dim1=-2, dim2=-1)
    true = confusion.sum(-1)
    iou = correct / (true + confusion.sum(-2) - correct)
    on_true, on_restored, on_both = parts["bands"].unbind(-2)
    pixels, hits, confidences = parts["calibration"].unbind(-2)
    values = {
        "accu": _accuracy(confusion),
        "accu19": correct[..., EVALUATED].sum(-1) / true[..., EVALUATED].sum(-1),
        "accu_annotated": _accuracy(annotated),
        "accu_unannotated": _accuracy(unannotated),
        "miou19": official_iou(confusion).nanmean(-1),
        "miou_all": iou.where(true > 0, math.nan).nanmean(-1),
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


def _in_short(rows: Tensor) -> dict[str, Any]:
    values = figures(rows.sum(0))
    return {name: number(values[name]) for name in KIND_FIGURES} | {"num_samples": len(rows)}


def official_iou(confusion: Tensor) -> Tensor:
    """IoU of the 19 evaluated classes: float64 counts [...,34,34] (true, restored) -> [...,19].

    The rules of cityscapesScripts (evalPixelLevelSemanticLabeling.py): pixels whose true class is
    ignored do not exist; an ignored class restored on another pixel is a miss of the true class
    and nobody's false alarm. NaN for a class that occurs in neither map.
    """
    valid = confusion[..., EVALUATED, :]
    restored_valid = valid[..., EVALUATED]
    correct = restored_valid.diagonal(dim1=-2, dim2=-1)
    return correct / (valid.sum(-1) + restored_valid.sum(-2) - correct)


def resample(rows: Tensor) -> Tensor:
    """Sums of as many samples as there are, drawn with replacement, always the same ones: float64
    [N, sum(SIZES)] -> [NUM_RESAMPLES, sum(SIZES)]; of no samples, [0, sum(SIZES)].

    All sums are integers below 2^53, so the product is exact.
    """
    if not len(rows):
        return torch.zeros(0, sum(SIZES), dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(rows), (NUM_RESAMPLES, len(rows)), generator=draw)
    times = torch.zeros(NUM_RESAMPLES, len(rows), dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    return times @ rows


def intervals(resampled: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """95 % percentile bootstrap over samples (Efron 1979): figures of resamples, float64
    [NUM_RESAMPLES] each -> {figure: [low, high]}, without those that no resample has."""
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    values = {name: row[~row.isnan()] for name, row in resampled.items()}
    return {name: row.quantile(ends).tolist() for name, row in values.items() if len(row)}


def _accuracy(confusion: Tensor) -> Tensor:
    return confusion.diagonal(dim1=-2, dim2=-1).sum(-1) / confusion.sum((-2, -1))


def number(value: Tensor) -> float | None:
    """The number, None for NaN."""
    return None if value.isnan() else float(value)
