"""A training step beside other processes that want the cores: python -m benchmarks.neighbour

Threads of OpenMP that wait for each other sleep (OMP_WAIT_POLICY=passive, which all programs set
unless the user has said how they wait) against threads that spin, as OpenMP has it by itself. Step
of task=synthesis of config=demo, with nobody, one and two processes beside it that do nothing but
compute.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from pydantic import PositiveInt

from benchmarks.our_step import ours
from benchmarks.side_by_side import Comparison, Side, conditions, in_turns, table
from maskrestore.config.cli import run_program
from maskrestore.config.settings import Section, parse
from maskrestore.utils.system import WAITING

NEIGHBOURS = {"alone": 0, "beside one busy process": 1, "beside two busy processes": 2}


class NeighbourBenchmark(Section):
    """How long to measure."""

    threads: PositiveInt = 2
    """Threads of the step."""
    pairs: PositiveInt = 6
    """Turns of each side."""


def main(words: Sequence[str]) -> None:
    """Measure, print the table."""
    config = parse(NeighbourBenchmark, words)
    settings = ["config=demo", "task=synthesis", "distributed.device=cpu"]
    settings.append(f"distributed.cpu_threads={config.threads}")
    sleeping = _side(settings, {"OMP_WAIT_POLICY": "passive"})
    spinning = _side(settings, {})
    rows = []
    for what, number in NEIGHBOURS.items():
        with busy_processes(number):
            measured = in_turns(
                lambda: sleeping.turn()[0], lambda: spinning.turn()[0], config.pairs, what
            )
        rows.append(Comparison(f"step, {what}", "threads that spin", None, *measured))
    print(f"{table(rows)}\n\n{conditions('cpu')} {config.threads} threads.")


def _side(settings: Sequence[str], environment: dict[str, str]) -> Side:
    """The step in a process whose OpenMP reads this environment when it is loaded."""
    before = {name: os.environ.pop(name) for name in WAITING if name in os.environ}
    os.environ.update(environment)
    try:
        return Side(ours, settings)
    finally:
        for name in environment:
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """So many processes that want a core each, until the end of the block."""
    context = multiprocessing.get_context("fork")
    processes: list[BaseProcess] = [context.Process(target=_compute) for _ in range(number)]
    for process in processes:
        process.daemon = True
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _compute() -> None:
    while True:
        pass


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, NeighbourBenchmark))
