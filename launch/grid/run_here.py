"""A grid on this machine: the image generator's cell first, then the others, several at a time."""

import sys
from collections.abc import Sequence
from contextlib import suppress

from launch.grid.cells import Cell, Grid, GridSettings
from launch.grid.jobs import TrainJob
from launch.grid.local_queue import Failure, run_queue
from launch.grid.missing_shards import write_missing_shards
from launch.grid.state import ERROR, check_unchanged, read_progress, read_state
from maskrestore.config.run import RunConfig
from maskrestore.monitoring.targets import targets_folder, tell_failure
from maskrestore.runs.figures import FIGURES, IN_SHORT
from maskrestore.runs.result import read_result
from maskrestore.utils.files import write_atomically
from maskrestore.utils.gpu import mig_instances, named_gpus, present_gpus
from maskrestore.utils.system import count_cores


def run_here(
    grid: Grid,
    cells: Sequence[Cell],
    settings: GridSettings,
    parallel: int,
    again: str,
    report: str,
) -> int:
    """Run all of these cells that are not done, the image generator first; the exit status.

    parallel: cells at a time (0: one per GPU, or per core). again, report: the commands, for
    people, that continue, and that write the table.
    """
    first = grid.generator_cell
    waiting = [cell for cell in cells if read_state(cell).kind != "done"]
    try:
        write_missing_shards(settings.data)
        failures = run_cells(grid, [cell for cell in waiting if cell is first], settings, parallel)
        others = [cell for cell in waiting if cell is not first]
        if failures:
            print(f"not started, since they need the image generator: {len(others)} cells")
        else:
            check_unchanged(grid)
            failures = run_cells(grid, others, settings, parallel)
    except KeyboardInterrupt:
        print(f"\nstopped; to continue: {again}", file=sys.stderr)
        return 130
    print(f"the table so far: {report}")
    for name, failure in failures.items():
        print(f"cell {name} failed: {failure.message}\n  log: {failure.log}", file=sys.stderr)
    if failures:
        print(f"to try again: {again}", file=sys.stderr)
        return 2 if all(failure.by_user for failure in failures.values()) else 1
    return 0


def run_cells(
    grid: Grid, cells: Sequence[Cell], settings: GridSettings, parallel: int
) -> dict[str, Failure]:
    """Run these cells on this machine, at most `parallel` at a time (0: one per GPU, or per core).

    Returns those that failed, whose run folder then says why.
    """
    if not cells:
        return {}
    by_name = {cell.name: cell for cell in cells}
    devices = [] if settings.distributed.device == "cpu" else find_devices()
    num_cores = count_cores()
    num_slots = min(parallel or len(devices) or num_cores, len(cells))
    slots = [devices[slot % len(devices)] if devices else "" for slot in range(num_slots)]
    num_threads = settings.distributed.cpu_threads or max(1, num_cores // num_slots)
    jobs = {}
    for name, cell in by_name.items():
        (cell.folder / ERROR).unlink(missing_ok=True)
        jobs[name] = TrainJob(_with_threads(cell.config, num_threads))
    failures = run_queue(
        f"{grid.name} in {grid.folder}",
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
        telemetry = by_name[name].config.telemetry
        if telemetry.serve and not failure.by_user:  # else it has told that by itself
            with suppress(OSError, ValueError):
                tell_failure(telemetry.targets or targets_folder(folder), folder, failure.message)
    return failures


def summary(cell: Cell) -> str:
    """The figures that a cell reached, in a line."""
    metrics = read_result(cell.folder)["metrics"]
    keys = [key for key in IN_SHORT if metrics.get(key) is not None]
    num_evaluated = len(cell.config.data.labels.evaluated)
    names = {key: FIGURES[key].heading(num_evaluated) for key in keys}
    return "  ".join(f"{names[key]} {FIGURES[key].text(metrics[key])}" for key in keys)


def _with_threads(config: RunConfig, num_threads: int) -> RunConfig:
    threads = config.distributed.model_copy(update={"cpu_threads": num_threads})
    return config.model_copy(update={"distributed": threads})


def find_devices() -> list[str]:
    """One CUDA_VISIBLE_DEVICES value per GPU that this process may use, or per instance of one that
    MIG cuts up; none without a GPU.

    Also of GPUs that do not work: the cell that gets one says why.
    """
    names, gpus = named_gpus(), present_gpus()
    if names is None or not gpus:
        return mig_instances() or [str(index) for index in range(len(gpus))]
    return names
