"""Jobs that SLURM holds since a node could not start them: sent to other nodes, or given up."""

import sys
from collections.abc import Iterable, Sequence

from launch.slurm import journal
from launch.slurm.commands import (
    QueuedJob,
    ask,
    cancel,
    exclusion,
    has_others,
    job_facts,
    last_nodes,
)
from launch.slurm.holds import hold_of
from launch.slurm.submission import Submission
from maskrestore.utils.errors import UserError


def failed_launches(jobs: Iterable[QueuedJob]) -> list[QueuedJob]:
    """Those of the jobs that are held for it."""
    return [job for job in jobs if (hold := hold_of(job)) and hold.is_failed_launch]


def send_elsewhere(jobs: Iterable[QueuedJob], submissions: Sequence[Submission]) -> int:
    """Let those of the jobs go whose launch failed, away from the nodes where it did.

    After as many failed launches in a row as a run may have idle restarts it is given up. Tells of
    each; 0, 1 if one was given up, or 2 if SLURM would not let one go.
    """
    by_name, statuses = {submission.name: submission for submission in submissions}, [0]
    for job in failed_launches(jobs):
        try:
            statuses.append(_relaunch(job, by_name[job.name]))
        except UserError as error:
            print(f"job {job.id} stays held ({job.reason}): {error}", file=sys.stderr)
            statuses.append(2)
    return max(statuses)


def _relaunch(job: QueuedJob, submission: Submission) -> int:
    """0, or 1 if it is given up."""
    folder = submission.run_of(job)
    folder.mkdir(parents=True, exist_ok=True)
    facts = job_facts(job.id)
    had = last_nodes(job.id)
    # Of several it may have been any. SLURM has drained that one, and chooses others by itself.
    hold = {"job": job.id, "reason": job.reason, "nodes": had if len(had) == 1 else []}
    holds = [*journal.failed_launches(journal.read_journal(folder), job.id), hold]
    nodes = sorted({node for hold in holds for node in hold["nodes"]})
    if len(holds) > submission.max_idle_restarts:
        cancel([job.id])
        journal.note(folder, "held", **hold)
        where = f", on {', '.join(nodes)}" if nodes else ""
        reason = f"job {job.id} could not be started {len(holds)} times{where}: {job.reason}"
        journal.give_up(folder, reason)
        return 1
    # Where there are no others it waits, until somebody has mended the node.
    away = nodes if has_others(facts, nodes) else []
    if command := exclusion(job.id, facts, away):
        ask(*command)
    ask("scontrol", "release", job.id)
    journal.note(folder, "held", **hold)
    where = f", away from {', '.join(away)}" if away else ""
    print(f"job {job.id} was held ({job.reason}): released{where}")
    return 0
