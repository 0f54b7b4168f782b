"""A run on SLURM that hits its time limit twice: minutes of waiting, beside other tests of SLURM.

SLURM counts time limits in minutes and looks at them every 30 seconds.
"""

from concurrent.futures import Future
from pathlib import Path
from threading import Thread

import pytest
from slurm_cluster import Cluster, TinyGrid, two_nodes


@pytest.fixture(scope="session")
def time_limits(
    session_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    shards: Path,
    generator: Path,
) -> "Future[TinyGrid]":
    """The grid, once its run has hit two time limits and is finished."""
    grid = TinyGrid(tmp_path_factory.mktemp("time_limits"), shards, generator)
    finished: Future[TinyGrid] = Future()
    session_cluster.beside[grid] = finished

    def run() -> None:
        try:
            hit_two_time_limits(session_cluster, grid)
            finished.set_result(grid)
        except BaseException as error:
            finished.set_exception(error)

    Thread(target=run, daemon=True).start()  # nobody waits for it who interrupts the tests
    return finished


def hit_two_time_limits(cluster: Cluster, grid: TinyGrid) -> None:
    pace = grid.folder.parent.parent / "pace"
    pace.write_text("6.0")  # two limits of up to 2 minutes pass before it has trained for 4
    more = [*two_nodes(1), "slurm.signal_seconds=10"]
    cluster.launch("submit.py", *grid.slow(pace), *more)
    for hits in (1, 2):
        seen = grid.num_images()
        cluster.wait(lambda seen=seen: grid.num_images() > seen)
        let_time_run_out(cluster, job := cluster.job(grid))
        cluster.wait(lambda hits=hits: len(grid.events("ended")) == hits)
        cluster.run("scontrol", "update", f"jobid={job}", "timelimit=20")
    pace.write_text("0.0")
    cluster.wait(lambda: len(grid.events("ended")) == 3)


def let_time_run_out(cluster: Cluster, job: str) -> None:
    """The job's next limit that leaves SLURM, which looks every 30 seconds, time to signal first:
    a limit in place from the start may be reached before a slow machine has begun to train."""
    shown = cluster.run("squeue", "--noheader", f"--jobs={job}", "--Format=TimeUsed")
    seconds = sum(int(part) * 60**i for i, part in enumerate(reversed(shown.strip().split(":"))))
    minutes = max(2, -(-(seconds + 40) // 60))  # of a single one, half may not have passed yet
    cluster.run("scontrol", "update", f"jobid={job}", f"timelimit={minutes}")
