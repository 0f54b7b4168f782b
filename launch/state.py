"""How far a cell is, read from its run folder."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from launch.grid import Cell, Grid
from maskrestore.drift import differing_keys, read_run_config
from maskrestore.files import file_sha256, is_locked
from maskrestore.result import read_result
from maskrestore.settings import ConfigError, UserError

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
    num_images = total_images = 0
    speed = 0.0
    losses: dict[str, float] = {}
    for line in _last_lines(folder / "metrics.jsonl"):
        seen, total = line.get("num_images"), line.get("total_images")
        num_images = seen if isinstance(seen, int) else num_images
        total_images = total if isinstance(total, int) else total_images
        losses, speed = line.get("losses", losses), line.get("images_per_second", speed)
    return Progress(num_images, total_images, losses, speed)


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
    found = []
    path = cell.folder / "config.yaml"
    if path.is_file():
        found += differing_keys(read_run_config(path), cell.config)
    if (cell.folder / "result.json").is_file():
        then, generator = (
            read_result(cell.folder).get("generator_sha256"),
            cell.config.generator.path,
        )
        if then is not None and generator is not None and generator.is_file():
            now = file_sha256(generator)
            if then != now:
                found.append(f"generator {str(then)[:12]} -> {now[:12]}")
    return found


def _last_lines(path: Path, num_bytes: int = 8192) -> list[dict[str, Any]]:
    """The whole JSON lines at the end of a file that may be growing."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - num_bytes))
            tail = file.read().splitlines()
    except FileNotFoundError:
        return []
    lines = []
    for text in tail:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # cut off: at the seek, or still being written
        if isinstance(line, dict):
            lines.append(line)
    return lines
