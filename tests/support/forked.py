"""Processes that start at once: forked from a server that has imported everything already.

Importing torch and what stands on it takes four seconds of a core, far more than a tiny run, and
the tests start hundreds of processes. These have all that makes a process (a pid, streams, an
environment, a folder, signals, an exit status) and run a program from its first line to its last,
as `python PROGRAM WORDS` does; only their imports are done. What a fresh interpreter does is left
to the tests that start one: launchers, programs, jobs. TESTS_FORK=0 starts one everywhere, as is
done on systems other than Linux, whose libraries do not stand a fork.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "maskrestore.training.loop",
    "maskrestore.evaluation.segmentation",
    "torchvision",
    "torch._dynamo",
)
"""Imported by the server; torch's optimizers import the last one when they are made."""
DEEPSPEED = ("transformers", "deepspeed.ops", "deepspeed.runtime.zero.muon.muon_optimizer")
"""What DeepSpeed's engine imports besides, when one is made: as much again."""


STARTED: weakref.WeakSet["Process"] = weakref.WeakSet()
"""Processes of the tests; tests/conftest.py ends those of one that fails."""


class Process(Protocol):
    """What the tests use of subprocess.Popen."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def communicate(
        self, input: str | None = None, timeout: float | None = None
    ) -> tuple[str, str]: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


def start_program(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    uses_deepspeed: bool = False,
) -> Process:
    """`python PROGRAM WORDS` (command: without python), with more environment, in a folder."""
    whole = os.environ | dict(environment or {})
    process: Process
    is_fresh = os.environ.get("TESTS_FORK") == "0" or sys.platform != "linux"
    if is_fresh or "LD_PRELOAD" in whole:  # which is for what begins
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=whole,
            cwd=folder,
        )
    else:
        uses_deepspeed |= "distributed.engine=deepspeed" in command
        imports = DEEPSPEED if uses_deepspeed else ()
        process = Forked(command, whole, folder or Path.cwd(), imports)
    STARTED.add(process)
    return process


def run_program(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """start_program, and how it ended."""
    process = start_program(command)
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    return subprocess.CompletedProcess(list(command), process.wait(), output, errors)


class Forked:
    """A Process that the server forks. Its output goes to files, so nothing waits for a reader."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        imports: Sequence[str],
    ) -> None:
        self.returncode: int | None = None
        self._output = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        reading, writing = os.pipe()
        request = {"command": list(command), "environment": environment, "folder": str(folder)}
        request["imports"] = list(imports)
        streams = [writing, *(file.fileno() for file in self._output)]
        socket.send_fds(_server(), [json.dumps(request).encode()], streams)
        os.close(writing)
        self._report = os.fdopen(reading)
        self.pid = int(self._report.readline())

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            waited = None if timeout is None else max(timeout, 0)
            if not select.select([self._report], [], [], waited)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def _end(self) -> None:
        self.returncode = int(self._report.readline())
        self._report.close()

    def communicate(
        self, input: str | None = None, timeout: float | None = None
    ) -> tuple[str, str]:
        assert input is None
        self.wait(timeout)
        texts = []
        for file in self._output:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return texts[0], texts[1]

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> socket.socket:
    """This end of the line to the server, which ends when the line does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Of threads it may have one; torch 2.8's compiler starts some where DeepSpeed imports it.
    alone = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env=os.environ | alone,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


def serve(line: socket.socket) -> None:
    """Fork what is asked for until the line ends. Only this thread may exist: forks lose others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path.insert(0, str(ROOT))
    os.environ["DS_ACCELERATOR"] = "cpu"  # for DeepSpeed's import alone
    prepare(MODULES)
    while True:
        message, streams, *_ = socket.recv_fds(line, 1 << 20, 3)
        with contextlib.suppress(ChildProcessError):  # the keepers of processes that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not message:
            return
        request = json.loads(message)
        prepare(request["imports"])
        keeper = os.fork()
        if keeper == 0:
            line.close()
            keep(request, *streams)
        for stream in streams:
            os.close(stream)


def prepare(modules: Sequence[str]) -> None:
    """Import what is not imported yet."""
    if missing := [name for name in modules if name not in sys.modules]:
        for name in missing:
            __import__(name)
        gc.freeze()  # what is shared with the processes stays so
        tasks = os.listdir("/proc/self/task")
        assert len(tasks) == 1, f"{len(tasks)} threads"


def keep(request: dict, report: int, output: int, errors: int) -> None:
    """Fork the process itself, and report its pid and then its exit status, as Popen tells it."""
    pid = os.fork()
    if pid == 0:
        os.close(report)
        run(request, output, errors)
    os.close(output)
    os.close(errors)
    os.write(report, f"{pid}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(report, f"{status}\n".encode())
    os._exit(0)


def run(request: dict, output: int, errors: int) -> None:
    """Become the process that was asked for."""
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(errors, 2)
        os.close(output)
        os.close(errors)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        program = request["command"][0]
        sys.argv = request["command"]
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:2] = [str(Path(program).parent), *paths]  # was: this folder, ROOT
        runpy.run_path(program, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # nothing to clean up, and a library complains on the way out
