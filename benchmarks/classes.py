"""What the number of classes costs, from 9 to 183: python -m benchmarks.classes

A training step of loss=ce, what the network is shown of a batch (one-hot, prior), counting the
figures of evaluated masks (boundaries with them), and the sums that are kept of each, at the sizes
of config=camvid, for four label sets. The loader hands out class numbers, whatever the set.
"""

import sys
from collections.abc import Callable, Sequence

import torch
from pydantic import PositiveInt
from tqdm import tqdm

from benchmarks.our_step import ours
from benchmarks.side_by_side import Side, conditions, typical
from maskrestore.config.cli import run_program
from maskrestore.config.labels import load_labels
from maskrestore.config.run import load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.degrade import mask_generator_input
from maskrestore.evaluation.counts import count, figures, sizes
from maskrestore.evaluation.segmentation import resample
from maskrestore.utils.system import set_up_torch

LABELS = ("fields", "cityscapes", "ade20k", "coco_stuff")
SETTINGS = ("config=camvid", "task=densify", "loss=ce", "distributed.device=cpu")
BATCH, HEIGHT, WIDTH = 16, 96, 128
NUM_SAMPLES = 500
"""Whose figures are resampled: Cityscapes' val."""


class ClassesBenchmark(Section):
    """How long to measure."""

    pairs: PositiveInt = 4
    """Turns of each."""


def showing(name: str) -> Callable[[], object]:
    """What the mask generator sees of a batch of incomplete masks."""
    set_up_torch()
    config = load_config([*SETTINGS, f"data.labels={name}"])
    label_map = blocks(config.data.labels.num_classes)[0]
    image = torch.zeros(BATCH, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    valid = torch.ones(BATCH, 1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[:, :, ::2, :] = False
    return lambda: mask_generator_input(config, label_map, valid, image)


def blocks(num_classes: int) -> torch.Tensor:
    """Two batches of masks of street scenes' coherence: blocks of 16x16."""
    small = torch.randint(0, num_classes, (2, BATCH, HEIGHT // 16, WIDTH // 16))
    return small.repeat_interleave(16, 2).repeat_interleave(16, 3)


def counting(name: str) -> Callable[[], object]:
    """The counts of a batch of masks."""
    set_up_torch()
    labels = load_labels(name)
    true, restored = blocks(labels.num_classes)
    annotated = torch.rand(BATCH, 1, HEIGHT, WIDTH) < 0.5
    return lambda: count(labels, restored, true, annotated, torch.rand(true.shape))


def resampling(name: str) -> Callable[[], object]:
    """The figures of all resamples."""
    set_up_torch()
    labels = load_labels(name)
    rows = torch.randint(0, 1000, (NUM_SAMPLES, sum(sizes(labels)))).double()
    return lambda: figures(labels, resample(rows))


def main(words: Sequence[str]) -> None:
    """Measure one after the other, print the table."""
    pairs = parse(ClassesBenchmark, words).pairs
    lines = [
        "| label set | numbers of classes | step | memory | showing 16 masks | memory | "
        "counting 16 masks | memory | figures of 1000 resamples | memory |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name in tqdm(LABELS, "label sets"):
        cells = [name, str(load_labels(name).num_classes)]
        sides = [
            Side(ours, [*SETTINGS, f"data.labels={name}"]),
            Side(showing, name),
            Side(counting, name),
            Side(resampling, name),
        ]
        for side in sides:
            seconds, peak = typical(side, pairs)
            cells += [f"{1000 * seconds:.0f} ms", f"{peak / 1e6:.0f} MB"]
        lines.append("| " + " | ".join(cells) + " |")
    print("\n".join(lines))
    print(f"\n{conditions('cpu')} Memory: the most that the process had.")


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", ClassesBenchmark))
