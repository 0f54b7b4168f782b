"""The output folder of restore.py: what it was made with, which masks are done, their summary.

restore.json tells the settings; `.restore/PART/` holds a journal for each process, a line before a
mask's files are written (from then on they are this command's own) and one after. That is how the
same command finds out what is done, on any number of processes, and what it must not touch.
"""

import csv
import fcntl
import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from maskrestore.config.settings import flatten
from maskrestore.inference.mask_files import MaskFile, in_the_way
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import lock, write_atomically

FACTS, JOURNALS = "restore.json", ".restore"
COLUMNS = (
    "file",
    "height",
    "width",
    "annotated",
    "contradicted",
    "confidence",
    "below_half",
    "regions",
    "problem",
)
MANIFEST, PAIR = "manifest.csv", ("image", "mask")
SHOWN = 20
"""Files that a message names at most."""


class RestoreFolder:
    """The output folder as one process sees it.

    identity: everything that decides what a restored mask looks like; facts: what else is to be
    told. Their union becomes restore.json.
    """

    def __init__(self, folder: Path, part: str, rank: int, identity: Mapping[str, Any]) -> None:
        self.folder, self._identity = folder, identity
        self._part = part
        text = json.dumps(identity, sort_keys=True).encode()
        self._digest = hashlib.sha256(text).hexdigest()[:16]
        self._own = folder / JOURNALS / part.replace("/", "of")
        self._path = self._own / f"{self._digest}-{rank}.jsonl"
        self._writing = threading.Lock()

    def claim(
        self, masks: Sequence[MaskFile], augment: bool, facts: Mapping[str, Any], overwrite: bool
    ) -> ExitStack:
        """Make the folder this command's, on the main process; it is until the stack is closed.

        Raises UserError if the folder was made with other settings, holds files in the way of ours,
        or if this part, or a command with other settings or another number of parts, is at work.
        """
        if not (self.folder / JOURNALS).exists():  # a refusal leaves nothing behind
            self._check(masks, augment, overwrite)
        with ExitStack() as held, self._alone():
            held.enter_context(lock(self._own))
            held.enter_context(self._join())
            before, different = self._check(masks, augment, overwrite)
            self._begin(before, different, facts)
            return held.pop_all()

    def _join(self) -> TextIO:
        """Hold the folder together with the other parts of this command only."""
        ours = f"part=.../{self._part.partition('/')[2]} settings={self._digest}"
        file = open(self.folder / JOURNALS / "at_work", "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(ours)
            file.flush()
        except BlockingIOError:
            file.seek(0)
            theirs = file.read()
            if theirs != ours:
                file.close()
                raise UserError(
                    f"output={self.folder}: a command with other settings, or another number of "
                    f"parts, is at work on it ({theirs}; this one: {ours}): wait for its end"
                ) from None
        fcntl.flock(file, fcntl.LOCK_SH)
        return file

    def _check(
        self, masks: Sequence[MaskFile], augment: bool, overwrite: bool
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """What restore.json holds, if there is one, and what differs; UserError if not ours."""
        path = self.folder / FACTS
        before = _read_facts(path) if path.exists() else None
        different = _different(before or {}, self._identity)
        remedy = "give another folder as output=DIR, or overwrite=true"
        if before is not None and different and not overwrite:
            raise UserError(
                f"output={self.folder} was made with other settings:\n  "
                + "\n  ".join(different)
                + f"\ngive those again to continue, or {remedy}"
            )
        if not overwrite:
            ours = {line["file"] for line in self._lines() if line["state"] != "failed"}
            names = [
                name
                for mask in masks
                if mask.name not in ours
                for name in mask.outputs(augment).values()
            ]
            tables = [] if before else ["summary.csv", *([MANIFEST] if augment else [])]
            found = in_the_way(self.folder, [*names, *tables])
            if found:
                shown = "\n  ".join(found[:SHOWN])
                raise UserError(
                    f"output={self.folder}: files in the way that this command did not write: "
                    f"{len(found)}\n  {shown}\n{remedy}"
                )
        return before, different

    def _begin(
        self, before: dict[str, Any] | None, different: Sequence[str], facts: Mapping[str, Any]
    ) -> None:
        if before is not None and different and before.get("augment"):
            self._remove_pairs()
        for journal in (self.folder / JOURNALS).glob("*/*.jsonl"):
            if not journal.name.startswith(self._digest):  # its files are about to be replaced
                journal.unlink()
        # A folder that other code began is told to be of both.
        commits = [] if before is None or different else list(before.get("commits", []))
        if facts["commit"] not in commits:
            commits.append(facts["commit"])
        told = {**self._identity, **facts, "commits": commits}
        write_atomically(self.folder / FACTS, json.dumps(told, indent=1).encode())

    def _remove_pairs(self) -> None:
        """manifest.csv and its synthesised pairs: other settings made them."""
        manifest = self.folder / MANIFEST
        if manifest.exists():
            with open(manifest, encoding="utf-8", errors="replace", newline="") as file:
                names = [row.get(kind) or "" for row in csv.DictReader(file) for kind in PAIR]
            for path in (self.folder / name for name in names):
                within = path.resolve().is_relative_to(self.folder.resolve())
                if within and path.name.endswith(("_synthesized.png", "_synthesized_mask.png")):
                    path.unlink(missing_ok=True)
            manifest.unlink()

    def done(self, masks: Sequence[MaskFile], augment: bool) -> set[str]:
        """Names of the masks whose files are there, made from the files as they are now."""
        last = {line["file"]: line for line in self._lines()}
        return {
            mask.name
            for mask in masks
            if last.get(mask.name, {}).get("state") == "done"
            and last[mask.name]["stamp"] == stamp(mask)
            and len(in_the_way(self.folder, (names := mask.outputs(augment)).values()))
            == len(names)
        }

    def note(self, mask: MaskFile, state: str, **more: Any) -> None:
        """Add a line on a mask, from any thread: state begun; done, with its `stamp` as it was when
        it was read and its `row` of the summary; or failed, with the `problem`."""
        line = {"file": mask.name, "state": state, "time": time.time(), **more}
        self._own.mkdir(parents=True, exist_ok=True)
        with self._writing, open(self._path, "a", encoding="utf-8") as journal:
            journal.write(f"\n{json.dumps(line)}\n")  # the last one may be cut off
            journal.flush()
            os.fsync(journal.fileno())

    def summarize(self, masks: Sequence[MaskFile], augment: bool) -> None:
        """Write summary.csv, and manifest.csv of the synthesised pairs, of all that is known by now
        (of other parts too)."""
        with self._alone():
            last = {line["file"]: line for line in self._lines() if line["state"] != "begun"}
            known = [(mask, last[mask.name]) for mask in masks if mask.name in last]
            rows = [
                {"file": mask.name, **line.get("row", {}), "problem": line.get("problem")}
                for mask, line in known
            ]
            write_atomically(self.folder / "summary.csv", _table(COLUMNS, rows))
            if augment:
                pairs = [
                    {
                        "image": names["synthesized"],
                        "mask": names["synthesized_mask"],
                        "restored": names["restored"],
                        "input": mask.name,
                    }
                    for mask, line in known
                    if line["state"] == "done"
                    for names in [mask.outputs(True)]
                ]
                columns = (*PAIR, "restored", "input")
                write_atomically(self.folder / MANIFEST, _table(columns, pairs))

    def _lines(self) -> list[dict[str, Any]]:
        """All lines of this command's journals, by time; the last one on a mask counts."""
        found = []
        for path in (self.folder / JOURNALS).glob(f"*/{self._digest}-*.jsonl"):
            for text in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # empty, or cut off when the process was killed
                    line = json.loads(text)
                    if isinstance(line, dict) and {"file", "state", "time"} <= line.keys():
                        found.append(line)
        # A mask moves to another process's journal when their number changes.
        return sorted(found, key=lambda line: float(line["time"]))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other part is at the files that all share."""
        (self.folder / JOURNALS).mkdir(parents=True, exist_ok=True)
        with open(self.folder / JOURNALS / "lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def count_done(output: Path, part: str) -> int:
    """Masks of a part (NUMBER/PARTS) that its journals say are done, whatever the settings."""
    done = set()
    for path in (output / JOURNALS / part.replace("/", "of")).glob("*.jsonl"):
        for text in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError, KeyError):  # empty, or cut off
                line = json.loads(text)
                if line["state"] == "done":
                    done.add(line["file"])
    return len(done)


def stamp(mask: MaskFile) -> list[int]:
    """Size and time of change of a mask and its picture: they are restored again if it changes."""
    found: list[int] = []
    for path in (mask.path, mask.image):
        try:
            facts = path.stat() if path is not None else None
        except OSError:
            facts = None
        found += (facts.st_size, facts.st_mtime_ns) if facts is not None else (0, 0)
    return found


def _different(before: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    old, new = dict(flatten(before)), dict(flatten(identity))
    return [f"{key}: {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error!r}; give another output=DIR") from error


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    # Names of files need not be UTF-8; the table is.
    return text.getvalue().encode(errors="backslashreplace")
