"""Samples per second of the loader and of its peers on one core: python -m benchmarks.loader

Drawn scenes in Cityscapes' layout and size are made in a temporary folder, and shards of them; all
sides then give the same tensors, in batches of 8, in a shuffled order, and mirror nothing. Linux
only. Five minutes or more.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt

from benchmarks.plain_loader import (
    BATCH,
    HEIGHT,
    WIDTH,
    mosaicml_streaming,
    plain_webdataset,
    raw_cityscapes,
    write_mds,
    write_raw,
)
from benchmarks.side_by_side import Comparison, conditions, in_turns, rate, table
from maskrestore.config.cli import run_program
from maskrestore.config.run import load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.loader import Batch, training_batches
from maskrestore.utils.errors import UserError
from shards.write import WriteConfig, write_shards

PIXELS = f"{HEIGHT},{WIDTH}"
ARRAYS = (
    f"ndarray:uint8:{PIXELS},3",
    f"ndarray:uint8:{PIXELS}",
    f"ndarray:uint8:{PIXELS}",
    f"ndarray:uint16:{PIXELS}",
)
OURS = "loader, one core"


class LoaderBenchmark(Section):
    """How much to measure."""

    pairs: PositiveInt = 7
    """Pairs of turns."""
    num_batches: PositiveInt = 6
    """Batches of raw files per turn, and of samples in all; shards are read ten times as often."""


def contents(open_batches: Callable[[], Generator[Any]], num_batches: int) -> list[tuple[int, ...]]:
    """What tells whether sides read the same samples, whatever their order."""
    samples = []
    batches = open_batches()
    weights = torch.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 97
    for batch in islice(batches, num_batches):
        if isinstance(batch, Batch):
            batch = (batch.image, batch.fine, batch.coarse, batch.instance)
        parts = [(part.long() * weights).reshape(BATCH, -1).sum(1).tolist() for part in batch]
        samples += list(zip(*parts, strict=True))
    batches.close()
    return sorted(samples)


def measure(config: LoaderBenchmark, folder: Path) -> str:
    """The table."""
    raw, shards, few = folder / "raw", folder / "shards", config.num_batches
    megabytes = write_raw(raw, few * BATCH)
    words = ["source=cityscapes", f"root={raw}", "splits=train", "samples_per_shard=16"]
    write_shards(parse(WriteConfig, [*words, f"out={shards}", f"size={HEIGHT}x{WIDTH}"]))
    run = load_config(
        [f"data.shards={shards}", f"data.size={HEIGHT}x{WIDTH}", f"training.batch_size={BATCH}",
         "data.flip=false", "data.threads=1"]
    )  # fmt: skip

    def ours() -> Generator[Batch]:
        return training_batches(run, 0, 0, 1)

    peers: list[tuple[str, float | None, Callable[[], Generator[Any]], int, str]] = [
        ("torchvision's Cityscapes on the raw files", 30, partial(raw_cityscapes, raw), few, ""),
        ("webdataset on our tars", 1, partial(plain_webdataset, shards), 10 * few, ""),
    ]
    rows = []
    packages = ["torchvision", "pillow", "webdataset"]
    if find_spec("streaming"):
        packages.append("mosaicml-streaming")
        sizes = {}
        for name, encodings in (("png", ("png",) * 4), ("ndarray", ARRAYS)):
            write_mds(shards, folder / name, encodings)
            sizes[name] = num_bytes(folder / name) / num_bytes(shards)
            peers.append(
                (f"mosaicml-streaming, {name} columns", 1 if name == "png" else None,
                 mosaicml_streaming(folder / name), 10 * few, f"{sizes[name]:.2f} times our bytes")
            )  # fmt: skip
    else:
        remark = "pip install --no-deps mosaicml-streaming, and what it then misses"
        rows.append(Comparison(OURS, "mosaicml-streaming", 1, remark=remark))
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})  # of this thread, and so of those that it starts
    torch.set_num_threads(1)
    same = contents(ours, few)
    for against, goal, theirs, num_batches, remark in peers[::-1]:
        if contents(theirs, few) != same:
            raise UserError(f"{against} gave other samples than the loader")
        measured = in_turns(
            lambda: rate(ours, 10 * few, BATCH),
            partial(rate, theirs, num_batches, BATCH),
            config.pairs,
            against,
            higher_is_better=True,
        )
        rows.insert(0, Comparison(OURS, against, goal, *measured, "samples/s", remark))
    sample_kb = num_bytes(shards) / (few * BATCH) / 1000
    return (
        f"{table(rows)}\n\n{conditions('cpu', packages)}\n\n"
        f"{few * BATCH} drawn scenes in Cityscapes' layout, {megabytes:.2f} MB per 2048x1024 "
        f"picture (the real ones: about 2.3 MB); {sample_kb:.0f} kB per sample of {HEIGHT}x{WIDTH} "
        f"in our shards. Same tensors on all sides, checked: uint8 image, int64 fine, coarse and "
        "instance mask, batches of 8, shuffled, nothing mirrored. One process held on one core, "
        "ours with one decoding thread, the others in a DataLoader of no "
        "workers. From opening to the last batch; files in the page cache."
    )


def num_bytes(folder: Path) -> int:
    """Of the files of a folder, its indexes included."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def main(words: Sequence[str]) -> None:
    """Measure and print the table."""
    config = parse(LoaderBenchmark, words)
    with tempfile.TemporaryDirectory(prefix="maskrestore-loader-") as folder:
        print(measure(config, Path(folder)))


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", LoaderBenchmark))
