"""Run a grid: python launch/submit.py grid=table1 [config=demo] [key=value ...] [dry_run=true]

Writes the shards if there are none, trains the image generator, then runs all other cells, several
at a time. The same command again skips what is done and continues what is not.
grid=densify_extra is another kind of grid, which restores masks: see its own --help.
"""

import shlex
import signal
import sys
from collections.abc import Sequence

from launch.grid.cells import CELL_KEYS, Cell, Grid, read_grid
from launch.grid.local_queue import run_cells
from launch.grid.missing_shards import check_source, write_missing_shards
from launch.grid.state import check_idle, check_unchanged, describe, print_plan, read_state
from launch.slurm import restore_array
from launch.slurm.commands import has_slurm
from launch.slurm.handover import SubmitConfig, choose_cells, report_words, run_on_slurm
from launch.slurm.plan import held
from launch.slurm.resources import with_profile
from launch.slurm.restore_array import RestoreArrayConfig
from maskrestore.config.cli import run_program


def main(words: Sequence[str]) -> int:
    """Run the grid, or hand it to SLURM; 0 if every cell is done or handed over, 1 if one failed, 2
    if the user can mend it."""
    settings, grid = read_grid(SubmitConfig, words)
    chosen = choose_cells(grid, settings.cells)
    check_unchanged(grid)
    check_source(settings.data)
    if has_slurm(settings.cluster):
        wanted = with_profile(settings.profile, settings.slurm)
        return run_on_slurm(settings, grid, chosen, wanted, report_words(words))
    states = {cell.name: read_state(cell) for cell in grid.cells}
    print_plan(grid, {name: describe(state) for name, state in states.items()}, settings.data)
    if settings.dry_run:
        return 0
    with held(grid.folder, patience_seconds=0):
        check_idle(grid, states)
        return run_here(settings, grid, chosen, words)


def run_here(
    settings: SubmitConfig, grid: Grid, chosen: Sequence[Cell], words: Sequence[str]
) -> int:
    """Run all cells that are not done on this machine, the image generator first."""
    again = shlex.join(["python", "launch/submit.py", *words])
    first = grid.generator_cell
    waiting = [cell for cell in chosen if read_state(cell).kind != "done"]
    try:
        write_missing_shards(settings.data)
        failures = run_cells(
            grid, [cell for cell in waiting if cell is first], settings, settings.parallel
        )
        others = [cell for cell in waiting if cell is not first]
        if failures:
            print(f"not started, since they need the image generator: {len(others)} cells")
        else:
            check_unchanged(grid)
            failures = run_cells(grid, others, settings, settings.parallel)
    except KeyboardInterrupt:
        print(f"\nstopped; to continue: {again}", file=sys.stderr)
        return 130
    report = shlex.join(["python", "launch/report.py", *report_words(words)])
    print(f"the table so far: {report}")
    for name, failure in failures.items():
        print(f"cell {name} failed: {failure.message}\n  log: {failure.log}", file=sys.stderr)
    if failures:
        print(f"to try again: {again}", file=sys.stderr)
        return 2 if all(failure.by_user for failure in failures.values()) else 1
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    if restore_array.is_asked_for(sys.argv[1:]):
        usage = restore_array.__doc__ or ""
        sys.exit(run_program(restore_array.main, usage, RestoreArrayConfig, ["part"]))
    sys.exit(run_program(main, __doc__ or "", SubmitConfig, CELL_KEYS))
