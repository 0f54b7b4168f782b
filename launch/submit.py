"""Run a grid: python launch/submit.py grid=table1 [config=demo] [key=value ...] [dry_run=true]

Writes the shards if there are none, trains the image generator, then runs all other cells, several
at a time. The same command again skips what is done and continues what is not.
"""

import shlex
import signal
import sys
from collections.abc import Sequence

from pydantic import NonNegativeInt

from launch.grid import CELL_KEYS, Cell, Grid, GridSettings, read_grid
from launch.job import TrainJob
from launch.local import Failure, find_devices, run_queue
from launch.state import ERROR, State, check_unchanged, read_progress, read_state
from maskrestore.config import DataConfig, RunConfig, SourceConfig
from maskrestore.files import write_atomically
from maskrestore.manifest import MANIFEST, read_manifest
from maskrestore.program import count_cores, run_program
from maskrestore.result import read_result
from maskrestore.settings import ConfigError, UserError


class SubmitConfig(GridSettings):
    """The words of this program."""

    parallel: NonNegativeInt = 0
    """Cells at a time on this machine; 0 is one per GPU, or without a GPU one per core."""
    dry_run: bool = False
    """Print the plan and start nothing."""


def main(words: Sequence[str]) -> int:
    """Run the grid; 0 if every cell is done, 1 if one failed, 2 if the user can mend it."""
    settings, grid = read_grid(SubmitConfig, words)
    check_unchanged(grid)
    check_source(settings.data)
    states = {cell.name: read_state(cell) for cell in grid.cells}
    print_plan(grid, states, settings.data)
    if settings.dry_run:
        return 0
    check_idle(grid, states)
    write_missing_shards(settings.data)

    again = shlex.join(["python", "launch/submit.py", *words])
    first = grid.generator_cell
    waiting = [cell for cell in grid.cells if states[cell.name].kind != "done"]
    try:
        failures = run_cells(grid, [cell for cell in waiting if cell is first], settings)
        others = [cell for cell in waiting if cell is not first]
        if failures:
            print(f"not started, since they need the image generator: {len(others)} cells")
        else:
            check_unchanged(grid)
            failures = run_cells(grid, others, settings)
    except KeyboardInterrupt:
        print(f"\nstopped; to continue: {again}", file=sys.stderr)
        return 130
    report = [word for word in words if not word.startswith(("parallel=", "dry_run="))]
    print(f"the table so far: {shlex.join(['python', 'launch/report.py', *report])}")
    for name, failure in failures.items():
        print(f"cell {name} failed: {failure.message}\n  log: {failure.log}", file=sys.stderr)
    if failures:
        print(f"to try again: {again}", file=sys.stderr)
        return 2 if all(failure.by_user for failure in failures.values()) else 1
    return 0


def run_cells(grid: Grid, cells: Sequence[Cell], settings: SubmitConfig) -> dict[str, Failure]:
    """Run these cells on this machine; those that failed, whose run folder then says why."""
    if not cells:
        return {}
    by_name = {cell.name: cell for cell in cells}
    devices = [] if settings.distributed.device == "cpu" else find_devices()
    num_cores = count_cores()
    num_slots = min(settings.parallel or len(devices) or num_cores, len(cells))
    slots = [devices[slot % len(devices)] if devices else "" for slot in range(num_slots)]
    num_threads = settings.distributed.cpu_threads or max(1, num_cores // num_slots)
    jobs = {}
    for name, cell in by_name.items():
        (cell.folder / ERROR).unlink(missing_ok=True)
        jobs[name] = TrainJob(_with_threads(cell.config, num_threads))
    failures = run_queue(
        jobs,
        slots,
        grid.folder / "logs",
        lambda name: read_progress(by_name[name]),
        lambda name: summary(by_name[name]),
    )
    for name, failure in failures.items():
        folder = by_name[name].folder
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ERROR, f"{failure.message}\nlog: {failure.log}\n".encode())
    return failures


def summary(cell: Cell) -> str:
    """What a cell that is done reached, in a line."""
    metrics = read_result(cell.folder)["metrics"]
    shown = [
        f"{name} {factor * metrics[key]:.1f}"
        for key, name, factor in (
            ("accu", "accu", 100),
            ("miou19", "mIoU (19)", 100),
            ("fid", "FID", 1),
            ("fd_lite0", "fd_lite0", 1),
        )
        if metrics.get(key) is not None
    ]
    return "  ".join(["done", *shown])


def print_plan(grid: Grid, states: dict[str, State], data: DataConfig) -> None:
    """Each cell, where it stands and where it lies."""
    shards = "there" if _has_shards(data) else f"to be written from {data.source}, {data.size}"
    print(f"grid {grid.name} in {grid.folder}\n  shards {data.shards}: {shards}")
    for cell in grid.cells:
        state = states[cell.name]
        seen, total = state.progress.num_images, state.progress.total_images
        work = f"to run, {total} images" if total else "to evaluate"
        if state.kind in ("stopped", "failed") and seen:
            work = f"to continue at {seen} of {total} images"
        if state.kind in ("done", "running"):
            work = str(state)
        if state.kind == "failed":
            work += " (failed the last time)"
        print(f"  {cell.name:<30} {work:<42} {cell.folder}")


def check_source(data: DataConfig) -> None:
    """ConfigError if the shards are others than the settings say, or are missing and cannot be
    written for want of the raw data; UserError if their manifest is damaged or cannot be fetched.
    """
    if data.url:
        from maskrestore.shard_cache import fetch_manifest  # webdataset takes seconds to import

        fetch_manifest(data)
    if _has_shards(data):
        written = read_manifest(data.shards)["settings"]
        asked = data.model_dump(mode="json", include=set(SourceConfig.model_fields) - {"root"})
        differing = [
            f"  data.{name}: {written[name]} there, {value} asked for"
            for name, value in asked.items()
            if name in written and written[name] != value
        ]
        if differing:
            lines = "\n".join(differing)
            raise ConfigError(
                f"the shards in {data.shards} were written with other settings:\n{lines}\n"
                "give these, or another folder as data.shards=DIR"
            )
    elif data.source != "streetscenes" and data.root is None:
        raise ConfigError(
            f"data.shards={data.shards}: no finished shards there, and nothing to write them from: "
            f"give data.root=FOLDER of {data.source}, or the folder of finished shards"
        )


def check_idle(grid: Grid, states: dict[str, State]) -> None:
    """UserError if another process is at work on the grid."""
    busy = [name for name, state in states.items() if state.kind == "running"]
    if busy:
        raise UserError(
            f"{grid.folder}: other processes are at work on {', '.join(busy)}; let them end or "
            "stop them, or give runs=OTHER_FOLDER"
        )


def write_missing_shards(data: DataConfig) -> None:
    """Write data.shards unless they are there, whole."""
    if _has_shards(data):
        return
    from shards.write import WriteConfig, write_shards

    source = {name: getattr(data, name) for name in SourceConfig.model_fields}
    write_shards(WriteConfig(**source, out=data.shards))


def _has_shards(data: DataConfig) -> bool:
    return (data.shards / MANIFEST).is_file()


def _with_threads(config: RunConfig, num_threads: int) -> RunConfig:
    threads = config.distributed.model_copy(update={"cpu_threads": num_threads})
    return config.model_copy(update={"distributed": threads})


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run_program(main, __doc__ or "", SubmitConfig, CELL_KEYS))
