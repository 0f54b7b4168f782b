"""What the run folders under a folder tell, also of runs that ended long ago."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from launch.grid.state import ERROR, Progress, progress_in, state_in
from maskrestore.runs.figures import FIGURES, IN_SHORT
from maskrestore.runs.metrics_file import METRICS
from maskrestore.runs.result import read_result
from maskrestore.utils.errors import UserError

KEEP_SECONDS = 2.0
"""How long an answer serves others who ask: many pages cost no more than one."""
NO_GRIDS = ("prometheus", "targets")
"""Folders beside the grids that hold no runs."""
GARBAGE = (OSError, ValueError, TypeError, ArithmeticError, RecursionError)
"""What JSON that others wrote can lead to: numbers without end, brackets without end."""

Content = TypeVar("Content")


@dataclass(frozen=True)
class Listing:
    """All runs, as JSON has them, and a line for each thing that could not be read."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class RunList:
    """The runs RUNS/RUN and RUNS/GRID/RUN; reads again only files that have changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._kept: tuple[float, Listing] = (-math.inf, Listing())
        self._cache: dict[Path, tuple[tuple[int, int], Any]] = {}

    def read(self) -> Listing:
        """What there is now, or was a moment ago. Raises nothing for whatever lies there."""
        with self._lock:
            when, listing = self._kept
            if time.monotonic() - when > KEEP_SECONDS:
                listing = self._read()
                self._kept = (time.monotonic(), listing)
            return listing

    def _read(self) -> Listing:
        listing = Listing()
        for folder in _run_folders(self._folder, listing.left_out):
            try:
                run, mistake = self._describe(folder)
            except (UserError, *GARBAGE) as error:
                listing.left_out.append(f"{_name(folder)}: {error!r}")
                continue
            listing.runs.append(run)
            if mistake:
                listing.left_out.append(f"{_name(folder)}: {mistake}")
        return listing

    def _describe(self, folder: Path) -> tuple[dict[str, Any], str]:
        progress = self._cached(folder / METRICS, lambda _: progress_in(folder))
        progress = progress or Progress(0, 0, {})
        state: str = state_in(folder, progress).kind
        run = {
            "grid": _text(folder.parent.resolve().name),  # as the run's own labels have it
            "run": _text(folder.name),
            "state": "stopped" if state == "missing" else state,
            "num_images": progress.num_images,
            "total_images": progress.total_images,
            "progress": 1.0 if state == "done" else _share(progress),
            "changed": _changed(folder / METRICS),
            "starts": self._cached(folder / "starts", _read_number) or 0,
            "error": "",
            "figures": [],
        }
        if state == "failed":
            run["error"] = self._cached(folder / ERROR, _read_error) or ""
        mistake = ""
        if state == "done":
            try:
                run["figures"] = self._cached(folder / "result.json", _read_figures) or []
            except UserError as error:
                mistake = " ".join(str(error).split())
                run |= {"state": "unreadable", "progress": _share(progress), "error": mistake}
        return run, mistake

    def _cached(self, path: Path, read: Callable[[Path], Content]) -> Content | None:
        """read(path) as of the file's last change; None where there is no file."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        stamp = (status.st_mtime_ns, status.st_size)
        if self._cache.get(path, (None,))[0] != stamp:
            self._cache[path] = (stamp, read(path))
        value: Content = self._cache[path][1]
        return value


def _run_folders(folder: Path, left_out: list[str]) -> Iterator[Path]:
    for outer in _folders(folder, left_out):
        if outer.name in NO_GRIDS:
            continue
        if _is_run(outer):
            yield outer
            continue  # what lies in a run are its own things
        yield from (inner for inner in _folders(outer, left_out) if _is_run(inner))


def _folders(folder: Path, left_out: list[str]) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in entries if entry.is_dir())
    except FileNotFoundError:  # nothing was run yet, or it was deleted just now
        return []
    except OSError as error:
        left_out.append(f"{_name(folder)}: {error.strerror}")
        return []


def _is_run(folder: Path) -> bool:
    """Whether a run began here, or a job that failed before it could."""
    with suppress(OSError):
        return (folder / "config.yaml").is_file() or (folder / ERROR).is_file()
    return False


def _share(progress: Progress) -> float | None:
    if not progress.total_images:
        return None
    return min(1.0, progress.num_images / progress.total_images)


def _changed(path: Path) -> float | None:
    """Time of the last change, in Unix seconds."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _read_number(path: Path) -> int:
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    return int(text) if text.isdecimal() else 0


def _read_error(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8", errors="replace").split())[:400]


def _read_figures(path: Path) -> list[tuple[str, float, str]]:
    """Name, value and unit of accu, miou19 and the image distance; what was not measured is not
    there."""
    metrics = read_result(path.parent)["metrics"]
    values = {key: metrics[key] for key in IN_SHORT if metrics.get(key) is not None}
    return [
        (FIGURES[key].short, float(value), "ratio" if FIGURES[key].is_share else "plain")
        for key, value in values.items()
        if math.isfinite(value)
    ]


def _name(folder: Path) -> str:
    return _text(f"{folder.parent.name}/{folder.name}")


def _text(name: str) -> str:
    """A name of the file system, which may hold any bytes, as text that a page can show."""
    return os.fsencode(name).decode(errors="replace")
