"""Cores, memory, and the environment of PyTorch."""

import ctypes
import math
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""How long a thread of OpenMP spins at a barrier, in the words of each library."""


def keep_freed_memory(device_type: str) -> None:
    """Where a CPU computes, tell glibc's malloc to keep what is freed for the next tensors.

    It would give large pieces back to the system, which hands them out again page by page and
    filled with zeros: a third of the time of a training step. Call it when all is loaded, or what
    loading has freed is kept as well.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" and device_type == "cpu" else None
    if hasattr(libc, "mallopt"):
        for threshold in (2**31 - 1, 2**25):  # older ones take 32 MiB at most
            if libc.mallopt(-3, threshold):  # M_MMAP_THRESHOLD
                break
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def set_up_torch() -> None:
    """The environment of PyTorch and of what is imported beside it; call it before that. Whatever
    is set already stays, but for the backend of matplotlib, with which nothing here draws."""
    # Its C++ side warns where nobody can filter it (of a choice of distributed/processes.py, and of
    # IPv6).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Large tensors on a CPU take huge pages: each new one costs a fault per page, which in small
    # pages is as long as a convolution's computing.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Threads that spin at each barrier take the core that the last one of them waits for, if any
    # other process wants one: training with a busy neighbour is several times slower then.
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    # OpenMP knows nothing of quotas: threads beyond one stop all of them for most of the time.
    cores = count_cores()
    if cores < _allowed_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def count_cores() -> int:
    """Cores that this process may use: those that it may run on, or as many as the quota of its
    cgroups is worth, if that is less."""
    return max(1, math.ceil(min(_allowed_cores(), _quota())))


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(proc: Path = Path("/proc/self")) -> float:
    """CPU seconds per second that the cgroups of this process grant it; inf without a limit, and
    where there are no cgroups."""
    try:
        groups = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split(" ") for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:
        return math.inf
    quotas = [math.inf]
    for mount in mounts:
        kind, root, folder = mount[mount.index("-") + 1], mount[3], Path(mount[4])
        for number, controllers, path in groups:
            is_v1 = kind == "cgroup" and "cpu" in controllers.split(",") and _has_cpu(mount)
            if is_v1 or (kind == "cgroup2" and number == "0"):
                quotas += map(_quota_of, _group_and_above(folder, root, path))
    return min(quotas)


def _has_cpu(mount: list[str]) -> bool:
    return "cpu" in mount[-1].split(",")


def _group_and_above(folder: Path, root: str, path: str) -> list[Path]:
    """The folders of a group and of those that it lies in, as far as they are mounted."""
    try:
        inside = PurePosixPath(path).relative_to(root)
    except ValueError:  # a container that sees its own group alone, and its path from outside
        inside = PurePosixPath()
    return [folder / part for part in (inside, *inside.parents)]


def _quota_of(group: Path) -> float:
    """Of cpu.max, or of the two files of version 1; inf if there are none."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max" is none
        return math.inf
