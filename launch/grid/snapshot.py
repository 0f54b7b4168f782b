"""The code that jobs run: a copy, so that nothing changes for them when the checkout does."""

import hashlib
import os
import shutil
from pathlib import Path

from maskrestore.runs.provenance import ROOT, commit, write_provenance

PARTS = ("maskrestore", "launch", "shards", "configs")
"""Folders that a job needs, beside the programs at the top."""


def snapshot(folder: Path) -> Path:
    """Copy this code to folder/HASH, unless it is there, and return that path.

    With it its commit and the changes since.
    """
    paths = sorted(
        path
        for part in (*PARTS, *(path.name for path in ROOT.glob("*.py")))
        for path in ([ROOT / part] if (ROOT / part).is_file() else (ROOT / part).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    )
    digest = hashlib.sha256(str(commit()).encode())
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode() + content)
    final = folder / digest.hexdigest()[:12]
    if final.is_dir():
        return final
    beside = folder / f".{final.name}.{os.getpid()}.partial"
    try:
        for path in paths:
            copy = beside / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        write_provenance(beside)
        os.replace(beside, final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return final
