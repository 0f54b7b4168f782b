"""What became of each mask: a journal for each process, `.restore/PART/SETTINGS-RANK.jsonl`.

It has a line before a mask's files are written (from then on they are this command's own) and one
after. That is how the same command finds out what is done, on any number of processes, and what it
must not touch. Each line has "start": a process's is greater than all those that it met, so that
later starts are known as such whatever became of the clock; "time" is for people.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from maskrestore.inference.mask_files import MaskFile
from maskrestore.utils.files import sync

JOURNALS = ".restore"


class Journal:
    """One process writes in its own, and reads all those of the same settings.

    settings: short digest of all that decides what a restored mask looks like.
    """

    def __init__(self, output: Path, part: str, rank: int, settings: str) -> None:
        self._all, self._settings = output / JOURNALS, settings
        self.of_part = self._all / part.replace("/", "of")
        """Folder of the journals of this part's processes."""
        self._own = self.of_part / f"{settings}-{rank}.jsonl"
        self._writing = threading.Lock()
        self._start: int | None = None

    def note(self, mask: MaskFile, state: str, **more: Any) -> None:
        """Add a line on a mask, from any thread: state begun; done, with its `stamp` as it was when
        it was read and its `row` of the summary; or failed, with the `problem`."""
        self.of_part.mkdir(parents=True, exist_ok=True)
        with self._writing, open(self._own, "a", encoding="utf-8") as journal:
            if self._start is None:
                self._start = 1 + max(map(_start_of, self.lines()), default=0)
            line = {"file": mask.name, "state": state, "start": self._start, "time": time.time()}
            journal.write(f"\n{json.dumps(line | more)}\n")  # the last one may be cut off
            sync(journal)

    def lines(self) -> list[dict[str, Any]]:
        """Those of all processes and parts in order; the last one on a mask counts."""
        paths = self._all.glob(f"*/{self._settings}-*.jsonl")
        # A mask moves to another process's journal when their number changes, between two starts.
        return sorted(_read(paths), key=_order)

    def forget_other_settings(self) -> None:
        """Remove their journals: their files are about to be replaced."""
        for path in self._all.glob("*/*.jsonl"):
            if not path.name.startswith(self._settings):
                path.unlink()


def count_done(output: Path, part: str) -> int:
    """Masks of a part (NUMBER/PARTS) that its journals say are done, whatever the settings."""
    lines = _read((output / JOURNALS / part.replace("/", "of")).glob("*.jsonl"))
    return len({line["file"] for line in lines if line["state"] == "done"})


def _start_of(line: dict[str, Any]) -> int:
    return int(line.get("start", 0))


def _order(line: dict[str, Any]) -> tuple[int, float]:
    # Lines of a start stand in order already; those of earlier versions have the time alone.
    start = _start_of(line)
    return start, 0.0 if start else float(line["time"])


def _read(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for text in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # empty, or cut off when the process was killed
                line = json.loads(text)
                if isinstance(line, dict) and {"file", "state", "time"} <= line.keys():
                    yield line
