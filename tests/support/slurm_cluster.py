"""The real cluster of slurm/cluster.sh for tests, and what they do with it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import ROOT
from processes import PATIENCE
from tiny_runs import TINY, losses_of

SCRIPT = ROOT / "slurm" / "cluster.sh"
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")
SLOW = ROOT / "tests" / "programs" / "slow_steps.py"
URGENT = "urgent"
"""Name of a job that takes nodes from those beside the tests."""


class Cluster:
    """Commands against the cluster; `folder` is its own. beside: grids that run beside the tests,
    of whose jobs these know nothing, and their ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.beside: dict[TinyGrid, Future[TinyGrid]] = {}
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MASKRESTORE_CLUSTER": str(folder),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *command: str, check: bool = True, **more: str) -> str:
        """What a command prints; an AssertionError with its complaint if it fails."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self.environment | more,
            timeout=PATIENCE,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def control(self, *words: str) -> str:
        """slurm/cluster.sh."""
        return self.run("bash", str(SCRIPT), *words)

    def start(self, program: str, *words: str) -> "subprocess.Popen[str]":
        """launch/PROGRAM, not waited for."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / program), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def launch(self, program: str, *words: str, status: int = 0) -> str:
        """All that launch/PROGRAM prints, which must end with this status."""
        process = self.start(program, *words)
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, output + errors
        return output + errors

    def queue(self) -> list[list[str]]:
        """Id, name, state and nodes of all jobs but those beside the tests."""
        jobs = self._all_jobs()  # before their names: one may be submitted right now
        hidden = {name for grid in self.beside for name in grid.job_names()} | {URGENT}
        return [job for job in jobs if job[1] not in hidden]

    def _all_jobs(self) -> list[list[str]]:
        listing = self.run("squeue", "--noheader", "--array", "--format=%i|%j|%T|%N")
        return [line.split("|") for line in listing.splitlines()]

    def jobs(self, grid: "TinyGrid", kind: str = "cells") -> list[str]:
        """The ids of a grid's jobs of a kind that are in the queue."""
        names = grid.job_names(kind)
        return [job for job, name, *_ in self._all_jobs() if name in names]

    def job(self, grid: "TinyGrid") -> str:
        """The id of the only cell's job."""
        [job] = self.jobs(grid)
        return job

    def nodes_of(self, job: str) -> list[str]:
        nodes = self.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
        return self.run("scontrol", "show", "hostnames", nodes).split()

    def wait(self, what: Callable[[], Any], seconds: float = 4 * PATIENCE) -> Any:
        """Until it is true; what it then is. Jobs wait for each other, so it may take a while."""
        deadline = time.monotonic() + seconds
        while not (answer := what()):
            if time.monotonic() > deadline:
                queue = self.run("squeue", "--format=%i %j %T %r %N", check=False)
                nodes = self.run("sinfo", "--Node", "--format=%N %T %E", check=False)
                raise AssertionError(f"waited in vain\n{queue}\n{nodes}")
            time.sleep(0.2)
        return answer

    def wait_until_empty(self) -> None:
        """Until no job is left."""
        self.wait(lambda: not self.queue())

    def clean(self) -> None:
        """No job; and all nodes back, unless some are lost on purpose, beside the tests."""
        if jobs := [job for job, *_ in self.queue()]:
            self.run("scancel", *jobs, check=False)
        if not all(ending.done() for ending in self.beside.values()):
            return self.wait_until_empty()
        self.wait_until_empty()
        self.wait(self._all_idle)

    def _all_idle(self) -> bool:
        """Whether all nodes are there for jobs; those that are down or drained are told to be.
        Not those that do not answer yet (idle*): what only they could run can be refused."""
        listing = self.run("sinfo", "--noheader", "--Node", "--format=%N %T")
        states = dict(line.split() for line in listing.splitlines())
        for node, state in states.items():
            if not state.startswith(("idle", "alloc", "mix", "comp")):
                self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        return set(states.values()) == {"idle"}


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Cluster]:
    """Up for all tests of a session, down at its end."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    reason = f"no SLURM here: {', '.join(missing)} missing" if missing else ""
    if os.geteuid() != 0:
        reason = "slurm/cluster.sh needs root"
    if reason:
        pytest.skip(reason)
    folder = Path(os.environ.get("MASKRESTORE_CLUSTER", "/tmp/maskrestore-slurm"))  # noqa: S108
    was_up = folder.exists()  # somebody's `make slurm-up`: used, and left up
    cluster = Cluster(folder)
    cluster.control("up", "nodes=4")
    try:
        yield cluster
    finally:
        if not was_up:
            cluster.control("down")


@pytest.fixture
def cluster(session_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The cluster without a job on it, but for what is disturbed beside the tests: that begins
    before the first of them."""
    request.getfixturevalue("beside")
    session_cluster.clean()
    yield session_cluster
    session_cluster.clean()


GRID = "rows:\n  cell: {task: densify, loss: ce}\n"


class TinyGrid:
    """A grid of one cell that trains for 40 steps, its generator and shards given."""

    def __init__(self, folder: Path, shards: Path, generator: Path, text: str = GRID) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "g.yaml").write_text(text)
        (folder / "c.yaml").write_text("{}\n")
        self.home, self.folder = folder, folder / "runs" / "c-g"
        self.words = [
            *TINY,
            f"config={folder / 'c.yaml'}",
            f"grid={folder / 'g.yaml'}",
            f"runs={folder / 'runs'}",
            f"data.shards={shards}",
            "data.num_train=16",
            "data.num_val=5",
            f"generator.path={generator}",
            "training.num_images=160",
            "training.checkpoint_images=16",
            "training.log_images=4",
            "training.keep_checkpoints=100",
            "health.watchdog_seconds=60",
            "slurm.gpus_per_node=0",
            "slurm.cpus_per_task=1",
            "slurm.minutes=20",
            "slurm.signal_seconds=5",
        ]

    def slow(self, step: float, save: float = 0.0) -> list[str]:
        """Words that give a test the time to strike, until `hurry`."""
        pace = {"SLOW_STEP": step, "SLOW_SAVE": save}
        for name, seconds in pace.items():
            (self.home / name).write_text(str(seconds))
        setup = " ".join(f"{name}={self.home / name}" for name in pace)
        python = f"slurm.python={sys.executable} {SLOW}"
        return [*self.words, python, f"slurm.setup=[export {setup}]"]

    def hurry(self) -> None:
        """Nothing is to happen to it any more: steps and saves take as long as they take."""
        for name in ("SLOW_STEP", "SLOW_SAVE"):
            (self.home / name).write_text("0.0")

    @property
    def words_of_its_run(self) -> list[str]:
        """train.py's, for the only cell without its grid."""
        own = ("config=", "grid=", "runs=", "slurm.")
        words = [word for word in self.words if not word.startswith(own)]
        return [*words, "task=densify", "loss=ce", f"run={self.run}"]

    @property
    def run(self) -> Path:
        return self.folder / "cell"

    def job_names(self, kind: str = "*") -> set[str]:
        """SLURM's names of the grid's jobs of a kind."""
        return {path.name for path in self.folder.glob(f"jobs/*.{kind}.*")}

    def events(self, kind: str, cell: str = "cell") -> list[dict[str, Any]]:
        path = self.folder / cell / "attempts.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def num_images(self) -> int:
        """Images that the run has logged."""
        return max((images for images, _ in self.losses()), default=0)

    def losses(self) -> list[tuple[int, dict[str, float]]]:
        try:
            return losses_of(self.run)
        except (FileNotFoundError, json.JSONDecodeError):  # not yet; being written
            return []


ONE_TASK = ("slurm.nodes=1", "slurm.tasks_per_node=1")


def two_nodes(tasks_per_node: int) -> list[str]:
    return ["slurm.nodes=2", f"slurm.tasks_per_node={tasks_per_node}"]


def assert_as_undisturbed(grid: TinyGrid, reference: TinyGrid, restarts: int | None = None) -> None:
    """The same weights and losses to the bit; finished once; no two attempts at a time."""
    mine, other = (
        torch.load(g.run / "mask_generator.pth", weights_only=True) for g in (grid, reference)
    )
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert torch.equal(value, other[name]), name
    assert grid.losses() == reference.losses()
    ends = grid.events("ended")
    assert [end["reason"] for end in ends].count("finished") == 1
    began = grid.events("began")
    assert len(began) == len(ends)
    for end, begin in zip(ends[:-1], began[1:], strict=True):
        assert end["time"] <= begin["time"]
    if restarts is not None:
        assert len(began) == restarts + 1, ends


@pytest.fixture
def grid(tmp_path: Path, shards: Path, generator: Path) -> TinyGrid:
    return TinyGrid(tmp_path, shards, generator)
