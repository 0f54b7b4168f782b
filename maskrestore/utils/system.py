"""Cores, memory, and the environment of PyTorch."""

import ctypes
import os
import sys
from typing import Any


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
    """PyTorch's environment; call it before torch is imported. Whatever is set already stays."""
    # Its C++ side warns where nobody can filter it (of a choice of distributed/processes.py, and of
    # IPv6).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Large tensors on a CPU take huge pages: each new one costs a fault per page, which in small
    # pages is as long as a convolution's computing.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
