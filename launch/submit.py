"""Run a grid: python launch/submit.py grid=table1 [config=demo] [key=value ...] [dry_run=true]

Writes the shards if there are none, trains the image generator, then runs all other cells, several
at a time. The same command again skips what is done and continues what is not.
grid=densify_extra is another kind of grid, which restores masks: see its own --help.
"""

import re
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

from pydantic import NonNegativeInt

from launch import restore_array
from launch.cluster import QueuedJob, cancel, has_slurm
from launch.grid import CELL_KEYS, Cell, Grid, GridSettings, read_grid
from launch.inputs import check_source, has_shards, write_missing_shards
from launch.job import TrainJob
from launch.local import Failure, find_devices, run_queue
from launch.resources import SlurmConfig, check_resources, read_partitions, with_profile
from launch.restore_array import RestoreArrayConfig
from launch.schedule import (
    check_cells,
    check_queued,
    held,
    plan_steps,
    read_queue,
    show_scripts,
    submit_steps,
)
from launch.state import ERROR, State, check_unchanged, read_progress, read_state
from launch.submission import read_submissions, withdraw
from maskrestore.config import RunConfig
from maskrestore.data_config import DataConfig
from maskrestore.files import write_atomically
from maskrestore.program import count_cores, run_program
from maskrestore.result import read_result
from maskrestore.settings import ConfigError, UserError


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


def main(words: Sequence[str]) -> int:
    """Run the grid, or hand it to SLURM; 0 if every cell is done or handed over, 1 if one failed, 2
    if the user can mend it."""
    settings, grid = read_grid(SubmitConfig, words)
    chosen = choose_cells(grid, settings.cells)
    check_unchanged(grid)
    check_source(settings.data)
    if has_slurm(settings.cluster):
        wanted = with_profile(settings.profile, settings.slurm)
        return run_on_slurm(settings, grid, chosen, wanted, report_words(words))
    states = {cell.name: read_state(cell) for cell in grid.cells}
    print_plan(grid, {name: describe(state) for name, state in states.items()}, settings.data)
    if settings.dry_run:
        return 0
    with held(grid.folder, patience_seconds=0):
        check_idle(grid, states)
        return run_here(settings, grid, chosen, words)


def run_here(
    settings: SubmitConfig, grid: Grid, chosen: Sequence[Cell], words: Sequence[str]
) -> int:
    """Run all cells that are not done on this machine, the image generator first."""
    again = shlex.join(["python", "launch/submit.py", *words])
    first = grid.generator_cell
    waiting = [cell for cell in chosen if read_state(cell).kind != "done"]
    try:
        write_missing_shards(settings.data)
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
    report = shlex.join(["python", "launch/report.py", *report_words(words)])
    print(f"the table so far: {report}")
    for name, failure in failures.items():
        print(f"cell {name} failed: {failure.message}\n  log: {failure.log}", file=sys.stderr)
    if failures:
        print(f"to try again: {again}", file=sys.stderr)
        return 2 if all(failure.by_user for failure in failures.values()) else 1
    return 0


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


def describe_job(job: QueuedJob) -> str:
    """Where a cell stands that SLURM has."""
    if job.state == "PENDING":
        return f"queued as job {job.id} ({job.reason})"
    return f"{job.state.lower()} as job {job.id} on {job.nodes}"


def check_idle(grid: Grid, states: Mapping[str, State]) -> None:
    """UserError if another process is at work on these cells."""
    busy = [name for name, state in states.items() if state.kind == "running"]
    if busy:
        raise UserError(
            f"{grid.folder}: other processes are at work on {', '.join(busy)}; let them end or "
            "stop them, or give runs=OTHER_FOLDER"
        )


def _with_threads(config: RunConfig, num_threads: int) -> RunConfig:
    threads = config.distributed.model_copy(update={"cpu_threads": num_threads})
    return config.model_copy(update={"distributed": threads})


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    if restore_array.is_asked_for(sys.argv[1:]):
        usage = restore_array.__doc__ or ""
        sys.exit(run_program(restore_array.main, usage, RestoreArrayConfig, ["part"]))
    sys.exit(run_program(main, __doc__ or "", SubmitConfig, CELL_KEYS))
