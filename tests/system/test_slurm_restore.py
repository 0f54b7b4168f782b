"""An array of jobs restores parts of a folder into one: slurm/restore.sbatch, and submit.py."""

import os
import re
import sys
from pathlib import Path

import pytest
from forked import ROOT
from masks import draw_mask, make_run, rows_of, words_of
from slurm_cluster import Cluster

pytestmark = pytest.mark.slow


def test_tasks_that_wait_for_a_lost_one_end_as_in_training() -> None:
    texts = [(ROOT / f"slurm/{name}.sbatch").read_text() for name in ("restore", "train")]
    options = [re.findall(r"^srun (.*) --cpus-per-task", text, re.MULTILINE) for text in texts]
    assert options == [["--kill-on-bad-exit=0 --wait=60"]] * 2


def test_the_parts_of_an_array_are_the_whole(cluster: Cluster, tmp_path: Path) -> None:
    """The first is told to stop, as before a time limit, and goes back into the queue."""
    run = make_run(tmp_path / "run")
    for number in range(241):
        draw_mask(tmp_path / f"in/{number:03}.png", seed=number)
    options = ["--gpus-per-node=0", "--cpus-per-task=1", "--time=20", "--array=0-1"]
    options += [f"--chdir={ROOT}", f"--output={tmp_path}/%a.log"]
    words = words_of(run, tmp_path / "in", tmp_path / "out", "batch_size=1")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    cluster.run("sbatch", *options, str(ROOT / "slurm" / "restore.sbatch"), *words, PATH=path)
    cluster.wait(lambda: list((tmp_path / "out").glob("*0_restored.png")))
    [first] = (job for job, *_ in cluster.queue() if job.endswith("_0"))
    cluster.run("scancel", "--signal=USR2", first)
    cluster.wait_until_empty()
    logs = [(tmp_path / f"{number}.log").read_text() for number in range(2)]
    assert "stopped as asked; the same command goes on" in logs[0]
    assert "done before: " in logs[0]
    assert "restored: 120\n" in logs[1]
    assert len(rows_of(tmp_path / "out")) == 241
    assert len(list((tmp_path / "out").glob("*_restored.png"))) == 241


def test_submit_hands_over_one_array_and_waits_for_its_end(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run")
    for number in range(9):
        draw_mask(tmp_path / f"in/{number}.png", seed=number)
    words = ["grid=densify_extra", "parts=2", "slurm.gpus_per_node=0", "slurm.cpus_per_task=1"]
    words += [*words_of(run, tmp_path / "in", tmp_path / "out"), "slurm.minutes=20"]
    words.append("slurm.setup=[export GREETING=from_the_profile, echo $GREETING]")
    planned = cluster.launch("submit.py", *words, "dry_run=true")
    for option in ("array=0-1%2", "nodes=1", "ntasks-per-node=1", "cpus-per-task=1"):
        assert f"#SBATCH --{option}\n" in planned
    assert "--- sbatch --test-only: accepted\n9 masks in 2 parts\n" in planned
    assert not list(tmp_path.glob("out*"))
    refused = cluster.launch("submit.py", *words, "slurm.nodes=2", status=2)
    assert "slurm.nodes: not for restoring; leave it out" in refused
    contained = cluster.launch("submit.py", *words, "slurm.container=x.sqsh", "dry_run=true")
    assert f"--container-image=x.sqsh --container-workdir={Path.cwd()}" in contained
    assert "no such partition" in cluster.launch("submit.py", *words, "slurm.partition=x", status=2)

    told = cluster.launch("submit.py", *words, "slurm.sbatch=[--hold]")
    job = re.search(r"job (\d+): 9 masks in an array of 2\n", told)
    assert job, told
    again = cluster.launch("submit.py", *words, status=2)
    assert f"job {job[1]} is at work on it or waits for it" in again
    cluster.run("scontrol", "release", job[1])
    cluster.wait_until_empty()
    [folder] = (tmp_path / "out.jobs/jobs").iterdir()
    logs = [(folder / f"{job[1]}_{part}_0_log.out").read_text() for part in range(2)]
    assert ["restored: 5\n" in logs[0], "restored: 4\n" in logs[1]] == [True, True], logs
    assert all(log.startswith("from_the_profile\n") for log in logs)
    assert len(rows_of(tmp_path / "out")) == 9
    (copy,) = (tmp_path / "out.jobs/code").iterdir()
    assert (copy / "restore.py").is_file()
