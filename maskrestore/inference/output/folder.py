"""The output folder of restore.py: made with which settings, whose it is, and what is done in it.

restore.json tells the settings. Which masks are done: journal.py; who may be at work: locks.py;
summary.csv and manifest.csv: tables.py.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from maskrestore.config.settings import flatten
from maskrestore.inference.mask_files import MaskFile
from maskrestore.inference.output.journal import JOURNALS, Journal
from maskrestore.inference.output.locks import alone, join
from maskrestore.inference.output.tables import (
    MANIFEST,
    SUMMARY,
    remove_pairs,
    write_pairs,
    write_summary,
)
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import lock, write_atomically

FACTS = "restore.json"
SHOWN = 20
"""Files that a message names at most."""


class OutputFolder:
    """The output folder as one process sees it.

    identity: everything that decides what a restored mask looks like.
    """

    def __init__(self, folder: Path, part: str, rank: int, identity: Mapping[str, Any]) -> None:
        self.folder, self._identity = folder, identity
        text = json.dumps(identity, sort_keys=True).encode()
        settings = hashlib.sha256(text).hexdigest()[:16]
        self.journal = Journal(folder, part, rank, settings)
        self._hidden = folder / JOURNALS
        self._command = f"part=.../{part.partition('/')[2]} settings={settings}"

    def claim(
        self, masks: Sequence[MaskFile], augment: bool, facts: Mapping[str, Any], overwrite: bool
    ) -> ExitStack:
        """Make the folder this command's, on the main process; it is until the stack is closed.

        facts: what restore.json tells beside the identity. Raises UserError if the folder was made
        with other settings, holds files in the way of ours, or if this part, or a command with
        other settings or another number of parts, is at work.
        """
        if not self._hidden.exists():  # a refusal leaves nothing behind
            self._check(masks, augment, overwrite)
        with ExitStack() as held, alone(self._hidden):
            held.enter_context(lock(self.journal.of_part))
            held.enter_context(join(self._hidden, self._command, self.folder))
            before, is_same = self._check(masks, augment, overwrite)
            if before and not is_same and before.get("augment"):
                remove_pairs(self.folder)
            self.journal.forget_other_settings()
            self._tell(facts, before.get("commits", []) if before and is_same else [])
            return held.pop_all()

    def check(self, masks: Sequence[MaskFile], augment: bool, overwrite: bool) -> None:
        """Raise the UserErrors of `claim` for what lies in the folder, and leave it as it is."""
        self._check(masks, augment, overwrite)

    def _check(
        self, masks: Sequence[MaskFile], augment: bool, overwrite: bool
    ) -> tuple[dict[str, Any] | None, bool]:
        """What restore.json holds, if there is one, and whether it is of these settings.

        UserError if it is not, or if files are in the way, unless all is to be overwritten.
        """
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
        in_the_way = [] if overwrite else self._in_the_way(masks, augment, before is not None)
        if in_the_way:
            shown = "\n  ".join(in_the_way[:SHOWN])
            raise UserError(
                f"output={self.folder}: files in the way that this command did not write: "
                f"{len(in_the_way)}\n  {shown}\n{remedy}"
            )
        return before, not different

    def _in_the_way(self, masks: Sequence[MaskFile], augment: bool, has_tables: bool) -> list[str]:
        """Files where ours are to be, which this command has not begun to write."""
        ours = {line["file"] for line in self.journal.lines() if line["state"] != "failed"}
        names = [
            name
            for mask in masks
            if mask.name not in ours
            for name in mask.outputs(augment).values()
        ]
        tables = [] if has_tables else [SUMMARY, *([MANIFEST] if augment else [])]
        return self._existing([*names, *tables])

    def _tell(self, facts: Mapping[str, Any], commits: Sequence[str | None]) -> None:
        # A folder that other code began is told to be of both.
        every = list(dict.fromkeys([*commits, facts["commit"]]))
        text = json.dumps({**self._identity, **facts, "commits": every}, indent=1)
        write_atomically(self.folder / FACTS, text.encode())

    def done(self, masks: Sequence[MaskFile], augment: bool) -> set[str]:
        """Names of the masks whose files are there, made from the files as they are now."""
        last = {line["file"]: line for line in self.journal.lines()}
        done = set()
        for mask in masks:
            line, names = last.get(mask.name, {}), list(mask.outputs(augment).values())
            is_done = line.get("state") == "done" and line["stamp"] == mask.stamp()
            if is_done and self._existing(names) == names:
                done.add(mask.name)
        return done

    def _existing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if os.path.exists(self.folder / name)]  # too long: not there

    def summarize(self, masks: Sequence[MaskFile], augment: bool) -> None:
        """Write summary.csv, and manifest.csv of the synthesised pairs, of all that is known by now
        (of other parts too)."""
        with alone(self._hidden):
            lines = self.journal.lines()
            last = {line["file"]: line for line in lines if line["state"] != "begun"}
            ends = [(mask, last[mask.name]) for mask in masks if mask.name in last]
            write_summary(self.folder, ends)
            if augment:
                restored = [mask for mask, line in ends if line["state"] == "done"]
                write_pairs(self.folder, restored)


def _different(before: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    old, new = dict(flatten(before)), dict(flatten(identity))
    return [f"{key}: {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error!r}; give another output=DIR") from error
