"""A program on a pseudo-terminal: it believes that somebody looks at what it prints."""

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

UP = "\x1b[1A"
"""The cursor goes up a line, to draw over what stands there."""
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
"""The cursor."""


class Terminal:
    """A program that runs on a terminal of this size, and all that it has printed there."""

    def __init__(
        self,
        command: Sequence[str],
        columns: int = 160,
        lines: int = 50,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        ours = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
        whole = {name: value for name, value in os.environ.items() if name not in ours}
        whole |= {"TERM": "xterm-256color"} | dict(environment or {})
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=whole, start_new_session=True
        )
        os.close(theirs)
        self.printed = ""

    def read(self, until: str | None = None, seconds: float = 60) -> str:
        """All that was printed, as soon as `until` is among it, or else at the program's end."""
        deadline = time.monotonic() + seconds
        while until is None or until not in self.printed:
            assert time.monotonic() < deadline, self.printed
            if not select.select([self._ours], [], [], 0.1)[0]:
                continue
            try:
                content = os.read(self._ours, 65536)
            except OSError:  # Linux: nobody holds the other side any more
                content = b""
            if not content:
                assert until is None, self.printed
                break
            self.printed += content.decode(errors="replace")
        return self.printed

    def end(self) -> int:
        """Read to the end; the exit status."""
        self.read()
        os.close(self._ours)
        return self.process.wait(timeout=30)


def plain(printed: str) -> list[str]:
    """Lines without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed).replace("\r", "").split("\n")
