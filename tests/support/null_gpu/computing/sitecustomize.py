"""On PYTHONPATH of a program and of all that it starts: the null GPU computes, on the CPU."""

import torch
from null_gpu.emulation import Emulation

torch.backends.cudnn.enabled = False  # its graphs cannot be made up
Emulation().__enter__()
