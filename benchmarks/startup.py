"""How long a user waits: for --help, for the plan of a grid, for the first training step.

python -m benchmarks.startup [starts=5]

Seconds from the start of the process to its end, or to the first step's line in metrics.jsonl. The
shards are written before, and each program has been started once: its files are in memory.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from pydantic import PositiveInt
from tqdm import tqdm

from benchmarks.side_by_side import conditions
from launch.grid.missing_shards import write_missing_shards
from maskrestore.config.cli import run_program
from maskrestore.config.run import load_config
from maskrestore.config.settings import Section, parse
from maskrestore.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
HELP, DRY_RUN, FIRST_STEP = 0.5, 2.0, 15.0
"""Goals in seconds, on two cores."""


class StartupBenchmark(Section):
    """How often to measure."""

    starts: PositiveInt = 5
    """Starts of each program, after one that is not measured."""


def seconds_to_end(words: Sequence[str]) -> float:
    """Seconds that a program takes; UserError if it fails."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(words)} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - began


def seconds_to_first_step(words: Sequence[str], folder: Path) -> float:
    """Seconds until train.py has told of its first step, in a run folder of its own; then it is
    stopped. UserError if it ends before that."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    command = [sys.executable, "train.py", *words, f"run={run}"]
    began = time.perf_counter()
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
                if process.poll() is not None:
                    log.seek(0)
                    raise UserError(f"train.py failed: {log.read()[-2000:]}")
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def main(words: Sequence[str]) -> None:
    """Measure, and print the table."""
    starts = parse(StartupBenchmark, words).starts
    with tempfile.TemporaryDirectory(prefix="maskrestore-startup-") as name:
        folder = Path(name)
        data = [f"data.shards={folder / 'shards'}", "distributed.device=cpu"]
        config = load_config(["config=demo", *data])
        write_missing_shards(config.data)
        step = ["config=demo", "loss=ce", *data]
        step += [f"training.log_images={config.training.batch_size}"]
        plan = ["launch/submit.py", "grid=table1", "config=demo", "dry_run=true", "cluster=local"]
        plan += [*data, f"runs={folder / 'runs'}"]
        rows: dict[str, tuple[float, Callable[[], float]]] = {
            "`launch/submit.py --help`": (
                HELP,
                lambda: seconds_to_end(["launch/submit.py", "--help"]),
            ),
            "dry run of grid=table1": (DRY_RUN, lambda: seconds_to_end(plan)),
            "first step of `train.py config=demo loss=ce`": (
                FIRST_STEP,
                lambda: seconds_to_first_step(step, folder),
            ),
        }
        print("| what | goal | median (smallest to largest) | starts |")
        print("| --- | --: | --: | --: |")
        for what, (goal, start) in rows.items():
            start()
            seconds = [start() for _ in tqdm(range(starts), what, unit="start", leave=False)]
            shown = f"**{median(seconds):.2f} s** ({min(seconds):.2f} to {max(seconds):.2f})"
            print(f"| {what} | under {goal:g} s | {shown} | {starts} |", flush=True)
    print(f"\n{conditions('cpu')} {config.data.size}, batches of {config.training.batch_size}.")


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", StartupBenchmark))
