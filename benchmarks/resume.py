"""Kill a real training run with SIGKILL, again and again, and count what is lost.

python -m benchmarks.resume kills=100
python -m benchmarks.resume kills=100 background=true

A run on procedural street scenes is killed at random moments and at each step of saving, resumed by
the same settings each time, and compared with a run that nobody killed. Exit status 1 if more was
lost than the steps since the last save, or if the results differ by a bit. Linux only. Figures and
what they mean: docs/reliability.md.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from tqdm import tqdm

from benchmarks.kill_points import AT_END, AT_START, LOG, PHASES, STARTING, TRAINING, Phase, arm
from maskrestore.config.cli import run_program
from maskrestore.config.run import RunConfig, load_config
from maskrestore.config.settings import Section, parse
from maskrestore.runs import checkpoint
from maskrestore.runs.run_folder import STARTS
from maskrestore.training import loop as training_loop
from maskrestore.training import step as optimizer_step
from maskrestore.utils import files
from maskrestore.utils.errors import UserError
from shards.write import WriteConfig, write_shards

BATCH, STEPS = 2, 4
"""Images per step, and steps between two checkpoints."""


class ResumeConfig(Section):
    """How often to kill what."""

    kills: PositiveInt = 100
    """Kills in all; the run is about as long as they need."""
    background: bool = False
    """Write checkpoints while training goes on (training.save_in_background)."""
    seed: NonNegativeInt = 0
    """Seed of the moments; what a clock decides differs all the same."""
    out: Path | None = None
    """File for the table, beside printing it."""


def settings(folder: Path, name: str, intervals: int, background: bool) -> RunConfig:
    """A tiny run in folder/name that saves `intervals` times and logs each step."""
    words = f"""task=densify loss=ce data.size=32x64
        mask_generator.width=2 mask_generator.hidden=4
        training.num_images={intervals * STEPS * BATCH} training.batch_size={BATCH}
        training.checkpoint_images={STEPS * BATCH} training.log_images={BATCH}
        training.save_in_background={background} distributed.device=cpu distributed.cpu_threads=1"""
    folders = [f"run={folder / name}", f"data.shards={folder / 'shards'}"]
    return load_config([*folders, *words.split()])


@dataclass(frozen=True)
class Attempt:
    """One start of the run: images seen after each step that it took, and how long it went."""

    killed: bool
    images: list[int]
    starting_seconds: float
    seconds: float


def attempt(config: RunConfig, phase: Phase | None, delay: int, wait: float) -> Attempt:
    """Start or resume the run in a child. Kill it in `phase`, if one is given: after `delay` steps,
    or `wait` seconds after its start or its first step.

    Raises UserError if the child ends otherwise than by that kill or at the end of the run.
    """
    reader, writer = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.close(reader)
        train(config, phase, delay, writer)
    os.close(writer)
    with open(reader) as pipe:
        lines = [] if phase is STARTING else [pipe.readline()]  # waits for the first step
        starting_seconds = time.monotonic() - began
        if phase in (STARTING, TRAINING):
            time.sleep(wait)
            os.kill(child, signal.SIGKILL)  # until it is waited for, it is there to be killed
        lines += pipe.readlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        said = config.run.with_suffix(".txt").read_text(errors="replace")[-2000:]
        raise UserError(f"{config.run}: ended with status {status} by itself:\n{said}")
    images = [int(line) for line in lines if line]
    return Attempt(status != 0, images, starting_seconds, time.monotonic() - began)


def train(config: RunConfig, phase: Phase | None, delay: int, writer: int) -> None:
    """What the child does: train, telling of each step through `writer`. It never returns."""
    status, steps, take_step = 1, [], optimizer_step.take_step

    def told_step(*words: Any) -> Any:
        step = take_step(*words)
        steps.append(step.num_images)
        os.write(writer, b"%d\n" % step.num_images)
        return step

    try:
        said = os.open(config.run.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        vars(training_loop)["take_step"] = told_step
        if phase is not None and phase.point:
            arm(config.run, phase.point, lambda: len(steps) >= delay)
        training_loop.train(config)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


@dataclass
class Tally:
    """What the kills did, by the names of their phases."""

    kills: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Most steps lost by one kill."""
    faults: list[str] = field(default_factory=list)
    """Promises that were broken."""
    runs: int = 0


def judge(tally: Tally, config: RunConfig, phase: Phase, done: Attempt, before: int | None) -> None:
    """Compare what a killed attempt had computed with what is on disk after it.

    before: images of the newest whole checkpoint before the attempt.
    """
    after, faults = newest(config.run)
    start = before or 0
    # A save behind training's back may take until the next one is due.
    most = 2 * STEPS if config.training.save_in_background else STEPS
    lost = (max(done.images, default=start) - (after or 0)) // BATCH
    tally.kills[phase.name] += 1
    tally.lost[phase.name] = max(tally.lost[phase.name], lost)
    if lost > most:
        faults.append(f"{lost} steps lost, of at most {most}")
    if before is not None and (after is None or after < before):
        faults.append(f"the newest whole checkpoint was {before}, and is {after}")
    if done.images and done.images[0] != start + BATCH:
        faults.append(f"resumed at {done.images[0] - BATCH}, but the newest checkpoint was {start}")
    tally.faults += [f"{phase.name}: {fault}" for fault in faults]


def choose(kills: int, tally: Tally, run: Path, chance: random.Random) -> Phase:
    """A phase within reach that had fewest kills for its share; the last kills are at the end."""
    some = AT_END if kills - tally.kills.total() <= 2 * len(AT_END) else PHASES
    hits = {p: tally.kills[p.name] / p.share for p in some if not p.needs or any(run.glob(p.needs))}
    return chance.choice([phase for phase, number in hits.items() if number == min(hits.values())])


def newest(run: Path) -> tuple[int | None, list[str]]:
    """Images of the newest whole checkpoint, and what is wrong with newer ones."""
    path, faults = checkpoint.latest(run / "checkpoints")
    return (None if path is None else int(path.name)), faults


def contents(run: Path) -> dict[str, Any]:
    """sha256 of each file that a finished run leaves, and the losses of each step.

    Left out is what tells runs apart: config.yaml names the folder, metrics.jsonl holds speeds,
    `starts` counts those of the run.
    """
    left: dict[str, Any] = {
        str(path.relative_to(run)): files.file_sha256(path)
        for path in run.rglob("*")
        if path.is_file() and path.name not in (LOG, STARTS, "config.yaml")
    }
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    left[LOG] = [(line["num_images"], line["losses"]) for line in lines if "losses" in line]
    return left


def kill_and_resume(config: ResumeConfig, folder: Path) -> tuple[Tally, int]:
    """All kills, over as many runs as it takes, each in the end left to finish; and the steps of
    one run. The shards are in folder/shards."""
    chance, tally = random.Random(config.seed), Tally()  # noqa: S311 - nothing secret
    intervals = 5 + config.kills + config.kills // 4  # a kill costs about one
    unbroken = settings(folder, "unbroken", intervals, config.background)
    alone = attempt(unbroken, None, 0, 0)
    interval_seconds = (alone.seconds - alone.starting_seconds) / intervals
    finished, expected = True, contents(unbroken.run)
    with tqdm(total=config.kills, desc="kill", unit="kill") as bar:
        while (left := config.kills - tally.kills.total()) or not finished:
            if finished:
                tally.runs += 1
                run = settings(folder, f"killed-{tally.runs}", intervals, config.background)
            phase = choose(config.kills, tally, run.run, chance) if left else None
            delay = 0 if phase in (*AT_START, *AT_END) else chance.randrange(2 * STEPS + 1)
            wait = alone.starting_seconds if phase is STARTING else 2.5 * interval_seconds
            before, _ = newest(run.run)
            done = attempt(run, phase, delay, chance.uniform(0, wait))
            finished = not done.killed
            if phase is not None and done.killed:
                judge(tally, run, phase, done, before)
                bar.update()
            if finished:
                actual = contents(run.run)
                differing = {
                    name
                    for name in expected.keys() | actual.keys()
                    if expected.get(name) != actual.get(name)
                }
                tally.faults += [f"{run.run.name} differs in {name}" for name in sorted(differing)]
    return tally, intervals * STEPS


def markdown(config: ResumeConfig, tally: Tally, steps: int) -> str:
    """What was killed where, what was lost, and whether the ends are equal."""
    lines = ["| killed while | kills | most steps lost |", "| --- | --: | --: |"]
    for phase in (*PHASES, *AT_END):
        kills = tally.kills[phase.name]
        lines.append(f"| {phase.name} | {kills} | {tally.lost[phase.name] if kills else '-'} |")
    lines += [
        f"| **all** | {tally.kills.total()} | {max(tally.lost.values())} |",
        "",
        f"{tally.runs} killed run(s) of {steps} steps, {STEPS} between two checkpoints, "
        f"save_in_background={str(config.background).lower()}.",
    ]
    if tally.faults:
        lines += ["", "FAULTS:", *(f"- {fault}" for fault in tally.faults)]
    else:
        lines.append(
            "Nothing else was lost. In the end each holds the files of the unbroken one, byte for "
            "byte, and the same losses of each step."
        )
    return "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> int:
    """Kill, resume, compare; print the table. 1 if a promise was broken."""
    config = parse(ResumeConfig, words)
    torch.set_num_threads(1)  # a process with threads must not fork
    folder = Path(tempfile.mkdtemp(prefix="maskrestore-resume-")).resolve()
    scenes = WriteConfig(out=folder / "shards", size="32x64", num_train=64, num_val=8, workers=1)
    write_shards(scenes)
    tally, steps = kill_and_resume(config, folder)
    table = markdown(config, tally, steps)
    print(table)
    if config.out is not None:
        files.write_atomically(config.out, table.encode())
    if tally.faults:
        print(f"the runs are kept in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", ResumeConfig))
