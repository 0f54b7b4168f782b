"""A grid is handed to SLURM: what is neither done nor there already, as one submission."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

from pydantic import NonNegativeInt

from launch.grid.cells import Cell, Grid, GridSettings
from launch.grid.state import check_idle, describe, print_plan, read_state
from launch.slurm.commands import QueuedJob, cancel
from launch.slurm.plan import check_cells, check_queued, held, plan_steps, read_queue
from launch.slurm.resources import SlurmConfig, check_resources, read_partitions
from launch.slurm.submission import (
    describe_job,
    read_submissions,
    show_scripts,
    submit_steps,
    withdraw,
)
from maskrestore.utils.errors import ConfigError


class SubmitConfig(GridSettings):
    """The words of this program."""

    cluster: Literal["auto", "slurm", "local"] = "auto"
    """Where to run: auto is SLURM where there is one, else this machine."""
    cells: str = ""
    """Cells to work on, with commas between them; all by default."""
    parallel: NonNegativeInt = 0
    """Cells at a time; 0 is all that SLURM starts, and on this machine one per GPU, or without a
    GPU one per core."""
    dry_run: bool = False
    """Print the plan (on SLURM the sbatch scripts as well, tried by sbatch) and start nothing."""
    cancel_removed: bool = False
    """Cancel cells that are in SLURM's queue, but no longer in the grid."""
    profile: str = "default"
    """What to ask SLURM for: configs/slurm/NAME.yaml, below slurm.NAME=VALUE."""
    slurm: SlurmConfig = SlurmConfig()


def run_on_slurm(
    settings: SubmitConfig,
    grid: Grid,
    chosen: Sequence[Cell],
    wanted: SlurmConfig,
    words: Sequence[str],
) -> int:
    """Hand SLURM what is neither done nor with it already. words: those for report and status."""
    check_resources(wanted, read_partitions())
    check_cells(chosen, wanted)
    with nullcontext() if settings.dry_run else held(grid.folder):
        left_over = [each for each in read_submissions(grid.folder) if not each.is_whole]
        for submission in left_over if not settings.dry_run else []:
            withdraw(submission)
        queue, submissions = read_queue(grid)
        check_queued(grid, queue, submissions)
        states = {cell.name: read_state(cell) for cell in grid.cells}
        waiting = [
            cell
            for cell in chosen
            if states[cell.name].kind != "done" and cell.name not in queue.cells
        ]
        check_idle(grid, {cell.name: states[cell.name] for cell in waiting})
        plan = {name: describe(state) for name, state in states.items()}
        plan |= {name: describe_job(job) for name, job in queue.cells.items() if name in plan}
        print_plan(grid, plan, settings.data)
        tell_removed({n: job for n, job in queue.cells.items() if n not in states}, settings)
        steps = plan_steps(grid, waiting, queue, wanted, words)
        if settings.dry_run:
            complaints = show_scripts(grid, steps, grid.folder / "code", settings.parallel)
            return 2 if complaints else 0
        if not steps:
            print("nothing to submit")
        submit_steps(grid, steps, queue, settings.parallel)
    ending = [
        cell.name
        for cell in chosen
        if cell.name in queue.cells
        and queue.cells[cell.name].state == "COMPLETING"
        and states[cell.name].kind != "done"
    ]
    if ending:
        print(f"still ending, submit again when gone: {', '.join(ending)}", file=sys.stderr)
        return 2
    print(f"watch it: {shlex.join(['python', 'launch/status.py', *words, 'watch=true'])}")
    return 0


def choose_cells(grid: Grid, names: str) -> list[Cell]:
    """The cells of these names, with the image generator's cell, which all of them need.

    Raises ConfigError with all names that no cell has.
    """
    if not names:
        return list(grid.cells)
    wanted = [name.strip() for name in names.split(",")]
    known = [cell.name for cell in grid.cells]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"no such cells: {', '.join(unknown)}; there are: {', '.join(known)}")
    return [cell for cell in grid.cells if cell.name in wanted or cell is grid.generator_cell]


def report_words(words: Sequence[str]) -> list[str]:
    """The words less those of this program alone."""
    own = set(SubmitConfig.model_fields) - set(GridSettings.model_fields)
    return [word for word in words if re.split("[.=]", word)[0] not in own]


def tell_removed(removed: Mapping[str, QueuedJob], settings: SubmitConfig) -> None:
    """Show cells that are with SLURM but not in the grid, and cancel them if asked to."""
    for name, job in removed.items():
        print(f"  {name:<30} no longer in the grid, but {describe_job(job)}")
    if not removed:
        return
    if not settings.cancel_removed:
        print("  cancel_removed=true cancels them")
    elif not settings.dry_run:
        cancel([job.id for job in removed.values()])
        print(f"  cancelled: {', '.join(removed)}")
