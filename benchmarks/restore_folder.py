"""Restoring a folder of many masks: python -m benchmarks.restore_folder [num_masks=20000]

Prints two tables. What listing, planning and resuming take that many masks, by the programs
themselves: hard links of a few small ones, so that all time is the folder's. And what one mask of
Cityscapes' size costs, by phase. The network is that of config=demo, trained here. Linux only.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from PIL import Image
from pydantic import Field, PositiveInt
from tqdm import tqdm

from launch.grid.missing_shards import write_missing_shards
from maskrestore.config.cli import run_program
from maskrestore.config.inference import RestoreConfig
from maskrestore.config.run import load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.png import png
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically
from shards.sources.streetscenes import draw

ROOT = Path(__file__).resolve().parents[1]
SMALL, LARGE = (64, 128), (1024, 2048)
DRAWN = 4
"""Different scenes; the others are links to these."""


class RestoreFolderBenchmark(Section):
    """How much to measure."""

    num_masks: int = Field(20_000, ge=2)
    """Masks of the folder."""
    num_large: PositiveInt = 12
    """Masks of 1024x2048 that go through all phases, after one that is not measured."""


def train_tiny(folder: Path) -> Path:
    """A run of config=demo with loss=ce, finished."""
    data = [f"data.shards={folder / 'shards'}", "distributed.device=cpu"]
    words = ["config=demo", "task=densify", "loss=ce", *data, f"run={folder / 'run'}"]
    write_missing_shards(load_config(words).data)
    measured(["train.py", *words])
    return folder / "run"


def draw_folder(folder: Path, size: tuple[int, int], number: int) -> None:
    """Coarse masks in masks/, and their pictures in pictures/, a folder for each thousand."""
    scenes = [draw(0, index, *size) for index in range(DRAWN)]
    for kind in ("masks", "pictures"):
        for city in range(-(-number // 1000)):
            (folder / kind / f"{city:03}").mkdir(parents=True)
        for index in range(number):
            path = folder / kind / f"{index // 1000:03}" / f"{index:06}.png"
            if index < DRAWN:
                scene = scenes[index]
                Image.fromarray(scene.coarse if kind == "masks" else scene.image).save(path)
            else:
                os.link(folder / kind / "000" / f"{index % DRAWN:06}.png", path)


class Cost(NamedTuple):
    """Of a program: seconds on the wall, CPU seconds of all its threads, MB of memory at most."""

    seconds: float
    cpu: float
    megabytes: float


def measured(words: Sequence[str]) -> Cost:
    """The cost of one of our programs. UserError if it fails."""
    with tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise UserError(f"{' '.join(words)} failed: {log.read()[-2000:]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def whole_folder(num_masks: int, run: Path, folder: Path) -> Iterator[str]:
    """The first table, line by line."""
    draw_folder(folder, SMALL, num_masks)
    given = [f"checkpoint={run}", f"input={folder / 'masks'}", f"output={folder / 'out'}"]
    plan = ["launch/submit.py", "grid=densify_extra", "cluster=local", "dry_run=true", *given]
    one = [*given[:1], f"input={folder / 'masks/000/000000.png'}", f"output={folder / 'one'}"]
    restore = ["restore.py", *given]
    yield "| what | masks | seconds | of CPU | peak memory |"
    yield "| --- | --: | --: | --: | --: |"
    for what, words, count in (
        ("one mask: the start of Python and torch", ["restore.py", *one], 1),
        ("the plan (`dry_run=true`), nothing done", plan, num_masks),
        ("restoring one half (`part=0/2`)", [*restore, "part=0/2"], num_masks // 2),
        ("the plan, one half done", plan, num_masks),
        ("resuming this half, all of it done", [*restore, "part=0/2"], num_masks),
        ("restoring the rest", restore, num_masks // 2),
        ("the plan, all done", plan, num_masks),
        ("resuming all, all done", restore, num_masks),
    ):
        cost = measured([*words, "device=cpu"])
        shown = f"{cost.seconds:.1f} | {cost.cpu:.1f} | {cost.megabytes:.0f} MB"
        yield f"| {what} | {count:,} | {shown} |"


class Phases:
    """Milliseconds of each phase, a pair per mask: on the wall, and of CPU on all threads."""

    def __init__(self) -> None:
        self.times: dict[str, list[tuple[float, float]]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done within."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.times.setdefault(name, []).append((1000 * wall, 1000 * cpu))


def one_by_one(number: int, run: Path, folder: Path) -> Phases:
    """What `Restorer` does with a mask, one after the other and in one thread but for torch's own.
    The first mask is not counted."""
    # Not before: a program that was started by a large process would count as large as that.
    import torch

    from maskrestore.inference.mask_files import find_masks
    from maskrestore.inference.networks import Networks
    from maskrestore.inference.output.journal import Journal
    from maskrestore.inference.processing import Processor
    from maskrestore.inference.trained_run import read_run

    draw_folder(folder, LARGE, number + 1)
    out = folder / "out"
    given = [f"checkpoint={run}", f"input={folder / 'masks'}", f"output={out}", "device=cpu"]
    config = parse(RestoreConfig, [*given, f"images={folder / 'pictures'}"])
    trained = read_run(config)
    networks = Networks(trained, False, torch.device("cpu"))
    processor = Processor(config, trained, "ids")
    journal = Journal(out, config.part, 0, "benchmark")
    phases = Phases()
    for file in tqdm(find_masks(config.input, config.images)[0], "masks", unit="mask"):
        with phases.phase("read: mask and picture, to ids"):
            mask = processor.open(file)
        pieces, images = zip(*mask.pieces, strict=True)
        with phases.phase("network"):
            logits = networks.logits(pieces, images)
        with phases.phase("enlarge: labels and confidence at the mask's size"):
            mask.fitted.add(logits[0])
        with phases.phase("finish: what is kept, overlay, figures"):
            pixels, row = processor.finish(mask, networks)
        with phases.phase("write: three PNGs and the journal"):
            journal.note(file, "begun")
            for kind, name in file.outputs(False).items():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(out / name, png(pixels[kind]))
            journal.note(file, "done", stamp=mask.stamp, row=row)
    return phases


def phase_table(phases: Phases) -> Iterator[str]:
    """The second table, line by line: medians."""
    yield "| phase | ms per mask | of CPU (smallest to largest) | share of CPU |"
    yield "| --- | --: | --: | --: |"
    counted = {name: zip(*times[1:], strict=True) for name, times in phases.times.items()}
    columns = {name: (median(wall), sorted(cpu)) for name, (wall, cpu) in counted.items()}
    total = sum(median(cpu) for _, cpu in columns.values())
    for name, (wall, cpu) in columns.items():
        middle = f"{median(cpu):.0f} ({cpu[0]:.0f} to {cpu[-1]:.0f})"
        yield f"| {name} | {wall:.0f} | {middle} | {median(cpu) / total:.0%} |"
    wall = sum(wall for wall, _ in columns.values())
    yield f"| all, one after the other | {wall:.0f} | {total:.0f} | |"


def main(words: Sequence[str]) -> None:
    """Measure, and print the tables."""
    config = parse(RestoreFolderBenchmark, words)
    with tempfile.TemporaryDirectory(prefix="maskrestore-folder-") as name:
        folder = Path(name)
        run = train_tiny(folder)
        for line in whole_folder(config.num_masks, run, folder / "many"):
            print(line, flush=True)
        print()
        for line in phase_table(one_by_one(config.num_large, run, folder / "large")):
            print(line)
    from benchmarks.side_by_side import conditions

    print(
        f"\n{conditions('cpu', ['pillow', 'numpy'])} The network of config=demo after 400 images; "
        f"masks of {SMALL[0]}x{SMALL[1]} above, {LARGE[0]}x{LARGE[1]} with pictures below."
    )


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", RestoreFolderBenchmark))
