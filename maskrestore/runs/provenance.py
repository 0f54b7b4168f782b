"""What code ran: its commit, what was changed since, and the packages beside it."""

import json
import platform
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from maskrestore.utils.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
PROVENANCE, CHANGES = "provenance.json", "changes.diff"
DIFF = ("diff", "--binary", "--no-ext-diff", "--no-textconv", "--no-color")
CODE = ("maskrestore/*.py", "launch/*.py", "shards/*.py", "configs/*.yaml", ":(glob)*.py")


def commit() -> str | None:
    """The commit of this code, with +dirty for uncommitted changes; None outside a repository and
    outside a snapshot of one."""
    described: str | None = facts()["commit"]
    return described


def facts() -> dict[str, Any]:
    """ "commit" of this code (of a copy: that of the repository it was copied from), "python", and
    "packages" (name -> version) as they are here."""
    copied = ROOT / PROVENANCE
    if copied.is_file():
        commit = json.loads(copied.read_text(encoding="utf-8"))["commit"]
    else:
        described = _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+dirty")
        commit = (described or "").strip() or None
    packages = {package.name: package.version for package in distributions() if package.name}
    return {
        "commit": commit,
        "python": platform.python_version(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def torch_version() -> str:
    """As torch itself says it, with its build, such as 2.11.0+cu130.

    Imported here, so that those who only read run folders do not wait for it.
    """
    import torch

    return str(torch.__version__)


def changes() -> bytes:
    """The difference to the commit as a patch for `git apply`, new files of code included."""
    copied = ROOT / CHANGES
    if copied.is_file():
        return copied.read_bytes()
    patch = _git(*DIFF, "HEAD") or ""
    # Code alone: weights or pictures may lie about in a checkout.
    untracked = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE) or ""
    for name in untracked.split("\0"):
        if name:
            patch += _git(*DIFF, "--no-index", "--", "/dev/null", name) or ""
    return patch.encode(errors="surrogateescape")


def write_provenance(folder: Path) -> None:
    """Keep both in a folder."""
    write_atomically(folder / PROVENANCE, json.dumps(facts(), indent=1).encode())
    write_atomically(folder / CHANGES, changes())


def _git(*words: str) -> str | None:
    """What git prints; None where there is no git or no repository."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return None
    # A shared checkout is often another user's.
    command = [git, "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *words]
    done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape")
    return done.stdout
