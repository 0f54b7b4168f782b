"""train.py, but the step of one process that ends at an image finds its GPU's memory full.

A CPU's is too large to be filled by a test: torch's own error stands for it. EXHAUSTED=RANK:IMAGES
"""

import os

import torch

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.run import RunConfig
from maskrestore.training import loop as training_loop
from train import main

rank, last = os.environ["EXHAUSTED"].split(":")
take_step = training_loop.take_step


def exhausted_step(config, objective, engines, batch, num_images, meter):  # type: ignore[no-untyped-def]
    """One step, or none."""
    if os.environ.get("RANK", "0") == rank and num_images == int(last):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of ..."
        )
    return take_step(config, objective, engines, batch, num_images, meter)


training_loop.take_step = exhausted_step
end_process(run_program(main, "", RunConfig, as_several=True))
