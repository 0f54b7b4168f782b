"""Checkpoints that are complete or absent: written beside, synced, renamed, with their sha256.

One file holds everything, whatever the number of processes (distributed/engine.py): the main
process writes it and every process reads it.
"""

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maskrestore.config.run import TrainingConfig
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import file_sha256, sync_folder, write_atomically

STATE, MANIFEST = "state.pt", "manifest.json"
BEGINNING: dict[str, Any] = {
    "num_images": 0,
    "networks": {},
    "scaling": {},
    "history": [],
    "num_rollbacks": 0,
}
"""The form of a state, before the first step."""


def save(folder: Path, num_images: int, state: dict[str, Any]) -> Path:
    """Write folder/NUM_IMAGES holding `state` (tensors and plain values) and return its path.

    Raises OSError if it cannot be written, leaving what was there.
    """
    return _write(folder, num_images, _encode(state))


def _encode(state: dict[str, Any]) -> io.BytesIO:
    # To memory first: torch turns the OSError of a full disk into a RuntimeError about its own zip.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer


def _write(folder: Path, num_images: int, encoded: io.BytesIO) -> Path:
    final = folder / f"{num_images:09d}"
    beside = folder / f".{final.name}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        write_atomically(beside / STATE, encoded.getbuffer())
        facts = {"num_images": num_images, "sha256": file_sha256(beside / STATE)}
        write_atomically(beside / MANIFEST, json.dumps(facts, indent=1).encode())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(beside, final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sync_folder(folder)
    return final


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk: written at `timestamp` (seconds since 1970), in `seconds`, or None if
    it was not this process that wrote it."""

    num_images: int
    num_bytes: int
    timestamp: float
    seconds: float | None = None


def describe(path: Path) -> Saved | None:
    """A checkpoint that was found; None if it is gone."""
    try:
        facts = (path / STATE).stat()
    except OSError:
        return None
    return Saved(int(path.name), facts.st_size, facts.st_mtime)


class Saver:
    """Saves into `folder` as the settings say: at once, or behind training's back, which goes on as
    soon as the state is copied. Used by the main process alone."""

    def __init__(self, folder: Path, config: TrainingConfig) -> None:
        self._folder, self._config = folder, config
        self._thread: threading.Thread | None = None
        self._error: OSError | UserError | None = None
        self.last: Saved | None = None
        """The newest that is on disk, of those saved here."""

    @property
    def failed(self) -> bool:
        """Whether a save behind training's back could not be written; `wait` says why."""
        return self._error is not None

    def save(self, num_images: int, state: dict[str, Any]) -> None:
        """Save a state, after the one before it. Raises OSError if one could not be written."""
        self.wait()
        encoded = _encode(state)
        if self._config.save_in_background:
            self._thread = threading.Thread(target=self._try, args=(num_images, encoded))
            self._thread.start()
        else:
            self._put(num_images, encoded)

    def wait(self) -> None:
        """Return when all is on disk. Raises OSError if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def _try(self, num_images: int, encoded: io.BytesIO) -> None:
        try:
            self._put(num_images, encoded)
        except OSError as error:
            self._error = error
        except Exception as error:  # nobody looks at a thread that ends
            self._error = UserError(f"{self._folder} cannot be written: {error!r}")

    def _put(self, num_images: int, encoded: io.BytesIO) -> None:
        began = time.monotonic()
        newest = _write(self._folder, num_images, encoded)
        prune(self._folder, self._config.keep_checkpoints, newest)
        seconds = time.monotonic() - began
        saved = describe(newest)
        self.last = saved and replace(saved, seconds=seconds)


def latest(
    folder: Path, gather: Callable[[Any], list[Any]] = lambda value: [value]
) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that every process sees whole and equal, or None; and for each newer
    one what is wrong with it.

    gather: a value of this process -> those of all; all processes call this together.
    """
    seen = gather({path.name for path in folder.glob("[0-9]" * 9)})
    passed_over: list[str] = []
    for name in sorted(set().union(*seen), reverse=True):
        sums = gather(_sha256_if_whole(folder / name))
        if sums[0] is not None and all(sha256 == sums[0] for sha256 in sums):
            return folder / name, passed_over
        blind = [str(rank) for rank, sha256 in enumerate(sums) if sha256 is None]
        where = f" on process {', '.join(blind)} of {len(sums)}" if len(sums) > 1 else ""
        fault = f"is damaged or missing{where}" if blind else "differs between the processes"
        passed_over.append(f"checkpoint {folder / name} {fault}")
    return None, passed_over


def _sha256_if_whole(path: Path) -> str | None:
    try:
        facts = json.loads((path / MANIFEST).read_text())
        sha256 = file_sha256(path / STATE)
        return sha256 if sha256 == facts["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load(path: Path) -> dict[str, Any]:
    """The state that `save` was given, on the CPU. UserError if another version wrote it."""
    state = {"num_rollbacks": 0, **torch.load(path / STATE, map_location="cpu", weights_only=True)}
    if state.keys() != BEGINNING.keys():
        raise UserError(f"{path} is of another version: start again with run=OTHER_FOLDER")
    return state


def prune(folder: Path, keep: int, newest: Path) -> None:
    """Keep `newest`, which was just written, and those before it, `keep` in all.

    One that seems newer is of no use: it was passed over as damaged.
    """
    older = sorted(path for path in folder.glob("[0-9]" * 9) if path.name < newest.name)
    kept = {newest, *older[max(0, len(older) - keep + 1) :]}
    for path in folder.glob("[0-9]" * 9):
        if path not in kept:
            shutil.rmtree(path)


def drop_after(folder: Path, num_images: int) -> None:
    """Delete checkpoints taken after `num_images`, but not the last one that there is."""
    every = sorted(folder.glob("[0-9]" * 9))
    for path in every[1:]:
        if int(path.name) > num_images:
            shutil.rmtree(path)
