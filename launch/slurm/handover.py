"""A grid is run on this machine, or handed to SLURM: what is neither done nor there already."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

from pydantic import NonNegativeInt

from launch.grid.cells import Cell, Grid, GridSettings, read_grid
from launch.grid.missing_shards import check_source
from launch.grid.snapshot import snapshot
from launch.grid.state import check_idle, check_unchanged, describe, held, print_plan, read_state
from launch.slurm.commands import QueuedJob, cancel, has_slurm
from launch.slurm.holds import describe_hold, describe_job, hold_of
from launch.slurm.plan import check_cells, check_queued, plan_steps
from launch.slurm.relaunch import send_elsewhere
from launch.slurm.resources import SlurmConfig, check_resources, read_partitions, with_profile
from launch.slurm.sbatch import Step, check_steps, show_step
from launch.slurm.submission import (
    Queue,
    Submission,
    read_queue,
    submit_step,
    withdraw_left_over,
)
from maskrestore.config.settings import merge, validate
from maskrestore.utils.errors import ConfigError


class SubmitConfig(GridSettings):
    """The words of launch/submit.py."""

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


def submit_grid(words: Sequence[str], before: Submission | None = None) -> int:
    """Run the grid, or hand it to SLURM; 0 if every cell is done or handed over, 1 if one failed, 2
    if the user can mend it.

    before: a submission that SLURM is asked for the same as, but for what the words say of that.
    """
    settings, grid = read_grid(SubmitConfig, words)
    cells = choose_cells(grid, settings.cells)
    check_unchanged(grid)
    check_source(settings.data)
    if has_slurm(settings.cluster):
        settings, resources = ask_for(settings, before)
        return run_on_slurm(settings, grid, cells, resources, report_words(words))
    states = {cell.name: read_state(cell) for cell in grid.cells}
    print_plan(grid, {name: describe(state) for name, state in states.items()}, settings.data)
    if settings.dry_run:
        return 0
    from launch.grid.run_here import run_here  # with rich, which --help need not wait for

    again = shlex.join(["python", "launch/submit.py", *words])
    report = shlex.join(["python", "launch/report.py", *report_words(words)])
    with held(grid.folder, patience_seconds=0):
        check_idle(grid, states)
        return run_here(grid, cells, settings, settings.parallel, again, report)


def ask_for(settings: SubmitConfig, before: Submission | None) -> tuple[SubmitConfig, SlurmConfig]:
    """What SLURM is asked for: by the words, above those of an earlier submission if there is one
    and they name no profile."""
    if before is None or before.slurm is None or "profile" in settings.model_fields_set:
        return settings, with_profile(settings.profile, settings.slurm)
    given = settings.slurm.model_dump(exclude_unset=True)
    if "parallel" not in settings.model_fields_set:
        settings = settings.model_copy(update={"parallel": before.parallel})
    return settings, validate(SlurmConfig, merge(before.slurm, given))


def run_on_slurm(
    settings: SubmitConfig,
    grid: Grid,
    cells: Sequence[Cell],
    resources: SlurmConfig,
    words: Sequence[str],
) -> int:
    """Hand SLURM what is neither done nor with it already. words: those for report and status."""
    check_resources(resources, read_partitions())
    check_cells(cells, resources)
    with nullcontext() if settings.dry_run else held(grid.folder):
        if not settings.dry_run:
            withdraw_left_over(grid.folder)
        queue, submissions = read_queue(grid.folder)
        check_queued(grid, queue, submissions)
        states = {cell.name: read_state(cell) for cell in grid.cells}
        waiting = [
            cell
            for cell in cells
            if states[cell.name].kind != "done" and cell.name not in queue.cells
        ]
        check_idle(grid, {cell.name: states[cell.name] for cell in waiting})
        plan = {name: describe(state) for name, state in states.items()}
        plan |= {name: describe_job(job) for name, job in queue.cells.items() if name in plan}
        print_plan(grid, plan, settings.data)
        for job in queue.others:
            if hold := hold_of(job):
                print(f"  {describe_hold(job, hold)}")
        tell_removed({n: job for n, job in queue.cells.items() if n not in states}, settings)
        if not settings.dry_run:
            chosen = [queue.cells[cell.name] for cell in cells if cell.name in queue.cells]
            released = send_elsewhere([*chosen, *queue.others], submissions)
            if released:  # what depends on these is of no use now
                return released
        steps = plan_steps(grid, waiting, queue, resources, words)
        if settings.dry_run:
            passed = [show_step(step, grid.folder, settings.parallel) for step in steps]
            return 0 if all(passed) else 2
        if not steps:
            print("nothing to submit")
        submit_steps(grid, steps, queue, settings.parallel)
    ending = [
        cell.name
        for cell in cells
        if cell.name in queue.cells
        and queue.cells[cell.name].state == "COMPLETING"
        and not hold_of(queue.cells[cell.name])
        and states[cell.name].kind != "done"
    ]
    if ending:
        print(f"still ending, submit again when gone: {', '.join(ending)}", file=sys.stderr)
        return 2
    print(f"watch it: {shlex.join(['python', 'launch/status.py', *words, 'watch=true'])}")
    return 0


def submit_steps(grid: Grid, steps: Sequence[Step], queue: Queue, parallel: int) -> None:
    """Hand all steps to SLURM, each behind those that it waits for, and tell their jobs."""
    check_steps(steps, grid.folder, parallel)
    code = snapshot(grid.folder.absolute() / "code")
    if any(step.kind == "report" for step in steps):
        cancel([job.id for job in queue.kinds.get("report", []) if job.state == "PENDING"])
    ids: dict[str, str] = {}
    for step in steps:
        after = [
            f"{condition}:{job}"
            for condition, kind in step.after
            for job in [*queue.ids(kind), *([ids[kind]] if kind in ids else [])]
        ]
        ids[step.kind] = submit_step(step, grid.folder, code, after, parallel)
        text = f"{step.kind:<10} job {ids[step.kind]}"
        if len(step.jobs) > 1:
            text += f", an array of {len(step.jobs)}"
        print(text + (f", after {', '.join(after)}" if after else ""), flush=True)


def choose_cells(grid: Grid, names: str) -> list[Cell]:
    """The cells of these names, with the image generator's cell, which all of them need.

    Raises ConfigError with all names that no cell has.
    """
    if not names:
        return list(grid.cells)
    chosen = [name.strip() for name in names.split(",")]
    known = [cell.name for cell in grid.cells]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ConfigError(f"no such cells: {', '.join(unknown)}; there are: {', '.join(known)}")
    return [cell for cell in grid.cells if cell.name in chosen or cell is grid.generator_cell]


def report_words(words: Sequence[str]) -> list[str]:
    """The words less those of launch/submit.py alone."""
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
