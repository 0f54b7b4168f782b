"""train.py with a sickness, at a steady pace. What it computes is the same, but for its losses.

SICK=PACE:RANK:FOLDER: each step takes PACE seconds longer; on process RANK (-1: on all) it is sick
in the ways of the files in FOLDER: `step`, `data` and `loss`, each of which holds a number: seconds
by which a step or the decoding of a sample takes longer, and the factor of the losses.
"""

import os
import time
from pathlib import Path

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.run import RunConfig
from maskrestore.data import shard_folder
from maskrestore.objectives.restoration import Restoration
from maskrestore.training import loop as training_loop
from train import main

pace, rank, folder = os.environ["SICK"].split(":", 2)
is_sick = rank in ("-1", os.environ.get("RANK", "0"))
losses, take_step, decode = Restoration.losses, training_loop.take_step, shard_folder.decode


def dose(name: str, healthy: float) -> float:
    try:
        return float(Path(folder, name).read_text()) if is_sick else healthy
    except (OSError, ValueError):  # not there, or being written
        return healthy


def slow_step(*words):  # type: ignore[no-untyped-def]
    time.sleep(float(pace) + dose("step", 0))
    return take_step(*words)


def slow_decode(*words):  # type: ignore[no-untyped-def]
    time.sleep(dose("data", 0))
    return decode(*words)


def other_losses(self, batch):  # type: ignore[no-untyped-def]
    factor = dose("loss", 1)
    return {name: term * factor for name, term in losses(self, batch).items()}


Restoration.losses = other_losses  # type: ignore[method-assign]
training_loop.take_step = slow_step
shard_folder.decode = slow_decode
end_process(run_program(main, "", RunConfig, as_several=True))
