"""Jobs on this machine: a queue in front of submitit's local executor, watched on the terminal."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from launch.grid.cells import Cell, Grid, GridSettings
from launch.grid.jobs import TrainJob
from launch.grid.state import ERROR, Progress, read_progress
from maskrestore.config.run import RunConfig
from maskrestore.runs.figures import FIGURES, IN_SHORT
from maskrestore.runs.result import read_result
from maskrestore.utils.files import write_atomically
from maskrestore.utils.system import count_cores

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


def find_devices() -> list[str]:
    """One CUDA_VISIBLE_DEVICES value per GPU that this process may use; none without a GPU.

    Asks nvidia-smi, since importing torch to ask it takes seconds.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not shutil.which("nvidia-smi"):
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)  # noqa: S607
    present = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    if allowed is None:
        return [str(index) for index in range(len(present))]
    names = [name.strip() for name in allowed.split(",")] if present else []
    return [name for name in names if name and name != "-1"]


def run_queue(
    jobs: Mapping[str, Job],
    slots: Sequence[str],
    logs: Path,
    progress: Callable[[str], Progress],
    summary: Callable[[str], str],
) -> dict[str, Failure]:
    """Run named jobs, one per slot at a time, in their order; those that failed.

    slots: a CUDA_VISIBLE_DEVICES value each ("" is the CPU). logs/NAME/NUMBER takes the log of each
    attempt. progress(name) and summary(name) feed the view. A job that fails leaves the others
    alone. Whatever ends the queue early (Ctrl-C) ends its jobs first.
    """
    waiting, free = list(jobs), list(range(len(slots)))
    running: dict[int, tuple[str, Any]] = {}
    failures: dict[str, Failure] = {}
    view = View(len(jobs))
    try:
        while waiting or running:
            while waiting and free:
                slot, name = free.pop(0), waiting.pop(0)
                view.start(name, slot, progress(name))
                running[slot] = name, _start(jobs[name], slots[slot], logs / name)
            time.sleep(0.2)
            for slot, (name, job) in list(running.items()):
                if not job.done():
                    view.update(name, progress(name))
                    continue
                del running[slot]
                free.append(slot)
                failure = _failure(job)
                if failure:
                    failures[name] = failure
                    view.end(name, f"FAILED: {failure.message.splitlines()[0]}")
                else:
                    view.end(name, summary(name))
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
    """On a terminal one bar per running job; elsewhere a line at each start and end."""

    def __init__(self, num_jobs: int) -> None:
        self._num_jobs, self._num_ended = num_jobs, 0
        self._bars: dict[str, tqdm[Any]] = {}
        self._started: dict[str, float] = {}
        self._live = sys.stderr.isatty()

    def start(self, name: str, position: int, progress: Progress) -> None:
        """A job starts in slot `position`."""
        self._started[name] = time.monotonic()
        if not self._live:
            print(f"{name}: started", flush=True)
            return
        self._bars[name] = tqdm(
            desc=f"{name:<28}",
            total=progress.total_images or None,
            initial=progress.num_images,
            position=position,
            leave=False,
            unit="img",
            dynamic_ncols=True,
        )

    def update(self, name: str, progress: Progress) -> None:
        """Move the job's bar."""
        bar = self._bars.get(name)
        if bar is None:
            return
        bar.n = progress.num_images
        if bar.n >= progress.total_images:
            bar.set_postfix_str("evaluating", refresh=False)
        else:
            losses = {term: f"{value:.3f}" for term, value in progress.losses.items()}
            bar.set_postfix(losses, refresh=False)
        bar.refresh()

    def end(self, name: str, text: str) -> None:
        """The job ended; `text` says how."""
        self._num_ended += 1
        bar = self._bars.pop(name, None)
        if bar is not None:
            bar.close()
        seconds = round(time.monotonic() - self._started.pop(name))
        count = f"[{self._num_ended}/{self._num_jobs}]"
        tqdm.write(f"{count} {name:<28} {seconds // 60:3d}:{seconds % 60:02d}  {text}")
        sys.stdout.flush()

    def close(self) -> None:
        """Take away the bars of jobs that were stopped."""
        for bar in self._bars.values():
            bar.close()


def run_cells(
    grid: Grid, cells: Sequence[Cell], settings: GridSettings, parallel: int
) -> dict[str, Failure]:
    """Run these cells on this machine, at most `parallel` at a time (0: one per GPU, or per core).

    Returns those that failed, whose run folder then says why.
    """
    if not cells:
        return {}
    by_name = {cell.name: cell for cell in cells}
    devices = [] if settings.distributed.device == "cpu" else find_devices()
    num_cores = count_cores()
    num_slots = min(parallel or len(devices) or num_cores, len(cells))
    slots = [devices[slot % len(devices)] if devices else "" for slot in range(num_slots)]
    num_threads = settings.distributed.cpu_threads or max(1, num_cores // num_slots)
    jobs = {}
    for name, cell in by_name.items():
        (cell.folder / ERROR).unlink(missing_ok=True)
        jobs[name] = TrainJob(_with_threads(cell.config, num_threads))
    failures = run_queue(
        jobs,
        slots,
        grid.folder / "logs",
        lambda name: read_progress(by_name[name]),
        lambda name: summary(by_name[name]),
    )
    for name, failure in failures.items():
        folder = by_name[name].folder
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ERROR, f"{failure.message}\nlog: {failure.log}\n".encode())
    return failures


def summary(cell: Cell) -> str:
    """What a cell that is done reached, in a line."""
    metrics = read_result(cell.folder)["metrics"]
    keys = [key for key in IN_SHORT if metrics.get(key) is not None]
    figures = [f"{FIGURES[key].name} {FIGURES[key].text(metrics[key])}" for key in keys]
    return "  ".join(["done", *figures])


def _with_threads(config: RunConfig, num_threads: int) -> RunConfig:
    threads = config.distributed.model_copy(update={"cpu_threads": num_threads})
    return config.model_copy(update={"distributed": threads})
