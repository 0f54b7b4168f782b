"""Writing shards against only decoding and resizing the same files: python -m benchmarks.writing

Drawn scenes in Cityscapes' layout and size are made in a temporary folder. Five minutes or more.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import PositiveInt

from benchmarks.plain_loader import HEIGHT, WIDTH, write_raw
from benchmarks.side_by_side import Comparison, conditions, in_turns, table
from maskrestore.config.cli import run_program
from maskrestore.config.settings import Section, parse
from maskrestore.utils.system import count_cores
from shards.workers import run_all
from shards.write import WriteConfig, write_shards

PER_SHARD = 8


class WritingBenchmark(Section):
    """How much to measure."""

    pairs: PositiveInt = 5
    """Pairs of turns."""
    num_samples: PositiveInt = 48
    """Drawn samples; on all cores each of them is used twice, under two names."""


def decode_and_resize(paths: Sequence[Path]) -> None:
    """What anybody who reads these files has to do at least: PIL, pictures bicubic, masks nearest.

    They are read in this order; nothing is checked or kept.
    """
    for path in paths:
        picture = "leftImg8bit" in path.name
        how = Image.Resampling.BICUBIC if picture else Image.Resampling.NEAREST
        with Image.open(path) as image:
            np.asarray(image.resize((WIDTH, HEIGHT), how))


def decoding(root: Path, workers: int) -> float:
    """Seconds for all files, in pieces as large as those of the shards."""
    began = time.perf_counter()
    files = [
        sorted(root.glob(f"{folder}/train/*/*_{kind}.png"))
        for folder, kind in (
            ("leftImg8bit", "leftImg8bit"),
            ("gtFine", "labelIds"),
            ("gtFine", "instanceIds"),
            ("gtCoarse", "labelIds"),
        )
    ]
    samples = list(zip(*files, strict=True))
    number = -(-len(samples) // PER_SHARD)
    pieces = [[path for sample in samples[at::number] for path in sample] for at in range(number)]
    run_all(decode_and_resize, pieces, [len(p) for p in pieces], workers, "decoding", "file")
    return time.perf_counter() - began


def writing(root: Path, workers: int) -> float:
    """Seconds of shards/write.py, all its checks included."""
    with tempfile.TemporaryDirectory(dir=root.parent) as out:
        words = [f"root={root}", f"out={out}", f"samples_per_shard={PER_SHARD}",
                 f"workers={workers}", f"size={HEIGHT}x{WIDTH}"]  # fmt: skip
        config = parse(WriteConfig, ["source=cityscapes", "splits=train", *words])
        began = time.perf_counter()
        write_shards(config)
        return time.perf_counter() - began


def under_two_names(root: Path) -> None:
    """A link to every file as one of another sequence."""
    for path in list(root.rglob("*.png")):
        os.link(path, path.with_name(path.name.replace("_000000_", "_000001_", 1)))


def measure(config: WritingBenchmark, folder: Path) -> str:
    """The table."""
    raw = folder / "raw"
    megabytes = write_raw(raw, config.num_samples)
    rows = []
    for where, workers in (("one core", 1), (f"all {count_cores()} cores", 0)):
        if workers == 0:
            under_two_names(raw)
        num_samples = len(list(raw.glob("leftImg8bit/train/*/*.png")))
        measured = in_turns(
            partial(writing, raw, workers), partial(decoding, raw, workers), config.pairs, where
        )
        remark = f"{num_samples} samples, "
        remark += "one process" if workers else "start of the worker processes included"
        row = Comparison(f"writing shards, {where}", "only decoding and resizing the raw files", 1,
                         *measured, remark=remark)  # fmt: skip
        rows.append(row)
    return (
        f"{table(rows)}\n\n{conditions('cpu', ['pillow'])}\n\n"
        f"{config.num_samples} drawn scenes in Cityscapes' layout, {megabytes:.2f} MB per "
        "2048x1024 picture (the real ones: about 2.3 MB), with fine, instance and coarse masks; on "
        "all cores each under two names. Writing is shards/write.py with all its checks, decoding "
        f"is PIL alone, on the same pieces with as many processes; {HEIGHT}x{WIDTH}; files in the "
        "page cache."
    )


def main(words: Sequence[str]) -> None:
    """Measure and print the table."""
    config = parse(WritingBenchmark, words)
    with tempfile.TemporaryDirectory(prefix="maskrestore-writing-") as folder:
        print(measure(config, Path(folder)))


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", WritingBenchmark))
