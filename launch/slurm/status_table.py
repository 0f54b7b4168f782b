"""Where each cell of a grid stands, as lines of a table, and what its job printed."""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.grid.cells import Cell, Grid
from launch.grid.state import ERROR, read_state
from launch.slurm import journal
from launch.slurm.commands import QueuedJob, ended_states
from launch.slurm.submission import Queue, Submission, read_submissions
from maskrestore.utils.errors import ConfigError, UserError

COLORS = {"done": 32, "running": 36, "waiting": 33, "failed": 31, "gave up": 31, "ended": 31}


HEADINGS = ("cell", "state", "progress", "img/s", "loss", "ETA", "restarts", "nodes", "note")


@dataclass(frozen=True)
class Line:
    """A cell of the table. state: what COLORS knows, or missing, stopped, cancelled."""

    state: str
    texts: tuple[str, ...]


def describe(cell: Cell, job: QueuedJob | None, submissions: Sequence[Submission]) -> Line:
    """A cell, from its run folder, its journal and SLURM's queue."""
    state = read_state(cell)
    events = journal.read_journal(cell.folder)
    progress, restarts = state.progress, journal.num_restarts(events)
    kind: str = state.kind
    note = nodes = ""
    began = [event for event in events if event["event"] == "began"]
    if began:
        nodes = ",".join(began[-1]["nodes"])
    if job is not None:
        kind, nodes = ("waiting", "") if job.state == "PENDING" else ("running", job.nodes)
        note = f"job {job.id}" + (f" waits: {job.reason}" if kind == "waiting" else "")
        note += f", {job.state.lower()}" if job.state not in ("PENDING", "RUNNING") else ""
    elif state.kind not in ("done", "running"):
        kind, note = describe_end(cell, events, kind, submissions)
    ends = [event for event in events if event["event"] == "ended"]
    if job is not None and ends:
        note += f"; last attempt: {ends[-1]['reason']}"
    away = sorted({node for e in events if e["event"] == "excluded" for node in e["nodes"]})
    if away:
        note += f"; kept away from {', '.join(away)}, which failed it twice"
    seen, total = progress.num_images, progress.total_images
    speed = progress.images_per_second if kind == "running" else 0.0
    shown = progress.losses.items() if kind != "done" else ()  # what is done needs no watching
    losses = " ".join(f"{term} {value:.3g}" for term, value in shown)
    texts = (
        cell.name,
        kind,
        bar(1.0 if kind == "done" else seen / total if total else 0.0) if total else "-",
        f"{speed:.1f}" if speed else "-",
        losses or "-",
        clock((total - seen) / speed) if speed and seen < total else "-",
        str(restarts) if restarts else "-",
        nodes or "-",
        note.removeprefix("; "),
    )
    return Line(kind, texts)


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
    job = next((found for each in reversed(submissions) if (found := each.job_of(cell.name))), None)
    if job is None:
        return kind, ""
    state = (ended_states(job) or ["without a word"])[-1]
    if state == "CANCELLED":
        return "cancelled", f"job {job}"
    if not events:
        return "ended", f"job {job}: {state}, before it could write to {cell.folder}"
    told = [event["reason"] for event in events if event.get("reason")]
    return "ended", f"job {job}: {state}" + (f"; {told[-1]}" if told else "")


def table(grid: Grid, lines: Sequence[Line], queue: Queue, trouble: str) -> str:
    """All cells, a line each, cut to the terminal; then the jobs that are not cells."""
    rows = [HEADINGS, *(line.texts for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else 10_000
    counts: dict[str, int] = {}
    for line in lines:
        counts[line.state] = counts.get(line.state, 0) + 1
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    out = [f"{grid.name} in {grid.folder}: {summary}"]
    for row, state in zip(rows, ["", *(line.state for line in lines)], strict=True):
        text = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        text = text.rstrip()[:width]
        color = COLORS.get(state) if is_terminal else None
        out.append(f"\x1b[{color}m{text}\x1b[0m" if color else text)
    for kind, jobs in queue.others.items():
        if kind not in ("cells", "generator"):
            out += [f"{kind}: job {job.id} {job.state.lower()} ({job.reason})" for job in jobs]
    return "\n".join([*out, *([trouble] if trouble else [])])


def bar(fraction: float, width: int = 12) -> str:
    """A fraction as a picture of `width` characters, and in %."""
    eighths = round(8 * width * fraction)
    full, rest = divmod(eighths, 8)
    blocks = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return f"{blocks.ljust(width, '·')} {100 * fraction:3.0f} %"


def clock(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"


def find_log(grid: Grid, name: str) -> Path:
    """The newest log of a cell. Raises ConfigError if there is no such cell, UserError if it has
    never run."""
    if name not in {cell.name for cell in grid.cells}:
        known = ", ".join(cell.name for cell in grid.cells)
        raise ConfigError(f"logs={name}: no such cell; there are: {known}")
    logs = [each.log(name) for each in read_submissions(grid.folder)]
    logs += list((grid.folder / "logs" / name).glob("*/*_0_log.out"))
    found = [log for log in logs if log is not None and log.is_file()]
    if not found:
        raise UserError(f"{name} has not run yet: there is no log of it in {grid.folder}")
    return max(found, key=lambda log: log.stat().st_mtime)


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
