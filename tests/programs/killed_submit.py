"""submit.py, killed at its n-th rename or start of a program.

killed_submit.py NUMBER WORDS...: an odd number kills before, an even one after that call.
"""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from launch.submit import main

calls = 0


def watched(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*words: Any, **more: Any) -> Any:
        global calls
        calls += 1
        own = calls
        if 2 * own - 1 == target:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return function(*words, **more)
        finally:
            if 2 * own == target:
                os.kill(os.getpid(), signal.SIGKILL)

    return call


if __name__ == "__main__":
    target = int(sys.argv[1])
    os.replace = watched(os.replace)
    pathlib.Path.rename = watched(pathlib.Path.rename)
    subprocess.Popen = watched(subprocess.Popen)
    sys.exit(main(sys.argv[2:]))
