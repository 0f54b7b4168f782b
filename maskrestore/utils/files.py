"""Files that are whole or absent, their sha256, and the lock on a run folder."""

import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import TextIO

from maskrestore.utils.errors import UserError

LOCK = "lock"


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace a file by `content`, whole or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(run: Path) -> TextIO:
    """Hold the run folder until the returned file is closed or the process ends, however it ends.

    Raises UserError if another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = open(run / LOCK, "a")  # noqa: SIM115 - the caller closes it
    for pause in (0.1, 0.3, 0):  # `is_locked`, asked by a report, holds it for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(pause)
    file.close()
    raise UserError(f"{run}: another process is at work on this run")


def is_locked(run: Path) -> bool:
    """Whether a process is at work on the run."""
    try:
        with open(run / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
