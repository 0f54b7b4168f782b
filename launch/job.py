"""The jobs of a grid, as they travel to the processes that run them.

Each holds nothing but settings, so that its pickle is small and what runs is the code of the
process that loads it.
"""

import os
import signal
import traceback
from collections.abc import Sequence
from errno import EACCES, EDQUOT, EISDIR, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import Any, NoReturn

from launch.state import ERROR
from maskrestore.config import RunConfig
from maskrestore.data_config import DataConfig
from maskrestore.program import RESUME_STATUS, Interrupted, end_process, set_up_torch
from maskrestore.settings import ConfigError, UserError, validate

MENDABLE = (ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, EROFS, ENOSPC, EDQUOT)
"""Errors of the file system that another attempt would meet again; others are a node's or a
network's, and may be gone elsewhere."""


class TrainJob:
    """Trains and evaluates one cell on this machine."""

    def __init__(self, config: RunConfig) -> None:
        self.values: dict[str, Any] = config.model_dump(mode="json")

    def __call__(self, devices: str) -> str | None:
        """Run on `devices` (CUDA_VISIBLE_DEVICES; "" is the CPU); the user's mistake, or None."""
        # submitit ignores this signal. Training listens to it, and saves; before and after that
        # its default action is the right end, since whatever is on disk is whole at any moment.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
        try:
            self.train()
        except (ConfigError, UserError, Interrupted) as error:
            return str(error)
        except OSError as error:  # a full disk, a folder without permission
            return f"{error.filename or 'file system'}: {error.strerror or error}"
        return None

    def train(self) -> None:
        """Import torch and train."""
        set_up_torch()
        from maskrestore.training_loop import train

        train(validate(RunConfig, self.values))


class TrainTask(TrainJob):
    """One of the tasks of a SLURM job that train and evaluate one cell together.

    Ends its process with the exit status of train.py, from which launch/attempt.py tells what comes
    next; error.txt in the run folder says what went wrong first.
    """

    def __call__(self, devices: str = "") -> NoReturn:
        """Run on what SLURM gives to this task."""
        # Until training listens for them: nothing is to be saved yet, so go back into the queue.
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda *_: os._exit(RESUME_STATUS))
        end_process(self._status())

    def _status(self) -> int:
        try:
            self.train()
        except Interrupted as stop:
            print(stop, flush=True)
            return RESUME_STATUS
        except SystemExit as end:  # another task says what is wrong
            return int(end.code or 0)
        except (ConfigError, UserError) as error:
            return self._fail(str(error), 2)
        except OSError as error:
            text = f"{error.filename or 'file system'}: {error.strerror or error}"
            return self._fail(text, 2 if error.errno in MENDABLE else 1)
        except Exception as error:
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}"
            if "OutOfMemory" in text or isinstance(error, MemoryError):
                advice = "give training.accumulation=2 or more nodes"
                return self._fail(f"out of memory ({advice}): {error}", 2)
            return self._fail(text, 1)
        return 0

    def _fail(self, message: str, status: int) -> int:
        print(message, flush=True)
        try:
            # Only the first: the others fail because one did.
            with open(Path(self.values["run"]) / ERROR, "x", encoding="utf-8") as file:
                file.write(message + "\n")
        except OSError:
            pass  # it is in the log
        return status


class ShardsJob:
    """Writes the shards of a data set unless they are there."""

    def __init__(self, data: DataConfig) -> None:
        self.values: dict[str, Any] = data.model_dump(mode="json")

    def __call__(self) -> None:
        """Write them."""
        from launch.inputs import write_missing_shards

        write_missing_shards(validate(DataConfig, self.values))


class ReportJob:
    """Writes the report of a grid."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> None:
        """Write it from what the cells' folders hold by then."""
        from launch.report import main

        main(self.words)
