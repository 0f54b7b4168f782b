"""A grid handed to SLURM: what is still to be done, as jobs that wait for each other."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.grid.cells import Cell, Grid
from launch.grid.missing_shards import has_shards
from launch.slurm.commands import QueuedJob
from launch.slurm.jobs import ReportJob, ShardsJob, TrainTask
from launch.slurm.resources import SlurmConfig
from launch.slurm.submission import (
    Queue,
    Step,
    Submission,
    queued_cells,
    queued_jobs,
    read_submissions,
)
from maskrestore.config.hardware import needs_gpu, uneven_share
from maskrestore.config.run import RunConfig
from maskrestore.config.settings import validate
from maskrestore.runs.resume_check import differing_keys
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import lock


def read_queue(grid: Grid) -> tuple[Queue, list[Submission]]:
    """The grid's jobs in SLURM, and all its submissions that are whole. Raises UserError if SLURM
    is silent."""
    submissions = [each for each in read_submissions(grid.folder) if each.is_whole]
    queued = queued_jobs(submissions)
    others: dict[str, list[QueuedJob]] = {}
    for submission, job in queued:
        others.setdefault(submission.kind, []).append(job)
    return Queue(queued_cells(queued), others), submissions


@contextmanager
def held(folder: Path, patience_seconds: float = 300) -> Iterator[None]:
    """The grid folder, for this process alone; another submit.py at work is waited for."""
    deadline, told = time.monotonic() + patience_seconds, False
    while True:
        try:
            file = lock(folder)
            break
        except UserError as error:
            if time.monotonic() > deadline:
                raise UserError(f"{folder}: another submit.py is at work on this grid") from error
            if not told:
                print(f"waiting for another submit.py at work on {folder}", file=sys.stderr)
                told = True
            time.sleep(1)
    with file:
        yield


def check_cells(cells: Sequence[Cell], wanted: SlurmConfig) -> None:
    """ConfigError with all cells that these tasks cannot run."""
    mistakes = []
    for cell in cells:
        if cell.config.trains:
            mistakes += uneven_share(cell.config, wanted.num_tasks, "tasks")
        if not wanted.gpus_per_node:
            mistakes += needs_gpu(cell.config, ", but slurm.gpus_per_node=0")
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))


def check_queued(grid: Grid, queue: Queue, submissions: Sequence[Submission]) -> None:
    """ConfigError if cells wait in the queue with settings that would give another result."""
    saved = {name: each.cells[name] for each in submissions for name in each.cells}
    mistakes = []
    for cell in grid.cells:
        if cell.name in queue.cells:
            asked = validate(RunConfig, saved[cell.name])
            mistakes += [f"cell {cell.name}: {line}" for line in differing_keys(asked, cell.config)]
    if mistakes:
        raise ConfigError(
            "these cells are in the queue with other settings:\n  "
            + "\n  ".join(mistakes)
            + "\ngive those again, or cancel them first (launch/status.py cancel=CELL), or give "
            "runs=OTHER_FOLDER"
        )


def plan_steps(
    grid: Grid, waiting: Sequence[Cell], queue: Queue, wanted: SlurmConfig, report: Sequence[str]
) -> list[Step]:
    """The jobs that are neither done nor queued, each behind those that it waits for.

    report: the words of launch/report.py.
    """
    data = grid.cells[0].config.data
    first = grid.generator_cell
    steps: list[Step] = []
    if waiting and not has_shards(data) and not data.url and not queue.ids("shards"):
        steps.append(Step("shards", [ShardsJob(data)], {}, wanted.single_task))
    for kind, cells, needed in (
        ("generator", [cell for cell in waiting if cell is first], ("shards",)),
        ("cells", [cell for cell in waiting if cell is not first], ("shards", "generator")),
    ):
        if cells:
            configs = {cell.name: cell.config for cell in cells}
            jobs: list[Callable[[], Any]] = [TrainTask(_on(c, wanted)) for c in configs.values()]
            after = tuple(("afterok", each) for each in needed)
            steps.append(Step(kind, jobs, configs, wanted, after))
    # Also where a submit.py died just before it: the report must come.
    if steps or (queue.cells and not queue.ids("report")):
        after = tuple(("afterany", each) for each in ("shards", "generator", "cells"))
        steps.append(Step("report", [ReportJob(report)], {}, wanted.single_task, after))
    return steps


def _on(config: RunConfig, wanted: SlurmConfig) -> RunConfig:
    """The settings of a cell with what it must come up with."""
    # SLURM gives a task one core unless told otherwise, but not every cluster holds it to that.
    threads = config.distributed.cpu_threads or max(1, wanted.cpus_per_task)
    update = {"num_processes": wanted.num_tasks, "cpu_threads": threads}
    return config.model_copy(update={"distributed": config.distributed.model_copy(update=update)})
