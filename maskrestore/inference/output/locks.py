"""Who is at work in the output folder. A process that ends, however it ends, holds nothing more."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from maskrestore.utils.errors import UserError
from maskrestore.utils.files import flock


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait for, and keep off, whoever else is at the files that all parts share."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as file:
        flock(file, fcntl.LOCK_EX)
        yield


def join(folder: Path, command: str, output: Path) -> TextIO:
    """Hold `output`, whose lock lies in `folder`, together with parts of the same `command` only.

    The caller is `alone`, so that of several that come at once each is let in or refused by those
    before it. Raises UserError that names both commands if another one holds it.
    """
    file = open(folder / "at_work", "a+", encoding="utf-8")  # noqa: SIM115 - the caller closes it
    try:
        flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(command)
        file.flush()
    except BlockingIOError:
        file.seek(0)
        theirs = file.read()
        if theirs != command:
            file.close()
            raise UserError(
                f"output={output}: a command with other settings, or another number of parts, is "
                f"at work on it ({theirs}; this one: {command}): wait for its end"
            ) from None
    flock(file, fcntl.LOCK_SH)
    return file
