"""Another program on the null GPU, whose results the CPU computes: emulated.py PROGRAM WORDS...

Under tests/support/null_gpu's environment, which has to be there before the process is.
"""

import runpy
import sys

import torch
from null_gpu.emulation import Emulation

torch.backends.cudnn.enabled = False  # its graphs cannot be made up
del sys.argv[0]
with Emulation():
    runpy.run_path(sys.argv[0], run_name="__main__")
