"""What submit.py hands to SLURM, against recorded answers of its commands; runs anywhere.

tests/system/test_slurm_*.py are the same against a real cluster.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import ROOT
from processes import PATIENCE
from slurm_answers import FakeSlurm, finish, folder_of, slurm, words

from launch.slurm.submission import read_submissions
from launch.status import main as status
from launch.submit import main
from maskrestore.utils.errors import ConfigError
from maskrestore.utils.files import lock

pytestmark = pytest.mark.slow

__all__ = ["slurm", "words"]  # fixtures


def test_shards_generator_cells_and_report_wait_for_each_other(
    slurm: FakeSlurm, words: list[str]
) -> None:
    assert main([*words, "parallel=2", "slurm.nodes=2", "slurm.gpus_per_node=4"]) == 0
    assert slurm.kinds() == ["shards", "generator", "cells", "cells", "cells", "report"]
    shards, generator, cells, report = (slurm.jobs[i] for i in (0, 1, 2, 5))
    ids = {job["name"].split(".")[-2]: job["number"] for job in slurm.jobs}
    assert "dependency" not in shards["options"]
    assert generator["options"]["dependency"] == f"afterok:{ids['shards']}"
    needed = f"afterok:{ids['shards']},afterok:{ids['generator']}"
    assert cells["options"]["dependency"] == needed
    assert cells["options"]["array"] == "0-2%2"
    everything = ("shards", "generator", "cells")
    assert report["options"]["dependency"] == ",".join(f"afterany:{ids[k]}" for k in everything)
    assert cells["options"]["nodes"] == "2"
    assert cells["options"]["ntasks-per-node"] == "4"
    assert cells["options"]["gpus-per-node"] == "4"
    assert report["options"]["ntasks-per-node"] == shards["options"]["ntasks-per-node"] == "1"
    assert "gpus-per-node" not in report["options"]


def test_the_profile_lies_below_the_words(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    profile, image, data = (tmp_path / name for name in ("mine.yaml", "image.sqsh", "data"))
    image.touch()
    data.mkdir()
    profile.write_text(
        "nodes: 2\npartition: cpu\nminutes: 90\nqos: long\ngpus_per_node: 0\ntasks_per_node: 2\n"
        "cpus_per_task: 4\nmemory_gb: 10\nconstraint: fast\naccount: me\nexclude: n7\n"
        f"container: {image}\ncontainer_mounts: {data}\nsetup: [module load cuda]\n"
        "sbatch: [--reservation=mine, --exclusive]\nsignal_seconds: 60\n"
    )
    assert main([*words, f"profile={profile}", "slurm.nodes=1", "slurm.minutes=30"]) == 0
    options = next(job for job in slurm.jobs if ".cells." in job["name"])["options"]
    expected = {"partition": "cpu", "qos": "long", "constraint": "fast", "account": "me"}
    expected |= {"exclude": "n7", "reservation": "mine", "mem": "10240M", "cpus-per-task": "4"}
    expected |= {"nodes": "1", "time": "30", "ntasks-per-node": "2", "signal": "USR2@60"}
    assert {name: options[name] for name in expected} == expected
    script = next(folder_of(tmp_path).glob("jobs/*.cells.*/*_submission.sh")).read_text()
    assert "#SBATCH --exclusive\n" in script
    assert "\nmodule load cuda\n" in script
    step = next(line for line in script.splitlines() if line.startswith("srun"))
    assert f"--container-image={image} --container-workdir={Path.cwd()}" in step
    mounts = next(word for word in step.split() if word.startswith("--container-mounts="))
    # Behind the one that is asked for they are sorted, and where the checkout lies is not said.
    assert mounts.startswith(f"--container-mounts={data},")
    assert {str(Path.cwd()), str(tmp_path)} <= set(mounts.split(","))
    assert "--cpus-per-task=4" in step
    assert " python3 -u -m submitit.core._submit" in step


def test_again_submits_nothing_that_is_done_running_or_queued(
    slurm: FakeSlurm, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    before = slurm.jobs
    assert main(words) == 0
    assert slurm.jobs == before
    assert "nothing to submit" in capsys.readouterr().out


def test_only_what_is_missing_is_submitted_and_waits_for_what_is_queued(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    assert main([*words, "cells=densify-ce"]) == 0
    assert slurm.kinds() == ["shards", "generator", "cells", "report"]  # what it needs comes along
    first = {job["name"].split(".")[-2]: job["number"] for job in slurm.jobs}
    assert main(words) == 0
    # The report of the first call would come too early now: a new one takes its place.
    assert slurm.kinds() == ["shards", "generator", "cells", "cells", "cells", "report"]
    added = slurm.jobs[3]["options"]
    assert added["dependency"] == f"afterok:{first['shards']},afterok:{first['generator']}"
    report = slurm.jobs[-1]["options"]["dependency"]
    for job in {str(job["number"]) for job in slurm.jobs[:-1]}:
        assert f"afterany:{job}" in report
    cells = [
        name
        for path in folder_of(tmp_path).glob("jobs/*.cells.*/submission.json")
        for name in json.loads(path.read_text())["cells"]
    ]
    assert sorted(cells) == ["densify-ce", "densify-ce_l1", "densify-none"]  # each once


def test_dry_run_shows_plan_scripts_and_what_sbatch_thinks_and_writes_nothing(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "dry_run=true"]) == 0
    shown = capsys.readouterr().out
    assert "densify-ce                     to run, 8 images" in shown
    assert shown.count("#SBATCH --job-name=") == 4
    assert shown.count("sbatch --test-only: accepted") == 4
    assert not (tmp_path / "runs").exists()
    assert slurm.jobs == []

    main([*words, "cells=densify-ce"])
    slurm.change("generator", state="RUNNING", reason="None", nodes="n3")
    capsys.readouterr()
    assert main([*words, "dry_run=true"]) == 0
    shown = capsys.readouterr().out
    assert "running as job 102 on n3" in shown
    assert "queued as job 103 (Dependency)" in shown
    assert shown.count("#SBATCH --job-name=") == 2  # the other two cells, and a report
    assert len(slurm.jobs) == 4


def test_seeds_are_cells_of_their_own(slurm: FakeSlurm, words: list[str]) -> None:
    main(words)
    assert slurm.kinds().count("cells") == 3
    main([*words, "seeds=3"])
    assert slurm.kinds().count("cells") == 3 + 4  # two trained rows, two more seeds


def test_cells_taken_out_of_the_grid_are_shown_and_cancelled_if_asked(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*words, "seeds=2"])
    assert slurm.kinds().count("cells") == 5
    capsys.readouterr()
    main(words)
    shown = capsys.readouterr().out
    assert "densify-ce-seed1" in shown
    assert "no longer in the grid, but queued as job" in shown
    assert slurm.kinds().count("cells") == 5
    main([*words, "cancel_removed=true"])
    assert slurm.kinds().count("cells") == 3


def test_a_queued_cell_of_other_settings_is_refused(slurm: FakeSlurm, words: list[str]) -> None:
    main(words)
    before = slurm.jobs
    with pytest.raises(ConfigError) as caught:
        main([*words, "training.num_images=16"])
    assert "cell densify-ce: training.num_images: 8 -> 16" in str(caught.value)
    assert "cancel=" in str(caught.value)
    assert slurm.jobs == before
    main([*words, "training.log_images=8"])  # changes no result
    assert slurm.jobs == before


def test_status_tells_what_waits_and_why(
    slurm: FakeSlurm, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    finish(words, "densify-none")
    slurm.change("generator", state="RUNNING", reason="None", nodes="n[1-2]")
    capsys.readouterr()
    assert status(words) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "running" in lines["synthesis"]
    assert "n[1-2]" in lines["synthesis"]
    assert "waiting" in lines["densify-ce"]
    assert "waits: Dependency" in lines["densify-ce"]
    assert "report:" in lines


def test_watching_ends_when_nothing_moves_any_more(
    slurm: FakeSlurm, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    finish(words, "synthesis", "densify-none", "densify-ce", "densify-ce_l1")
    for kind in ("shards", "generator", "cells", "report"):
        slurm.change(kind, state="GONE")
    capsys.readouterr()
    assert status([*words, "watch=true"]) == 0
    assert "4 done" in capsys.readouterr().out


def test_cancel_and_retry_of_chosen_cells(
    slurm: FakeSlurm, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    ids = [f"{job['number']}_{job['index']}" for job in slurm.jobs if ".cells." in job["name"]]
    assert status([*words, "cancel=densify-ce"]) == 0
    assert slurm.calls("scancel") == [["--quiet", ids[1]]]
    assert slurm.kinds().count("cells") == 2
    assert status([*words, "retry=densify-ce"]) == 0
    assert slurm.kinds().count("cells") == 3
    with pytest.raises(ConfigError, match="no such cells"):
        status([*words, "cancel=densify-cee"])
    with pytest.raises(ConfigError, match="densify-cee"):
        status([*words, "retry=densify-cee"])
    status([*words, "cancel=all"])
    assert set(slurm.kinds()) == {"shards", "report"}


def submit_process(words: list[str], **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "launch" / "submit.py"), *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def test_two_at_once_submit_each_cell_once(slurm: FakeSlurm, words: list[str]) -> None:
    both = [submit_process(words) for _ in range(2)]
    for process in both:
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output + errors
    assert slurm.kinds() == ["shards", "generator", "cells", "cells", "cells", "report"]


def test_another_submit_at_work_is_waited_for(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    held = lock(folder_of(tmp_path))
    process = submit_process(words)
    assert process.stderr
    assert "waiting for another submit.py" in process.stderr.readline()
    assert process.poll() is None
    assert slurm.jobs == []
    held.close()
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors


def test_killed_at_any_call_it_orphans_nothing_and_doubles_nothing(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    """SIGKILL before or after renames and programs of a submission (every ninth moment); then the
    same words again leave every cell in the queue once, with all that its job needs."""
    program = ROOT / "tests" / "programs" / "killed_submit.py"
    num_kills = 0
    for number in range(1, 400, 9):
        done = subprocess.run(
            [sys.executable, str(program), str(number), *words], capture_output=True, text=True
        )
        if done.returncode == 0:
            break  # it had fewer calls than this
        assert done.returncode == -signal.SIGKILL, done.stderr
        num_kills += 1
        assert main(words) == 0
        check_whole(slurm, tmp_path)
        status([*words, "cancel=all"])
        slurm.change("shards", state="GONE")
        slurm.change("report", state="GONE")
        assert slurm.jobs == []
    assert num_kills > 3


def check_whole(slurm: FakeSlurm, tmp_path: Path) -> None:
    """Every element in the queue has a pickle, and no cell stands there twice."""
    cells: list[str] = []
    for job in slurm.jobs:
        folder = folder_of(tmp_path) / "jobs" / job["name"]
        own = job["number"] if job["index"] is None else f"{job['number']}_{job['index']}"
        assert (folder / f"{own}_submitted.pkl").is_file()
        assert not (folder / "withdrawn").exists()
        names = list(json.loads((folder / "submission.json").read_text())["cells"])
        cells += names[job["index"] or 0 :][:1]
    assert sorted(cells) == ["densify-ce", "densify-ce_l1", "densify-none", "synthesis"]
    assert slurm.kinds().count("report") == 1


def test_a_clock_that_is_set_back_does_not_change_which_submission_is_the_newest(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    main([*words, "cells=densify-ce"])
    main(words)
    kinds = [submission.kind for submission in read_submissions(folder_of(tmp_path))]
    assert kinds == ["shards", "generator", "cells", "report", "cells", "report"]
