"""grid=densify_extra on an output folder that is not new, and words that look right and are not."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from forked import ROOT
from masks import draw_mask, make_run, restore, words_of
from slurm_answers import FakeSlurm, slurm

from launch.submit import main
from maskrestore.utils.errors import ConfigError, UserError

pytestmark = pytest.mark.slow

__all__ = ["slurm"]  # a fixture


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    run = make_run(tmp_path / "run")
    for number in range(3):
        draw_mask(tmp_path / f"in/{number}.png", seed=number)
    return ["grid=densify_extra", *words_of(run, tmp_path / "in", tmp_path / "out")]


def begin(tmp_path: Path, *more: str) -> None:
    """Restore the masks here, by restore.py."""
    done = restore(tmp_path / "run", tmp_path / "in", tmp_path / "out", *more)
    assert done.returncode == 0, done.stderr


def test_a_finished_folder_queues_nothing_and_a_half_finished_one_what_is_left(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path)
    for more in ([], ["dry_run=true"], ["parts=2"], ["overwrite=true"]):
        assert main([*words, *more]) == 0
        assert "nothing to submit: 3 masks are restored; see " in capsys.readouterr().out
    assert slurm.jobs == []
    assert not (tmp_path / "out.jobs").exists()
    (tmp_path / "out/1_restored.png").unlink()
    assert main(words) == 0
    assert "job 101: 1 of 3 masks in an array of 1\n" in capsys.readouterr().out
    [folder] = (tmp_path / "out.jobs/jobs").iterdir()
    cells = json.loads((folder / "submission.json").read_text())["cells"]
    assert {name: cell["part"] for name, cell in cells.items()} == {"part-1-of-3": "1/3"}
    slurm.change("restore", state="GONE")
    draw_mask(tmp_path / "in/2.png", seed=7)  # another mask by now
    draw_mask(tmp_path / "in/3.png", seed=8)
    assert main([*words, "parts=2", "dry_run=true"]) == 0
    assert "3 of 4 masks in 2 parts" in capsys.readouterr().out


def test_a_summary_that_the_last_job_died_before_is_written_by_the_next_submit(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    begin(tmp_path)
    summary = tmp_path / "out/summary.csv"
    whole = summary.read_text()
    for left in (None, whole.partition("\n")[0] + "\n"):  # of one that was first, or last, to end
        summary.unlink()
        if left is not None:
            summary.write_text(left)
        assert main([*words, "dry_run=true"]) == 0
        assert summary.exists() == (left is not None)
        assert main(words) == 0
        assert summary.read_text() == whole
    assert slurm.jobs == []


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_a_folder_of_other_settings_is_refused_before_anything_starts(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, cluster: str
) -> None:
    begin(tmp_path, "keep_annotated=false")
    for more in ([], ["dry_run=true"]):
        with pytest.raises(UserError, match=r"was made with other settings:\n  keep_annotated: F"):
            main([*words, *more, f"cluster={cluster}"])
    assert slurm.jobs == []
    assert main([*words, "overwrite=true", "dry_run=true"]) == 0


@pytest.mark.parametrize("name", ["0_restored.png", "2_overlay.png", "summary.csv"])
def test_files_of_others_in_the_way_are_refused_before_anything_starts(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    for more in ([], ["dry_run=true"], ["cluster=local", "dry_run=true"]):
        with pytest.raises(UserError, match=f"that this command did not write: 1\n  {name}"):
            main([*words, *more])
    assert slurm.jobs == []
    assert main([*words, "overwrite=true"]) == 0


@pytest.mark.parametrize("name", ["100%", "50%a", "%j", "back\\slash"])
def test_a_path_that_slurm_would_take_for_a_pattern_is_refused(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, name: str
) -> None:
    for more in ([], ["dry_run=true"]):
        with pytest.raises(ConfigError, match=r"SLURM reads % and .* output=DIR") as mistake:
            main([*words, f"output={tmp_path}/{name}", *more])
        assert str(mistake.value).startswith(f"{tmp_path}/{name}.jobs: ")
    assert slurm.jobs == []


def test_a_part_in_the_grid_file_is_refused(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    grid = tmp_path / "mine.yaml"
    grid.write_text("restore: {parts: 2, part: 0/2}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: part: set by the array"):
        main([*words, f"grid={grid}"])
    config = tmp_path / "words.yaml"
    config.write_text("part: 0/2\n")
    with pytest.raises(ConfigError, match="part: set by the array"):
        main([*words, f"config={config}"])
    assert slurm.jobs == []


def test_the_last_of_several_grids_counts(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["grid=table1", *words, "dry_run=true"]) == 0
    assert "3 masks in 3 parts" in capsys.readouterr().out
    config = tmp_path / "words.yaml"
    config.write_text("grid: densify_extra\n")
    assert main([*words[1:], f"config={config}", "dry_run=true"]) == 0
    assert "3 masks in 3 parts" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="checkpoint: no such setting"):
        main([*words, "grid=table1"])


def test_gpus_that_would_lie_idle_are_told_of(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bin").mkdir()
    listing = tmp_path / "bin" / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: A'\n")
    listing.chmod(listing.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here = [*words, "cluster=local", "dry_run=true"]
    assert main([*here, "device=auto"]) == 0
    told = capsys.readouterr().out
    assert "this uses one of 2 GPUs; all of them: accelerate launch --multi_gpu" in told
    assert f"--num_processes 2 restore.py checkpoint={tmp_path}/run input=" in told
    assert main(here) == 0  # device=cpu
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert main([*here, "device=auto"]) == 0
    assert "GPUs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("array", "more", "expected"),
    [
        ("0 3 4", [], "part=2/4"),
        ("3 5 2", ["parts=8"], "part=2/8"),
        ("3 5 2", [], "give parts=NUMBER"),
        ("1 4 4", [], "give parts=NUMBER"),
    ],
)
def test_the_script_counts_by_its_words_and_not_by_the_shells(
    tmp_path: Path, array: str, more: list[str], expected: str
) -> None:
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    least, most, count = array.split()
    job = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_MIN": least}
    job |= {"SLURM_ARRAY_TASK_MAX": most, "SLURM_ARRAY_TASK_COUNT": count}
    shell = {"PARTS": "3", "CODE": "/nowhere", "PYTHON": "perl"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "slurm/restore.sbatch"), "input=a b", *more]
    done = subprocess.run(command, capture_output=True, text=True, env=job | shell | path)
    assert expected in done.stdout + done.stderr
    if "NUMBER" not in expected:
        assert f"python restore.py input=a b {expected}\n" in done.stdout
