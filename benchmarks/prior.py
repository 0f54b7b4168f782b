"""What it costs a training step to start at the prior: python -m benchmarks.prior

Steps of loss=ce, start=prior against start=input, at the sizes of config=camvid and of the paper.
"""

import sys
from collections.abc import Sequence
from functools import partial

from pydantic import PositiveInt

from benchmarks.our_step import ours
from benchmarks.side_by_side import Comparison, Side, conditions, in_turns, table
from maskrestore.config.cli import run_program
from maskrestore.config.settings import Section, parse

SIZES = {
    "batch 4 of 96x128, width 8": ("config=camvid",),
    "batch 1 of 256x512, width 64": (
        *("config=cityscapes", "training.batch_size=1"),
        *("distributed.precision=fp32", "distributed.frozen_precision=fp32"),
    ),
}


class PriorBenchmark(Section):
    """How long to measure."""

    pairs: PositiveInt = 6
    """Turns of each side."""


def seconds(side: Side) -> float:
    """Of one step."""
    return side.turn()[0]


def main(words: Sequence[str]) -> None:
    """Measure, print the table."""
    config = parse(PriorBenchmark, words)
    rows = []
    for task in ("densify", "super_resolution"):
        for size, settings in SIZES.items():
            common = [*settings, f"task={task}", "loss=ce", "distributed.device=cpu"]
            prior = Side(ours, [*common, "mask_generator.start=prior"])
            start = Side(ours, [*common, "mask_generator.start=input"])
            measured = in_turns(
                partial(seconds, prior),
                partial(seconds, start),
                config.pairs,
                f"{task}, {size}",
            )
            rows.append(Comparison(f"step of {task}, {size}", "start=input", None, *measured))
    print(f"{table(rows)}\n\n{conditions('cpu')}")


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, PriorBenchmark))
