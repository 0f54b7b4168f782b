"""An array of jobs restores parts of a folder into one: slurm/restore.sbatch, and submit.py."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import ROOT
from masks import draw_mask, make_run, rows_of, words_of
from slurm_cluster import Cluster

from launch.slurm.journal import read_journal
from maskrestore.inference.output.journal import count_done

pytestmark = pytest.mark.slow

GRID = "grid=densify_extra"


def test_tasks_that_wait_for_a_lost_one_end_as_in_training() -> None:
    texts = [(ROOT / f"slurm/{name}.sbatch").read_text() for name in ("restore", "train")]
    options = [re.findall(r"^srun (.*) --cpus-per-task", text, re.MULTILINE) for text in texts]
    assert options == [["--kill-on-bad-exit=0 --wait=60"]] * 2


def draw_masks(folder: Path, number: int = 241) -> Path:
    for index in range(number):
        draw_mask(folder / f"in/{index:03}.png", seed=index)
    return folder / "in"


def restored(folder: Path) -> int:
    return len(list((folder / "out").glob("*_restored.png")))


def start_by_hand(cluster: Cluster, folder: Path, array: str) -> None:
    """sbatch slurm/restore.sbatch, slowly, and wait until it has restored something."""
    run, source = make_run(folder / "run"), draw_masks(folder)
    options = ["--gpus-per-node=0", "--cpus-per-task=1", "--time=20", f"--array={array}"]
    options += [f"--chdir={ROOT}", f"--output={folder}/%a.log"]
    words = words_of(run, source, folder / "out", "batch_size=1")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    cluster.run("sbatch", *options, str(ROOT / "slurm" / "restore.sbatch"), *words, PATH=path)
    cluster.wait(lambda: list((folder / "out").glob("*0_restored.png")))


def test_the_parts_of_an_array_are_the_whole(cluster: Cluster, tmp_path: Path) -> None:
    """The first is told to stop, as before a time limit, and goes back into the queue."""
    start_by_hand(cluster, tmp_path, "0-1")
    [first] = (job for job, *_ in cluster.queue() if job.endswith("_0"))
    cluster.run("scancel", "--signal=USR2", first)
    cluster.wait_until_empty()
    logs = [(tmp_path / f"{number}.log").read_text() for number in range(2)]
    assert "stopped as asked; the same command goes on" in logs[0]
    assert "done before: " in logs[0]
    assert "restored: 120\n" in logs[1]
    assert len(rows_of(tmp_path / "out")) == 241
    assert restored(tmp_path) == 241


def test_a_job_by_hand_that_is_cancelled_stays_away(cluster: Cluster, tmp_path: Path) -> None:
    start_by_hand(cluster, tmp_path, "0-0")
    cluster.run("scancel", cluster.queue()[0][0])
    cluster.wait_until_empty()
    assert "stopped as asked" in (tmp_path / "0.log").read_text()
    assert restored(tmp_path) < 241


def test_parts_that_are_cancelled_told_to_stop_or_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Of two tasks each. Cancelled they stay away; the others go on from what is restored."""
    run, source = make_run(tmp_path / "run"), draw_masks(tmp_path, 964)
    words = [GRID, "parts=2", "profile=cpu", "slurm.minutes=20"]
    words += words_of(run, source, tmp_path / "out", "batch_size=1")

    def submit(disturb: Callable[[int], object]) -> None:
        """And disturb each part as soon as it has gone on: one can be done before the other is."""
        goals = [count_done(tmp_path / "out", f"{number}/2") + 5 for number in range(2)]
        undisturbed = {0, 1}

        def are_disturbed() -> bool:
            for number in sorted(undisturbed):
                if count_done(tmp_path / "out", f"{number}/2") > goals[number]:
                    disturb(number)
                    undisturbed.remove(number)
            return not undisturbed

        cluster.launch("submit.py", *words)
        cluster.wait(are_disturbed)
        cluster.wait_until_empty()

    def job_of(number: int) -> str:
        return next(job for job, *_ in cluster.queue() if job.endswith(f"_{number}"))

    submit(lambda number: cluster.run("scancel", job_of(number)))
    assert 0 < restored(tmp_path) < 964
    parts = [tmp_path / f"out.jobs/part-{number}-of-2" for number in range(2)]
    for part in parts:
        assert [event["event"] for event in read_journal(part)] == ["began", "ended"]
        assert read_journal(part)[-1]["reason"] == "cancelled, saved"

    def stop_or_kill(number: int) -> None:
        if number == 0:
            cluster.run("scancel", "--signal=USR2", job_of(0))
        else:
            kill_task(tmp_path / "out.jobs", element=1)

    submit(stop_or_kill)
    ends = [[e["reason"] for e in read_journal(part) if e["event"] == "ended"] for part in parts]
    assert ends[0] == ["cancelled, saved", "asked to stop, saved", "finished"]
    assert ends[1][0::2] == ["cancelled, saved", "finished"]
    assert "SIGKILL" in ends[1][1]
    assert read_journal(parts[1])[-1]["num_images"] == 482
    assert len(rows_of(tmp_path / "out")) == restored(tmp_path) == 964


def kill_task(jobs: Path, element: int) -> None:
    """As a node kills one of the tasks of an element for want of memory."""
    newest = max(jobs.glob("jobs/*"), key=lambda path: path.stat().st_mtime)
    tasks = subprocess.run(["pgrep", "-f", f"_submit {newest}$"], capture_output=True, text=True)
    for pid in tasks.stdout.split():
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if {f"SLURM_ARRAY_TASK_ID={element}".encode(), b"SLURM_PROCID=1"} <= set(variables):
            os.kill(int(pid), signal.SIGKILL)
            return
    raise AssertionError(f"no task of element {element} runs")


def test_submit_hands_over_one_array_and_waits_for_its_end(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run")
    for number in range(9):
        draw_mask(tmp_path / f"in/{number}.png", seed=number)
    words = [GRID, "parts=2", "slurm.gpus_per_node=0", "slurm.cpus_per_task=1"]
    words += [*words_of(run, tmp_path / "in", tmp_path / "out"), "slurm.minutes=20"]
    words.append("slurm.setup=[export GREETING=from_the_profile, echo $GREETING]")
    planned = cluster.launch("submit.py", *words, "dry_run=true")
    for option in ("array=0-1%2", "nodes=1", "ntasks-per-node=1", "cpus-per-task=1"):
        assert f"#SBATCH --{option}\n" in planned
    assert "--- sbatch --test-only: accepted\n9 masks in 2 parts\n" in planned
    assert not list(tmp_path.glob("out*"))
    refused = cluster.launch("submit.py", *words, "slurm.nodes=2", status=2)
    assert "slurm.nodes: not for restoring; leave it out" in refused
    contained = cluster.launch("submit.py", *words, "slurm.container=x", "dry_run=true")
    assert f"--container-image=x --container-workdir={Path.cwd()}" in contained
    assert "no such partition" in cluster.launch("submit.py", *words, "slurm.partition=x", status=2)

    shown = cluster.launch("submit.py", *words, "slurm.sbatch=[--hold]")
    job = re.search(r"job (\d+): 9 masks in an array of 2\n", shown)
    assert job, shown
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
