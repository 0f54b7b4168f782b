"""What all tests need: their environment, and the fixtures that several folders share."""

import os
import signal
from collections.abc import Iterator

import forked
import pytest

# Set before torch is loaded, and inherited by every process of the tests. Several run side by side:
# threads that spin while they wait would take the cores from those that compute.
os.environ |= {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}

pytest_plugins = ["schedule", "tiny_data", "slurm_cluster", "slurm_beside"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A test that fails leaves its runs to nobody: they would take the cores from all others."""
    before = set(forked.STARTED)
    try:
        return (yield)
    except BaseException:
        for process in set(forked.STARTED) - before:
            process.kill()
        raise


# A shell starts its background jobs with Ctrl-C ignored, and programs inherit that. The tests that
# press Ctrl-C need it to mean something, however pytest itself was started.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    """A test that leaves a signal ignored leaves it so in every process that later tests start."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    after = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before
