"""Run a grid: python launch/submit.py grid=table1 [config=demo] [key=value ...] [dry_run=true]

Writes the shards if there are none, trains the image generator, then runs all other cells, several
at a time. The same command again skips what is done and continues what is not.
grid=densify_extra is another kind of grid, which restores masks: see its own --help.
"""

import signal
import sys
from collections.abc import Sequence

from launch.grid.cells import CELL_KEYS
from launch.slurm import restore_array
from launch.slurm.handover import SubmitConfig, submit_grid
from maskrestore.config.cli import run_program


def main(words: Sequence[str]) -> int:
    """Run the grid, or hand it to SLURM: its cells, or the parts of its masks; the exit status."""
    if restore_array.is_restoration(words):
        return restore_array.submit_restoration(words)
    return submit_grid(words)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    if restore_array.is_restoration(sys.argv[1:]):  # which has other settings
        usage = restore_array.usage(sys.argv[1:])
        sys.exit(run_program(main, usage, restore_array.RestoreArrayConfig, ["part"]))
    sys.exit(run_program(main, __doc__, SubmitConfig, CELL_KEYS))
