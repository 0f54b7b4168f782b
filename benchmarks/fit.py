"""Masks at full size, restored in tiles or shrunk: python -m benchmarks.fit folder=DIR

Two networks of one shape learn from as many pixels, one on crops of drawn street scenes, one on the
same scenes shrunk to the crops' size, with the picture beside the mask. Both restore the val masks
at full size by restore.py, with fit=tile and fit=resize. The same command continues in the folder.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import NonNegativeInt, PositiveInt

from benchmarks.labels import LABELS
from benchmarks.side_by_side import conditions
from launch.grid.missing_shards import write_missing_shards
from maskrestore.config.cli import run_program
from maskrestore.config.data import Size
from maskrestore.config.run import RunConfig, load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.loader import val_batches
from maskrestore.evaluation.baselines import fill
from maskrestore.evaluation.counts import count, figures
from maskrestore.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("accu", "miou19", "boundary_f3")
FITS = {"tile": "in tiles", "resize": "shrunk"}


class FitBenchmark(Section):
    """Where, and how much."""

    folder: Path
    """For shards, runs and masks."""
    size: Size = "256x384"
    """Of the scenes."""
    crop: Size = "128x192"
    """Of the crops, and of the shrunk scenes."""
    num_images: PositiveInt = 1200
    """Seen in training by each network."""
    num_scenes: PositiveInt = 300
    """Drawn for training."""
    num_val: PositiveInt = 40
    """Drawn to judge by."""
    seed: NonNegativeInt = 0
    """Of both runs."""


def train(config: FitBenchmark, name: str, *words: str) -> RunConfig:
    """The settings of a run in folder/NAME, which is finished."""
    words = (
        *("config=demo", "task=densify", "loss=ce", "condition=mask_image", *words),
        *(f"data.num_train={config.num_scenes}", f"data.num_val={config.num_val}"),
        *(f"training.num_images={config.num_images}", "weights.class_balance=0.25"),
        *(f"seed={config.seed}", f"run={config.folder / name}", "distributed.device=cpu"),
    )
    run = load_config(words)
    write_missing_shards(run.data)
    call("train.py", *words)
    return run


def call(*words: str) -> None:
    """One of our programs; UserError if it fails."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(words)} failed: {done.stderr[-2000:]}")


def main(words: Sequence[str]) -> None:
    """Train both, restore by each in both ways, print the table."""
    config = parse(FitBenchmark, words)
    folder = config.folder
    whole = (f"data.size={config.size}", f"data.shards={folder / 'shards'}")
    shrunk = (f"data.size={config.crop}", f"data.shards={folder / 'shrunk-shards'}")
    crops = train(config, "crops", *whole, f"data.crop={config.crop}")
    train(config, "shrunk", *shrunk)
    batches = list(val_batches(crops, 0, 1))
    for batch in batches:
        images = batch.image.permute(0, 2, 3, 1)
        for kind, arrays in (("masks", batch.coarse.byte()), ("pictures", images)):
            (folder / kind).mkdir(exist_ok=True)
            for key, array in zip(batch.keys, arrays, strict=True):
                Image.fromarray(array.contiguous().numpy()).save(folder / kind / f"{key}.png")
    lines = [f"| trained on | restored | {' | '.join(FIGURES)} |"]
    lines.append("| --- | --- |" + " --: |" * len(FIGURES))
    filled = [fill(batch.coarse, (batch.coarse > 0)[:, None]) for batch in batches]
    rows = {("nothing: nearest label", "at full size"): filled}
    for name, what in (("crops", f"crops of {config.crop}"), ("shrunk", "the scenes, shrunk")):
        for fit, how in FITS.items():
            out = folder / f"{name}-{fit}"
            call(
                *("restore.py", f"checkpoint={folder / name}", f"input={folder / 'masks'}"),
                *(f"images={folder / 'pictures'}", f"output={out}", f"fit={fit}", "device=cpu"),
                "keep_annotated=false",
            )
            rows[what, f"{how} (fit={fit})"] = [
                torch.stack([torch.from_numpy(read(out / f"{key}_restored.png")) for key in keys])
                for keys in (batch.keys for batch in batches)
            ]
    for (what, how), restored in rows.items():
        sums = sum(
            count(LABELS, mask.long(), batch.fine, (batch.coarse > 0)[:, None]).sum(0)
            for mask, batch in zip(restored, batches, strict=True)
        )
        values = figures(LABELS, torch.as_tensor(sums).double())
        shown = " | ".join(f"{100 * float(values[name]):.1f}" for name in FIGURES)
        lines.append(f"| {what} | {how} | {shown} |")
    print("\n".join(lines))
    print(f"\n{conditions('cpu')} {config.num_val} val scenes of {config.size}, one seed.")


def read(path: Path) -> np.ndarray:
    """uint8 [H,W]."""
    with Image.open(path) as image:
        return np.array(image)


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", FitBenchmark))
