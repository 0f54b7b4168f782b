"""What was handed to SLURM: a folder per job or array, written before sbatch is called.

GRID/jobs/NAME holds submission.json (what the job is for) and then what submitit leaves there: the
script, a pickle per element, logs. NAME is also the job's name in SLURM, so that squeue finds it
again whatever became of the submit.py that submitted it; nothing has to be written after sbatch.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.slurm.commands import QueuedJob, cancel, complaint_of, outside_of_jobs, queue
from launch.slurm.resources import SlurmConfig
from launch.slurm.sbatch import Step, make_executor, new_folder
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically

SUBMISSION, WITHDRAWN = "submission.json", "withdrawn"


@dataclass(frozen=True)
class Submission:
    """One job or array. cells: the settings of each element by its name, in the order of the array;
    none for the jobs that write shards and reports."""

    folder: Path
    kind: str
    """shards, generator, cells, report or restore."""
    cells: dict[str, dict[str, Any]]
    order: tuple[int, float] = (0, 0.0)
    """Its number among the grid's, and when it was made."""
    started_in: Path = Path()
    """Working folder of submit.py, from which run folders count."""
    max_idle_restarts: int = SlurmConfig().max_idle_restarts
    slurm: dict[str, Any] | None = None
    """What its jobs ask for, a whole SlurmConfig; None if it is older than this."""
    parallel: int = 0
    """Elements of the array at a time; 0 is all."""

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

    def run_of(self, job: QueuedJob) -> Path:
        """Folder for the journal of one of its jobs: the run folder, or else its own."""
        if not self.cells:
            return self.folder
        return self.started_in / str(list(self.cells.values())[job.index]["run"])

    def jobs(self) -> dict[str, str]:
        """The id of each cell's job, 123 or 123_4; none where sbatch never was."""
        scripts = list(self.folder.glob("[0-9]*_submission.sh"))
        if not scripts:
            return {}
        number, is_array = scripts[0].name.partition("_")[0], len(self.cells) > 1
        return {
            cell: f"{number}_{index}" if is_array else number
            for index, cell in enumerate(self.cells)
        }

    def log(self, cell: str) -> Path | None:
        """What the first task of a cell printed, in all its attempts."""
        job = self.jobs().get(cell)
        path = self.folder / f"{job}_0_log.out"
        return path if job is not None and path.is_file() else None


def read_submissions(grid_folder: Path) -> list[Submission]:
    """All of a grid, oldest first."""
    submissions = []
    for path in (grid_folder / "jobs").glob(f"*/{SUBMISSION}"):
        content = json.loads(path.read_text(encoding="utf-8"))
        submission = Submission(
            path.parent,
            content["kind"],
            content["cells"],
            # Those of earlier versions have the time alone, which a clock set back disorders.
            (content.get("number", 0), content["time"]),
            Path(content["folder"]),
            content["max_idle_restarts"],
            content.get("slurm"),
            content.get("parallel", 0),
        )
        submissions.append(submission)
    return sorted(submissions, key=lambda submission: submission.order)


@dataclass(frozen=True)
class Queue:
    """What SLURM has of this grid: the jobs of its cells, by their names, and all jobs by their
    kind."""

    cells: dict[str, QueuedJob]
    kinds: dict[str, list[QueuedJob]]

    @property
    def others(self) -> list[QueuedJob]:
        """Those that are no cells: shards, report."""
        runs = ("cells", "generator", "restore")
        return [job for kind, jobs in self.kinds.items() if kind not in runs for job in jobs]

    def ids(self, kind: str) -> list[str]:
        """Jobs of a kind that others can depend on: whole arrays."""
        return sorted({job.id.partition("_")[0] for job in self.kinds.get(kind, [])})


def read_queue(grid_folder: Path) -> tuple[Queue, list[Submission]]:
    """The grid's jobs in SLURM, and all its submissions that are whole. Raises UserError if SLURM
    is silent."""
    submissions = [known for known in read_submissions(grid_folder) if known.is_whole]
    by_name = {submission.name: submission for submission in submissions}
    cells: dict[str, QueuedJob] = {}
    kinds: dict[str, list[QueuedJob]] = {}
    for job in queue(by_name):
        submission = by_name[job.name]
        kinds.setdefault(submission.kind, []).append(job)
        if submission.cells:
            cells[list(submission.cells)[job.index]] = job
    return Queue(cells, kinds), submissions


def withdraw_left_over(grid_folder: Path, timeout_seconds: float = 120) -> None:
    """Take back what a submit.py that died left half done: its jobs, if there are any, go."""
    for submission in read_submissions(grid_folder):
        if submission.is_whole:
            continue
        write_atomically(submission.folder / WITHDRAWN, b"submit.py died before it was whole\n")
        deadline = time.monotonic() + timeout_seconds
        while (jobs := queue([submission.name])) and time.monotonic() < deadline:
            cancel([job.id for job in jobs])
            time.sleep(1)


def submit_step(
    step: Step, grid_folder: Path, code: Path, after: Sequence[str] = (), parallel: int = 0
) -> str:
    """Hand a step to SLURM, as one array if it has several jobs; the id of the job or array.

    after, parallel: as make_executor takes them. Raises UserError if sbatch refuses it.
    """
    folder = new_folder(grid_folder, step.kind)
    executor = make_executor(folder, step, code, after, parallel)
    folder.mkdir(parents=True)
    before = [submission.order[0] for submission in read_submissions(grid_folder)]
    content = {
        "kind": step.kind,
        "number": 1 + max(before, default=0),
        "time": time.time(),
        "folder": str(Path.cwd()),
        "max_idle_restarts": step.resources.max_idle_restarts,
        "slurm": step.resources.model_dump(mode="json"),
        "parallel": parallel,
        "cells": step.cells,
    }
    write_atomically(folder / SUBMISSION, json.dumps(content, indent=1).encode())
    try:
        with outside_of_jobs():
            submitted = executor.submit_array(list(step.jobs))
    except RuntimeError as error:  # submitit's, with a trace of its own in front
        complaint = complaint_of(str(error).strip().splitlines()[-1])
        raise UserError(
            f"sbatch refused {step.kind}: {complaint}\n"
            "what was submitted before stays; the same command goes on from there"
        ) from error
    return str(submitted[0].job_id).partition("_")[0]
