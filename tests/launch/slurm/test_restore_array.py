"""grid=densify_extra handed to SLURM, against recorded answers of its commands."""

import json
from pathlib import Path

import pytest
from masks import draw_mask, make_run, words_of
from slurm_answers import FakeSlurm, slurm

from launch.status import main as status
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
    more = ["slurm.partition=gpu", "slurm.container=registry#image", "slurm.max_idle_restarts=7"]
    finished = tmp_path / "out.jobs/part-1-of-3/result.json"
    finished.parent.mkdir(parents=True)
    finished.write_text("{}")
    assert main([*words, *more, "parallel=2"]) == 0
    assert slurm.kinds() == ["restore"] * 3
    options = slurm.jobs[0]["options"]
    assert (options["array"], options["partition"]) == ("0-2%2", "gpu")
    [folder] = (tmp_path / "out.jobs/jobs").iterdir()
    script = next(folder.glob("*_submission.sh")).read_text()
    assert "--container-image=registry#image" in script
    assert f"launch.slurm.supervisor begin {folder} || exit" in script
    content = json.loads((folder / "submission.json").read_text())
    assert content["max_idle_restarts"] == 7
    parts = [(cell["part"], Path(cell["run"]).name) for cell in content["cells"].values()]
    assert parts == [(f"{number}/3", f"part-{number}-of-3") for number in range(3)]
    assert not finished.exists()  # masks may have come since
    shown = capsys.readouterr().out
    assert "job 101: 3 masks in an array of 3\n" in shown
    assert f"logs: {tmp_path}/out.jobs/jobs/*/101_*_log.out" in shown


def test_status_has_a_line_for_each_part(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_mask(tmp_path / "in/3.png", seed=3)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"watch it: python launch/status.py grid=densify_extra checkpoint={tmp_path}/" in shown
    first, *others = slurm.jobs
    jobs = [first | {"state": "RUNNING", "reason": "None", "nodes": "n3"}, others[1]]
    (slurm.folder / "jobs.json").write_text(json.dumps(jobs))
    journal = tmp_path / "out/.restore/0of4/abc-0.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text(json.dumps({"file": "0.png", "state": "done", "time": 1.0}))
    part = tmp_path / "out.jobs/part-1-of-4"
    part.mkdir()
    (part / "result.json").write_text("{}")
    (slurm.folder / "accounting.json").write_text(json.dumps([("NODE_FAIL", "n7")]))
    assert status(words) == 1  # the last one has ended without a word
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert title == f"densify_extra in {tmp_path}/out: 1 running, 1 done, 1 waiting, 1 ended"
    rows = [" ".join(line.split()) for line in lines]
    assert rows[0] == "part-0-of-4 running ████████████ 100 % - - - - n3 job 101_0"
    assert rows[1] == "part-1-of-4 done ████████████ 100 % - - - - -"
    assert rows[2].startswith("part-2-of-4 waiting 0 % - - - - - job 101_2 waits: Priority")
    assert "ended 0 % - - - - - job 101_3: NODE_FAIL, before it could write" in rows[3]
    slurm.change("restore", state="GONE")
    assert main([*words, "parts=2"]) == 0  # cut otherwise: those of before are no more
    capsys.readouterr()
    assert status(words) == 0
    assert "/out: 2 waiting\n" in capsys.readouterr().out


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
