"""Ratios, measured in turns so that other work on the machine meets both sides alike."""

import datetime
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from maskrestore.runs import provenance
from maskrestore.utils.errors import UserError
from maskrestore.utils.system import count_cores


@dataclass(frozen=True)
class Comparison:
    """A row: how many times better ours is than theirs, once per pair of turns.

    ours, theirs: medians, in `unit`. goal: the ratio to reach, None where there is none. No ratios:
    not measured, and `remark` says why.
    """

    what: str
    against: str
    goal: float | None
    ratios: tuple[float, ...] = ()
    ours: float = 0.0
    theirs: float = 0.0
    unit: str = "s"
    remark: str = ""


def in_turns(
    ours: Callable[[], float],
    theirs: Callable[[], float],
    pairs: int,
    title: str,
    higher_is_better: bool = False,
) -> tuple[tuple[float, ...], float, float]:
    """(ratio of each pair, median of ours, median of theirs) of what the two return: seconds or
    bytes, or with higher_is_better a speed. Each runs once before, unmeasured."""
    ours(), theirs()
    mine: list[float] = []
    other: list[float] = []
    for number in tqdm(range(pairs), title, unit="pair"):
        for call, results in ((ours, mine), (theirs, other))[:: 1 if number % 2 else -1]:
            results.append(call())
    ratios = [a / b if higher_is_better else b / a for a, b in zip(mine, other, strict=True)]
    return tuple(ratios), median(mine), median(other)


def rate(open_batches: Callable[[], Generator[Any]], num_batches: int, batch_size: int) -> float:
    """Samples per second from the opening to the last of so many batches."""
    began = time.perf_counter()
    batches = open_batches()
    for _ in islice(batches, num_batches):
        pass
    seconds = time.perf_counter() - began
    batches.close()  # and its threads
    return num_batches * batch_size / seconds


def table(comparisons: Iterable[Comparison]) -> str:
    """Markdown: one row per comparison, the ratio as median (smallest to largest)."""
    lines = [
        "| what | against | goal | measured | ours | theirs | pairs | remark |",
        "| --- | --- | --: | --: | --: | --: | --: | --- |",
    ]
    for row in comparisons:
        goal = "" if row.goal is None else f"{row.goal:g}x"
        measured, ours, theirs = "not measured", "", ""
        if row.ratios:
            low, middle, high = min(row.ratios), median(row.ratios), max(row.ratios)
            measured = f"**{middle:.2f}x** ({low:.2f} to {high:.2f})"
            ours, theirs = f"{row.ours:.4g} {row.unit}", f"{row.theirs:.4g} {row.unit}"
        cells = [row.what, row.against, goal, measured, ours, theirs]
        lines.append("| " + " | ".join([*cells, str(len(row.ratios) or ""), row.remark]) + " |")
    return "\n".join(lines)


def computes_bf16() -> bool:
    """Whether the CPU has instructions for bf16; PyTorch computes it anywhere, if only slowly."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def conditions(device: str = "cpu", packages: Iterable[str] = ()) -> str:
    """Where and with what it was measured, and by which code."""
    if device == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        hardware = f"{count_cores()} CPU cores ({platform.machine()}, {capability})"
    names = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{datetime.date.today():%d %B %Y}, commit {(provenance.commit() or 'unknown')[:9]}, "
        f"{hardware}, torch {torch.__version__}{', ' if names else ''}{names}, load average at the "
        f"end {os.getloadavg()[0]:.1f}."
    )


class Side:
    """One side of a comparison in a process of its own, with a memory and an environment of its
    own: `make(*arguments)` there returns what is measured, a function without arguments."""

    def __init__(self, make: Callable[..., Callable[[], object]], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments), daemon=True)
        self._process.start()
        other.close()

    def turn(self) -> tuple[float, float]:
        """(seconds, bytes at most in use meanwhile) of one call.

        Raises UserError if the process has died; what it said stands on stderr.
        """
        try:
            self._end.send(True)
            seconds, peak = self._end.recv()
        except (EOFError, BrokenPipeError) as error:
            raise UserError(
                "one side of the comparison died, perhaps of too little memory"
            ) from error
        return seconds, peak


def typical(side: Side, turns: int) -> tuple[float, float]:
    """(median seconds, most bytes) of some turns after one that warms up."""
    measured = [side.turn() for _ in range(turns + 1)][1:]
    seconds, peaks = zip(*measured, strict=True)
    return median(seconds), max(peaks)


def _serve(
    connection: Connection, make: Callable[..., Callable[[], object]], arguments: Any
) -> None:
    call = make(*arguments)
    try:
        while connection.recv():
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
            began = time.perf_counter()
            call()
            connection.send((time.perf_counter() - began, _peak()))
    except EOFError:
        pass


def _peak() -> float:
    status = Path("/proc/self/status").read_text()
    return 1024 * float(status.split("VmHWM:")[1].split()[0])
