"""Runs that end before they have trained, or while they only evaluate: what Prometheus finds."""

import os
import signal
from pathlib import Path

import pytest
from forked import ROOT, Process
from metrics_page import targets_in, wait_for
from processes import wait_until
from tiny_runs import Words, end_of, run_ranks, run_train, start_ranks

from launch.grid.cells import GridSettings, read_grid
from launch.grid.local_queue import Failure
from launch.grid.run_here import run_cells
from maskrestore.monitoring.targets import FAILURE, NOWHERE, reap

pytestmark = pytest.mark.slow

LONG = ("task=densify", "loss=ce", "training.num_images=100000")
HERE = {"PYTHONPATH": str(ROOT)}


def failure_in(folder: Path) -> str:
    """What the only target file says of its run, whose address is nobody's."""
    [(address, labels)] = targets_in(folder)
    assert address == NOWHERE
    assert (labels["grid"], labels["run"]) == (folder.parent.name, "run")
    assert labels["node"] == labels["instance"]
    assert not [name for name in labels if name.startswith("__")]
    return labels[FAILURE]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("generator.path={tmp}/none.pth", "generator.path={tmp}/none.pth: no such file"),
        ("data.shards={tmp}/none", "{tmp}/none"),
        ("distributed.device=cuda", "distributed.device=cuda"),
    ],
)
def test_a_run_that_cannot_start_says_why_until_it_starts(
    word: str, told: str, words: Words, tmp_path: Path
) -> None:
    run = words("run", "task=densify", "loss=ce_l1", "training.num_images=8")
    done = run_train([*run, word.format(tmp=tmp_path)])
    assert done.returncode == 2
    assert told.format(tmp=tmp_path) in failure_in(tmp_path / "targets")
    assert reap(tmp_path / "targets") == []  # it is meant to be seen
    done = run_train(run)
    assert done.returncode == 0, done.stderr
    assert targets_in(tmp_path / "targets") == []


def test_the_first_step_finds_no_memory(words: Words, tmp_path: Path) -> None:
    program = ROOT / "tests" / "programs" / "starved.py"
    [status], _ = run_ranks(words("run", *LONG), 1, program=program, environment=HERE)
    assert status == 2
    told = failure_in(tmp_path / "targets")
    assert "is out of memory in training" in told
    assert "training.accumulation=2" in told


def test_the_first_of_two_processes_tells_what_the_second_one_found(
    words: Words, tmp_path: Path, generator: Path
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "generator.pth").symlink_to(generator)
    run = words("run", *LONG, "loss=ce_l1", "generator.path=generator.pth")
    statuses, _ = run_ranks(run, 2, folders=folders)
    assert statuses == [2, 2]
    assert "generator.path=generator.pth" in failure_in(tmp_path / "targets")


def test_a_second_start_that_is_refused_says_nothing_of_the_first(
    words: Words, tmp_path: Path
) -> None:
    run = words("run", *LONG)
    ranks = start_ranks(run, 1)
    wait_for(tmp_path / "targets", 1, ranks, seen_images=8)
    before = targets_in(tmp_path / "targets")
    second = run_train(run)
    assert second.returncode == 2
    assert targets_in(tmp_path / "targets") == before
    ranks[0].kill()
    end_of(ranks)
    assert targets_in(tmp_path / "targets") == before  # MaskrestoreTargetDown misses it


def evaluating(words: Words, tmp_path: Path) -> list[Process]:
    """A run without training that evaluates for ever, and can be asked."""
    (tmp_path / "doses").mkdir()
    (tmp_path / "doses" / "data").write_text("600")
    sick = HERE | {"SICK": f"0:-1:{tmp_path / 'doses'}"}
    program = ROOT / "tests" / "programs" / "sick.py"
    run = words("run", "task=densify", "loss=none")
    ranks = start_ranks(run, 1, program=program, environment=sick)
    wait_for(tmp_path / "targets", 1, ranks)
    return ranks


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGUSR2, -signal.SIGUSR2), (signal.SIGINT, 130)],
)
def test_an_evaluation_that_is_ended_is_forgotten_at_once(
    number: signal.Signals, status: int, words: Words, tmp_path: Path
) -> None:
    ranks = evaluating(words, tmp_path)
    ranks[0].send_signal(number)
    assert end_of(ranks)[0] == [status]
    assert targets_in(tmp_path / "targets") == []


def test_an_evaluation_that_is_killed_is_told_of_by_the_next_who_looks(
    words: Words, tmp_path: Path
) -> None:
    ranks = evaluating(words, tmp_path)
    assert reap(tmp_path / "targets") == []
    ranks[0].kill()
    end_of(ranks)
    [told] = wait_until("it is gone", lambda: reap(tmp_path / "targets"))
    assert "its process is gone" in told
    assert "killed, perhaps for want of memory" in failure_in(tmp_path / "targets")
    [path] = (tmp_path / "targets").iterdir()
    os.utime(path, (0, 0))
    reap(tmp_path / "targets")
    assert targets_in(tmp_path / "targets") == []


@pytest.mark.parametrize("by_user", [False, True])
def test_a_cell_that_is_killed_before_it_could_say_so_is_told_of_by_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_user: bool
) -> None:
    settings, grid = read_grid(GridSettings, [f"runs={tmp_path / 'runs'}"])
    cell = grid.cells[1]
    failure = Failure("killed", by_user, tmp_path / "log")
    monkeypatch.setattr("launch.grid.run_here.run_queue", lambda *_: {cell.name: failure})
    run_cells(grid, [cell], settings, 1)
    found = targets_in(tmp_path / "runs" / "targets")
    assert [labels[FAILURE] for _, labels in found] == ([] if by_user else ["killed"])
