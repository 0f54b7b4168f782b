"""How far a cell is, read from its run folder."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from launch.grid.cells import Cell, Grid
from launch.grid.missing_shards import has_shards
from maskrestore.config.data import DataConfig
from maskrestore.runs.metrics_file import newest_first
from maskrestore.runs.result import read_result
from maskrestore.runs.resume_check import differing_keys, read_run_config
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import file_sha256, is_locked, lock

ERROR = "error.txt"
"""In the run folder of a cell whose last attempt failed: why."""


@dataclass(frozen=True)
class Progress:
    """Images seen, images of the whole run, and the unweighted loss terms of the last report."""

    num_images: int
    total_images: int
    losses: dict[str, float]
    images_per_second: float = 0.0


@dataclass(frozen=True)
class State:
    """Where a cell stands; `missing` is one that nobody started, `unreadable` one whose files a
    report cannot read."""

    kind: Literal["done", "running", "failed", "stopped", "missing", "unreadable"]
    progress: Progress

    def __str__(self) -> str:
        seen, total = self.progress.num_images, self.progress.total_images
        if self.kind in ("running", "stopped") and total:
            return f"{self.kind} {100 * seen // total} %"
        return self.kind


def read_progress(cell: Cell) -> Progress:
    """The end of metrics.jsonl; cheap enough to be called every second."""
    return replace(progress_in(cell.folder), total_images=cell.config.total_images)


def progress_in(folder: Path) -> Progress:
    """The same for any run folder: its size is what metrics.jsonl says itself, or else 0."""
    newest: dict[str, Any] = {}
    for line in newest_first(folder):
        newest = line | newest
        if "losses" in newest:  # the last report's; evaluations come behind it
            break
    total = newest.get("total_images")
    return Progress(
        newest.get("num_images", 0),
        total if isinstance(total, int) else 0,
        newest.get("losses", {}),
        newest.get("images_per_second", 0.0),
    )


def read_state(cell: Cell) -> State:
    """What the run folder tells."""
    return state_in(cell.folder, read_progress(cell))


def state_in(folder: Path, progress: Progress) -> State:
    """The same for any run folder, whose progress is known."""
    if is_locked(folder):
        return State("running", progress)
    if (folder / "result.json").is_file():
        return State("done", progress)
    if (folder / ERROR).is_file():
        return State("failed", progress)
    return State("stopped" if progress.num_images else "missing", progress)


def check_unchanged(grid: Grid) -> None:
    """Refuse run folders that hold another experiment than the grid's.

    Raises ConfigError that names every cell started with settings that give another result, every
    result made with an image generator that is no longer there, and every unreadable file.
    """
    mistakes = []
    for cell in grid.cells:
        try:
            different = _differences(cell)
        except (ConfigError, UserError) as error:
            different = [" ".join(str(error).splitlines())]
        mistakes += [f"cell {cell.name}: {line}" for line in different]
    if mistakes:
        raise ConfigError(
            f"{grid.folder} cannot be continued with these settings:\n  "
            + "\n  ".join(mistakes)
            + "\ngive those again, or runs=OTHER_FOLDER for a new grid, or delete these cells"
        )


def _differences(cell: Cell) -> list[str]:
    """What in its run folder is of another experiment than the cell."""
    different = []
    path = cell.folder / "config.yaml"
    if path.is_file():
        different += differing_keys(read_run_config(path), cell.config)
    if (cell.folder / "result.json").is_file():
        then = read_result(cell.folder).get("generator_sha256")
        generator = cell.config.generator.path
        if then is not None and generator is not None and generator.is_file():
            now = file_sha256(generator)
            if then != now:
                different.append(f"generator {str(then)[:12]} -> {now[:12]}")
    return different


def print_plan(grid: Grid, plan: Mapping[str, str], data: DataConfig) -> None:
    """Each cell, what becomes of it and where it lies."""
    shards = "there" if has_shards(data) else f"to be written from {data.source}, {data.size}"
    print(f"grid {grid.name} in {grid.folder}\n  shards {data.shards}: {shards}")
    for cell in grid.cells:
        print(f"  {cell.name:<30} {plan[cell.name]:<42} {cell.folder}")


def describe(state: State) -> str:
    """What is to be done with a cell that no job of SLURM has."""
    seen, total = state.progress.num_images, state.progress.total_images
    if state.kind in ("done", "running"):
        return str(state)
    work = f"to run, {total} images" if total else "to evaluate"
    if state.kind in ("stopped", "failed") and seen:
        work = f"to continue at {seen} of {total} images"
    return work + (" (failed the last time)" if state.kind == "failed" else "")


def check_idle(grid: Grid, states: Mapping[str, State]) -> None:
    """UserError if another process is at work on these cells."""
    busy = [name for name, state in states.items() if state.kind == "running"]
    if busy:
        raise UserError(
            f"{grid.folder}: other processes are at work on {', '.join(busy)}; let them end or "
            "stop them, or give runs=OTHER_FOLDER"
        )


@contextmanager
def held(folder: Path, patience_seconds: float = 300) -> Iterator[None]:
    """The grid folder, for this process alone; another submit.py at work is waited for."""
    deadline, was_told = time.monotonic() + patience_seconds, False
    while True:
        try:
            file = lock(folder)
            break
        except UserError as error:
            if time.monotonic() > deadline:
                raise UserError(f"{folder}: another submit.py is at work on this grid") from error
            if not was_told:
                print(f"waiting for another submit.py at work on {folder}", file=sys.stderr)
                was_told = True
            time.sleep(1)
    with file:
        yield
