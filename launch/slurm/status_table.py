"""Where each cell of a grid stands, or each part of a restoration, as lines of a table, and what
its job printed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.grid.cell_table import Line
from launch.grid.cells import Cell, Grid
from launch.grid.state import ERROR, Progress, State, read_state, state_in
from launch.slurm import journal
from launch.slurm.commands import QueuedJob, ended_states
from launch.slurm.holds import describe_hold, hold_of
from launch.slurm.submission import Queue, Submission, read_submissions
from maskrestore.utils.errors import ConfigError, UserError


@dataclass(frozen=True)
class Work:
    """What has a line of its own; trouble: why its files cannot be read."""

    name: str
    folder: Path
    state: State
    trouble: str = ""


def work_of(cell: Cell) -> Work:
    """A cell; one that cannot be read is told of in its own line alone."""
    try:
        return Work(cell.name, cell.folder, read_state(cell))
    except UserError as error:
        state = State("unreadable", Progress(0, cell.config.total_images, {}))
        return Work(cell.name, cell.folder, state, " ".join(str(error).split()))


def parts_of(submissions: Sequence[Submission]) -> list[Work]:
    """The parts of a restoration, as many as the masks were cut into the last time; those that were
    done by then are of earlier submissions."""
    from maskrestore.inference.output.journal import count_done

    works: dict[int, Work] = {}
    num_parts = ""
    for submission in reversed(submissions):
        for name, settings in submission.cells.items():
            number, _, of = settings["part"].partition("/")
            num_parts = num_parts or of
            if of != num_parts or int(number) in works:
                continue
            num_done = count_done(submission.started_in / settings["output"], settings["part"])
            progress = Progress(num_done, settings.get("num_masks", 0), {})
            folder = submission.started_in / settings["run"]
            works[int(number)] = Work(name, folder, state_in(folder, progress))
    return [works[number] for number in sorted(works)]


def describe_all(
    works: Sequence[Work], queue: Queue, submissions: Sequence[Submission]
) -> list[Line]:
    """A line each, from run folders, journals and SLURM's queue. Its accounting is asked once, for
    all that ended without a word."""
    events = {work.name: journal.read_journal(work.folder) for work in works}
    jobs = {name: job for submission in submissions for name, job in submission.jobs().items()}
    ends = {
        work.name: told_end(work, events[work.name])
        for work in works
        if work.name not in queue.cells and work.state.kind not in ("done", "running")
    }
    wordless = {name: jobs[name] for name, end in ends.items() if end is None and name in jobs}
    states = ended_states(wordless.values())
    folders = {work.name: work.folder for work in works}
    for name, job in wordless.items():
        ends[name] = wordless_end(job, states.get(job, []), folders[name], events[name])
    return [
        describe(work, queue.cells.get(work.name), events[work.name], ends.get(work.name))
        for work in works
    ]


def describe(
    work: Work, job: QueuedJob | None, events: list[journal.Event], end: tuple[str, str] | None
) -> Line:
    """A line. end: state and note of what neither runs nor waits, where they are known."""
    kind: str = work.state.kind
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
    elif end is not None:
        kind, note = end
    ended = [event for event in events if event["event"] == "ended"]
    if job is not None and ended:
        note += f"; last attempt: {ended[-1]['reason']}"
    launches = journal.failed_launches(events, job.id) if job is not None else []
    if launches:
        note += f"; could not be started {len(launches)} times"
    away = sorted({node for e in events if e["event"] == "excluded" for node in e["nodes"]})
    if away:
        note += f"; kept away from {', '.join(away)}, which failed it twice"
    restarts = journal.num_restarts(events)
    return Line(work.name, kind, work.state.progress, note.removeprefix("; "), restarts, nodes)


def told_end(work: Work, events: list[journal.Event]) -> tuple[str, str] | None:
    """State and note of what nothing runs and nothing waits for, though it is not done; None where
    its own files do not tell."""
    if work.trouble:
        return work.state.kind, work.trouble
    if events and events[-1]["event"] == "gave up":
        return "gave up", events[-1]["reason"]
    if events and events[-1]["event"] == "ended" and "cancelled" in events[-1]["reason"]:
        return "cancelled", events[-1]["reason"]
    if (work.folder / ERROR).is_file():
        return "failed", " ".join((work.folder / ERROR).read_text(encoding="utf-8").split())
    return None


def wordless_end(
    job: str, states: Sequence[str], folder: Path, events: list[journal.Event]
) -> tuple[str, str]:
    """The same from the states of a job's attempts, as far as SLURM has kept them."""
    state = states[-1] if states else "without a word"
    if state == "CANCELLED":
        return "cancelled", f"job {job}"
    if not events:
        return "ended", f"job {job}: {state}, before it could write to {folder}"
    reasons = [event["reason"] for event in events if event.get("reason")]
    return "ended", f"job {job}: {state}" + (f"; {reasons[-1]}" if reasons else "")


def describe_others(queue: Queue) -> list[str]:
    """The jobs that are not cells, a line each."""
    lines = []
    for kind, jobs in queue.kinds.items():
        for job in jobs if kind not in ("cells", "generator", "restore") else ():
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
