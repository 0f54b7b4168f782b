"""Jobs on this machine: a queue in front of submitit's local executor, watched on the terminal."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.grid.cell_table import Line, Screen, clock
from launch.grid.state import Progress

Job = Callable[[str], str | None]
"""Called in a process of its own with its CUDA_VISIBLE_DEVICES; the user's mistake, or None."""


NO_TIMEOUT_MIN = 365 * 24 * 60
"""Minutes; submitit would stop a local job after 2."""


@dataclass(frozen=True)
class Failure:
    """Why a job failed, in a line; whether its user can mend that; and the whole log."""

    message: str
    by_user: bool
    log: Path


def run_queue(
    title: str,
    jobs: Mapping[str, Job],
    slots: Sequence[str],
    logs: Path,
    progress: Callable[[str], Progress],
    summary: Callable[[str], str],
) -> dict[str, Failure]:
    """Run named jobs, one per slot at a time, in their order; those that failed.

    slots: a CUDA_VISIBLE_DEVICES value each ("" is the CPU). logs/NAME/NUMBER takes the log of each
    attempt. title, progress(name) and summary(name) feed the view. A job that fails leaves the
    others alone. Whatever ends the queue early (Ctrl-C) ends its jobs first.
    """
    waiting, free = list(jobs), list(range(len(slots)))
    running: dict[int, tuple[str, Any]] = {}
    failures: dict[str, Failure] = {}
    with Screen() as screen:
        view = View(screen, title, jobs, progress, summary)
        try:
            while waiting or running:
                while waiting and free:
                    slot, name = free.pop(0), waiting.pop(0)
                    view.start(name)
                    running[slot] = name, _start(jobs[name], slots[slot], logs / name)
                view.draw()
                time.sleep(0.2)
                for slot, (name, job) in list(running.items()):
                    if not job.done():
                        continue
                    del running[slot]
                    free.append(slot)
                    failure = _failure(job)
                    if failure:
                        failures[name] = failure
                    view.end(name, failure)
        finally:
            _stop([job for _, job in running.values()])
            view.close()
    return failures


def _start(job: Job, devices: str, logs: Path) -> Any:
    from submitit import LocalExecutor

    # A fresh folder: submitit names its files by process id, which the system uses again, and it
    # would load the job or the result of an earlier attempt.
    attempts = [int(path.name) for path in logs.glob("*") if path.name.isdecimal()]
    executor = LocalExecutor(logs / f"{max(attempts, default=0) + 1:03d}")
    executor.update_parameters(timeout_min=NO_TIMEOUT_MIN, stderr_to_stdout=True)
    with _without_interrupts():
        return executor.submit(job, devices)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process started in here never gets Ctrl-C: this one alone does, and stops it in order.

    (A second interrupt makes submitit's controller leave its task behind.)
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _stop(jobs: Sequence[Any], timeout_seconds: float = 30) -> None:
    """End jobs and wait until they are gone. A local job's id is its controller's process id."""
    if not jobs:
        return
    listened = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in listened]
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline and not all(job.done() for job in jobs):
        for job in jobs:
            # Again and again: a job that is just starting does not listen yet.
            if not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)
        time.sleep(0.1)
    for number, handler in zip(listened, before, strict=True):
        signal.signal(number, handler)


def _failure(job: Any) -> Failure | None:
    log = job.paths.stdout
    if not job.paths.result_pickle.exists():
        return Failure("ended without a word: killed, perhaps for want of memory", False, log)
    error = job.exception()
    if error is not None:
        # submitit puts the traceback between two rules, and its own advice below.
        trace = str(error).rpartition("-" * 22)[0].strip()
        return Failure(trace.splitlines()[-1], False, log)
    mistake = job.result()
    return Failure(mistake, True, log) if mistake else None


class View:
    """On a terminal a table of all jobs; elsewhere a line at each start and end."""

    def __init__(
        self,
        screen: Screen,
        title: str,
        names: Collection[str],
        progress: Callable[[str], Progress],
        summary: Callable[[str], str],
    ) -> None:
        self._screen, self._title = screen, title
        self._progress, self._summary = progress, summary
        self._lines = {name: Line(name, "waiting", progress(name)) for name in names}
        self._started: dict[str, float] = {}
        self._next_look = 0.0

    def start(self, name: str) -> None:
        """A job starts."""
        self._started[name] = time.monotonic()
        self._next_look = 0.0
        if not self._screen.is_live:
            print(f"{name}: started", flush=True)

    def draw(self) -> None:
        """The table, once a second, and at once if a job started or ended."""
        if not self._screen.is_live or time.monotonic() < self._next_look:
            return
        for name in self._started:
            progress = self._progress(name)
            is_trained = 0 < progress.total_images <= progress.num_images
            note = "evaluating" if is_trained else ""
            self._lines[name] = Line(name, "running", progress, note)
        self._show()
        self._next_look = time.monotonic() + 1

    def end(self, name: str, failure: Failure | None) -> None:
        """The job ended."""
        seconds = round(time.monotonic() - self._started.pop(name))
        state = "failed" if failure else "done"
        text = failure.message.splitlines()[0] if failure else self._summary(name)
        self._lines[name] = Line(name, state, self._progress(name), f"{clock(seconds)}  {text}")
        self._next_look = 0.0
        if not self._screen.is_live:
            num_ended = sum(line.state in ("done", "failed") for line in self._lines.values())
            count, how = f"[{num_ended}/{len(self._lines)}]", "FAILED: " if failure else "done  "
            passed = f"{seconds // 60:3d}:{seconds % 60:02d}"
            print(f"{count} {name:<28} {passed}  {how}{text}".rstrip(), flush=True)

    def close(self) -> None:
        """Leave a table in which nothing runs any more."""
        for name in self._started:
            self._lines[name] = replace(self._lines[name], state="stopped", note="")
        if self._screen.is_live:
            self._show()

    def _show(self) -> None:
        self._screen.show(self._title, list(self._lines.values()), on_slurm=False)
