"""Figures of restored label maps, with their intervals: accuracy, IoU, boundaries, calibration."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from maskrestore.config.labels import LabelSet
from maskrestore.distributed.processes import gather_parts
from maskrestore.evaluation.counts import class_iou, count, figures, sizes, split
from maskrestore.runs.figures import KIND_FIGURES, SAMPLE_FIGURES

NUM_RESAMPLES = 1000


class SegmentationMetrics:
    """Figures of restored label maps, with their intervals, from exact counts per sample."""

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
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
        """Count a batch. restored, true: int64 [B,H,W]. annotated: bool [B,1,H,W].

        confidence: float [B,H,W], the probability in 0..1 that was given to the restored class.
        kinds: what damaged each mask, to be told apart; or nothing.
        """
        self.rows.append(count(self.labels, restored, true, annotated, confidence))
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
        nothing = torch.empty(0, sum(sizes(self.labels)), dtype=torch.int64)
        rows = torch.cat([nothing, *counted]).double()[order]
        of_samples, total = figures(self.labels, rows), rows.sum(0)
        self.samples = [
            {"key": keys[at], **{name: number(of_samples[name][n]) for name in SAMPLE_FIGURES}}
            for n, at in enumerate(order)
        ]
        resampled = figures(self.labels, resample(rows))
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
        iou = class_iou(self.labels, split(self.labels, total))
        of_kinds = {
            kind: rows[[kinds[at] == kind for at in order]] for kind in sorted({*kinds} - {""})
        }
        return {
            **{name: number(value) for name, value in figures(self.labels, total).items()},
            "iou": {
                self.labels.by_number[i].name: number(iou[n])
                for n, i in enumerate(self.labels.evaluated)
            },
            "intervals": intervals(resampled),
            "by_degradation": {
                kind: _in_short(self.labels, some) for kind, some in of_kinds.items()
            }
            or None,
            "num_samples": len(keys),
        }


def _in_short(labels: LabelSet, rows: Tensor) -> dict[str, Any]:
    values = figures(labels, rows.sum(0))
    return {name: number(values[name]) for name in KIND_FIGURES} | {"num_samples": len(rows)}


def resample(rows: Tensor) -> Tensor:
    """Sums of as many samples as there are, drawn with replacement, always the same ones: float64
    [N, S] -> [NUM_RESAMPLES, S]; of no samples, [0, S].

    All sums are integers below 2^53, so the product is exact.
    """
    if not len(rows):
        return torch.zeros(0, rows.shape[1], dtype=torch.float64)
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


def number(value: Tensor) -> float | None:
    """The number, None for NaN."""
    return None if value.isnan() else float(value)
