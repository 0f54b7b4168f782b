"""SLURM as its own commands tell it: the home of squeue, sinfo, scontrol, scancel and sacct."""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from maskrestore.utils.errors import ConfigError, UserError

TIMEOUT_SECONDS = 120
"""Longer than the commands themselves wait for a controller that does not answer."""


@dataclass(frozen=True)
class QueuedJob:
    """A job, or one element of an array, that SLURM has not ended yet."""

    id: str
    """123, or 123_4 for element 4 of an array."""
    name: str
    state: str
    """PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits."""
    nodes: str

    @property
    def index(self) -> int:
        """Its place in the array; 0 for a job that is none."""
        return int(self.id.partition("_")[2] or 0)


def has_slurm(cluster: str) -> bool:
    """Whether cluster=slurm|local|auto means SLURM here.

    Raises ConfigError if it is asked for and not there; UserError if it is there but gives no
    answer, rather than start a grid on a login node.
    """
    if cluster == "local":
        return False
    if shutil.which("sbatch") is None:
        if cluster == "slurm":
            raise ConfigError(
                "cluster=slurm: there is no sbatch on this machine; log in to a node that has it, "
                "or write cluster=local to run here"
            )
        return False
    try:
        ask("sinfo", "--noheader", "--format=%P")
    except UserError as error:
        if cluster == "auto" and "configuration source" in str(error):
            return False  # the programs are installed, but belong to no cluster
        raise UserError(f"{error}\nto run on this machine instead: cluster=local") from error
    return True


def ask(*command: str) -> str:
    """What one of SLURM's commands prints. Raises UserError with its complaint."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]}: there is no such program on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"SLURM does not answer: {command[0]} waited for two minutes") from error
    if done.returncode:
        complaint = complaint_of(done.stderr) or f"exit status {done.returncode}"
        if "munge" in complaint.lower() or "authentication" in complaint.lower():
            complaint += " (is munged running on this machine?)"
        raise UserError(f"SLURM does not answer {command[0]}: {complaint}")
    return done.stdout


def complaint_of(stderr: str) -> str:
    """A command's errors in a line, without the names that SLURM puts in front of them."""
    lines = [line.partition("error: ")[2] or line for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line.strip() for line in lines if line.strip()))


def queue(names: Collection[str]) -> list[QueuedJob]:
    """Jobs of these names that wait or run, anybody's, each element of an array for itself."""
    if not names:
        return []
    jobs = []
    # In parts, since a command line may not be longer than 128 KiB a word.
    for part in _parts(sorted(names), 500):
        listing = ask(
            "squeue", "--noheader", "--array", f"--name={','.join(part)}", "--format=%i|%j|%T|%r|%N"
        )
        jobs += [QueuedJob(*line.split("|", 4)) for line in listing.splitlines() if line]
    return jobs


def cancel(ids: Collection[str]) -> None:
    """End these jobs; those that have ended already are left at that."""
    for part in _parts(sorted(ids), 500):
        ask("scancel", "--quiet", *part)


def job_facts(job: str) -> dict[str, str]:
    """What scontrol tells of a job that SLURM still knows, such as JobState and Restarts."""
    words = ask("scontrol", "--oneliner", "show", "job", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def expand_nodes(nodes: str) -> list[str]:
    """SLURM's compressed list -> one name each: node[1-2] -> node1, node2."""
    return ask("scontrol", "show", "hostnames", nodes).split() if nodes else []


def dead_nodes(nodes: Sequence[str]) -> list[str]:
    """Those of the nodes that SLURM holds for down or does not hear of."""
    return sorted(name for name, dead in _nodes(f"--nodes={','.join(nodes)}") if dead)


def nodes_up(partition: str) -> list[str]:
    """Nodes of a partition that a job could get, now or later."""
    return sorted(name for name, dead in _nodes(f"--partition={partition}") if not dead)


def has_others(facts: Mapping[str, str], nodes: Collection[str]) -> bool:
    """Whether the partitions of a job (facts: scontrol's of it) have enough nodes without these."""
    needed = int(facts.get("NumNodes", "1").partition("-")[0])
    return len(set(nodes_up(facts["Partition"])) - set(nodes)) >= needed


def exclusion(job: str, facts: Mapping[str, str], nodes: Collection[str]) -> list[str]:
    """The command that keeps a waiting job (facts: scontrol's of it) away from these nodes too; []
    if it is kept from all of them."""
    already = facts.get("ExcNodeList", "(null)")
    known = set() if already == "(null)" else set(expand_nodes(already))
    if set(nodes) <= known:
        return []
    excluded = ",".join(sorted(known | set(nodes)))
    return ["scontrol", "update", f"JobId={job}", f"ExcNodeList={excluded}"]


def _nodes(which: str) -> set[tuple[str, bool]]:
    """Name of each node, and whether it is down or does not answer."""
    listing = ask("sinfo", "--noheader", "--Node", which, "--format=%N %T")
    return {(name, _is_dead(state)) for name, state in map(str.split, listing.splitlines())}


def _is_dead(state: str) -> bool:
    return state.startswith(("down", "fail")) or state.endswith("*")  # *: it does not respond


def ended_states(jobs: Collection[str]) -> dict[str, list[str]]:
    """Job -> state of each of its attempts in order, without jobs that slurmdbd does not know."""
    return {job: [state for state, _ in rows] for job, rows in _accounted(jobs).items()}


def last_nodes(job: str) -> list[str]:
    """Nodes that a waiting job had last, as slurmdbd keeps them; [] where there is none."""
    attempts = _accounted([job]).get(job, [])
    lists = [nodes for _, nodes in attempts if nodes != "None assigned"]
    return expand_nodes(lists[-1]) if lists else []


def _accounted(jobs: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    """State and nodes of each attempt of each job, in order."""
    attempts: dict[str, list[tuple[str, str]]] = {}
    if not jobs or not _has_accounting():
        return attempts
    command = ("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2")
    for part in _parts(sorted(jobs), 500):
        try:
            listing = ask(*command, f"--jobs={','.join(part)}", "--format=JobID,State,NodeList")
        except UserError:
            continue
        for job, state, nodes in (line.split("|", 2) for line in listing.splitlines() if line):
            attempts.setdefault(job, []).append((state.split()[0], nodes))
    return attempts


@cache  # one that is down takes many seconds to say so
def _has_accounting() -> bool:
    try:
        ask("sacct", "--allocations", "--noheader", "--jobs=1")
    except UserError:
        return False
    return True


def test_only(*words: str) -> str:
    """What is wrong with the words of an sbatch, its script among them, as `sbatch --test-only`
    finds it; "" if nothing is, or what is asked for is only not free now."""
    with outside_of_jobs():
        try:
            ask("sbatch", "--test-only", *words)
        except UserError as error:
            complaint = str(error).removeprefix("SLURM does not answer sbatch: ")
            # A queue is for waiting.
            return "" if "down, drained or reserved" in complaint else complaint
    return ""


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Without the variables of a job in which this process may run: sbatch would obey them."""
    ours = ("SLURM_", "SLURMD_", "SBATCH_", "SUBMITIT_")
    kept = ("SLURM_CONF",)
    taken = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(ours) and name not in kept
    }
    try:
        yield
    finally:
        os.environ.update(taken)


def _parts(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def parse_clock(text: str) -> int | None:
    """Seconds of a time as SLURM's commands write it, [days-][hours:]minutes:seconds; None for
    infinite, UNLIMITED and whatever else is no time."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(digits or 0) for digits in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
