"""Where Prometheus finds the runs: a folder of target files (its file_sd).

Each is written by rename, touched while the run lives and removed at its end. One that a killed run
left behind stays for a while, so that Prometheus notices that nobody answers, and is then reaped by
whoever comes by: a run that starts, or the dashboard. A run that fails before its first step leaves
one that says why, until it is started again.
"""

import hashlib
import json
import os
import re
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from maskrestore.utils.files import write_atomically

REAP_SECONDS = 900.0
"""Age at which a target file goes whose address does not answer."""
FAR_SECONDS = 86_400.0
"""The same where only another machine could ask it: it touches its file after steps and evaluated
batches, between which there may be a long time. Also of what tells of a failure."""
FAILURE = "failure"
"""Label of a run that failed before its first step: why."""
NOWHERE = "127.0.0.1:0"
"""Its address: one that is nobody's, so that no later run is taken for it."""
MOST_LETTERS = 300
"""Of what it says."""
VANISHED = "its process ended without a word: killed, perhaps for want of memory"
PID = "__pid"
"""Label of a run with nothing to resume, which need not be missed for long: its process."""


@dataclass(frozen=True)
class Target:
    """A run on a node: `address` is HOST:PORT, `labels` go onto all its series."""

    path: Path
    address: str
    labels: Mapping[str, str]


def node_name() -> str:
    """This machine, as SLURM or else as it calls itself."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def labels_of(run: Path) -> dict[str, str]:
    """Those on all series of a run, on each node."""
    run = run.resolve()
    # Names may hold bytes that are no text, which could be written nowhere.
    return {
        key: os.fsencode(name).decode(errors="replace")
        for key, name in (("grid", run.parent.name), ("run", run.name))
    }


def targets_folder(run: Path) -> Path:
    """Where its files lie unless it is told otherwise: beside the grids, if this is a cell of one
    of them, else beside the run."""
    shared = run.parent.parent / "targets"
    return shared if shared.is_dir() else run.parent / "targets"


def target_path(folder: Path, run: Path, node: str) -> Path:
    """Its file: readable, and of its own for each run folder and node, whatever they are called."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{run.parent.name}-{run.name}-{node}")[:100]
    digest = hashlib.sha256(f"{run.resolve()}\0{node}".encode(errors="surrogateescape"))
    return folder / f"{words}-{digest.hexdigest()[:8]}.json"


def announce(target: Target) -> None:
    """Write the target's file, whole. Raises OSError."""
    target.path.parent.mkdir(parents=True, exist_ok=True)
    content = [{"targets": [target.address], "labels": dict(target.labels)}]
    write_atomically(target.path, json.dumps(content, indent=1).encode())


def keep_alive(target: Target) -> None:
    """Touch the target's file, or write it again if it was reaped. Raises OSError."""
    try:
        os.utime(target.path)
    except FileNotFoundError:
        announce(target)


def withdraw(target: Target) -> None:
    """Remove the target's file, unless another start of the run has put its own there."""
    with suppress(OSError, ValueError):
        if read_target(target.path).address == target.address:
            target.path.unlink()


def tell_failure(folder: Path, run: Path, reason: str) -> None:
    """Leave a file that says why a run of this node has failed, unless one is there that does not:
    then the run had begun, and is missed there, or is another start, which goes on.

    Raises OSError, or ValueError if the one that is there is none of ours.
    """
    path, node = target_path(folder, run, node_name()), node_name()
    if path.exists() and FAILURE not in read_target(path).labels:
        return
    _announce_failure(path, labels_of(run) | {"instance": node, "node": node}, reason)


def _announce_failure(path: Path, labels: Mapping[str, str], reason: str) -> None:
    announce(Target(path, NOWHERE, {**labels, FAILURE: " ".join(reason.split())[:MOST_LETTERS]}))


def read_target(path: Path) -> Target:
    """A target file. Raises OSError, or ValueError if it is none of ours."""
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        [entry] = content
        [address] = entry["targets"]
        labels = {str(name): str(value) for name, value in entry["labels"].items()}
        host, _, port = str(address).rpartition(":")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no target file") from error
    if not host or not port.isdecimal():
        raise ValueError(f"{path}: {address} is not HOST:PORT")
    return Target(path, str(address), labels)


def supersede(target: Target, nodes: Collection[str] | None = None) -> None:
    """Delete what killed runs left behind and would be taken for this target: files with the same
    address on the same machine. nodes: those that the run has now; its files of others go, too."""
    for path in target.path.parent.glob("*.json"):
        with suppress(OSError, ValueError):
            other = read_target(path)
            labels = [(of.labels.get("grid"), of.labels.get("run")) for of in (other, target)]
            is_mine = labels[0] == labels[1] and nodes is not None
            hosts = [of.labels.get("__host") for of in (other, target)]
            if path != target.path and (
                (other.address == target.address and hosts[0] == hosts[1])
                or (is_mine and other.labels.get("node") not in (nodes or ()))
            ):
                path.unlink()


def is_out_of_reach(target: Target) -> bool:
    """Whether only its own machine, which is not this one, can ask it."""
    host = target.address.rpartition(":")[0].strip("[]")
    is_loopback = host.startswith("127.") or host in ("::1", "localhost")
    return is_loopback and target.labels.get("__host", socket.gethostname()) != socket.gethostname()


def out_of_reach(folder: Path) -> list[str]:
    """Names GRID/RUN of those in the folder; files that cannot be read count for nothing."""
    names = []
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError):
            target = read_target(path)
            if is_out_of_reach(target):
                names.append(f"{target.labels.get('grid')}/{target.labels.get('run')}")
    return names


def reap(folder: Path) -> list[str]:
    """Delete target files that nobody answers for any more; what was done, and what was left alone,
    in a line each."""
    told: list[str] = []
    now = _time_of(folder)
    for path in sorted(folder.glob("*.json")) if now is not None else ():
        try:
            age, target = (now or 0) - path.stat().st_mtime, read_target(path)
            if _has_vanished(target):
                labels = {k: v for k, v in target.labels.items() if not k.startswith("__")}
                _announce_failure(path, labels, VANISHED)
                told.append(f"{path.name}: its process is gone")
                continue
            is_patient = is_out_of_reach(target) or FAILURE in target.labels
            if age < (FAR_SECONDS if is_patient else REAP_SECONDS):
                continue
            if not _answers(target.address):
                path.unlink()
                told.append(f"{path.name}: no answer, and no sign of life for {age / 60:.0f} min")
        except FileNotFoundError:
            continue  # it ended just now, or another one reaps as well
        except (OSError, ValueError) as error:
            told.append(f"{path.name}: left alone: {error}")
    return told


def _has_vanished(target: Target) -> bool:
    """Whether it is known to have ended without a word: no such process on this machine."""
    if PID not in target.labels or target.labels.get("__host") != socket.gethostname():
        return False
    try:
        os.kill(int(target.labels[PID]), 0)
    except ProcessLookupError:
        return not _answers(target.address)  # in a container it has another number
    except (OSError, ValueError, OverflowError):  # somebody else's
        pass
    return False


def _time_of(folder: Path) -> float | None:
    """Now, by the clock of the file system: only that can be compared with its files' times."""
    probe = folder / f".now-{os.getpid()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return None
    return now


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=0.5):
            return True
    except (OSError, ValueError, OverflowError):
        return False
