"""grid=densify_extra handed to SLURM, against recorded answers of its commands."""

import json
from pathlib import Path

import pytest
from masks import draw_mask, make_run, words_of
from slurm_answers import FakeSlurm, slurm

from launch.submit import main
from maskrestore.utils.errors import ConfigError, UserError

__all__ = ["slurm"]  # a fixture


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    run = make_run(tmp_path / "run")
    for number in range(3):
        draw_mask(tmp_path / f"in/{number}.png", seed=number)
    return ["grid=densify_extra", *words_of(run, tmp_path / "in", tmp_path / "out")]


def test_parts_go_the_way_of_cells(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No more parts than masks, containers and all, each with a run folder for its journal."""
    more = ["slurm.partition=gpu", "slurm.container=x.sqsh", "slurm.max_idle_restarts=7"]
    finished = tmp_path / "out.jobs/part-1-of-3/result.json"
    finished.parent.mkdir(parents=True)
    finished.write_text("{}")
    assert main([*words, *more, "parallel=2"]) == 0
    assert slurm.kinds() == ["restore"] * 3
    options = slurm.jobs[0]["options"]
    assert (options["array"], options["partition"]) == ("0-2%2", "gpu")
    [folder] = (tmp_path / "out.jobs/jobs").iterdir()
    script = next(folder.glob("*_submission.sh")).read_text()
    assert "--container-image=x.sqsh" in script
    assert f"launch.slurm.supervisor begin {folder} || exit" in script
    content = json.loads((folder / "submission.json").read_text())
    assert content["max_idle_restarts"] == 7
    parts = [(cell["part"], Path(cell["run"]).name) for cell in content["cells"].values()]
    assert parts == [(f"{number}/3", f"part-{number}-of-3") for number in range(3)]
    assert not finished.exists()  # masks may have come since
    shown = capsys.readouterr().out
    assert "job 101: 3 masks in an array of 3\n" in shown
    assert f"logs: {tmp_path}/out.jobs/jobs/*/101_*_log.out" in shown


def test_an_output_folder_with_jobs_is_left_to_them(slurm: FakeSlurm, words: list[str]) -> None:
    assert main(words) == 0
    with pytest.raises(UserError, match=r"job 101 is at work on it.*end it: scancel 101"):
        main([*words, "parts=2"])
    slurm.change("restore", state="GONE")
    assert main(words) == 0


def test_a_dry_run_shows_the_script_and_writes_nothing(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "dry_run=true"]) == 0
    shown = capsys.readouterr().out
    assert "--- sbatch script of restore: part-0-of-3, part-1-of-3, part-2-of-3" in shown
    assert "--- sbatch --test-only: accepted\n3 masks in 3 parts\n" in shown
    assert main([*words, "dry_run=true", "slurm.account=nobody"]) == 2
    assert not list(tmp_path.glob("out*"))
    assert slurm.jobs == []


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("slurm.nodes=2", "slurm.nodes: not for restoring; leave it out"),
        ("slurm.gpus_per_node=9", "no node of partition gpu has more than 8 GPUs"),
        ("slurm.account=nobody", "sbatch refuses this: Batch job submission failed: Invalid acc"),
        ("profile=nowhere", "profile=nowhere: no file"),
    ],
)
def test_what_cannot_be_had_is_refused(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, word: str, complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        main([*words, word])
    assert complaint in str(caught.value)
    assert slurm.jobs == []
    assert not list(tmp_path.glob("out*"))
