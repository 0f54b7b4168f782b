"""A whole training step with loss=ce_vgg_l1, its time and its memory: python -m benchmarks.step

The loop's own step against plain modules in one script (plain_step.py), at the official size of
both generators, with VGG19 of random weights.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from pydantic import PositiveInt
from tqdm import tqdm

from benchmarks import plain_step
from benchmarks.our_step import ours, save_random_networks
from benchmarks.side_by_side import Comparison, Side, computes_bf16, conditions, table
from maskrestore.config.cli import run_program
from maskrestore.config.data import Size, height_and_width
from maskrestore.config.settings import Section, parse


class StepBenchmark(Section):
    """What to measure, and for how long."""

    size: Size = "256x512"
    """Height x width in pixels."""
    batch_size: PositiveInt = 1
    """Images in a batch."""
    width: PositiveInt = 64
    """Channels of both generators' last blocks (the official one has 64)."""
    hidden: PositiveInt = 128
    """Channels inside each SPADE of both (the official one has 128)."""
    pairs: PositiveInt = 4
    """Turns of each side."""

    @property
    def height_width(self) -> tuple[int, int]:
        """`size` as two integers."""
        return height_and_width(self.size)


def main(words: Sequence[str]) -> None:
    """Measure, print the table."""
    config = parse(StepBenchmark, words)
    has_bf16 = computes_bf16()
    with tempfile.TemporaryDirectory(prefix="maskrestore-step-") as folder:
        settings = _settings(config, Path(folder))
        kept = Side(ours, settings)
        again = Side(ours, [*settings, "distributed.activation_checkpointing=true"])
        shape = (config.batch_size, config.height_width, config.width, config.hidden)
        plain = Side(plain_step.make_step, "cpu", *shape, has_bf16)
        rounds = [
            [side.turn() for side in (kept, again, plain)]
            for _ in tqdm(range(config.pairs + 1), "step", unit="round")
        ][1:]  # the first one warms up
    rows = []
    for number, name in enumerate(("", ", activations computed twice")):
        for kind, what in enumerate(("training step ce_vgg_l1", "peak memory of it")):
            mine = [turns[number][kind] / (1, 1e9)[kind] for turns in rounds]
            theirs = [turns[2][kind] / (1, 1e9)[kind] for turns in rounds]
            goal = 2.0
            against = f"plain script, {'bf16 autocast' if has_bf16 else 'fp32'}"
            ratios = tuple(b / a for a, b in zip(mine, theirs, strict=True))
            values = (median(mine), median(theirs), ("s", "GB")[kind])
            rows.append(Comparison(f"{what}{name}", against, goal, ratios, *values))
    print(f"{table(rows)}\n\n{conditions()}")
    print(
        f"Batch {config.batch_size} of {config.size}, generators of width {config.width} and "
        f"hidden {config.hidden}. Memory: the most that the "
        "process had in memory, libraries included."
    )


def _settings(config: StepBenchmark, folder: Path) -> list[str]:
    """Settings of a run of ours, with files of random weights in `folder`."""
    best = "bf16" if computes_bf16() else "fp32"
    generator, perceptual = save_random_networks(
        folder, config.width, config.hidden, config.height_width
    )
    return [
        "distributed.device=cpu",
        f"distributed.precision={best}",
        f"distributed.frozen_precision={best}",
        f"data.size={config.size}",
        f"training.batch_size={config.batch_size}",
        f"mask_generator.width={config.width}",
        f"mask_generator.hidden={config.hidden}",
        f"generator.path={generator}",
        "perceptual.network=vgg19",
        f"perceptual.weights={perceptual}",
        f"run={folder / 'run'}",
    ]


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", StepBenchmark))
