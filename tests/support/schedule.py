"""Tests side by side: what waits beside what computes; and no test is skipped where none may be."""

import os
from collections import Counter
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

WAITING = {
    "tests/system/test_slurm": "slurm",
    "tests/system/": "crowds",
    "tests/launch/results/test_page": "crowds",
    "tests/distributed/": "crowds",
    "tests/training/test_resume": "crowds",
    "tests/monitoring/": "crowds",
}
"""Start of a file's name -> group: the files of one group run one after the other, on one worker.

They share a cluster; or they start a crowd of processes (a ward of runs for alerts, DeepSpeed, a
browser, exporters that look for free ports): two crowds at a time would starve each other, and
what each waits for would come late or never. The first start that fits counts."""
MAKES_WAY = 10
"""Niceness of what computes: the tests of a group have clocks of their own, alerts and time limits,
that would take a busy machine for a sick run."""


def group_of(nodeid: str) -> str:
    """The group of a test's file; "" for a file that stands alone."""
    return next((group for start, group in WAITING.items() if nodeid.startswith(start)), "")


class FileByFile(LoadScopeScheduling):
    """A worker takes whole files or groups, in the order of pytest_collection_modifyitems."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid) or nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileByFile:
    config.option.loadscopereorder = False
    return FileByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side: the groups first, since they take longest; then by slow tests in a file."""
    if not hasattr(config, "workerinput"):
        return
    slow = Counter(file_of(item) for item in items if item.get_closest_marker("slow"))
    groups = [*WAITING.values(), ""]
    items.sort(
        key=lambda item: (
            groups.index(group_of(item.nodeid)),
            waits_for_others(item),
            -slow[file_of(item)],
        )
    )


def waits_for_others(item: pytest.Item) -> int:
    """Of tests that share the cluster: those come last that take what ran beside the others, and
    behind them those that want the cluster for themselves."""
    fixtures = getattr(item, "fixturenames", ())
    return 2 * ("whole_cluster" in fixtures) + ("ended" in fixtures)


def file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def pytest_runtest_setup(item: pytest.Item) -> None:
    others_wait = any(group_of(other.nodeid) for other in item.session.items)
    if hasattr(item.config, "workerinput") and not group_of(item.nodeid) and others_wait:
        os.nice(MAKES_WAY - os.nice(0))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """CI installs everything that a test could miss: there, one that is skipped is a fault."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NO_SKIPS") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
