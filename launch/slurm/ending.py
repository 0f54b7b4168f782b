"""Why a job on SLURM ended: told from SLURM's facts and from what the run left behind."""

import signal
from pathlib import Path

from launch.grid.state import ERROR
from launch.slurm.commands import dead_nodes, ended_states, parse_clock
from launch.slurm.journal import USER_MISTAKE, Attempt, Event
from maskrestore.config.cli import RESUME_STATUS

WORDLESS = "ended without a word"


def is_requeued(attempt: Attempt, facts: dict[str, str]) -> bool:
    """Whether SLURM has put the job back into the queue by itself, as it does when it preempts."""
    return int(facts.get("Restarts", "0")) != attempt.restart


def is_cancelled(attempt: Attempt, facts: dict[str, str]) -> bool:
    """Whether somebody ended the job. It must not be requeued: that would resurrect it."""
    if facts.get("JobState") == "RUNNING" or is_requeued(attempt, facts):
        return False
    return not is_preempted(facts) and not is_out_of_time(facts)


def is_preempted(facts: dict[str, str]) -> bool:
    """Whether another job takes this one's nodes, whatever the partition's PreemptMode."""
    return facts.get("PreemptTime", "None") != "None"


def is_out_of_time(facts: dict[str, str]) -> bool:
    """Whether the job has run for as long as it may."""
    limit, passed = times_of(facts)
    return limit is not None and limit <= passed


def times_of(facts: dict[str, str]) -> tuple[int | None, int]:
    """The job's time limit, None without one, and how long it has run, in seconds."""
    return parse_clock(facts.get("TimeLimit", "")), parse_clock(facts.get("RunTime", "")) or 0


def describe_end(attempt: Attempt, status: int, facts: dict[str, str]) -> tuple[str, list[str]]:
    """What the exit status of srun and SLURM's facts of the job say, and the nodes at fault."""
    if status == 0:
        return "finished", []
    if status == USER_MISTAKE:
        return error_of(attempt.run) or "a mistake that its log names", []
    if is_cancelled(attempt, facts):
        return "cancelled" + (", saved" if status == RESUME_STATUS else ""), []
    if is_out_of_time(facts) and status != RESUME_STATUS:
        return "time limit, before it could save; give slurm.signal_seconds more", []
    saved = ", saved" if status == RESUME_STATUS else ""
    if is_requeued(attempt, facts):
        began = {"job": attempt.job, "restart": attempt.restart, "nodes": attempt.nodes}
        reason, faulty = find_cause(began)
        return (reason or "requeued by SLURM") + saved, faulty
    if saved:
        return why_asked(facts) + saved, []
    # A run on one node knows where it failed. One of several cannot tell which of them it was.
    faulty = list(attempt.nodes) if len(attempt.nodes) == 1 else []
    if status - 128 in signal.valid_signals():
        name = signal.Signals(status - 128).name
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}", faulty
    return error_of(attempt.run) or f"ended with status {status}", faulty


def why_asked(facts: dict[str, str]) -> str:
    """Why SLURM sent a signal."""
    if is_preempted(facts):
        return "preempted"
    limit, passed = times_of(facts)
    return "time limit" if limit is not None and passed > limit / 2 else "asked to stop"


def find_cause(began: Event) -> tuple[str, list[str]]:
    """Why SLURM ended an attempt, and the nodes at fault; "" if it does not tell."""
    nodes, restart = list(began["nodes"]), began["restart"]
    states = ended_states([began["job"]]).get(began["job"], [])  # an attempt each
    state = states[restart] if restart < len(states) else ""
    known = {
        "PREEMPTED": "preempted",
        "CANCELLED": "cancelled",
        "TIMEOUT": "time limit",
        "REQUEUED": "requeued by hand",
    }
    if state in known:
        return known[state], []
    dead = dead_nodes(nodes)
    if dead:
        return f"node failed: {', '.join(dead)}", dead
    if state == "NODE_FAIL":  # and is back already: of several it may have been any
        return f"node failed, of {', '.join(nodes)}", nodes if len(nodes) == 1 else []
    return "", []


def error_of(run: Path) -> str:
    """What the tasks left in error.txt."""
    try:
        return " ".join((run / ERROR).read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return ""
