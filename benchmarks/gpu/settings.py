"""What all parts are told, and what each gives back."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from benchmarks.our_step import save_random_networks
from maskrestore.config.data import Size, height_and_width
from maskrestore.config.settings import Section

PARTS = ("facts", "precision", "runs", "rows", "loader", "variants")
Part = Literal["facts", "precision", "runs", "rows", "loader", "variants"]


class GpuBenchmark(Section):
    """What to measure, and for how long. With device=cpu it is a rehearsal of the program."""

    out: Path = Path("build/gpu")
    """Folder of the figures (figures.json) and of what the parts write; the same command again does
    what is not there yet."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where."""
    size: Size = "256x512"
    """Height x width in pixels."""
    large_size: Size = "512x1024"
    """That of the second look at precision, a quarter of the batch."""
    batch_size: PositiveInt = 8
    """Images in a batch; the rows are measured at twice as many too."""
    width: PositiveInt = 64
    """Channels of both generators' last blocks (the official one has 64)."""
    hidden: PositiveInt = 128
    """Channels inside each SPADE of both (the official one has 128)."""
    steps: PositiveInt = 200
    """Of the small runs."""
    repeats: PositiveInt = 10
    """Turns of whatever is timed, after as many that warm up, three at most."""
    seconds: PositiveFloat = 480.0
    """For everything; a part for which too little is left is not begun."""
    patience: PositiveFloat | None = None
    """How many times as long everything may take, each part too; if left out 1, or 10 on a CPU."""
    part: Part | None = None
    """This one alone, in this process; else all, each in a process of its own."""

    @property
    def times(self) -> float:
        """`patience`, or what stands for it."""
        return self.patience or (1 if self.device == "cuda" else 10)

    @property
    def height_width(self) -> tuple[int, int]:
        """`size` as two integers."""
        return height_and_width(self.size)

    @property
    def small(self) -> Path:
        """Where the small runs are."""
        return self.out / "runs"

    def networks(self) -> tuple[Path, Path]:
        """Files of a generator and of VGG19's convolutions, of random weights."""
        self.out.mkdir(parents=True, exist_ok=True)
        return save_random_networks(self.out, self.width, self.hidden, self.height_width)


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was found, in which unit, and what was to be reached."""

    what: str
    value: float | int | str | bool
    unit: str = ""
    goal: str = ""


def timed(call: Callable[[], object], device: str, repeats: int) -> tuple[float, float]:
    """(median milliseconds of one call, gigabytes that the device's allocator held at most; 0 on a
    CPU). Each call is waited for; as many before them, three at most, warm up."""
    for _ in range(min(3, repeats)):
        call()
    found: list[float] = []
    if device != "cuda":
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            found.append(1000 * (time.perf_counter() - began))
        return statistics.median(found), 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        found.append(start.elapsed_time(stop))
    return statistics.median(found), torch.cuda.max_memory_allocated() / 1e9


def forget(device: str) -> None:
    """Give back what the last measurement held."""
    if device == "cuda":
        torch.cuda.empty_cache()


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two gradients."""
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def difference(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|."""
    return float((a.double() - b.double()).norm() / b.double().norm())
