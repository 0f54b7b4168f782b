"""What runs inside SLURM's jobs: tasks that train or restore, the writing of shards, the report."""

import json
import os
import signal
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from errno import EACCES, EDQUOT, EISDIR, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import Any, NoReturn

from launch.grid.jobs import TrainJob
from launch.grid.state import ERROR
from maskrestore.config.cli import RESUME_STATUS, end_process
from maskrestore.config.data import DataConfig
from maskrestore.config.inference import RestoreConfig
from maskrestore.config.run import RunConfig
from maskrestore.config.settings import validate
from maskrestore.utils.errors import ConfigError, Interrupted, UserError
from maskrestore.utils.files import write_atomically
from maskrestore.utils.streams import set_up_streams
from maskrestore.utils.system import set_up_torch

MENDABLE = (ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, EROFS, ENOSPC, EDQUOT)
"""Errors of the file system that another attempt would meet again; others are a node's or a
network's, and may be gone elsewhere."""


class Task(ABC):
    """One of the tasks of a SLURM job that do one thing together.

    Ends its process with the exit status of the program that does the same (train.py, restore.py),
    from which slurm/supervisor.py tells what comes next; error.txt in the run folder says what went
    wrong first.
    """

    less_memory: str
    """What a user can do to need less."""

    def __init__(self, run: Path) -> None:
        self.run = run

    @abstractmethod
    def work(self) -> int:
        """Do it; the exit status."""

    def __call__(self) -> NoReturn:
        """Do it on what SLURM gives to this task."""
        set_up_streams()
        # Until the work listens for them: nothing is to be saved yet, so go back into the queue.
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda *_: os._exit(RESUME_STATUS))
        end_process(self._status())

    def _status(self) -> int:
        try:
            return self.work()
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
                return self._fail(f"out of memory ({self.less_memory}): {error}", 2)
            return self._fail(text, 1)

    def _fail(self, message: str, status: int) -> int:
        print(message, flush=True)
        try:
            # Only the first: the others fail because one did.
            with open(self.run / ERROR, "x", encoding="utf-8") as file:
                file.write(message + "\n")
        except OSError:
            pass  # it is in the log
        return status


class TrainTask(Task):
    """Trains and evaluates a cell."""

    less_memory = "give training.accumulation=2 or more nodes"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config.run)
        self.job = TrainJob(config)

    def work(self) -> int:
        """Train."""
        self.job.train()
        return 0


class RestoreTask(Task):
    """Restores a part of the masks of a folder; result.json in the run folder says that all of
    them are restored."""

    less_memory = "give batch_size=1"

    def __init__(self, config: RestoreConfig, run: Path) -> None:
        super().__init__(run)
        self.values: dict[str, Any] = config.model_dump(mode="json")

    def work(self) -> int:
        """Import torch and restore."""
        set_up_torch()
        from maskrestore.inference.restore import restore

        status = restore(validate(RestoreConfig, self.values))
        if status == 0 and os.environ.get("SLURM_PROCID", "0") == "0":
            result = {"part": self.values["part"], "output": self.values["output"]}
            write_atomically(self.run / "result.json", json.dumps(result).encode())
        return status


class ShardsJob:
    """Writes the shards of a data set unless they are there."""

    def __init__(self, data: DataConfig) -> None:
        self.values: dict[str, Any] = data.model_dump(mode="json")

    def __call__(self) -> None:
        """Write them."""
        from launch.grid.missing_shards import write_missing_shards

        write_missing_shards(validate(DataConfig, self.values))


class ReportJob:
    """Writes the report of a grid."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> None:
        """Write it from what the cells' folders hold by then."""
        from launch.results.write_report import write_report

        write_report(self.words)
