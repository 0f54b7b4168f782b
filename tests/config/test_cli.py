"""What every program does around its work, whatever the shell that it was typed in."""

import os
import subprocess
import sys

import pytest
from forked import ROOT

SECOND_OF_TWO = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def start(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | SECOND_OF_TWO
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "program",
    [
        *("launch/submit.py", "launch/status.py", "launch/report.py", "launch/dashboard.py"),
        *("shards/write.py", "export.py"),
    ],
)
def test_a_program_that_is_alone_tells_of_mistakes_in_a_shell_of_a_launcher_too(
    program: str,
) -> None:
    done = start(program, "nonsense=1")
    assert done.returncode == 2
    assert "nonsense: no such setting" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["train.py", "evaluate.py", "restore.py"])
def test_of_several_processes_one_tells_of_mistakes(program: str) -> None:
    done = start(program, "nonsense=1")
    assert (done.returncode, done.stderr) == (2, "")
