"""On PYTHONPATH of a program: its file system has no locks and cannot sync folders, as NO_FLOCK and
NO_FSYNC say, each the number of the error."""

import fcntl
import os
import stat

_fsync = os.fsync


def _no_flock(file: object, operation: int) -> None:
    number = int(os.environ["NO_FLOCK"])
    raise OSError(number, os.strerror(number))


def _no_fsync(descriptor: int) -> None:
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        number = int(os.environ["NO_FSYNC"])
        raise OSError(number, os.strerror(number))
    _fsync(descriptor)


if os.environ.get("NO_FLOCK"):
    fcntl.flock = _no_flock
if os.environ.get("NO_FSYNC"):
    os.fsync = _no_fsync
