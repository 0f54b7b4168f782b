"""Where a grid stands: python launch/status.py grid=table1 [config=demo] [watch=true]

watch=true        keep the table up to date, until everything is done
logs=CELL         what the cell's first task printed; with watch=true as it goes on
cancel=CELL,...   take cells out of SLURM's queue, running ones after a save (all: every one)
retry=CELL,...    hand cells to SLURM again that failed or were given up, as they were handed over
                  before, but for the words profile=, slurm.NAME= and parallel= that are given now

All words of submit.py may stand here as well. A grid that restores masks (grid=densify_extra) has a
line for each of its parts, and watch=true alone.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.grid.cell_table import Line, Screen, print_table
from launch.grid.cells import CELL_KEYS, Grid, read_grid
from launch.slurm.commands import cancel, has_slurm
from launch.slurm.handover import SubmitConfig, choose_cells, submit_grid
from launch.slurm.restore_array import (
    RestoreArrayConfig,
    is_restoration,
    jobs_folder,
    read_settings,
)
from launch.slurm.status_table import describe_all, describe_others, parts_of, show_log, work_of
from launch.slurm.submission import Queue, Submission, read_queue, read_submissions
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
    """Cells to hand to SLURM again, with commas between them; what they ask for is what they asked
    for before, unless profile, slurm.NAME and parallel say otherwise."""


class RestoreStatusConfig(RestoreArrayConfig):
    """Its words for a grid that restores masks."""

    watch: bool = False
    """Go on until everything is done, or Ctrl-C."""


View = tuple[list[Line], list[str]]
"""The table's lines, and what is to be said of other jobs."""


def main(words: Sequence[str]) -> int:
    """Show the table, or do what is asked; 1 if a cell has failed."""
    if is_restoration(words):
        restoration, _ = read_settings(RestoreStatusConfig, words)
        folder, output = jobs_folder(restoration.output), restoration.output
        title = f"{restoration.grid} in {output}"
        on_slurm = has_slurm(restoration.cluster)
        return show(title, lambda asks: look_at_parts(folder, asks), restoration.watch, on_slurm)
    settings, grid = read_grid(StatusConfig, words)
    on_slurm = has_slurm(settings.cluster)
    if settings.retry:
        return retry(words, grid, settings.retry, on_slurm)
    if settings.cancel:
        cancel_cells(grid, settings.cancel, on_slurm)
        return 0
    if settings.logs:
        show_log(grid, settings.logs, settings.watch)
        return 0
    title = f"{grid.name} in {grid.folder}"
    return show(title, lambda asks: look(grid, asks), settings.watch, on_slurm)


def look(grid: Grid, asks_slurm: bool) -> View:
    """The cells of a grid. Raises UserError if SLURM is there and silent."""
    queue, submissions = read_queue(grid.folder) if asks_slurm else (Queue({}, {}), [])
    works = [work_of(cell) for cell in grid.cells]
    return describe_all(works, queue, submissions), describe_others(queue)


def look_at_parts(folder: Path, asks_slurm: bool) -> View:
    """The parts of a restoration, whose jobs were handed over in this folder."""
    queue, submissions = (
        read_queue(folder) if asks_slurm else (Queue({}, {}), read_submissions(folder))
    )
    works = parts_of(submissions)
    others = [] if works else [f"{folder}: nothing was handed to SLURM for this output folder"]
    return describe_all(works, queue, submissions if asks_slurm else []), others


def show(title: str, look: Callable[[bool], View], watches: bool, on_slurm: bool) -> int:
    """Print what `look(whether to ask SLURM)` tells; the exit status. watches: again and again,
    until nothing moves any more."""
    if not watches:
        lines, others = look(on_slurm)
        print_table(title, lines, others)
        return status_of(lines)
    with Screen() as screen:
        while True:
            try:
                lines, others = look(on_slurm)
                is_moving = any(line.state in ("running", "waiting", "held") for line in lines)
            except UserError as error:  # SLURM may be back at the next look
                lines, _ = look(False)
                others, is_moving = [str(error)], True
            screen.show(title, lines, others)
            if not is_moving:
                return status_of(lines)
            time.sleep(WATCH_SECONDS)


def status_of(lines: Sequence[Line]) -> int:
    """1 if a cell has failed."""
    return int(any(line.state in ("failed", "gave up", "ended", "unreadable") for line in lines))


def retry(words: Sequence[str], grid: Grid, names: str, on_slurm: bool) -> int:
    """Hand cells over again, those together that were handed over alike; the exit status."""
    own = ("retry=", "watch=", "cells=")
    others = [word for word in words if not word.startswith(own)]
    submissions = read_submissions(grid.folder) if on_slurm else []
    alike: dict[str, tuple[Submission | None, list[str]]] = {}
    choose_cells(grid, names)  # all mistakes before the first is handed over
    for name in (name.strip() for name in names.split(",")):
        before = next((one for one in reversed(submissions) if name in one.cells), None)
        key = json.dumps([before.slurm, before.parallel] if before else None)
        alike.setdefault(key, (before, []))[1].append(name)
    return max(
        submit_grid([*others, f"cells={','.join(cells)}"], before)
        for before, cells in alike.values()
    )


def cancel_cells(grid: Grid, names: str, on_slurm: bool) -> None:
    """Cancel cells that SLURM has. Raises ConfigError for names of none."""
    if not on_slurm:
        raise UserError("cancel: there is no SLURM here; press Ctrl-C where submit.py runs")
    queue, _ = read_queue(grid.folder)
    chosen = list(queue.cells) if names == "all" else [name.strip() for name in names.split(",")]
    known = {cell.name for cell in grid.cells} | queue.cells.keys()
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ConfigError(f"cancel={','.join(unknown)}: no such cells; there are: {sorted(known)}")
    cancel([queue.cells[name].id for name in chosen if name in queue.cells])
    for name in chosen:
        job = queue.cells.get(name)
        print(f"{name}: " + (f"job {job.id} cancelled" if job else "not with SLURM"))


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, StatusConfig, CELL_KEYS))
