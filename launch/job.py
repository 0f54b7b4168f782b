"""The job of one cell, as it travels to the process that runs it."""

import os
import signal
from typing import Any

from maskrestore.config import RunConfig
from maskrestore.program import Interrupted
from maskrestore.settings import ConfigError, UserError, validate


class TrainJob:
    """Trains and evaluates one cell. Holds nothing but settings, so that its pickle is small and
    what runs is the code of the process that loads it."""

    def __init__(self, config: RunConfig) -> None:
        self.values: dict[str, Any] = config.model_dump(mode="json")

    def __call__(self, devices: str) -> str | None:
        """Run on `devices` (CUDA_VISIBLE_DEVICES; "" is the CPU); the user's mistake, or None."""
        # submitit ignores this signal. Training listens to it, and saves; before and after that
        # its default action is the right end, since whatever is on disk is whole at any moment.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
        from maskrestore.training_loop import train

        try:
            config = validate(RunConfig, self.values)
            train(config)
        except (ConfigError, UserError, Interrupted) as error:
            return str(error)
        except OSError as error:  # a full disk, a folder without permission
            return f"{error.filename or 'file system'}: {error.strerror or error}"
        return None
