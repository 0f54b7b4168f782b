"""metrics.jsonl: what a run noted while it trained, one JSON object a line.

One rule says what a line is: a whole JSON object whose `num_images` is an int. Anything else is
passed over, wherever it stands: half a line, which a run is writing now or was killed in, blank
ones, bytes that are no text.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from maskrestore.utils.errors import UserError

METRICS = "metrics.jsonl"
BLOCK = 8192
"""Bytes that are read first, from the end on: some twenty lines."""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run folder's metrics.jsonl, in their order; [] if there is no file.

    Raises UserError if it cannot be read.
    """
    return list(newest_first(run))[::-1]


def newest_first(run: Path) -> Iterator[dict[str, Any]]:
    """The same from the last line on. Of a long file it reads no more than is asked for."""
    path = run / METRICS
    try:
        with open(path, "rb") as file:
            start, size, head = file.seek(0, os.SEEK_END), BLOCK, b""
            while start:
                size = min(size, start)
                start -= size
                file.seek(start)
                head, *lines = (file.read(size) + head).split(b"\n")
                yield from _whole(reversed(lines))
                size *= 2  # or a file that is one long line would be copied for each block of it
            yield from _whole([head])
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; mend that, or move it away"
        ) from error


def was_evaluated(run: Path, num_images: int) -> bool:
    """Whether metrics.jsonl holds an evaluation after so many images."""
    return any(
        line["num_images"] == num_images and "evaluation" in line for line in newest_first(run)
    )


def _whole(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for text in lines:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("num_images"), int):
            yield line
