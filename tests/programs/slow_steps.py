"""What submitit starts for a task, with steps and saves that take SLOW_STEP and SLOW_SAVE seconds
longer, as the files say that they name: time to strike while a run trains or saves. It computes the
same.

slow_steps.py -u -m submitit.core._submit FOLDER
"""

import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.grid.jobs import TrainJob


def slowed(function: Callable[..., Any], variable: str) -> Callable[..., Any]:
    def call(*words: Any, **more: Any) -> Any:
        time.sleep(float(Path(os.environ[variable]).read_text()))
        return function(*words, **more)

    return call


def train_slowly(job: TrainJob) -> None:
    # Only now, since a task that has not called TrainTask yet is to import no torch.
    from maskrestore.runs import checkpoint
    from maskrestore.training import loop as training_loop

    training_loop.take_step = slowed(training_loop.take_step, "SLOW_STEP")
    checkpoint.write_atomically = slowed(checkpoint.write_atomically, "SLOW_SAVE")
    train(job)


if __name__ == "__main__":
    train, TrainJob.train = TrainJob.train, train_slowly
    _, _, _, module, *words = sys.argv
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__")
