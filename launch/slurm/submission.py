"""What was handed to SLURM: a folder per job or array, written before sbatch is called.

GRID/jobs/NAME holds submission.json (what the job is for) and then what submitit leaves there: the
script, a pickle per element, logs. NAME is also the job's name in SLURM, so that squeue finds it
again whatever became of the submit.py that submitted it; nothing has to be written after sbatch.
"""

import json
import re
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.grid.cells import Grid
from launch.grid.snapshot import snapshot
from launch.slurm.commands import QueuedJob, cancel, complaint_of, outside_of_jobs, queue, test_only
from launch.slurm.resources import SlurmConfig
from maskrestore.config.run import RunConfig
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import write_atomically

SUBMISSION, WITHDRAWN = "submission.json", "withdrawn"


@dataclass(frozen=True)
class Submission:
    """One job or array. cells: the settings of each by its name, in the order of the array; none
    for the jobs that write shards and reports."""

    folder: Path
    kind: str
    """shards, generator, cells or report."""
    cells: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """Its name in SLURM."""
        return self.folder.name

    @property
    def is_whole(self) -> bool:
        """Whether submit.py came to the end of it: every element has its pickle."""
        pickles = list(self.folder.glob("*_submitted.pkl"))
        return len(pickles) == max(1, len(self.cells)) and not self.is_withdrawn

    @property
    def is_withdrawn(self) -> bool:
        """Whether its jobs must do nothing, should they start."""
        return (self.folder / WITHDRAWN).exists()

    def job_of(self, cell: str) -> str | None:
        """The id of a cell's job, 123 or 123_4; None if it is not here, or sbatch never was."""
        scripts = list(self.folder.glob("[0-9]*_submission.sh"))
        if cell not in self.cells or not scripts:
            return None
        number = scripts[0].name.partition("_")[0]
        return f"{number}_{list(self.cells).index(cell)}" if len(self.cells) > 1 else number

    def log(self, cell: str) -> Path | None:
        """What the first task of a cell printed, in all its attempts."""
        job = self.job_of(cell)
        path = self.folder / f"{job}_0_log.out"
        return path if job is not None and path.is_file() else None


def read_submissions(grid_folder: Path) -> list[Submission]:
    """All of a grid, oldest first."""
    found = []
    for path in (grid_folder / "jobs").glob(f"*/{SUBMISSION}"):
        content = json.loads(path.read_text(encoding="utf-8"))
        found.append((content["time"], Submission(path.parent, content["kind"], content["cells"])))
    return [submission for _, submission in sorted(found, key=lambda pair: pair[0])]


def queued_jobs(submissions: Sequence[Submission]) -> list[tuple[Submission, QueuedJob]]:
    """Every job of theirs that SLURM has not ended."""
    by_name = {submission.name: submission for submission in submissions}
    return [(by_name[job.name], job) for job in queue(by_name) if job.name in by_name]


def queued_cells(queued: Sequence[tuple[Submission, QueuedJob]]) -> dict[str, QueuedJob]:
    """Cell -> the job that is to run it, or runs it."""
    return {
        list(submission.cells)[job.index]: job for submission, job in queued if submission.cells
    }


def withdraw(submission: Submission, timeout_seconds: float = 120) -> None:
    """Take back what a submit.py that died left half done: its jobs, if there are any, go."""
    write_atomically(submission.folder / WITHDRAWN, b"submit.py died before it was whole\n")
    deadline = time.monotonic() + timeout_seconds
    while (jobs := queue([submission.name])) and time.monotonic() < deadline:
        cancel([job.id for job in jobs])
        time.sleep(1)


def make_executor(
    folder: Path, wanted: SlurmConfig, code: Path, after: Sequence[str] = (), parallel: int = 0
) -> Any:
    """submitit's executor for the jobs of one submission.

    after: such as ["afterok:12"]. parallel: elements of the array at a time; 0 is all.
    """
    from submitit import SlurmExecutor

    python = wanted.python or ("python3" if wanted.container else None)
    supervisor = [sys.executable, "-m", "launch.slurm.supervisor"]
    step = ["--kill-on-bad-exit=0", "--wait=60"]  # all tasks end within a second of each other
    if wanted.cpus_per_task:
        step.append(f"--cpus-per-task={wanted.cpus_per_task}")  # srun does not ask sbatch
    if wanted.container:
        step.append(f"--container-image={wanted.container}")
        step.append(f"--container-workdir={Path.cwd()}")  # relative paths mean the same inside
    if wanted.container_mounts:
        step.append(f"--container-mounts={wanted.container_mounts}")
    options = [option.removeprefix("--").partition("=") for option in wanted.sbatch]
    parameters: dict[str, Any] = {
        "job_name": folder.name,
        "time": wanted.minutes,
        "nodes": wanted.nodes,
        "ntasks_per_node": wanted.num_tasks_per_node,
        "gpus_per_node": wanted.gpus_per_node or None,
        "cpus_per_task": wanted.cpus_per_task or None,
        "mem": f"{round(1024 * wanted.memory_gb)}M" if wanted.memory_gb else None,
        "dependency": ",".join(after) or None,
        "array_parallelism": parallel or 100_000,
        "signal_delay_s": wanted.signal_seconds,
        "wckey": "",  # submitit's own is refused where keys are checked
        "stderr_to_stdout": True,
        "srun_args": step,
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"}
        | {key: value if equals else True for key, equals, value in options},
        "setup": [
            *wanted.setup,
            "trap : TERM  # the tasks save; this shell lives on to put the job back into the queue",
            # The snapshot, and not what lies in the folder where the job happens to start.
            "export PYTHONSAFEPATH=1",
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            f"{shlex.join([*supervisor, 'begin', str(folder)])} || exit",
        ],
        "teardown": [f"{shlex.join([*supervisor, 'end', str(folder)])} $?"],
    }
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        parameters[name] = getattr(wanted, name) or None
    executor = SlurmExecutor(folder, python=python)
    executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
    return executor


def script_of(executor: Any, num_elements: int) -> str:
    """The text that sbatch would get, for an array of so many elements."""
    if num_elements > 1:
        executor.parameters["map_count"] = num_elements
    try:
        text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    finally:
        executor.parameters.pop("map_count", None)
    return text


def new_folder(grid_folder: Path, kind: str) -> Path:
    """A folder for a submission of this kind, whose name no other job has; not made yet."""
    grid_name = re.sub(r"[^\w.+-]", "_", grid_folder.name)  # squeue lists names between commas
    return grid_folder.absolute() / "jobs" / f"{grid_name}.{kind}.{secrets.token_hex(4)}"


def submit(
    folder: Path,
    kind: str,
    jobs: Sequence[Callable[[], Any]],
    configs: Mapping[str, RunConfig],
    executor: Any,
    wanted: SlurmConfig,
) -> str:
    """Hand jobs to SLURM, as one array if they are several; the id of the job or array."""
    folder.mkdir(parents=True)
    cells = {name: config.model_dump(mode="json") for name, config in configs.items()}
    content = {
        "kind": kind,
        "time": time.time(),
        "folder": str(Path.cwd()),
        "max_idle_restarts": wanted.max_idle_restarts,
        "cells": cells,
    }
    write_atomically(folder / SUBMISSION, json.dumps(content, indent=1).encode())
    try:
        with outside_of_jobs():
            submitted = executor.submit_array(list(jobs))
    except RuntimeError as error:  # submitit's, with a trace of its own in front
        complaint = complaint_of(str(error).strip().splitlines()[-1])
        raise UserError(
            f"sbatch refused {kind}: {complaint}\n"
            "what was submitted before stays; the same command goes on from there"
        ) from error
    return str(submitted[0].job_id).partition("_")[0]


@dataclass(frozen=True)
class Step:
    """One job, or the array of the cells. after: condition and kind of those it waits for."""

    kind: str
    jobs: list[Callable[[], Any]]
    configs: dict[str, RunConfig]
    wanted: SlurmConfig
    after: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Queue:
    """What SLURM has of this grid: the cells, and the jobs that are not cells, by their kind."""

    cells: dict[str, QueuedJob]
    others: dict[str, list[QueuedJob]]

    def ids(self, kind: str) -> list[str]:
        """Jobs of a kind that others can depend on: whole arrays."""
        return sorted({job.id.partition("_")[0] for job in self.others.get(kind, [])})


def show_scripts(grid: Grid, steps: Sequence[Step], code: Path, parallel: int) -> list[str]:
    """Print the text that sbatch would get for each step, tried with `sbatch --test-only`;
    what that complained of."""
    complaints = []
    with tempfile.TemporaryDirectory() as scratch:
        for step in steps:
            folder, count = new_folder(grid.folder, step.kind), len(step.jobs)
            # The forerunners have no ids yet, which sbatch would refuse.
            after = [f"{condition}:<{kind}>" for condition, kind in step.after]
            executor = make_executor(folder, step.wanted, code, after, parallel)
            print(f"\n--- sbatch script of {step.kind}: {', '.join(step.configs) or step.kind}")
            print(script_of(executor, count))
            complaint = try_script(step, folder, code, parallel, Path(scratch))
            print(f"--- sbatch --test-only: {complaint or 'accepted'}")
            complaints += [complaint] if complaint else []
    return list(dict.fromkeys(complaints))


def try_script(step: Step, folder: Path, code: Path, parallel: int, scratch: Path) -> str:
    """What `sbatch --test-only` finds wrong with a step."""
    executor = make_executor(folder, step.wanted, code, parallel=parallel)
    script = scratch / f"{step.kind}.sh"
    script.write_text(script_of(executor, len(step.jobs)), encoding="utf-8")
    return test_only(str(script))


def submit_steps(grid: Grid, steps: Sequence[Step], queue: Queue, parallel: int) -> dict[str, str]:
    """Hand all steps to SLURM; the id of each job or array by its kind."""
    code = snapshot(grid.folder.absolute() / "code")
    with tempfile.TemporaryDirectory() as scratch:
        found = {
            try_script(step, new_folder(grid.folder, step.kind), code, parallel, Path(scratch))
            for step in steps
        }
    complaints = sorted(found - {""})
    if complaints:
        raise ConfigError(f"sbatch refuses this: {'; '.join(complaints)}")
    if any(step.kind == "report" for step in steps):
        cancel([job.id for job in queue.others.get("report", []) if job.state == "PENDING"])
    ids: dict[str, str] = {}
    for step in steps:
        after = [
            f"{condition}:{job}"
            for condition, kind in step.after
            for job in [*queue.ids(kind), *([ids[kind]] if kind in ids else [])]
        ]
        folder = new_folder(grid.folder, step.kind)
        executor = make_executor(folder, step.wanted, code, after, parallel)
        ids[step.kind] = submit(folder, step.kind, step.jobs, step.configs, executor, step.wanted)
        told = f"{step.kind:<10} job {ids[step.kind]}"
        if len(step.jobs) > 1:
            told += f", an array of {len(step.jobs)}"
        print(told + (f", after {', '.join(after)}" if after else ""), flush=True)
    return ids


def describe_job(job: QueuedJob) -> str:
    """Where a cell stands that SLURM has."""
    if job.state == "PENDING":
        return f"queued as job {job.id} ({job.reason})"
    return f"{job.state.lower()} as job {job.id} on {job.nodes}"
