"""Submitting on a real SLURM of four nodes: whole grids, mistakes, kills, and what is then known.

tests/launch/slurm/test_plan.py has more of it, without a cluster.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import ROOT
from slurm_cluster import ONE_TASK, Cluster, TinyGrid, assert_as_undisturbed

pytestmark = pytest.mark.slow


def test_submit_killed_at_its_phases_and_two_at_once(
    cluster: Cluster, grid: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    """Held jobs, so that the queue can be looked at; in the end the cell is let go."""
    words = [*grid.words, *ONE_TASK, "slurm.sbatch=[--hold]"]
    program = ROOT / "tests" / "programs" / "killed_submit.py"
    for number in range(15, 200, 15):
        done = subprocess.run(
            [sys.executable, str(program), str(number), *words],
            capture_output=True,
            text=True,
            env=cluster.environment,
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    both = [cluster.start("submit.py", *words) for _ in range(2)]
    for process in both:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, output + errors
    names = [name for _, name, *_ in cluster.queue()]
    assert sorted(name.split(".")[-2] for name in names) == ["cells", "report"]
    cluster.run("scontrol", "release", *(job for job, *_ in cluster.queue()))
    cluster.wait_until_empty()
    assert_as_undisturbed(grid, undisturbed[1], restarts=0)


def test_what_ran_is_known_and_editing_the_checkout_changes_nothing(
    cluster: Cluster, grid: TinyGrid
) -> None:
    """While a job waits, its snapshot is changed: what it runs is that, and not the checkout."""
    words = [*grid.words, *ONE_TASK, "slurm.sbatch=[--hold]"]
    cluster.launch("submit.py", *words, "training.num_images=8")
    [code] = grid.folder.glob("code/*")
    with open(code / "maskrestore" / "training" / "loop.py", "a") as file:
        file.write("\nprint('the snapshot speaks')\n")
    cluster.run("scontrol", "release", *(job for job, *_ in cluster.queue()))
    cluster.wait_until_empty()
    assert "the snapshot speaks" in cluster.launch("status.py", *words, "logs=cell")
    provenance = json.loads((grid.run / "provenance.json").read_text())
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert provenance["commit"].partition("+")[0] == commit
    assert provenance["packages"]["torch"]
    assert (grid.run / "changes.diff").is_file()
    assert (grid.run / "config.yaml").is_file()


def test_a_run_folder_that_nodes_cannot_write(cluster: Cluster, grid: TinyGrid) -> None:
    words = [*grid.words, *ONE_TASK, "slurm.sbatch=[--hold]"]
    cluster.launch("submit.py", *words)
    grid.run.symlink_to("/a/disk/that/is/not/there")
    cluster.run("scontrol", "release", *(job for job, *_ in cluster.queue()))
    cluster.wait_until_empty()
    log = cluster.launch("status.py", *words, "logs=cell")
    assert f"{grid.run} cannot be written from here" in log
    assert "give runs=FOLDER that every node shares" in log
    assert "Traceback" not in log
    shown = cluster.launch("status.py", *words, status=1)
    assert f"before it could write to {grid.run}" in shown


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["slurm.partition=gpu"], "no such partition; there are: preemptible, priority"),
        (["slurm.nodes=5"], "slurm.nodes=5: partition preemptible has 4"),
        (["slurm.memory_gb=100"], "no node of partition preemptible has more than"),
        (["slurm.minutes=600"], "slurm.minutes=600: partition preemptible allows 60"),
        (["slurm.constraint=fast"], "sbatch refuses this: "),
    ],
)
def test_what_this_cluster_has_not(
    cluster: Cluster, grid: TinyGrid, more: list[str], complaint: str
) -> None:
    shown = cluster.launch("submit.py", *grid.words, *more, status=2)
    assert complaint in shown
    assert "Traceback" not in shown
    assert cluster.queue() == []


def test_table1_from_nothing_to_its_report(cluster: Cluster, tmp_path: Path) -> None:
    """The demo's grid, smaller: shards, generator, an array of cells of each kind, report."""
    rows = ("fill", "ce_vgg_l1", "image-ours")
    cells = ["synthesis", *(f"densify-{row}" for row in rows), "super_resolution-ce"]
    words = [
        f"cells={','.join(cells)}",
        "config=demo",
        f"runs={tmp_path / 'runs'}",
        f"data.shards={tmp_path / 'shards'}",
        "data.size=32x64",
        "data.num_train=16",
        "data.num_val=4",
        "training.num_images=16",
        "training.log_images=8",
        "generator.num_images=16",
        "distributed.device=cpu",
        "distributed.cpu_threads=1",
        "slurm.gpus_per_node=0",
        "slurm.cpus_per_task=1",
        "slurm.minutes=10",
        "parallel=2",
    ]
    shown = cluster.launch("submit.py", *words)
    assert "an array of 4, after afterok:" in shown
    most = 0
    folder = tmp_path / "runs" / "demo-table1"

    def ended() -> bool:
        nonlocal most
        states = [state for _, name, state, _ in cluster.queue() if ".cells." in name]
        most = max(most, states.count("RUNNING"))
        if states.count("RUNNING"):
            assert (folder / "synthesis" / "generator.pth").is_file()
        return not cluster.queue()

    cluster.wait(ended)
    assert most == 2
    table = (folder / "table1.md").read_text()
    assert "cells done: 5 of 21" in table
    assert (folder / "table1.csv").is_file()
    assert (folder / "table1.tex").is_file()
    assert (folder / "figure2.png").is_file()
    for journal in folder.glob("*/attempts.jsonl"):
        assert journal.read_text().count('"finished"') == 1
    assert cluster.launch("submit.py", *words).count("nothing to submit") == 1


def test_the_sbatch_template_with_accelerate_launch(
    cluster: Cluster, grid: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    """2 nodes, told to stop in mid-run as before a time limit."""
    words = [*grid.words_of_its_run, "distributed.num_processes=2"]
    log = grid.folder.parent / "job.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    options = ["--gpus-per-node=0", "--cpus-per-task=2", "--time=20", f"--output={log}"]
    template = [*options, f"--chdir={ROOT}", str(ROOT / "slurm" / "train.sbatch"), *words]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    cluster.run("sbatch", *template, PROCESSES="1", PATH=path)
    cluster.wait(lambda: grid.num_images() >= 8)
    cluster.run("scancel", "--signal=USR2", cluster.queue()[0][0])
    cluster.wait_until_empty()
    assert (grid.run / "result.json").is_file(), log.read_text()
    assert_as_undisturbed(grid, undisturbed[2], restarts=1)
    assert grid.events("ended")[0]["reason"] == "asked to stop, saved"
