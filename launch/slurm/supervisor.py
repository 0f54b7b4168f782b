"""What the batch shell of a SLURM job does before and after the tasks that train.

python -m launch.slurm.supervisor begin WHAT
python -m launch.slurm.supervisor end WHAT STATUS

WHAT is a folder of slurm/submission.py, or a run folder; STATUS is that of srun. The batch shell
outlives the tasks, however they end: it writes RUN/attempts.jsonl, puts the job back into the queue
where another attempt can help, away from nodes that failed the run twice, and else gives up.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from launch.grid.state import ERROR
from launch.slurm import journal
from launch.slurm.commands import ask, exclusion, expand_nodes, has_others, job_facts
from launch.slurm.ending import WORDLESS, describe_end, find_cause, is_cancelled, is_requeued
from launch.slurm.journal import USER_MISTAKE, Attempt, Event
from launch.slurm.resources import SlurmConfig
from launch.slurm.submission import SUBMISSION, WITHDRAWN
from maskrestore.config.cli import RESUME_STATUS
from maskrestore.monitoring.targets import targets_folder, tell_failure
from maskrestore.runs.provenance import ROOT
from maskrestore.utils.errors import UserError
from maskrestore.utils.streams import set_up_streams

Answer = TypeVar("Answer")

PATIENCE_SECONDS = 300.0
"""How long a controller may be away, as for a restart or a failover."""

PATIENT_FACTOR = 5
"""Restarts without progress that a run is allowed for each one after a crash."""


def main(words: Sequence[str]) -> int:
    """`begin`: 0 if the tasks may start. `end`: what the job ends with."""
    verb, what, *rest = words
    status = int(rest[0]) if rest else 0
    try:
        attempt = read_attempt(Path(what))
        if attempt is None:
            return status
        return begin(attempt) if verb == "begin" else end(attempt, status)
    except (UserError, OSError) as error:
        print(f"{socket.gethostname()}: {error}", file=sys.stderr)
        return USER_MISTAKE


def patiently(question: Callable[[], Answer]) -> Answer:
    """The answer of a controller that may be away for a while; UserError if it is for too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return question()
        except UserError as error:
            if time.monotonic() > deadline:
                raise
            print(f"{error}; asking again", file=sys.stderr)
            time.sleep(5)


def own_job() -> str:
    """This job, or this element of an array. (SLURM_JOB_ID of one of the elements is the number of
    the whole array, and scontrol would take it for that.)"""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def read_attempt(what: Path) -> Attempt | None:
    """This start of this job; None for a job that is not a run. Raises UserError if the submission
    was taken back."""
    settings: dict[str, Any] = {"run": str(what)}
    folder = Path()
    max_idle_restarts = SlurmConfig().max_idle_restarts
    if (what / SUBMISSION).is_file():
        if (what / WITHDRAWN).exists():
            raise UserError(
                f"{what.name}: taken back, since submit.py died half-way; nothing is done"
            )
        content = json.loads((what / SUBMISSION).read_text(encoding="utf-8"))
        if not content["cells"]:
            return None
        number = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        settings = list(content["cells"].values())[number]
        folder, max_idle_restarts = Path(content["folder"]), content["max_idle_restarts"]
    run = folder / settings["run"]
    count_saved, unit = partial(journal.newest_checkpoint, run), "image"
    if "part" in settings:
        from maskrestore.inference.output.journal import count_done

        output = folder / settings["output"]
        count_saved, unit = partial(count_done, output, settings["part"]), "mask"
    telemetry = settings.get("telemetry", {})
    targets = None
    if telemetry.get("serve", "part" not in settings):
        targets = folder / telemetry["targets"] if telemetry.get("targets") else targets_folder(run)
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    nodes = tuple(patiently(lambda: expand_nodes(os.environ["SLURM_JOB_NODELIST"])))
    return Attempt(run, own_job(), restart, nodes, max_idle_restarts, count_saved, unit, targets)


def begin(attempt: Attempt) -> int:
    """Write down the start, unless this run is done, hopeless, or on nodes that failed it."""
    run = attempt.run
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / ".writable").touch()
        (run / ".writable").unlink()
    except OSError as error:
        raise UserError(
            f"{run} cannot be written from here: {error.strerror}; give runs=FOLDER that every "
            "node shares"
        ) from error
    if (run / "result.json").is_file():
        return 0  # training leaves a finished run as it is
    events = journal.read_journal(run)
    unended = journal.open_attempt(events)
    if unended is not None:
        reason, faulty = patiently(lambda: find_cause(unended))
        if not reason:  # a job on one node knows where it failed
            nodes = unended["nodes"]
            reason, faulty = WORDLESS, nodes if len(nodes) == 1 else []
        journal.note(
            run,
            "ended",
            reason=reason,
            is_crash=reason == WORDLESS,
            faulty=faulty,
            num_images=attempt.count_saved(),
        )
        events = journal.read_journal(run)
    if has_to_give_up(attempt, events):
        return USER_MISTAKE
    away_from = nodes_to_leave(attempt, events)
    # Once: where SLURM does not take the exclusion, a doubtful node is better than none.
    excluded = [event["nodes"] for event in events if event["event"] == "excluded"]
    if set(away_from) & set(attempt.nodes) and away_from not in excluded:
        return requeue(attempt, away_from)
    (run / ERROR).unlink(missing_ok=True)
    journal.note(
        run,
        "began",
        job=attempt.job,
        restart=attempt.restart,
        nodes=attempt.nodes,
        num_images=attempt.count_saved(),
        code=str(ROOT),
    )
    return 0


def end(attempt: Attempt, status: int) -> int:
    """Write down the end, and put the job back into the queue where that can help."""
    run = attempt.run
    unended = journal.open_attempt(journal.read_journal(run))
    mine = (attempt.job, attempt.restart)
    if unended is None or (unended["job"], unended["restart"]) != mine:
        return status  # the run was finished before, or the job has started anew elsewhere
    if status == 0 and not (run / "result.json").is_file():
        status = 1  # where a node fails, srun ends with 0 while its tasks live on
    facts = patiently(lambda: job_facts(attempt.job))
    reason, faulty = describe_end(attempt, status, facts)
    journal.note(
        run,
        "ended",
        reason=reason,
        status=status,
        is_crash=status not in (0, RESUME_STATUS) and not is_requeued(attempt, facts),
        faulty=faulty,
        num_images=attempt.count_saved(),
    )
    if status in (0, USER_MISTAKE) or is_cancelled(attempt, facts) or is_requeued(attempt, facts):
        if status == USER_MISTAKE:
            tell_prometheus(attempt, reason)
        return status
    events = journal.read_journal(run)
    if has_to_give_up(attempt, events):
        return status
    return requeue(attempt, nodes_to_leave(attempt, events))


def has_to_give_up(attempt: Attempt, events: list[Event]) -> bool:
    """Whether restarting has not helped often enough; the run folder then says so."""
    saved = attempt.count_saved()
    idle, crashes = journal.count_idle_restarts(events, attempt.job, saved)
    # Who is preempted or out of time has done nothing wrong; for ever is too long all the same.
    if crashes < attempt.max_idle_restarts and idle < PATIENT_FACTOR * attempt.max_idle_restarts:
        return False
    last = next(event["reason"] for event in reversed(events) if event["event"] == "ended")
    reason = f"no progress in {idle} restarts from {attempt.unit} {saved}; the last one: {last}"
    journal.give_up(attempt.run, reason)
    tell_prometheus(attempt, reason)
    return True


def tell_prometheus(attempt: Attempt, reason: str) -> None:
    """The run is not started again; if it was killed before it could say so itself, this does."""
    if attempt.targets is not None:
        with suppress(OSError, ValueError):  # it is in the journal
            tell_failure(attempt.targets, attempt.run, reason)


def nodes_to_leave(attempt: Attempt, events: list[Event]) -> list[str]:
    """Nodes that failed the run twice, if its partition has enough others."""
    faulty = journal.faulty_nodes(events)
    if not faulty:
        return []
    return faulty if has_others(job_facts(attempt.job), faulty) else []


def requeue(attempt: Attempt, away_from: list[str]) -> int:
    """Put this job back into the queue, to run on other nodes than these.

    SLURM ends this very process for it, so everything is on disk by now. It starts the job again as
    soon as all its processes are gone.
    """
    commands = [["scontrol", "requeue", attempt.job]]
    if excluding := exclusion(attempt.job, job_facts(attempt.job), away_from):
        journal.note(attempt.run, "excluded", nodes=away_from)
        commands.append(excluding)
    # The second command must be through before SLURM, which begins with SIGTERM, insists.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for command in commands:
        try:
            patiently(partial(ask, *command))
        except UserError as error:
            journal.note(attempt.run, "not done", command=command, reason=str(error))
            print(error, file=sys.stderr)
    return RESUME_STATUS


if __name__ == "__main__":
    set_up_streams()
    sys.exit(main(sys.argv[1:]))
