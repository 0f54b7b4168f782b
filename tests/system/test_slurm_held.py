"""A cell that a real SLURM holds since a node could not start it again."""

import pytest
from slurm_cluster import Cluster, TinyGrid, assert_as_undisturbed

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("whole_cluster")
def test_a_cell_that_meets_its_own_remains_is_sent_to_another_node(
    cluster: Cluster, grid: TinyGrid, undisturbed: dict[int, TinyGrid]
) -> None:
    """Its node is told to be down while its slurmd lives, and comes back before its task has saved:
    SLURM starts the job there once more, calls it a duplicate, and holds it."""
    one_node = ["slurm.nodes=1", "slurm.tasks_per_node=1", "profile=cpu"]
    rarely = "training.checkpoint_images=80"  # each save takes its ten seconds
    words = [*grid.slow(0.5, save=10.0), *one_node, rarely]
    cluster.launch("submit.py", *words)
    cluster.wait(lambda: grid.num_images() >= 8)
    job = cluster.job(grid)
    [node] = cluster.nodes_of(job)
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def reason() -> str:
        return cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%r").strip()

    cluster.wait(lambda: reason() == "launch failed requeued held")
    grid.hurry()
    shown = cluster.launch("status.py", *words)
    assert f"job {job} held (launch failed requeued held), its launch failed: the same" in shown
    assert "1 held" in shown
    released = cluster.launch("submit.py", *words)
    assert (
        f"job {job} was held (launch failed requeued held): released, away from {node}" in released
    )
    cluster.wait_until_empty()
    assert_as_undisturbed(grid, undisturbed[1], restarts=1)
    first, second = grid.events("began")
    assert first["nodes"] == [node]
    assert second["nodes"] != [node]
    assert [event["nodes"] for event in grid.events("held")] == [[node]]
