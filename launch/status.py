"""Where a grid stands: python launch/status.py grid=table1 [config=demo] [watch=true]

watch=true        keep the table up to date, until everything is done
logs=CELL         what the cell's first task printed; with watch=true as it goes on
cancel=CELL,...   take cells out of SLURM's queue, running ones after a save (all: every one)
retry=CELL,...    hand cells to SLURM again that failed or were given up

All words of submit.py may stand here as well.
"""

import sys
import time
from collections.abc import Sequence

from launch.grid.cells import CELL_KEYS, Grid, read_grid
from launch.slurm.commands import cancel, has_slurm
from launch.slurm.handover import SubmitConfig
from launch.slurm.plan import read_queue
from launch.slurm.status_table import describe, show_log, table
from launch.slurm.submission import Queue, Submission
from launch.submit import main as submit
from maskrestore.config.cli import run_program
from maskrestore.utils.errors import ConfigError, UserError

WATCH_SECONDS = 5.0
"""Between two looks; each one asks squeue, which asks a controller that others need too."""


class StatusConfig(SubmitConfig):
    """The words of this program."""

    watch: bool = False
    """Go on until everything is done, or Ctrl-C."""
    logs: str = ""
    """Cell whose log is shown instead."""
    cancel: str = ""
    """Cells to cancel, with commas between them; all for every one."""
    retry: str = ""
    """Cells to hand to SLURM again, with commas between them."""


def main(words: Sequence[str]) -> int:
    """Show the table, or do what is asked; 1 if a cell has failed."""
    settings, grid = read_grid(StatusConfig, words)
    on_slurm = has_slurm(settings.cluster)
    if settings.retry:
        own = ("retry=", "watch=", "cells=")
        others = [word for word in words if not word.startswith(own)]
        return submit([*others, f"cells={settings.retry}"])
    if settings.cancel:
        cancel_cells(grid, settings.cancel, on_slurm)
        return 0
    if settings.logs:
        show_log(grid, settings.logs, settings.watch)
        return 0
    while True:
        trouble, queue = "", Queue({}, {})
        submissions: list[Submission] = []
        try:
            if on_slurm:
                queue, submissions = read_queue(grid)
        except UserError as error:
            if not settings.watch:
                raise
            trouble = str(error)  # it may be back at the next look
        lines = [describe(cell, queue.cells.get(cell.name), submissions) for cell in grid.cells]
        text = table(grid, lines, queue, trouble)
        is_moving = any(line.state in ("running", "waiting") for line in lines) or trouble
        if settings.watch and sys.stdout.isatty():
            text = f"\x1b[H\x1b[J{text}"  # over the one before
        print(text, flush=True)
        if not (settings.watch and is_moving):
            return int(any(line.state in ("failed", "gave up", "ended") for line in lines))
        time.sleep(WATCH_SECONDS)


def cancel_cells(grid: Grid, names: str, on_slurm: bool) -> None:
    """Cancel cells that SLURM has. Raises ConfigError for names of none."""
    if not on_slurm:
        raise UserError("cancel: there is no SLURM here; press Ctrl-C where submit.py runs")
    queue, _ = read_queue(grid)
    wanted = list(queue.cells) if names == "all" else [name.strip() for name in names.split(",")]
    known = {cell.name for cell in grid.cells} | queue.cells.keys()
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"cancel={','.join(unknown)}: no such cells; there are: {sorted(known)}")
    cancel([queue.cells[name].id for name in wanted if name in queue.cells])
    for name in wanted:
        job = queue.cells.get(name)
        print(f"{name}: " + (f"job {job.id} cancelled" if job else "not with SLURM"))


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", StatusConfig, CELL_KEYS))
