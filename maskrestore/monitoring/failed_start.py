"""A run that fails before its first step tells Prometheus why, by a target file without a run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from maskrestore.config.run import RunConfig
from maskrestore.monitoring.targets import targets_folder, tell_failure
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.launcher import is_first_process


@contextmanager
def failed_start_told(config: RunConfig) -> Iterator[None]:
    """Leave such a file if what is done within fails, unless the run had begun. Being stopped is
    no failure."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if config.telemetry.serve and is_first_process():
            _tell(config, error)
        raise


def _tell(config: RunConfig, error: BaseException) -> None:
    # SystemExit: another process has the reason, which stands behind it.
    reason = error.__cause__ or "see its log" if isinstance(error, SystemExit) else error
    name = "" if isinstance(reason, ConfigError | UserError | str) else f"{type(reason).__name__}: "
    try:
        folder = config.telemetry.targets or targets_folder(config.run)
        tell_failure(folder, config.run, f"{name}{reason}")
    except (OSError, ValueError) as trouble:
        tqdm.write(f"telemetry: not told that the run failed: {trouble}", file=sys.stderr)
