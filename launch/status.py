"""Where a grid stands: python launch/status.py grid=table1 [config=demo] [watch=true]

watch=true        keep the table up to date, until everything is done
logs=CELL         what the cell's first task printed; with watch=true as it goes on
cancel=CELL,...   take cells out of SLURM's queue, running ones after a save (all: every one)
retry=CELL,...    hand cells to SLURM again that failed or were given up

All words of submit.py may stand here as well.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import journal
from launch.cluster import QueuedJob, cancel, ended_states, has_slurm
from launch.grid import CELL_KEYS, Cell, Grid, read_grid
from launch.schedule import Queue, read_queue
from launch.state import ERROR, read_state
from launch.submission import Submission, read_submissions
from launch.submit import SubmitConfig
from launch.submit import main as submit
from maskrestore.program import run_program
from maskrestore.settings import ConfigError, UserError

WATCH_SECONDS = 5.0
"""Between two looks; each one asks squeue, which asks a controller that others need too."""

COLORS = {"done": 32, "running": 36, "waiting": 33, "failed": 31, "gave up": 31, "ended": 31}
HEADINGS = ("cell", "state", "progress", "img/s", "loss", "ETA", "restarts", "nodes", "note")


class StatusConfig(SubmitConfig):
    """The words of this program."""

    watch: bool = False
    """Go on until everything is done, or Ctrl-C."""
    logs: str = ""
    """Cell whose log is shown instead."""
    cancel: str = ""
    """Cells to cancel, with commas between them; all for every one."""
    retry: str = ""
    """Cells to hand to SLURM again, with commas between them."""


@dataclass(frozen=True)
class Line:
    """A cell of the table. state: what COLORS knows, or missing, stopped, cancelled."""

    state: str
    texts: tuple[str, ...]


def main(words: Sequence[str]) -> int:
    """Show the table, or do what is asked; 1 if a cell has failed."""
    settings, grid = read_grid(StatusConfig, words)
    on_slurm = has_slurm(settings.cluster)
    if settings.retry:
        own = ("retry=", "watch=", "cells=")
        others = [word for word in words if not word.startswith(own)]
        return submit([*others, f"cells={settings.retry}"])
    if settings.cancel:
        cancel_cells(grid, settings.cancel, on_slurm)
        return 0
    if settings.logs:
        show_log(grid, settings.logs, settings.watch)
        return 0
    while True:
        trouble, queue = "", Queue({}, {})
        submissions: list[Submission] = []
        try:
            if on_slurm:
                queue, submissions = read_queue(grid)
        except UserError as error:
            if not settings.watch:
                raise
            trouble = str(error)  # it may be back at the next look
        lines = [describe(cell, queue.cells.get(cell.name), submissions) for cell in grid.cells]
        text = table(grid, lines, queue, trouble)
        is_moving = any(line.state in ("running", "waiting") for line in lines) or trouble
        if settings.watch and sys.stdout.isatty():
            text = f"\x1b[H\x1b[J{text}"  # over the one before
        print(text, flush=True)
        if not (settings.watch and is_moving):
            return int(any(line.state in ("failed", "gave up", "ended") for line in lines))
        time.sleep(WATCH_SECONDS)


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


def cancel_cells(grid: Grid, names: str, on_slurm: bool) -> None:
    """Cancel cells that SLURM has. Raises ConfigError for names of none."""
    if not on_slurm:
        raise UserError("cancel: there is no SLURM here; press Ctrl-C where submit.py runs")
    queue, _ = read_queue(grid)
    wanted = list(queue.cells) if names == "all" else [name.strip() for name in names.split(",")]
    known = {cell.name for cell in grid.cells} | queue.cells.keys()
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"cancel={','.join(unknown)}: no such cells; there are: {sorted(known)}")
    cancel([queue.cells[name].id for name in wanted if name in queue.cells])
    for name in wanted:
        job = queue.cells.get(name)
        print(f"{name}: " + (f"job {job.id} cancelled" if job else "not with SLURM"))


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


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", StatusConfig, CELL_KEYS))
