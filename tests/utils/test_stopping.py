"""What a signal does to whom it ends."""

import os
import signal

import pytest

from maskrestore.utils.stopping import LastAct


def test_a_last_act_comes_before_what_a_signal_does_anyway() -> None:
    done: list[str] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: done.append("as before"))
    try:
        with LastAct(lambda: done.append("last act")):
            os.kill(os.getpid(), signal.SIGUSR2)
        assert done == ["last act", "as before"]
        os.kill(os.getpid(), signal.SIGUSR2)
        assert done[2:] == ["as before"]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with LastAct(lambda: pytest.fail("nothing ends")):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
