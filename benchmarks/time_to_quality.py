"""How long training takes to be worth it: python -m benchmarks.time_to_quality shards=data/...

Until mIoU on val passes the best untrained row of the task, and until it reaches what a plain
script (plain_spade.py, cross entropy, Adam, the incomplete mask as it is) has at its end. Both
train on the same samples in the same order, one after the other; evaluations are not counted.
condition=mask_image: both see the picture as well.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.labels import LABELS, NUM_CLASSES
from benchmarks.plain_spade import PlainMaskGenerator
from benchmarks.side_by_side import conditions
from maskrestore.config.cli import run_program
from maskrestore.config.data import Size
from maskrestore.config.run import RunConfig, load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.degrade import degrade, degraded_segmap
from maskrestore.data.loader import Batch, training_batches, val_batches
from maskrestore.data.segmap import to_unit_range
from maskrestore.evaluation.baselines import restore_untrained
from maskrestore.evaluation.segmentation import SegmentationMetrics
from maskrestore.runs.metrics_file import read_metrics
from maskrestore.training.loop import train

BASELINES = {"densify": ("input", "fill"), "super_resolution": ("input", "realign", "bilinear")}
"""Untrained rows of the mask alone; the random walker sees the picture too."""

SEEING: dict[str, tuple[str, ...]] = {"mask": (), "mask_image": ("random_walker",)}
Curve = list[tuple[int, float, float]]
"""After each part of the training: images, seconds of training, mIoU in 0..1."""


class TimeToQuality(Section):
    """What to train, and for how long."""

    shards: Path = Path("data/camvid-96x128")
    """Folder of the shards (shards/write.py)."""
    size: Size = "96x128"
    """Their size."""
    task: Literal["densify", "super_resolution"] = "densify"
    """What to restore."""
    condition: Literal["mask", "mask_image"] = "mask"
    """What of."""
    num_images: PositiveInt = 2000
    """Images that each side sees."""
    every: PositiveInt = 100
    """Images between two evaluations."""
    plain_learning_rate: PositiveFloat = 1e-3
    """Adam learning rate of the plain script."""
    class_balance: NonNegativeFloat = 0.4
    """Ours: weights.class_balance."""


def run_config(config: TimeToQuality, *words: str) -> RunConfig:
    """A run of config=camvid on these shards."""
    return load_config(
        [
            *("config=camvid", f"data.shards={config.shards}", f"data.size={config.size}"),
            *(f"task={config.task}", f"condition={config.condition}"),
            f"training.num_images={config.num_images}",
            *("distributed.device=cpu", "telemetry.serve=false", *words),
        ]
    )


def miou(run: RunConfig, restore: Any) -> float:
    """mIoU (19) in 0..1 of restore(batch, label map, valid) over val."""
    metrics = SegmentationMetrics(LABELS)
    for batch in val_batches(run, 0, 1):
        label_map, valid = degrade(run, batch.fine, batch.coarse)
        metrics.update(batch.keys, restore(batch, label_map, valid), batch.fine, valid)
    return float(metrics.compute()["miou19"])


def plain_curve(config: TimeToQuality) -> Curve:
    """The plain script's."""
    run = run_config(config, "loss=ce")
    torch.manual_seed(0)
    shape = run.mask_generator
    num_seen = 1 + 3 * (config.condition == "mask_image")
    network: nn.Module = PlainMaskGenerator(
        NUM_CLASSES, shape.width, shape.hidden, run.data.height_width, num_seen
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=config.plain_learning_rate)

    def logits_of(batch: Batch, label_map: Tensor, valid: Tensor) -> Tensor:
        seen = [valid.float(), to_unit_range(batch.image)][: 2 if num_seen > 1 else 1]
        logits: Tensor = network(degraded_segmap(label_map, NUM_CLASSES, valid), *seen)
        return logits

    @torch.no_grad()
    def restored(batch: Batch, label_map: Tensor, valid: Tensor) -> Tensor:
        return logits_of(batch, label_map, valid).argmax(1)

    curve: Curve = []
    batches, seen, seconds = training_batches(run, 0, 0, 1), 0, 0.0
    with tqdm(total=config.num_images, desc="plain script", unit="img") as bar:
        while seen < config.num_images:
            began = time.perf_counter()
            batch = next(batches)
            label_map, valid = degrade(run, batch.fine, batch.coarse)
            loss = F.cross_entropy(logits_of(batch, label_map, valid), batch.fine)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds += time.perf_counter() - began
            seen += len(batch.keys)
            bar.update(len(batch.keys))
            if seen % config.every < len(batch.keys) or seen >= config.num_images:
                curve.append((seen, seconds, miou(run, restored)))
    batches.close()
    return curve


def our_curve(config: TimeToQuality, folder: Path) -> Curve:
    """That of a run as train.py makes it, at the median speed of its stretches without an
    evaluation: of each two reports, the second."""
    run = run_config(
        config,
        *("loss=ce", f"weights.class_balance={config.class_balance}", f"run={folder / 'run'}"),
        f"training.log_images={config.every // 2}",
        f"training.evaluate_images={config.every}",
        f"training.checkpoint_images={config.num_images}",
    )
    train(run)
    lines = read_metrics(run.run)
    speeds = [line["images_per_second"] for line in lines if "images_per_second" in line][1::2]
    return [
        (seen := line["num_images"], seen / median(speeds), line["evaluation"]["miou19"])
        for line in lines
        if "evaluation" in line
    ]


def reached(curve: Curve, goal: float) -> tuple[int, float] | None:
    """Images and seconds until the mIoU is at least `goal`; None if it never is."""
    return next(((seen, seconds) for seen, seconds, value in curve if value >= goal), None)


def told(point: tuple[int, float] | None) -> str:
    return "never" if point is None else f"{point[0]} images, {point[1]:.0f} s"


def main(words: Sequence[str]) -> None:
    """Measure, print the table."""
    config = parse(TimeToQuality, words)
    untrained = {
        name: miou(
            run := run_config(config, "loss=none", f"baseline={name}"),
            lambda batch, label_map, valid, run=run: restore_untrained(
                run, label_map, valid, batch.image
            ),
        )
        for name in (*BASELINES[config.task], *SEEING[config.condition])
    }
    best = max(untrained, key=lambda name: untrained[name])
    with tempfile.TemporaryDirectory() as folder:
        ours = our_curve(config, Path(folder))
    plain = plain_curve(config)
    goals = {
        f"the best untrained row ({best}, {100 * untrained[best]:.1f})": untrained[best],
        f"the plain script's end ({100 * plain[-1][2]:.1f})": plain[-1][2],
    }
    print("| until val mIoU (19) reaches | ours | plain script | times as fast |")
    print("| --- | --: | --: | --: |")
    for what, goal in goals.items():
        mine, other = reached(ours, goal), reached(plain, goal)
        ratio = f"**{other[1] / mine[1]:.1f}x**" if mine and other else "-"
        print(f"| {config.task}: {what} | {told(mine)} | {told(other)} | {ratio} |")
    print(
        f"\nAt the end, {config.num_images} images: ours {100 * ours[-1][2]:.1f} in "
        f"{ours[-1][1]:.0f} s, the plain script {100 * plain[-1][2]:.1f} in {plain[-1][1]:.0f} s. "
        f"{conditions('cpu')}"
    )


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, TimeToQuality))
