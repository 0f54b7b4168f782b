"""Grids on a real SLURM of four nodes: what a cluster does to them, and that nothing comes of it.

slurm/cluster.sh starts the cluster; where SLURM is not installed these tests are skipped.
"""

import os
import signal
import subprocess

import pytest
from slurm_cluster import ONE_TASK, URGENT, Cluster, TinyGrid, assert_as_undisturbed, two_nodes

from launch.slurm.journal import note

pytestmark = pytest.mark.slow


def strike(cluster: Cluster, grid: TinyGrid, words: list[str], after: int = 24) -> str:
    """Submit, and wait until the cell has trained on so many images; its job."""
    cluster.launch("submit.py", *words)
    cluster.wait(lambda: grid.num_images() >= after)
    return cluster.job(grid)


def be_preempted(cluster: Cluster, grid: TinyGrid) -> None:
    """By a job that wants the very nodes, which are all the run's."""
    job = strike(cluster, grid, [*grid.slow(0.3), *two_nodes(1), "slurm.sbatch=[--exclusive]"])
    nodes = ",".join(cluster.nodes_of(job))
    urgent = ("--partition=priority", f"--nodelist={nodes}", "--exclusive", f"--job-name={URGENT}")
    cluster.run("sbatch", *urgent, "--output=/dev/null", "--wrap=sleep 3")
    cluster.wait(lambda: grid.events("ended"))
    grid.hurry()


def hit_two_time_limits(cluster: Cluster, grid: TinyGrid) -> None:
    """SLURM counts time limits in minutes and looks at them every 30 seconds."""
    more = [*ONE_TASK, "slurm.signal_seconds=10"]
    cluster.launch("submit.py", *grid.slow(6.0), *more)  # it would train for 4 minutes
    for hits in (1, 2):
        seen = grid.num_images()
        cluster.wait(lambda seen=seen: grid.num_images() > seen)
        let_time_run_out(cluster, job := cluster.job(grid))
        cluster.wait(lambda hits=hits: len(grid.events("ended")) == hits)
        cluster.run("scontrol", "update", f"jobid={job}", "timelimit=20")
    grid.hurry()


def let_time_run_out(cluster: Cluster, job: str) -> None:
    """The job's next limit that leaves SLURM, which looks every 30 seconds, time to signal first:
    a limit in place from the start may be reached before a slow machine has begun to train."""
    shown = cluster.run("squeue", "--noheader", f"--jobs={job}", "--Format=TimeUsed")
    seconds = sum(int(part) * 60**i for i, part in enumerate(reversed(shown.strip().split(":"))))
    minutes = max(2, -(-(seconds + 40) // 60))  # of a single one, half may not have passed yet
    cluster.run("scontrol", "update", f"jobid={job}", f"timelimit={minutes}")


def be_requeued_while_it_saves(cluster: Cluster, grid: TinyGrid) -> None:
    cluster.launch("submit.py", *grid.slow(0.1, save=1.5), *ONE_TASK)
    cluster.wait((grid.run / "checkpoints" / ".000000064.partial").exists)
    cluster.run("scontrol", "requeue", cluster.job(grid))
    cluster.wait(lambda: grid.events("ended"))
    grid.hurry()


def lose_a_task_as_for_want_of_memory(cluster: Cluster, grid: TinyGrid) -> None:
    strike(cluster, grid, [*grid.slow(0.3), "slurm.nodes=1", "slurm.tasks_per_node=2"])
    folder = next(grid.folder.glob("jobs/*.cells.*"))
    pattern = f"_submit {folder}$"
    tasks = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True)
    os.kill(int(tasks.stdout.split()[-1]), signal.SIGKILL)
    cluster.wait(lambda: grid.events("ended"))
    grid.hurry()


def be_cancelled_and_retried(cluster: Cluster, grid: TinyGrid) -> None:
    words = [*grid.slow(0.3), *ONE_TASK]
    strike(cluster, grid, words)
    cluster.launch("status.py", *words, "cancel=cell")
    cluster.wait(lambda: not cluster.jobs(grid))
    assert "1 cancelled" in cluster.launch("status.py", *words)
    grid.hurry()
    cluster.launch("status.py", *words, "retry=cell")


def meet_a_node_that_failed_it_twice(cluster: Cluster, grid: TinyGrid) -> None:
    grid.run.mkdir(parents=True)
    nodes = [f"node{number}" for number in (1, 2, 3)]
    for _ in range(2):
        note(grid.run, "began", job="1", restart=0, nodes=nodes, num_images=0)
        note(grid.run, "ended", reason="node failed", faulty=nodes)
    words = [*grid.words, *ONE_TASK]
    cluster.launch("submit.py", *words)


STUCK = (
    "rows:\n  good: {task: densify, loss: ce}\n"
    "  wrong: {task: densify, loss: ce_vgg, perceptual: {network: vgg19, weights: /nowhere}}\n"
    "  stuck: {task: densify, loss: ce, health: {watchdog_seconds: 0.2}}\n"
)


def get_nowhere_beside_others(cluster: Cluster, grid: TinyGrid) -> None:
    """Its watchdog ends the third cell at its first step, in every attempt."""
    words = [*grid.slow(1.0), "training.num_images=8", *ONE_TASK]
    cluster.launch("submit.py", *words, "slurm.max_idle_restarts=1")


def lose_a_node(cluster: Cluster, grid: TinyGrid) -> None:
    job = strike(cluster, grid, [*grid.slow(0.3), *two_nodes(1), "slurm.sbatch=[--exclusive]"])
    node = cluster.nodes_of(job)[-1]
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    cluster.wait(lambda: grid.events("ended"))
    grid.hurry()


def lose_a_slurmd(cluster: Cluster, grid: TinyGrid) -> None:
    """SLURM starts the job elsewhere while its old tasks are still training."""
    # So slow that SLURM misses the slurmd before they come to their end.
    words = [*grid.slow(3.0), *ONE_TASK, "slurm.sbatch=[--exclusive]"]
    [node] = cluster.nodes_of(strike(cluster, grid, words))
    cluster.control("kill", node)
    try:
        cluster.wait(lambda: len(grid.events("began")) >= 2 or not cluster.jobs(grid))
        cluster.wait(lambda: not cluster.jobs(grid))
    finally:
        cluster.control("start", node)


@pytest.mark.beside(by=be_preempted)
def test_preemption_saves_requeues_and_goes_on(
    cluster: Cluster, ended: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    assert_as_undisturbed(ended, undisturbed[2], restarts=1)
    assert ended.events("ended")[0]["reason"] == "preempted, saved"
    assert len(ended.events("began")[0]["nodes"]) == 2
    status = cluster.launch("status.py", *ended.words)
    assert "1 done" in status


@pytest.mark.beside(by=hit_two_time_limits)
def test_a_time_limit_that_is_hit_twice(ended: TinyGrid, undisturbed: dict[int, TinyGrid]) -> None:
    assert_as_undisturbed(ended, undisturbed[1], restarts=2)
    reasons = [event["reason"] for event in ended.events("ended")]
    assert reasons == ["time limit, saved", "time limit, saved", "finished"]


@pytest.mark.beside(by=be_requeued_while_it_saves)
def test_requeued_while_it_saves(ended: TinyGrid, undisturbed: dict[int, TinyGrid]) -> None:
    assert_as_undisturbed(ended, undisturbed[1], restarts=1)
    assert ended.events("ended")[0]["reason"].startswith("requeued by hand")


@pytest.mark.beside(by=lose_a_task_as_for_want_of_memory)
def test_a_task_that_is_killed_as_for_want_of_memory(
    ended: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    assert_as_undisturbed(ended, undisturbed[2], restarts=1)
    assert "SIGKILL" in ended.events("ended")[0]["reason"]


@pytest.mark.beside(by=be_cancelled_and_retried)
def test_a_cancelled_cell_saves_and_stays_away_until_it_is_retried(
    ended: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    assert_as_undisturbed(ended, undisturbed[1], restarts=1)
    assert ended.events("ended")[0]["reason"] == "cancelled, saved"
    assert ended.events("began")[1]["num_images"] >= 24


@pytest.mark.beside(by=meet_a_node_that_failed_it_twice)
def test_a_node_that_failed_a_run_twice_is_kept_away_from(
    session_cluster: Cluster, ended: TinyGrid
) -> None:
    assert set(ended.events("began")[-1]["nodes"]) == {"node4"}
    shown = session_cluster.launch("status.py", *ended.words)
    assert "1 done" in shown
    if ended.events("excluded"):  # else it came to the right node by chance
        assert "kept away from node1, node2, node3, which failed it twice" in shown


@pytest.mark.beside(by=get_nowhere_beside_others, rows=STUCK)
def test_a_run_that_gets_nowhere_is_given_up_and_a_failing_one_leaves_the_others_alone(
    session_cluster: Cluster, ended: TinyGrid
) -> None:
    words = [*ended.words, "training.num_images=8"]
    shown = session_cluster.launch("status.py", *words, status=1)
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert lines["good"].split()[1] == "done"
    assert lines["wrong"].split()[1] == "failed"
    assert "/nowhere: no such weight file" in lines["wrong"]
    assert len(ended.events("began", "good")) == len(ended.events("began", "wrong")) == 1
    assert "gave up" in lines["stuck"]
    assert "no progress in 1 restarts from image 0" in lines["stuck"]
    assert len(ended.events("began", "stuck")) == 2
    assert "failed" in (ended.folder / "g.md").read_text()  # by the job behind the array
    assert "/nowhere" in session_cluster.launch("status.py", *words, "logs=wrong")


@pytest.mark.beside(by=lose_a_node)
def test_a_node_that_goes_down(ended: TinyGrid, undisturbed: dict[int, TinyGrid]) -> None:
    assert_as_undisturbed(ended, undisturbed[2], restarts=1)
    assert ended.events("ended")[0]["reason"].startswith("node failed")


@pytest.mark.beside(by=lose_a_slurmd)
def test_a_slurmd_that_dies_leaves_tasks_behind_that_make_way(
    ended: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    assert_as_undisturbed(ended, undisturbed[1], restarts=1)
    first, second = ended.events("began")
    assert second["nodes"] != first["nodes"]
    assert ended.events("ended")[0]["faulty"] == first["nodes"]


@pytest.mark.usefixtures("whole_cluster")
def test_munge_down_and_no_accounting(cluster: Cluster, grid: TinyGrid) -> None:
    words = [*grid.words, *ONE_TASK, "slurm.sbatch=[--hold]"]
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
