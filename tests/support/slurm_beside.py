"""Grids that are disturbed on a real SLURM beside its tests: minutes of waiting, side by side.

`@pytest.mark.beside(by=disturb)` makes a grid for a test (of other `rows` if the mark has them),
calls disturb(cluster, grid) in a thread before the first test of the cluster, and hands the test
the grid as `ended`, once no job of it is left. A disturbance keeps to nodes that are all its own:
the jobs of others run on the rest of the cluster.
"""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Semaphore, Thread

import pytest
from slurm_cluster import GRID, Cluster, TinyGrid
from tiny_runs import run_ranks

Disturb = Callable[[Cluster, TinyGrid], object]
MakeGrid = Callable[[str, str], TinyGrid]
ROOM = Semaphore(3)
"""So many grids at a time; more would wait for nodes, and for cores."""
PATIENCE = 1800.0
"""Seconds for all of them."""


def begin(cluster: Cluster, grid: TinyGrid, disturb: Disturb) -> "Future[TinyGrid]":
    """Let something be done to a grid, as soon as there is room; the grid at its end."""
    ending: Future[TinyGrid] = Future()
    cluster.beside[grid] = ending

    def run() -> None:
        with ROOM:
            try:
                disturb(cluster, grid)
                cluster.wait(lambda: not cluster.jobs(grid, "*"))
                ending.set_result(grid)
            except BaseException as error:
                ending.set_exception(error)

    Thread(target=run, daemon=True).start()  # nobody waits for it who interrupts the tests
    return ending


@pytest.fixture(scope="session")
def make_grid(tmp_path_factory: pytest.TempPathFactory, shards: Path, generator: Path) -> MakeGrid:
    """A grid in a folder of its own."""
    return lambda name, rows: TinyGrid(tmp_path_factory.mktemp(name), shards, generator, rows)


@pytest.fixture(scope="session")
def undisturbed(make_grid: MakeGrid) -> dict[int, TinyGrid]:
    """The runs that the disturbed ones are compared to, by their number of processes: on this
    machine, without a cluster."""
    grids = {number: make_grid("undisturbed", GRID) for number in (1, 2)}
    for number, grid in grids.items():
        statuses, errors = run_ranks(grid.words_of_its_run, number)
        assert statuses == [0] * number, errors
    return grids


@pytest.fixture(scope="session")
def beside(
    request: pytest.FixtureRequest,
    session_cluster: Cluster,
    make_grid: MakeGrid,
) -> dict[Disturb, "Future[TinyGrid]"]:
    """What the tests of this session ask for, begun."""
    marks = [item.get_closest_marker("beside") for item in request.session.items]
    hows = [mark.kwargs for mark in marks if mark]
    return {
        how["by"]: begin(
            session_cluster, make_grid(how["by"].__name__, how.get("rows", GRID)), how["by"]
        )
        for how in hows
    }


@pytest.fixture
def ended(request: pytest.FixtureRequest, beside: dict[Disturb, "Future[TinyGrid]"]) -> TinyGrid:
    """The grid of the test's disturbance, at its end."""
    return beside[request.node.get_closest_marker("beside").kwargs["by"]].result(PATIENCE)


@pytest.fixture
def whole_cluster(cluster: Cluster) -> None:
    """Nothing runs beside the test any more: for those that hurt all of the cluster."""
    for ending in cluster.beside.values():
        ending.exception(PATIENCE)
    cluster.clean()
