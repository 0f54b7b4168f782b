"""How a run ends before its end: asked to by a signal, or by a watchdog when nothing moves."""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from maskrestore.utils.launcher import is_first_process

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""A scheduler's stop, Ctrl-C, and what SLURM sends ahead of a time limit (submitit's choice)."""


class StopRequest:
    """Within it the signals only raise a flag; the loop saves at the next step's end.

    Nothing else may happen in a handler: it interrupts any line, and a collective in it would wait
    for processes that are elsewhere. A further signal changes nothing (torchrun passes Ctrl-C on a
    second time); SIGQUIT (Ctrl-\\) or SIGKILL end the process at once, without a save.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first one received."""
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def ask(self) -> None:
        """Stop as if by a signal."""
        self.signal = self.signal or signal.SIGTERM

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows none
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None and os.getpid() == self._process:  # not in a forked worker
            self.signal = signal.Signals(number)
            if is_first_process():
                os.write(2, b"\nstopping after this step, to save; Ctrl-\\ ends at once\n")


class LastAct:
    """Within it SIGTERM and SIGUSR2 do what they did before, after an act that takes no lock: a
    handler interrupts any line, also one that holds it."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR2):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:  # not in a forked worker
            self._act()
        signal.signal(number, self._before[number])
        signal.raise_signal(number)


class Watchdog:
    """Prints where all threads stand and ends the process if `fed` is not called for `seconds`.

    It runs outside of Python's lock, so that a hanging native call cannot stop it. 0 seconds:
    never. The exit status is 1; the run can be resumed from its last checkpoint.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._file = sys.__stderr__ or sys.stderr  # pytest's has no file behind it

    def fed(self) -> None:
        """Something ended just now: begin to wait anew."""
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)

    def __enter__(self) -> Self:
        self.fed()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
