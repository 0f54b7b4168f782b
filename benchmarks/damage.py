"""What damaging masks costs the loader on one core: python -m benchmarks.damage

Samples per second with each kind of damage against degradation=task, which takes the coarse
polygons as the shards hold them. Linux only. Three minutes.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from pydantic import PositiveInt

from benchmarks.plain_loader import BATCH, HEIGHT, WIDTH
from benchmarks.side_by_side import Comparison, conditions, in_turns, rate, table
from maskrestore.config.cli import run_program
from maskrestore.config.run import load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.damage import KINDS
from maskrestore.data.loader import training_batches
from shards.write import WriteConfig, write_shards


class DamageBenchmark(Section):
    """How much to measure."""

    pairs: PositiveInt = 9
    """Turns of each side."""
    num_batches: PositiveInt = 12
    """Batches in a turn."""
    num_samples: PositiveInt = 48
    """Drawn samples in the shards."""


def measure(config: DamageBenchmark, folder: Path) -> str:
    """The table."""
    size = f"{HEIGHT}x{WIDTH}"
    words = ["source=streetscenes", f"num_train={config.num_samples}", "num_val=1"]
    write_shards(parse(WriteConfig, [*words, f"size={size}", f"out={folder}"]))
    common = [f"data.shards={folder}", f"data.size={size}", f"training.batch_size={BATCH}"]
    common += ["task=densify", "data.threads=1", "data.flip=false"]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # and of the threads that it starts
    torch.set_num_threads(1)

    def speed(degradation: str) -> Callable[[], float]:
        run = load_config([*common, f"degradation={degradation}"])
        return partial(rate, partial(training_batches, run, 0, 0, 1), config.num_batches, BATCH)

    rows = []
    for kind in (*KINDS[1:], "mixture"):
        measured = in_turns(speed(kind), speed("task"), config.pairs, kind, higher_is_better=True)
        more = 1000 / measured[1] - 1000 / measured[2]
        row = Comparison(f"loader, degradation={kind}", "degradation=task", None, *measured,
                         "samples/s", f"{more:+.1f} ms a sample")  # fmt: skip
        rows.append(row)
    return (
        f"{table(rows)}\n\n{conditions('cpu')}\n\n{config.num_samples} drawn scenes of {size} in "
        f"our shards, one decoding thread, one core, batches of {BATCH}, from opening to the last."
    )


def main(words: Sequence[str]) -> None:
    """Measure and print the table."""
    config = parse(DamageBenchmark, words)
    with tempfile.TemporaryDirectory(prefix="maskrestore-damage-") as folder:
        print(measure(config, Path(folder) / "shards"))


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", DamageBenchmark))
