"""Checkpoints that are complete or absent: written beside, synced, renamed, with their sha256."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from maskrestore.files import file_sha256, sync_folder, write_atomically

STATE, MANIFEST = "state.pt", "manifest.json"


def save(folder: Path, num_images: int, state: dict[str, Any]) -> Path:
    """Write folder/NUM_IMAGES holding `state` (tensors and plain values) and return its path.

    Raises OSError if it cannot be written, leaving what was there.
    """
    final = folder / f"{num_images:09d}"
    beside = folder / f".{final.name}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    # To memory first: torch turns the OSError of a full disk into a RuntimeError about its own zip.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        beside.mkdir(parents=True)
        write_atomically(beside / STATE, buffer.getbuffer())
        facts = {"num_images": num_images, "sha256": file_sha256(beside / STATE)}
        write_atomically(beside / MANIFEST, json.dumps(facts, indent=1).encode())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(beside, final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sync_folder(folder)
    return final


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, or None; a damaged one is passed over."""
    for path in sorted(folder.glob("[0-9]" * 9), reverse=True):
        try:
            facts = json.loads((path / MANIFEST).read_text())
            if file_sha256(path / STATE) == facts["sha256"]:
                return path
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def load(path: Path) -> dict[str, Any]:
    """The state that `save` was given, on the CPU."""
    return dict(torch.load(path / STATE, map_location="cpu", weights_only=True))


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; call it only after a save."""
    for path in sorted(folder.glob("[0-9]" * 9))[:-keep]:
        shutil.rmtree(path)
