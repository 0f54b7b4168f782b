"""What programs say, on streams that take every word: words that cannot be printed undo no work."""

import codecs
import io
import os
import select
import sys
from typing import Any, TextIO

ERRORS = "maskrestore.printable"
"""Name of the handler of what a stream's encoding does not have."""


def set_up_streams() -> None:
    """Make stdout and stderr take every word, whatever their encoding, and whether or not there is
    anything behind them. To be called before any file is opened; a second call changes nothing.

    Streams that somebody else has put in their place are left alone.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, as by `>&-`: the next file would take its place, and all words
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error(ERRORS, _as_bytes_or_escaped)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the program
    if sys.stdout is sys.__stdout__:
        sys.stdout = sys.__stdout__ = _unfailing(sys.stdout, 1)  # type: ignore[assignment, misc]
    if sys.stderr is sys.__stderr__:
        sys.stderr = sys.__stderr__ = _unfailing(sys.stderr, 2)  # type: ignore[assignment, misc]


def why_words_are_lost() -> OSError | None:
    """Why not everything that was printed on stdout has got there, as on a full disk; None if it
    has."""
    raw = _raw_of(sys.stdout)
    return raw.failure if isinstance(raw, _Unfailing) else None


class _Unfailing(io.FileIO):
    """A descriptor to write to. What cannot be written is lost, and `failure` says why; but that
    the reader of stdout has gone is a BrokenPipeError."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        num_bytes = len(left)
        try:
            while left:  # all of it: with `python -u` nobody above writes the rest
                count: int | None = super().write(left)
                if count is None:  # somebody made it non-blocking, and it is full for now
                    select.select([], [self], [])
                left = left[count or 0 :]
        except OSError as error:
            if isinstance(error, BrokenPipeError) and self.fileno() == 1:
                raise
            self.failure = error
        return num_bytes


def _unfailing(stream: TextIO | None, number: int) -> TextIO:
    """The same stream on `number`, or a new one if there is none."""
    if isinstance(_raw_of(stream), _Unfailing) and stream is not None:
        return stream
    raw: Any = _Unfailing(number)
    if not isinstance(stream, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(raw), errors=ERRORS, line_buffering=True)
    stream.flush()
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=ERRORS,
        newline="\n" if os.linesep == "\n" else None,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw_of(stream: object) -> object:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _as_bytes_or_escaped(error: UnicodeError) -> tuple[bytes, int]:
    """Names of files that are no text as the bytes that they are; other characters as \\u2026."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    printable = (
        bytes([ord(character) - 0xDC00])
        if 0xDC80 <= ord(character) <= 0xDCFF  # as os.fsdecode leaves them
        else character.encode("ascii", "backslashreplace")
        for character in characters
    )
    return b"".join(printable), error.end
