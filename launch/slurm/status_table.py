"""Where each cell of a grid stands, as lines of a table, and what its job printed."""

import time
from collections.abc import Sequence
from pathlib import Path

from launch.grid.cell_table import Line
from launch.grid.cells import Cell, Grid
from launch.grid.state import ERROR, read_state
from launch.slurm import journal
from launch.slurm.commands import QueuedJob, ended_states
from launch.slurm.holds import describe_hold, hold_of
from launch.slurm.submission import Queue, Submission, read_submissions
from maskrestore.utils.errors import ConfigError, UserError


def describe(cell: Cell, job: QueuedJob | None, submissions: Sequence[Submission]) -> Line:
    """A cell, from its run folder, its journal and SLURM's queue."""
    state = read_state(cell)
    events = journal.read_journal(cell.folder)
    restarts = journal.num_restarts(events)
    kind: str = state.kind
    note = nodes = ""
    began = [event for event in events if event["event"] == "began"]
    if began:
        nodes = ",".join(began[-1]["nodes"])
    if job is not None and (hold := hold_of(job)):
        kind, nodes, note = "held", "", describe_hold(job, hold)
    elif job is not None:
        kind, nodes = ("waiting", "") if job.state == "PENDING" else ("running", job.nodes)
        note = f"job {job.id}" + (f" waits: {job.reason}" if kind == "waiting" else "")
        note += f", {job.state.lower()}" if job.state not in ("PENDING", "RUNNING") else ""
    elif state.kind not in ("done", "running"):
        kind, note = describe_end(cell, events, kind, submissions)
    ends = [event for event in events if event["event"] == "ended"]
    if job is not None and ends:
        note += f"; last attempt: {ends[-1]['reason']}"
    launches = journal.failed_launches(events, job.id) if job is not None else []
    if launches:
        note += f"; could not be started {len(launches)} times"
    away = sorted({node for e in events if e["event"] == "excluded" for node in e["nodes"]})
    if away:
        note += f"; kept away from {', '.join(away)}, which failed it twice"
    return Line(cell.name, kind, state.progress, note.removeprefix("; "), restarts, nodes)


def describe_end(
    cell: Cell, events: list[journal.Event], kind: str, submissions: Sequence[Submission]
) -> tuple[str, str]:
    """State and note of a cell that nothing runs and nothing waits for, though it is not done."""
    if events and events[-1]["event"] == "gave up":
        return "gave up", events[-1]["reason"]
    if events and events[-1]["event"] == "ended" and "cancelled" in events[-1]["reason"]:
        return "cancelled", events[-1]["reason"]
    if (cell.folder / ERROR).is_file():
        return "failed", " ".join((cell.folder / ERROR).read_text(encoding="utf-8").split())
    newest_first = (submission.job_of(cell.name) for submission in reversed(submissions))
    job = next(filter(None, newest_first), None)
    if job is None:
        return kind, ""
    state = (ended_states(job) or ["without a word"])[-1]
    if state == "CANCELLED":
        return "cancelled", f"job {job}"
    if not events:
        return "ended", f"job {job}: {state}, before it could write to {cell.folder}"
    reasons = [event["reason"] for event in events if event.get("reason")]
    return "ended", f"job {job}: {state}" + (f"; {reasons[-1]}" if reasons else "")


def describe_others(queue: Queue) -> list[str]:
    """The jobs that are not cells, a line each."""
    lines = []
    for kind, jobs in queue.kinds.items():
        for job in jobs if kind not in ("cells", "generator") else ():
            hold = hold_of(job)
            text = f"job {job.id} {job.state.lower()} ({job.reason})"
            lines.append(f"{kind}: {describe_hold(job, hold) if hold else text}")
    return lines


def find_log(grid: Grid, name: str) -> Path:
    """The newest log of a cell. Raises ConfigError if there is no such cell, UserError if it has
    never run."""
    if name not in {cell.name for cell in grid.cells}:
        known = ", ".join(cell.name for cell in grid.cells)
        raise ConfigError(f"logs={name}: no such cell; there are: {known}")
    submissions = read_submissions(grid.folder)
    logs = [log for submission in submissions if (log := submission.log(name))]
    here = (grid.folder / "logs" / name).glob("[0-9]*/*_0_log.out")
    # By number as far as that goes: a clock that is set back would make an older one the newest.
    logs = [*logs[-1:], *sorted(here, key=lambda log: int(log.parent.name))[-1:]]
    if not logs:
        raise UserError(f"{name} has not run yet: there is no log of it in {grid.folder}")
    return max(logs, key=lambda log: log.stat().st_mtime)


def show_log(grid: Grid, name: str, follow: bool, num_lines: int = 60) -> None:
    """The end of a cell's log; what comes behind it as well, if asked to follow."""
    log = find_log(grid, name)
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [last_of_bar(line) for line in file.read().split("\n")]
        print("\n".join(lines[-num_lines:]), flush=True)
        while follow:
            time.sleep(0.5)
            print(file.read(), end="", flush=True)
    print(f"--- {log}")


def last_of_bar(line: str) -> str:
    """Of a progress bar that was written over and over, what was to be seen in the end."""
    return line.rstrip("\r").rpartition("\r")[2]
