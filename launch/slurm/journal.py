"""A run's attempts: when SLURM started it, where, from which image, and how it ended.

RUN/attempts.jsonl holds a line per event, each with "event" and "time" (seconds since 1970); for a
part of masks that are restored, "num_images" counts these:
  began     an attempt: "job", "restart", "nodes", "num_images" at its start, "code" (a snapshot)
  ended     its end: "reason", "status" if there was one, "is_crash", "num_images" saved, nodes
            at fault as "faulty"
  held      a node could not start the job, which SLURM then held: "job", "reason", "nodes"
  excluded  the job was sent to other nodes: "nodes"
  not done  a "command" that SLURM refused: "reason"
  gave up   it is not started again: "reason"
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.grid.state import ERROR
from maskrestore.utils.files import sync, write_atomically

JOURNAL = "attempts.jsonl"

Event = dict[str, Any]

USER_MISTAKE = 2
"""Exit status of a run that another attempt would not help."""


@dataclass(frozen=True)
class Attempt:
    """This start of a job: the job, how often it was started before, and the nodes it has now."""

    run: Path
    job: str
    restart: int
    nodes: tuple[str, ...]
    max_idle_restarts: int
    count_saved: Callable[[], int]
    """What is on disk by now and another attempt need not do again: images seen by the newest
    checkpoint, or restored masks."""
    unit: str = "image"
    """Of what it counts: image or mask."""
    targets: Path | None = None
    """Folder of the files by which Prometheus finds the run; None if it is not to."""


def note(run: Path, event: str, **facts: Any) -> None:
    """Append an event, on disk when this returns."""
    line = json.dumps({"event": event, "time": round(time.time(), 3), **facts})
    with open(run / JOURNAL, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a node died in the middle of a line
                file.write(b"\n")
        file.write(line.encode() + b"\n")
        sync(file)


def give_up(run: Path, reason: str) -> None:
    """Write down that the run is not started again, for people in error.txt too."""
    note(run, "gave up", reason=reason)
    write_atomically(run / ERROR, f"{reason}\n".encode())
    print(reason)


def read_journal(run: Path) -> list[Event]:
    """All events in order; none before the first attempt. A line that was cut off is left out."""
    try:
        lines = (run / JOURNAL).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


def open_attempt(events: list[Event]) -> Event | None:
    """The last attempt, if nothing tells of its end."""
    last = next((event for event in reversed(events) if event["event"] in ("began", "ended")), None)
    return last if last is not None and last["event"] == "began" else None


def num_restarts(events: list[Event]) -> int:
    """Attempts after the first of each job."""
    return sum(event["event"] == "began" and event.get("restart", 0) > 0 for event in events)


def count_idle_restarts(events: list[Event], job: str, num_images: int) -> tuple[int, int]:
    """Restarts of a job in a row, up to now, between which nothing was saved beyond num_images:
    all of them, and those after a crash."""
    ends: list[tuple[int, bool]] = []
    begin: Event | None = None
    for event in events:
        if event["event"] == "began":
            begin = event if event.get("job") == job else None
        elif event["event"] == "ended" and begin is not None:
            ends.append((begin.get("num_images", 0), event.get("is_crash", False)))
    idle = crashes = 0
    for at, is_crash in reversed(ends):
        if at != num_images:
            break
        idle, crashes = idle + 1, crashes + is_crash
    return max(0, idle - 1), max(0, crashes - 1)


def failed_launches(events: list[Event], job: str) -> list[Event]:
    """A job's launches that failed in a row, up to now: its holds since it last began."""
    holds: list[Event] = []
    for event in events:
        if event["event"] == "began":
            holds = []
        elif event["event"] == "held" and event["job"] == job:
            holds.append(event)
    return holds


def faulty_nodes(events: list[Event], times: int = 2) -> list[str]:
    """Nodes on which attempts of the run failed at least so many times."""
    blamed = [node for event in events for node in event.get("faulty", [])]
    return sorted({node for node in blamed if blamed.count(node) >= times})


def newest_checkpoint(run: Path) -> int:
    """Images seen by the newest checkpoint; 0 without one."""
    names = [path.name for path in (run / "checkpoints").glob("[0-9]" * 9)]
    return max(map(int, names), default=0)
