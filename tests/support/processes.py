"""Processes that tests look at, and waiting for what they do."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 300.0
"""Seconds until what does not come is said to hang: many times what it takes on a quiet machine,
since tests run side by side and their machine has others to serve. No test is about speed."""


def wait_until(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def children_of(pid: int) -> set[int]:
    """Processes that a process has started and that are still there."""
    children = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended just now
            continue
        if int(parent) == pid and state != "Z":
            children.add(int(stat.parent.name))
    return children


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
