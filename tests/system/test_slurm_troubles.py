"""Grids on a real SLURM of four nodes: what a cluster does to them, and that nothing comes of it.

slurm/cluster.sh starts the cluster; where SLURM is not installed these tests are skipped.
"""

import os
import signal
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from slurm_cluster import GRID, Cluster, TinyGrid, assert_as_undisturbed, two_nodes

from launch.slurm.journal import note

pytestmark = pytest.mark.slow


def strike(cluster: Cluster, grid: TinyGrid, words: list[str], after: int = 24) -> str:
    """Submit, and wait until the cell has trained on so many images; its job."""
    cluster.launch("submit.py", *words)
    cluster.wait(lambda: grid.num_images() >= after)
    return cluster.job(grid)


@pytest.mark.usefixtures("whole_cluster")
def test_preemption_saves_requeues_and_goes_on(
    cluster: Cluster, grid: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    strike(cluster, grid, [*grid.slow(0.3), *two_nodes(2)])
    urgent = ("--partition=priority", "--nodes=4", "--exclusive", "--output=/dev/null")
    cluster.run("sbatch", *urgent, "--wrap=sleep 3")
    cluster.wait_until_empty()
    assert_as_undisturbed(grid, undisturbed[4], restarts=1)
    assert grid.events("ended")[0]["reason"] == "preempted, saved"
    status = cluster.launch("status.py", *grid.words)
    assert "1 done" in status


def be_requeued_while_it_saves(cluster: Cluster, grid: TinyGrid) -> None:
    cluster.launch("submit.py", *grid.slow(0.1, save=1.5), *two_nodes(1))
    cluster.wait((grid.run / "checkpoints" / ".000000064.partial").exists)
    cluster.run("scontrol", "requeue", cluster.job(grid))


def lose_a_task_as_for_want_of_memory(cluster: Cluster, grid: TinyGrid) -> None:
    strike(cluster, grid, [*grid.slow(0.3), *two_nodes(1)])
    folder = next(grid.folder.glob("jobs/*.cells.*"))
    pattern = f"_submit {folder}$"
    tasks = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True)
    os.kill(int(tasks.stdout.split()[-1]), signal.SIGKILL)


def be_cancelled_and_retried(cluster: Cluster, grid: TinyGrid) -> None:
    words = [*grid.slow(0.3), *two_nodes(1)]
    strike(cluster, grid, words)
    cluster.launch("status.py", *words, "cancel=cell")
    cluster.wait(lambda: not cluster.jobs(grid))
    assert "1 cancelled" in cluster.launch("status.py", *words)
    cluster.launch("status.py", *words, "retry=cell")


def meet_a_node_that_failed_it_twice(cluster: Cluster, grid: TinyGrid) -> None:
    grid.run.mkdir(parents=True)
    nodes = [f"node{number}" for number in (1, 2, 3)]
    for _ in range(2):
        note(grid.run, "began", job="1", restart=0, nodes=nodes, num_images=0)
        note(grid.run, "ended", reason="node failed", faulty=nodes)
    words = [*grid.words, "slurm.nodes=1", "slurm.tasks_per_node=1"]
    cluster.launch("submit.py", *words)


STUCK = (
    "rows:\n  good: {task: densify, loss: ce}\n"
    "  wrong: {task: densify, loss: ce_vgg, perceptual: {network: vgg19, weights: /nowhere}}\n"
    "  stuck: {task: densify, loss: ce, health: {watchdog_seconds: 0.2}}\n"
)


def get_nowhere_beside_others(cluster: Cluster, grid: TinyGrid) -> None:
    """Its watchdog ends the third cell at its first step, in every attempt."""
    words = [*grid.slow(1.0), "training.num_images=8", "slurm.nodes=1", "slurm.tasks_per_node=1"]
    cluster.launch("submit.py", *words, "slurm.max_idle_restarts=1")


@pytest.fixture(scope="module")
def side_by_side(
    session_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    shards: Path,
    generator: Path,
    undisturbed: dict[int, TinyGrid],
) -> dict[str, TinyGrid]:
    """Grids that are disturbed at the same time, since most of it is waiting; all have ended."""
    disturbances = {
        be_requeued_while_it_saves,
        lose_a_task_as_for_want_of_memory,
        be_cancelled_and_retried,
        meet_a_node_that_failed_it_twice,
        get_nowhere_beside_others,
    }
    grids, running = {}, []
    with ThreadPoolExecutor(len(disturbances)) as threads:
        for disturb in disturbances:
            text = STUCK if disturb is get_nowhere_beside_others else GRID
            folder = tmp_path_factory.mktemp(disturb.__name__)
            grid = grids[disturb.__name__] = TinyGrid(folder, shards, generator, text)
            running.append(threads.submit(disturb, session_cluster, grid))
    for disturbed in running:
        disturbed.result()
    session_cluster.wait_until_empty()
    return grids


def test_a_time_limit_that_is_hit_twice(
    time_limits: "Future[TinyGrid]", undisturbed: dict[int, TinyGrid]
) -> None:
    grid = time_limits.result()
    assert_as_undisturbed(grid, undisturbed[2], restarts=2)
    reasons = [event["reason"] for event in grid.events("ended")]
    assert reasons == ["time limit, saved", "time limit, saved", "finished"]


def test_requeued_while_it_saves(
    side_by_side: dict[str, TinyGrid], undisturbed: dict[int, TinyGrid]
) -> None:
    grid = side_by_side["be_requeued_while_it_saves"]
    assert_as_undisturbed(grid, undisturbed[2], restarts=1)
    assert grid.events("ended")[0]["reason"].startswith("requeued by hand")


def test_a_task_that_is_killed_as_for_want_of_memory(
    side_by_side: dict[str, TinyGrid], undisturbed: dict[int, TinyGrid]
) -> None:
    grid = side_by_side["lose_a_task_as_for_want_of_memory"]
    assert_as_undisturbed(grid, undisturbed[2], restarts=1)
    assert "SIGKILL" in grid.events("ended")[0]["reason"]


def test_a_cancelled_cell_saves_and_stays_away_until_it_is_retried(
    side_by_side: dict[str, TinyGrid], undisturbed: dict[int, TinyGrid]
) -> None:
    grid = side_by_side["be_cancelled_and_retried"]
    assert_as_undisturbed(grid, undisturbed[2], restarts=1)
    assert grid.events("ended")[0]["reason"] == "cancelled, saved"
    assert grid.events("began")[1]["num_images"] >= 24


def test_a_node_that_failed_a_run_twice_is_kept_away_from(
    session_cluster: Cluster, side_by_side: dict[str, TinyGrid]
) -> None:
    grid = side_by_side["meet_a_node_that_failed_it_twice"]
    assert set(grid.events("began")[-1]["nodes"]) == {"node4"}
    shown = session_cluster.launch("status.py", *grid.words)
    assert "1 done" in shown
    if grid.events("excluded"):  # else it came to the right node by chance
        assert "kept away from node1, node2, node3, which failed it twice" in shown


def test_a_run_that_gets_nowhere_is_given_up_and_a_failing_one_leaves_the_others_alone(
    session_cluster: Cluster, side_by_side: dict[str, TinyGrid]
) -> None:
    grid = side_by_side["get_nowhere_beside_others"]
    words = [*grid.words, "training.num_images=8"]
    shown = session_cluster.launch("status.py", *words, status=1)
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert lines["good"].split()[1] == "done"
    assert lines["wrong"].split()[1] == "failed"
    assert "/nowhere: no such weight file" in lines["wrong"]
    assert len(grid.events("began", "good")) == len(grid.events("began", "wrong")) == 1
    assert "gave up" in lines["stuck"]
    assert "no progress in 1 restarts from image 0" in lines["stuck"]
    assert len(grid.events("began", "stuck")) == 2
    assert "failed" in (grid.folder / "g.md").read_text()  # by the job behind the array
    assert "/nowhere" in session_cluster.launch("status.py", *words, "logs=wrong")


@pytest.mark.usefixtures("whole_cluster")
def test_a_node_that_goes_down(
    cluster: Cluster, grid: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    job = strike(cluster, grid, [*grid.slow(0.3), *two_nodes(1)])
    node = cluster.nodes_of(job)[-1]
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    cluster.wait_until_empty()
    assert_as_undisturbed(grid, undisturbed[2], restarts=1)
    assert grid.events("ended")[0]["reason"].startswith("node failed")


@pytest.mark.usefixtures("whole_cluster")
def test_a_slurmd_that_dies_leaves_tasks_behind_that_make_way(
    cluster: Cluster, grid: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    """SLURM starts the job elsewhere while its old tasks are still training."""
    words = [*grid.slow(1.0), "slurm.nodes=1", "slurm.tasks_per_node=2"]
    job = strike(cluster, grid, words)
    [node] = cluster.nodes_of(job)
    cluster.control("kill", node)
    try:
        cluster.wait(lambda: len(grid.events("began")) == 2)
        assert grid.events("began")[1]["nodes"] != [node]
        assert grid.events("ended")[0]["faulty"] == [node]
        cluster.wait_until_empty()
    finally:
        cluster.control("start", node)
    assert_as_undisturbed(grid, undisturbed[2], restarts=1)


@pytest.mark.usefixtures("whole_cluster")
def test_munge_down_and_no_accounting(cluster: Cluster, grid: TinyGrid) -> None:
    words = [*grid.words, "slurm.nodes=1", "slurm.tasks_per_node=1", "slurm.sbatch=[--hold]"]
    cluster.launch("submit.py", *words)
    before = cluster.queue()
    cluster.control("kill", "munged")
    try:
        told = cluster.launch("submit.py", *words, "seeds=2", status=2)
        assert "SLURM does not answer" in told
        assert "is munged running on this machine?" in told
        assert "Traceback" not in told
    finally:
        cluster.control("start", "munged")
    cluster.wait(lambda: cluster.run("squeue", check=False))
    assert cluster.queue() == before
    cluster.control("kill", "slurmdbd")
    try:
        assert "1 held" in cluster.launch("status.py", *words)
        cluster.launch("status.py", *words, "cancel=cell")
        cluster.wait(lambda: not [job for job in cluster.queue() if ".cells." in job[1]])
        assert "cell" in cluster.launch("status.py", *words, status=1)
    finally:
        cluster.control("start", "slurmdbd")
