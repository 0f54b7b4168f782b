"""A grid handed to SLURM: what is still to be done, as jobs that wait for each other."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.grid.cells import Cell, Grid
from launch.grid.missing_shards import has_shards
from launch.slurm.jobs import ReportJob, ShardsJob, TrainTask
from launch.slurm.resources import SlurmConfig
from launch.slurm.sbatch import Step
from launch.slurm.submission import Queue, Submission
from maskrestore.config.hardware import needs_gpu, uneven_share
from maskrestore.config.run import RunConfig
from maskrestore.config.settings import paths_in, validate
from maskrestore.runs.resume_check import differing_keys
from maskrestore.utils.errors import ConfigError


def check_cells(cells: Sequence[Cell], resources: SlurmConfig) -> None:
    """ConfigError with all cells that these tasks cannot run."""
    mistakes = []
    for cell in cells:
        if cell.config.trains:
            mistakes += uneven_share(cell.config, resources.num_tasks, "tasks")
        if not resources.gpus_per_node:
            mistakes += needs_gpu(cell.config, ", but slurm.gpus_per_node=0")
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))


def check_queued(grid: Grid, queue: Queue, submissions: Sequence[Submission]) -> None:
    """ConfigError if cells wait in the queue with settings that would give another result."""
    submitted = {name: values for step in submissions for name, values in step.cells.items()}
    mistakes = []
    for cell in grid.cells:
        if cell.name in queue.cells:
            queued = validate(RunConfig, submitted[cell.name])
            different = differing_keys(queued, cell.config)
            mistakes += [f"cell {cell.name}: {line}" for line in different]
    if mistakes:
        raise ConfigError(
            "these cells are in the queue with other settings:\n  "
            + "\n  ".join(mistakes)
            + "\ngive those again, or cancel them first (launch/status.py cancel=CELL), or give "
            "runs=OTHER_FOLDER"
        )


def plan_steps(
    grid: Grid, waiting: Sequence[Cell], queue: Queue, resources: SlurmConfig, report: Sequence[str]
) -> list[Step]:
    """The jobs that are neither done nor queued, each behind those that it waits for.

    report: the words of launch/report.py.
    """
    data = grid.cells[0].config.data
    first = grid.generator_cell
    paths = frozenset(path for cell in grid.cells for path in _paths_of(cell.config))
    steps: list[Step] = []
    if waiting and not has_shards(data) and not data.url and not queue.ids("shards"):
        steps.append(Step("shards", [ShardsJob(data)], {}, resources.single_task, paths))
    for kind, cells, needed in (
        ("generator", [cell for cell in waiting if cell is first], ("shards",)),
        ("cells", [cell for cell in waiting if cell is not first], ("shards", "generator")),
    ):
        if cells:
            configs = {cell.name: cell.config for cell in cells}
            jobs: list[Callable[[], Any]] = [
                TrainTask(_on(config, resources)) for config in configs.values()
            ]
            settings = {name: config.model_dump(mode="json") for name, config in configs.items()}
            after = tuple(("afterok", forerunner) for forerunner in needed)
            steps.append(Step(kind, jobs, settings, resources, paths, after))
    # Also where a submit.py died just before it, or the job itself: the report must come.
    has_news = queue.cells or not is_reported(grid)
    if steps or (has_news and not queue.ids("report")):
        after = tuple(("afterany", forerunner) for forerunner in ("shards", "generator", "cells"))
        steps.append(Step("report", [ReportJob(report)], {}, resources.single_task, paths, after))
    return steps


def _paths_of(config: RunConfig) -> list[Path]:
    """What a cell's settings name, a generator's style among it."""
    style = config.generator.style_encoder
    return [*paths_in(config), *([] if style is None else [style])]


def is_reported(grid: Grid) -> bool:
    """Whether the report in the grid's folder is newer than all results that it should tell of."""
    results = [cell.folder / "result.json" for cell in grid.cells]
    times = [path.stat().st_mtime for path in results if path.is_file()]
    report = grid.folder / f"{grid.name}.md"
    return not times or (report.is_file() and report.stat().st_mtime >= max(times))


def _on(config: RunConfig, resources: SlurmConfig) -> RunConfig:
    """The settings of a cell with what it must come up with."""
    # SLURM gives a task one core unless told otherwise, but not every cluster holds it to that.
    threads = config.distributed.cpu_threads or max(1, resources.cpus_per_task)
    update = {"num_processes": resources.num_tasks, "cpu_threads": threads}
    return config.model_copy(update={"distributed": config.distributed.model_copy(update=update)})
