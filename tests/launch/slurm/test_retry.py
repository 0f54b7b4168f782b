"""What is handed over again, against recorded answers: cells as they were before (status.py
retry=), and a report that never came."""

import os
from pathlib import Path

import pytest
from slurm_answers import FakeSlurm, finish, folder_of, slurm, words

from launch.status import main as status
from launch.submit import main
from maskrestore.utils.errors import ConfigError

pytestmark = pytest.mark.slow

__all__ = ["slurm", "words"]  # fixtures

CPU = ["profile=cpu", "slurm.minutes=33", "slurm.setup=[export A=b, module load c]", "parallel=2"]


def fail(slurm: FakeSlurm, words: list[str], tmp_path: Path, *names: str) -> None:
    """Let the generator's cell be done, and those of the array have failed."""
    finish(words, "synthesis")
    for name in names:
        (folder_of(tmp_path) / name).mkdir(parents=True, exist_ok=True)
        (folder_of(tmp_path) / name / "error.txt").write_text("broken\n")
    for kind in ("shards", "generator", "cells"):
        slurm.change(kind, state="GONE")


def options_of_cells(slurm: FakeSlurm) -> list[dict[str, str]]:
    return [job["options"] for job in slurm.jobs if ".cells." in job["name"]]


def test_profile_slurm_words_and_parallel_are_those_of_the_submission(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    main([*words, *CPU, "slurm.partition=cpu"])
    before = options_of_cells(slurm)[0]
    fail(slurm, words, tmp_path, "densify-ce", "densify-ce_l1", "densify-none")
    assert status([*words, "retry=densify-ce,densify-ce_l1,densify-none"]) == 0
    after = options_of_cells(slurm)[0]
    own = ("job-name", "output", "dependency")
    assert {k: v for k, v in after.items() if k not in own} == {
        k: v for k, v in before.items() if k not in own
    }
    assert (after["time"], after["partition"], after["array"]) == ("33", "cpu", "0-2%2")
    [script] = {path.read_text() for path in newest(tmp_path).glob("*_submission.sh")}
    assert "\nexport A=b\nmodule load c\n" in script


def newest(tmp_path: Path) -> Path:
    folders = folder_of(tmp_path).glob("jobs/*.cells.*")
    return max(folders, key=lambda folder: folder.stat().st_mtime_ns)


def test_words_that_are_given_now_lie_above_and_a_profile_takes_their_place(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    main([*words, *CPU])
    fail(slurm, words, tmp_path, "densify-ce")
    assert status([*words, "retry=densify-ce", "slurm.minutes=44"]) == 0
    [options] = options_of_cells(slurm)
    assert (options["time"], options["ntasks-per-node"]) == ("44", "2")
    fail(slurm, words, tmp_path, "densify-ce")
    assert status([*words, "retry=densify-ce"]) == 0  # as the last time
    assert options_of_cells(slurm)[0]["time"] == "44"
    fail(slurm, words, tmp_path, "densify-ce")
    assert status([*words, "retry=densify-ce", "profile=default", "slurm.gpus_per_node=2"]) == 0
    [options] = options_of_cells(slurm)
    assert (options["time"], options["gpus-per-node"]) == ("240", "2")


def test_cells_that_were_handed_over_differently_are_so_again(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    main([*words, *CPU, "cells=densify-ce"])
    main([*words, "slurm.minutes=55", "slurm.gpus_per_node=2"])
    fail(slurm, words, tmp_path, "densify-ce", "densify-none")
    with pytest.raises(ConfigError, match="no such cells: densify-cee; there are:"):
        status([*words, "retry=densify-none,densify-cee"])
    assert options_of_cells(slurm) == []
    assert status([*words, "retry=densify-ce, densify-none"]) == 0
    resources = {(job["time"], job.get("gpus-per-node")) for job in options_of_cells(slurm)}
    assert resources == {("33", None), ("55", "2")}
    assert slurm.kinds().count("report") == 1


def test_a_cell_that_was_never_handed_over_asks_for_what_the_words_say(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    finish(words, "synthesis")
    assert status([*words, "retry=densify-ce", "slurm.minutes=66"]) == 0
    assert options_of_cells(slurm)[0]["time"] == "66"


def test_a_report_whose_job_died_is_submitted_again(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    finish(words, "synthesis", "densify-none", "densify-ce", "densify-ce_l1")
    for kind in ("shards", "generator", "cells", "report"):
        slurm.change(kind, state="GONE")
    for _ in range(2):  # once more, it is queued
        assert main(words) == 0
        assert slurm.kinds() == ["report"]
    slurm.change("report", state="GONE")
    report = folder_of(tmp_path) / "small.md"
    report.touch()
    assert main(words) == 0
    assert slurm.jobs == []
    assert "nothing to submit" in capsys.readouterr().out
    os.utime(report, (0, 0))  # of before the last result
    assert main(words) == 0
    assert slurm.kinds() == ["report"]
