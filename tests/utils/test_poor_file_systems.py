"""Programs on file systems that cannot sync folders and have no locks."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from finished_cells import cells_of, finish, tiny_grid
from forked import ROOT
from masks import draw_mask, make_run, words_of
from tiny_runs import Words

POOR = Path(__file__).parents[1] / "support" / "poor_file_system"
NO_LOCKS, NO_FSYNC = "its file system has no locks", "fsync is not possible there"


def run_there(program: str, *words: str, flock: int = 0, fsync: int = 0) -> tuple[int, str]:
    """Exit status, and what stood on stderr, of a program on such a file system."""
    numbers = {"NO_FLOCK": str(flock or ""), "NO_FSYNC": str(fsync or "")}
    done = subprocess.run(
        [sys.executable, str(ROOT / program), *words],
        env=os.environ | {"PYTHONPATH": f"{POOR}{os.pathsep}{ROOT}"} | numbers,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.slow
def test_a_run_is_trained_and_evaluated_with_one_warning_of_each_kind(
    words: Words, tmp_path: Path
) -> None:
    there = {"flock": errno.ENOLCK, "fsync": errno.EINVAL}
    status, errors = run_there("train.py", *words("run", "task=densify", "loss=ce"), **there)
    assert status == 0, errors
    assert (tmp_path / "run" / "result.json").is_file()
    assert (errors.count(NO_LOCKS), errors.count(NO_FSYNC)) == (1, 1)
    assert f"{tmp_path / 'run'}: {NO_LOCKS} ({os.strerror(errno.ENOLCK)})" in errors
    # It only reads, where the figures are others than the run's.
    given = [f"run={tmp_path / 'run'}", "data.flip=false"]
    status, errors = run_there("evaluate.py", *given, **there)
    assert status == 0, errors
    assert NO_LOCKS not in errors


@pytest.mark.slow
def test_masks_are_restored_and_shards_written_by_several_processes(tmp_path: Path) -> None:
    there = {"flock": errno.EOPNOTSUPP, "fsync": errno.ENOTSUP}
    for name in "ab":
        draw_mask(tmp_path / f"in/{name}.png")
    given = words_of(make_run(tmp_path / "run"), tmp_path / "in", tmp_path / "out")
    status, errors = run_there("restore.py", *given, **there)
    assert status == 0, errors
    assert (errors.count(NO_LOCKS), errors.count(NO_FSYNC)) == (1, 1)
    drawn = ["num_train=4", "num_val=2", "size=32x64", "samples_per_shard=2", "workers=2"]
    status, errors = run_there("shards/write.py", *drawn, f"out={tmp_path / 'shards'}", **there)
    assert status == 0, errors
    assert errors.count(NO_FSYNC) == 1


@pytest.mark.slow
def test_a_grid_is_looked_at_and_reported_without_a_lock(tmp_path: Path) -> None:
    words = tiny_grid(tmp_path)
    for cell in cells_of(words).values():
        finish(cell, 0.9, 0.5)
        (cell.folder / "lock").touch()
    there = {"flock": errno.ENOSYS, "fsync": errno.EINVAL}
    status, errors = run_there("launch/status.py", *words, **there)
    assert (status, errors) == (0, "")
    status, errors = run_there("launch/report.py", *words, **there)
    assert status == 0, errors
    assert (errors.count(NO_LOCKS), errors.count(NO_FSYNC)) == (0, 1)
