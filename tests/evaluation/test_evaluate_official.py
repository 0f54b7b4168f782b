"""The figures of the Cityscapes benchmark, held equal to its own script."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import ROOT
from label_sets import CITYSCAPES, LABELS
from numpy.typing import NDArray
from PIL import Image

from maskrestore.evaluation.segmentation import SegmentationMetrics
from shards.sources.streetscenes import draw

OFFICIAL = """
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
script.args.evalInstLevelScore = False
script.main()
"""
"""Without the figures of instances, which are of another task."""
Maps = NDArray[Any]


def official_result(true: Maps, restored: Maps, folder: Path) -> dict[str, Any]:
    """What the script writes about PNGs named as those of Cityscapes."""
    for place, name, maps in (
        ("gtFine/val/street", "gtFine_labelIds", true),
        ("results", "restored", restored),
    ):
        (folder / place).mkdir(parents=True)
        for number, label_map in enumerate(maps.astype(np.uint8)):
            path = folder / place / f"street_{number:06}_000000_{name}.png"
            Image.fromarray(label_map).save(path)
    places = {"DATASET": folder, "RESULTS": folder / "results", "EXPORT_DIR": folder}
    environment = {f"CITYSCAPES_{name}": str(path) for name, path in places.items()}
    done = subprocess.run(
        [sys.executable, "-c", OFFICIAL],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "resultPixelLevelSemanticLabeling.json").read_text())


@pytest.mark.slow
def test_iou_of_each_class_and_its_mean_are_those_of_the_official_script(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    true = np.stack([draw(0, index, height=64, width=128).fine for index in range(4)]).astype(int)
    true[np.isin(true, (31, 33))] = 7
    # Some of every id but bicycle, ignored ones too, and trains where there never are any.
    wrong = rng.random(true.shape) < 0.3
    restored = np.where(wrong, rng.integers(0, 33, true.shape), np.roll(true, 2, axis=2))
    assert {7, 26} < set(np.unique(true)) < set(np.unique(restored))
    metric = SegmentationMetrics(CITYSCAPES)
    for at in (0, 3):  # batches of unequal size
        part = slice(at, at + 3)
        inputs = [torch.from_numpy(maps[part]) for maps in (restored, true)]
        keys = [str(number) for number in range(4)][part]
        metric.update(keys, *inputs, torch.ones_like(inputs[0])[:, None].bool())
    ours, official = metric.compute(), official_result(true, restored, tmp_path)

    assert ours["miou19"] == pytest.approx(official["averageScoreClasses"], rel=1e-12)
    evaluated = [label for label in LABELS if label.evaluated]
    for label in evaluated:
        iou = official["classScores"][label.name]
        expected = None if np.isnan(iou) else pytest.approx(iou, rel=1e-12)
        assert ours["iou"][label.name] == expected
    assert (ours["iou"]["train"], ours["iou"]["bicycle"]) == (0, None)

    confusion = np.array(official["confMatrix"])[:34, :34]
    assert ours["accu"] == confusion.trace() / confusion.sum()
    rows = confusion[[label.id for label in evaluated]]
    correct = sum(confusion[label.id, label.id] for label in evaluated)
    assert ours["accu19"] == correct / rows.sum()
