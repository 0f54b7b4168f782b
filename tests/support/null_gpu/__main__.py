"""Python on a machine with the null GPU, whose results the CPU computes, slowly: a rehearsal.

PYTHONPATH=tests/support python -m null_gpu train.py config=demo ...
PYTHONPATH=tests/support python -m null_gpu -m benchmarks.gpu size=32x64 large_size=32x64 \\
    width=2 hidden=4 batch_size=1 steps=4 repeats=1 patience=10
"""

import os
import subprocess
import sys

import null_gpu

if len(sys.argv) < 2:
    sys.exit(__doc__)
environment = os.environ | null_gpu.environment(computes=True)
sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], env=environment).returncode)
