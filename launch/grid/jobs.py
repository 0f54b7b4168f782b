"""A grid's cell as a job on this machine."""

import os
import signal
from typing import Any

from maskrestore.config.run import RunConfig
from maskrestore.config.settings import validate
from maskrestore.utils.errors import ConfigError, Interrupted, UserError
from maskrestore.utils.launcher import forget_launchers
from maskrestore.utils.streams import set_up_streams
from maskrestore.utils.system import set_up_torch


class TrainJob:
    """Trains and evaluates one cell on this machine."""

    def __init__(self, config: RunConfig) -> None:
        self.values: dict[str, Any] = config.model_dump(mode="json")

    def __call__(self, devices: str) -> str | None:
        """Run on `devices` (CUDA_VISIBLE_DEVICES; "" is the CPU); the user's mistake, or None."""
        set_up_streams()
        # submitit ignores this signal. Training listens to it, and saves; before and after that
        # its default action is the right end, since whatever is on disk is whole at any moment.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        forget_launchers()  # the cell is alone, whatever processes the shell of submit.py numbers
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
        from maskrestore.training.loop import train

        train(validate(RunConfig, self.values))
