"""Jobs that SLURM holds: they wait for ever, unless somebody lets them go. Why, and what does."""

from dataclasses import dataclass

from launch.slurm.commands import QueuedJob


@dataclass(frozen=True)
class Hold:
    """Why a job is held, and what lets it go: JOB stands for its id."""

    why: str
    remedy: str
    is_failed_launch: bool = False
    """Held by SLURM itself, since a node could not start it: on another one it may run."""


_ELSEWHERE, _RELEASE = "the same submit.py again sends it elsewhere", "scontrol release JOB"
HOLDS = {
    "launch failed requeued held": Hold("its launch failed", _ELSEWHERE, True),
    "JobHoldMaxRequeue": Hold("its launch failed too often", _ELSEWHERE, True),
    "JobHeldUser": Hold("by its owner", _RELEASE),
    "JobHeldAdmin": Hold("by an administrator", f"ask one of them for {_RELEASE}"),
    "job requeued in held state": Hold("put back to be looked at", _RELEASE),
    "BadConstraints": Hold("no node has what it asks for", "scancel JOB; submit with less"),
}
"""By the reason that squeue gives; newer ones write _ for a space."""


def hold_of(job: QueuedJob) -> Hold | None:
    """Why the job is held, if it is; what runs has no such reason."""
    return HOLDS.get(job.reason.replace("_", " "))


def describe_hold(job: QueuedJob, hold: Hold) -> str:
    """Why a job is held and what lets it go, in a line."""
    return f"job {job.id} held ({job.reason}), {hold.why}: {hold.remedy.replace('JOB', job.id)}"


def describe_job(job: QueuedJob) -> str:
    """Where a job stands that SLURM has."""
    if hold := hold_of(job):
        return describe_hold(job, hold)
    if job.state == "PENDING":
        return f"queued as job {job.id} ({job.reason})"
    return f"{job.state.lower()} as job {job.id} on {job.nodes}"
