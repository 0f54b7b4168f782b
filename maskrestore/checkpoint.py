"""Checkpoints that are complete or absent: written beside, synced, renamed, with their sha256."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from maskrestore.files import file_sha256, sync_folder, write_atomically
from maskrestore.settings import UserError

STATE, MANIFEST = "state.pt", "manifest.json"


def save(folder: Path, num_images: int, state: dict[str, Any], frozen: dict[str, str]) -> Path:
    """Write folder/NUM_IMAGES holding `state` (tensors and plain values) and return its path.

    frozen: {name: sha256} of the networks that are not saved; `load` compares them.
    """
    final = folder / f"{num_images:09d}"
    beside = folder / f".{final.name}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    with open(beside / STATE, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    facts = {"num_images": num_images, "sha256": file_sha256(beside / STATE), "frozen": frozen}
    write_atomically(beside / MANIFEST, json.dumps(facts, indent=1).encode())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(beside, final)
    sync_folder(folder)
    return final


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, or None; a damaged one is passed over."""
    for path in sorted(folder.glob("[0-9]" * 9), reverse=True):
        try:
            facts = json.loads((path / MANIFEST).read_text())
            if file_sha256(path / STATE) == facts["sha256"]:
                return path
        except (OSError, ValueError, KeyError):
            continue
    return None


def load(path: Path, frozen: dict[str, str]) -> dict[str, Any]:
    """The state that `save` was given, on the CPU.

    Raises UserError if a network that is not saved has changed since.
    """
    saved = json.loads((path / MANIFEST).read_text())["frozen"]
    changed = [name for name in frozen if saved.get(name) != frozen[name]]
    if changed:
        raise UserError(
            f"cannot resume from {path}: another {', '.join(changed)} was used until then "
            f"(sha256 {saved.get(changed[0], 'none')[:12]}, now {frozen[changed[0]][:12]}); "
            "give the old file again, or start in another run folder"
        )
    return dict(torch.load(path / STATE, map_location="cpu", weights_only=True))


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; call it only after a save."""
    for path in sorted(folder.glob("[0-9]" * 9))[:-keep]:
        shutil.rmtree(path)
