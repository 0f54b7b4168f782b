"""status.py logs=CELL: the newest log, by what no clock can disorder as far as that goes."""

import os
import time
from pathlib import Path

import pytest
from slurm_answers import FakeSlurm, folder_of, slurm, words

from launch.grid.cells import Grid, read_grid
from launch.slurm.handover import SubmitConfig
from launch.slurm.status_table import find_log
from launch.slurm.submission import read_submissions
from launch.submit import main
from maskrestore.utils.errors import ConfigError, UserError

__all__ = ["slurm", "words"]  # fixtures

CELL = "densify-ce"


@pytest.fixture
def grid(words: list[str]) -> Grid:
    return read_grid(SubmitConfig, words)[1]


def write(log: Path, at: int) -> Path:
    """A log that was written to last at this time of the clock."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("a line\n")
    os.utime(log, (at, at))
    return log


def test_of_attempts_here_the_last_one_is_shown_whatever_the_clock_said(
    grid: Grid, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{CELL} has not run yet"):
        find_log(grid, CELL)
    with pytest.raises(ConfigError, match=r"logs=densify: no such cell; there are: .*densify-ce"):
        find_log(grid, "densify")
    here = folder_of(tmp_path) / "logs" / CELL
    for number, at in ((2, 9000), (999, 8000), (1000, 1000)):
        last = write(here / f"{number:03}" / "77_0_log.out", at)
        write(here / f"{number:03}" / "77_1_log.out", 9999)
    assert find_log(grid, CELL) == last


def test_of_submissions_the_last_one_is_shown_whatever_the_clock_said(
    slurm: FakeSlurm,
    words: list[str],
    grid: Grid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(10_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    known: set[str] = set()
    for at in (9000, 8000, 7000):
        main([*words, f"cells={CELL}"])
        submissions = [s for s in read_submissions(folder_of(tmp_path)) if CELL in s.cells]
        [submission] = [s for s in submissions if s.name not in known]
        known.add(submission.name)
        last = write(submission.folder / f"{submission.jobs()[CELL]}_0_log.out", at)
        assert find_log(grid, CELL) == last
        for kind in slurm.kinds():
            slurm.change(kind, state="GONE")
    here = write(folder_of(tmp_path) / "logs" / CELL / "001" / "77_0_log.out", 8500)
    assert find_log(grid, CELL) == here
    write(last, 8600)
    assert find_log(grid, CELL) == last
