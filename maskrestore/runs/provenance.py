"""What code ran: its commit, what was changed since, and the packages beside it."""

import json
import os
import platform
import re
import shutil
import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from maskrestore.utils.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
PROVENANCE, CHANGES = "provenance.json", "changes.diff"
DIFF = (
    *("diff", "--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--unified=3", "--inter-hunk-context=0"),
    *("--submodule=short", "-O/dev/null"),
)
"""A patch that `git apply` takes, whatever diff.* says in the user's or the repository's config."""
CODE = ("maskrestore/*.py", "launch/*.py", "shards/*.py", "configs/*.yaml", ":(glob)*.py")


def commit() -> str | None:
    """The commit of this code, with +dirty for uncommitted changes; None outside a repository and
    outside a snapshot of one."""
    copied = ROOT / PROVENANCE
    if copied.is_file():
        recorded: str | None = json.loads(copied.read_text(encoding="utf-8"))["commit"]
        return recorded
    described = _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+dirty")
    return described.decode().strip() or None


def facts() -> dict[str, Any]:
    """ "commit" of this code (of a copy: that of the repository it was copied from), "python", and
    "packages" (name -> version) as they are here."""
    return {"commit": commit(), "python": platform.python_version(), "packages": _packages()}


@cache
def _packages() -> dict[str, str]:
    """Name -> version, in the order of names."""
    packages = {}
    for package in distributions():
        # Its properties parse the whole of this as an e-mail, each time.
        text = package.read_text("METADATA") or package.read_text("PKG-INFO") or ""
        head = dict(re.findall(r"^(Name|Version): (.*)$", text.partition("\n\n")[0], re.MULTILINE))
        if "Name" in head:
            packages[head["Name"].strip()] = head.get("Version", "").strip()
    return dict(sorted(packages.items(), key=lambda item: item[0].lower()))


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
    patch = _git(*DIFF, "HEAD")
    # Code alone: weights or pictures may lie about in a checkout.
    untracked = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
    new = ("-c", "core.autocrlf=false", *DIFF, "--no-index", "--", "/dev/null")  # byte for byte
    for name in filter(None, untracked.split(b"\0")):
        patch += _git(*new, os.fsdecode(name))
    return patch


def write_provenance(folder: Path) -> None:
    """Keep both in a folder."""
    write_atomically(folder / PROVENANCE, json.dumps(facts(), indent=1).encode())
    write_atomically(folder / CHANGES, changes())


def _git(*words: str) -> bytes:
    """What git prints; nothing where there is no git or no repository."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return b""
    # A shared checkout is often another user's.
    command = [git, "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *words]
    # GIT_DIR and its like are those of the shell, which may be at work on another repository.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(command, env=own, capture_output=True).stdout
