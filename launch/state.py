"""How far a cell is, read from its run folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launch.grid import Cell, Grid
from launch.job import is_locked
from maskrestore.config import RunConfig, differing_keys
from maskrestore.files import file_sha256
from maskrestore.settings import ConfigError, UserError, parse

ERROR = "error.txt"
"""In the run folder of a cell whose last attempt failed: why."""


@dataclass(frozen=True)
class Progress:
    """Images seen, images of the whole run, and the unweighted loss terms of the last report."""

    num_images: int
    total_images: int
    losses: dict[str, float]


@dataclass(frozen=True)
class State:
    """Where a cell stands; `missing` is one that nobody started."""

    kind: Literal["done", "running", "failed", "stopped", "missing"]
    progress: Progress

    def __str__(self) -> str:
        seen, total = self.progress.num_images, self.progress.total_images
        if self.kind in ("running", "stopped") and total:
            return f"{self.kind} {100 * seen // total} %"
        return self.kind


def read_progress(cell: Cell) -> Progress:
    """The end of metrics.jsonl; cheap enough to be called every second."""
    num_images = 0
    losses: dict[str, float] = {}
    for line in _last_lines(cell.folder / "metrics.jsonl"):
        num_images = int(line.get("num_images", num_images))
        losses = line.get("losses", losses)
    return Progress(num_images, cell.config.total_images, losses)


def read_state(cell: Cell) -> State:
    """What the run folder tells."""
    progress = read_progress(cell)
    if is_locked(cell.folder):
        return State("running", progress)
    if (cell.folder / "result.json").is_file():
        return State("done", progress)
    if (cell.folder / ERROR).is_file():
        return State("failed", progress)
    return State("stopped" if progress.num_images else "missing", progress)


def read_result(cell: Cell) -> dict[str, Any]:
    """result.json of a cell that is done; UserError if it cannot be read."""
    path = cell.folder / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return {**result, "metrics": dict(result["metrics"]), "protocol": dict(result["protocol"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a result: {error!r}; delete it and submit again") from error


def check_unchanged(grid: Grid) -> None:
    """Refuse run folders that hold another experiment than the grid's.

    Raises ConfigError that names every cell started with settings that give another result, and
    every result made with an image generator that is no longer there.
    """
    mistakes = []
    for cell in grid.cells:
        path = cell.folder / "config.yaml"
        if path.is_file():
            different = differing_keys(parse(RunConfig, [f"config={path}"]), cell.config)
            mistakes += [f"cell {cell.name}: {line}" for line in different]
        generator = cell.config.generator.path
        if (cell.folder / "result.json").is_file() and generator and generator.is_file():
            then, now = read_result(cell).get("generator_sha256"), file_sha256(generator)
            if then not in (None, now):
                mistakes.append(f"cell {cell.name}: generator {then[:12]} -> {now[:12]}")
    if mistakes:
        raise ConfigError(
            f"{grid.folder} was made with other settings:\n  "
            + "\n  ".join(mistakes)
            + "\ngive those again, or runs=OTHER_FOLDER for a new grid, or delete these cells"
        )


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
