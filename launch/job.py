"""The job of one cell, as it travels to the process that runs it."""

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Any, TextIO

from maskrestore.config import RunConfig
from maskrestore.settings import ConfigError, UserError, validate

LOCK = "lock"


class TrainJob:
    """Trains and evaluates one cell. Holds nothing but settings, so that its pickle is small and
    what runs is the code of the process that loads it."""

    def __init__(self, config: RunConfig) -> None:
        self.values: dict[str, Any] = config.model_dump(mode="json")

    def __call__(self, devices: str) -> str | None:
        """Run on `devices` (CUDA_VISIBLE_DEVICES; "" is the CPU); the user's mistake, or None."""
        # Whatever is on disk is whole at any moment, so the default action of SIGTERM is the
        # right end: at once, also in the middle of a native call (submitit ignores the signal).
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
        from maskrestore.training_loop import train

        try:
            config = validate(RunConfig, self.values)
            with lock(config.run):
                train(config)
        except (ConfigError, UserError) as error:
            return str(error)
        except OSError as error:  # a full disk, a folder without permission
            return f"{error.filename or 'file system'}: {error.strerror or error}"
        return None


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
