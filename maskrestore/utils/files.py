"""Files that are whole or absent, their sha256, and locks on folders.

What a file system need not be able to do (to sync a folder, to lock) is told once and done without.
"""

import errno
import fcntl
import hashlib
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path
from typing import IO, TextIO

from maskrestore.utils.errors import UserError

LOCK = "lock"
CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
CANNOT_SYNC = CANNOT | {errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENOTTY}
"""Of fsync, and of opening a folder for it: VirtualBox, shares of Windows, FUSE, and folders where
one may write but not list. What tells of lost data (EIO, ENOSPC, EDQUOT) is none of them."""
CANNOT_LOCK = CANNOT | {errno.ENOLCK}
"""Of flock: Lustre that is mounted without it, NFS without its lock daemon."""

_gone_without: set[str] = set()
"""What this process has told that it goes without."""


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace a file by `content`, whole or not at all."""
    beside = name_beside(path)
    try:
        with open(beside, "wb") as file:
            file.write(content)
            sync(file)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def name_beside(path: Path) -> Path:
    """The hidden file that is to replace `path` when it is whole."""
    # The next start overwrites what a killed one left there. Where nobody can be kept away, another
    # process may write its own at this moment.
    own = f".{socket.gethostname()}-{os.getpid()}" if "locks" in _gone_without else ""
    return path.with_name(f".{path.name}{own}.partial")


def sync(file: IO[bytes] | IO[str]) -> None:
    """What was written to a file is on disk when this returns, where the file system can do that.

    Raises OSError if it cannot be written.
    """
    file.flush()
    _fsync(file.fileno(), Path(file.name).parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut, where the file system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        _go_without_sync(folder, error)
        return
    try:
        _fsync(descriptor, folder)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int, folder: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        _go_without_sync(folder, error)


def _go_without_sync(folder: Path, error: OSError) -> None:
    if error.errno not in CANNOT_SYNC:
        raise error
    _go_without(
        "fsync",
        f"{folder}: fsync is not possible there ({error.strerror}): what was written just before a "
        "power cut may be lost",
    )


def _go_without(ability: str, message: str) -> None:
    """Say it on stderr the first time; of several processes the main one does."""
    is_worker = multiprocessing.parent_process() is not None
    if ability not in _gone_without and not is_worker and os.environ.get("RANK", "0") == "0":
        from tqdm import tqdm  # knows of the bars that are on the terminal

        tqdm.write(f"warning: {message}", file=sys.stderr)
    _gone_without.add(ability)


def lock(run: Path) -> TextIO:
    """Hold the run folder until the returned file is closed or the process ends, however it ends.

    Raises UserError if another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = open(run / LOCK, "a")  # noqa: SIM115 - the caller closes it
    try:
        for pause in (0.1, 0.3, 0):  # `is_locked`, asked by a report, holds it for a moment
            try:
                flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                time.sleep(pause)
    except BaseException:
        file.close()
        raise
    file.close()
    raise UserError(f"{run}: another process is at work on this run")


def flock(file: IO[str], operation: int) -> None:
    """fcntl.flock; where the file system has no locks, go on without.

    Raises BlockingIOError if another process holds the lock.
    """
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise
        _go_without(
            "locks",
            f"{Path(file.name).parent}: its file system has no locks ({error.strerror}): nobody "
            "else is kept away; see to it that no second program works on the same folder",
        )


def is_locked(run: Path) -> bool:
    """Whether a process is known to be at work on the run: no, where there are no locks."""
    try:
        with open(run / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:  # whoever only reads needs no lock, and no right to it
        if error.errno not in CANNOT_LOCK | {errno.ENOENT, errno.EACCES}:
            raise
    return False
