"""train.py on a device that has no memory left for the first step."""

import torch

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.run import RunConfig
from maskrestore.training import loop as training_loop
from train import main


def take_step(*_):  # type: ignore[no-untyped-def]
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2.00 GiB.")


training_loop.take_step = take_step
end_process(run_program(main, "", RunConfig))
