"""train.py where a folder is looked for as often as ever, but in a tenth of the time."""

import runpy
import time
from pathlib import Path

from maskrestore.runs import run_folder


class Hurried:
    """The time module to one module."""

    @staticmethod
    def sleep(seconds: float) -> None:
        """A tenth of it."""
        time.sleep(seconds / 10)

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


run_folder.time = Hurried()  # type: ignore[assignment]
runpy.run_path(str(Path(__file__).parents[2] / "train.py"), run_name="__main__")
