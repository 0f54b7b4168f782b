"""What the number of classes costs, from 9 to 183: python -m benchmarks.classes

A training step of loss=ce, what the network is shown of a batch (one-hot, prior), counting the
figures of evaluated masks, what of it is their boundaries, the sums that are kept of each, and the
loader of shards, at the sizes of config=camvid, for four label sets.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from pydantic import PositiveInt
from tqdm import tqdm

from benchmarks.our_step import ours
from benchmarks.side_by_side import Side, conditions, typical
from maskrestore.config.cli import run_program
from maskrestore.config.labels import load_labels
from maskrestore.config.run import load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.degrade import mask_generator_input
from maskrestore.data.loader import training_batches
from maskrestore.evaluation.boundary import TOLERANCES, band, band_width, contours_met
from maskrestore.evaluation.counts import count, figures, sizes
from maskrestore.evaluation.segmentation import resample
from maskrestore.utils.system import set_up_torch

LABELS = ("fields", "cityscapes", "ade20k", "coco_stuff")
SETTINGS = ("config=camvid", "task=densify", "loss=ce", "distributed.device=cpu")
BATCH, HEIGHT, WIDTH = 16, 96, 128
BATCHES = 20
ROOT = Path(__file__).resolve().parents[1]
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


def bounding(name: str) -> Callable[[], object]:
    """Bands and contours of a batch of masks."""
    set_up_torch()
    true, restored = blocks(load_labels(name).num_classes).byte()
    width = band_width(HEIGHT, WIDTH)
    return lambda: (
        [band(label_map, width, border=True) for label_map in (true, restored)],
        contours_met(restored, true, TOLERANCES),
    )


def loading(name: str, folder: Path) -> Callable[[], object]:
    """So many batches that what was read ahead does not count, from folder/shards, by one
    thread."""
    set_up_torch()
    words = [*SETTINGS, f"data.labels={name}", f"data.shards={folder / 'shards'}"]
    config = load_config([*words, "data.threads=1", f"training.batch_size={BATCH}"])
    batches = training_batches(config, 0, 0, 1)
    return lambda: [next(batches) for _ in range(BATCHES)]


def write_shards(folder: Path, name: str) -> None:
    """Of pictures of noise, and masks of blocks of the set's classes."""
    labels = load_labels(name)
    ids = torch.tensor([kind.id for kind in labels.classes])
    masks = ids[blocks(len(ids)).flatten(0, 1)]
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number, mask in enumerate(masks.int().numpy()):
        noise = torch.randint(0, 256, (HEIGHT, WIDTH, 3), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask.astype("uint8")).save(folder / "masks" / f"{number}.png")
    words = [f"{kind}={folder / kind}" for kind in ("images", "masks")]
    words += ["source=folder", f"labels={name}", f"size={HEIGHT}x{WIDTH}", f"out={folder}/shards"]
    subprocess.run(
        [sys.executable, "shards/write.py", *words], check=True, cwd=ROOT, capture_output=True
    )


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
        "counting 16 masks | memory | of it boundaries | memory | "
        f"figures of 1000 resamples | memory | loading {BATCHES * BATCH} samples | memory |",
        "| --- |" + " --: |" * 13,
    ]
    for name in tqdm(LABELS, "label sets"):
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, Path(folder), pairs))
    print("\n".join(lines))
    print(f"\n{conditions('cpu')} Memory: the most that the process had.")


def row(name: str, folder: Path, pairs: int) -> str:
    """What is measured of a label set, as a line of the table; folder: for its shards."""
    write_shards(folder, name)
    cells = [name, str(load_labels(name).num_classes)]
    sides = [
        Side(ours, [*SETTINGS, f"data.labels={name}"]),
        Side(showing, name),
        Side(counting, name),
        Side(bounding, name),
        Side(resampling, name),
        Side(loading, name, folder),
    ]
    for side in sides:
        seconds, peak = typical(side, pairs)
        cells += [f"{1000 * seconds:.0f} ms", f"{peak / 1e6:.0f} MB"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", ClassesBenchmark))
