"""train.py, but one process's losses between two images are multiplied, by NaN or a large number.

Real shards hold integers, from which no such loss can come. POISON=FACTOR:RANK:FROM:TO
"""

import os

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.run import RunConfig
from maskrestore.objectives.restoration import Restoration
from maskrestore.training import loop as training_loop
from train import main

factor, rank, first, last = map(float, os.environ["POISON"].split(":"))
bad = False
losses, take_step = Restoration.losses, training_loop.take_step


def watched_step(config, objective, engines, batch, num_images, meter):  # type: ignore[no-untyped-def]
    """One step; says whether its losses are to be poisoned."""
    global bad
    bad = float(os.environ.get("RANK", "0")) == rank and first < num_images <= last
    return take_step(config, objective, engines, batch, num_images, meter)


def poisoned_losses(self, batch):  # type: ignore[no-untyped-def]
    """The terms, poisoned where it is time."""
    terms = losses(self, batch)
    return {name: term * factor for name, term in terms.items()} if bad else terms


Restoration.losses = poisoned_losses  # type: ignore[method-assign]
training_loop.take_step = watched_step
end_process(run_program(main, "", RunConfig, as_several=True))
