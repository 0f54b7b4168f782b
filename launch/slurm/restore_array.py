"""Restore masks: python launch/submit.py grid=densify_extra checkpoint=RUN input=DIR output=DIR ...

Hands SLURM one array of jobs, each restore.py on a part of the masks, or does it all on this
machine. The same command again continues what is left. docs/restoring.md tells the rest.
"""

import hashlib
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from launch.grid.cells import find_grid, read_restoration
from launch.grid.snapshot import snapshot
from launch.slurm.commands import ask, has_slurm, outside_of_jobs, queue, test_only
from launch.slurm.resources import SlurmConfig, check_resources, read_partitions, with_profile
from maskrestore.config.inference import RestoreConfig
from maskrestore.config.settings import flatten, merge, read_words, validate
from maskrestore.runs.provenance import ROOT
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import write_atomically

PART = ROOT / "slurm" / "restore.sbatch"
"""What a job of the array does."""

NOT_HONOURED = ("nodes", "container", "container_mounts", "max_idle_restarts")
"""Of slurm.*: what PART has no place for."""


class RestoreArrayConfig(RestoreConfig):
    """The words of this program: restore.py's, less `part`, and its own."""

    grid: str = "densify_extra"
    """A file of configs/grid with a section `restore`."""
    parts: PositiveInt = 8
    """Jobs of the array, a part of the masks each; no more than there are masks."""
    parallel: NonNegativeInt = 0
    """Jobs at a time; 0 is all that SLURM starts."""
    cluster: Literal["auto", "slurm", "local"] = "auto"
    """Where to run: auto is SLURM where there is one, else this machine, in a single process."""
    dry_run: bool = False
    """Print what sbatch would get, tried by sbatch, and start nothing."""
    profile: str = "default"
    """What to ask SLURM for: configs/slurm/NAME.yaml, below slurm.NAME=VALUE."""
    slurm: SlurmConfig = SlurmConfig()


def is_asked_for(words: Sequence[str]) -> bool:
    """Whether the words name a grid of this kind, which trains nothing."""
    name = next((word.partition("=")[2] for word in words if word.startswith("grid=")), "")
    with suppress(ConfigError):  # whoever reads it in earnest says what is wrong
        return bool(name) and read_restoration(find_grid(name)) is not None
    return False


def main(words: Sequence[str]) -> int:
    """Restore, or hand it to SLURM; the exit status of restore.py, or 0 if it is handed over."""
    given, mistakes = read_words(RestoreArrayConfig, words)
    if "part" in given:
        mistakes.append("part: set by the array, one for each job; give parts=NUMBER")
    path = find_grid(given.get("grid", "densify_extra"))
    values = merge(read_restoration(path) or {}, given)
    settings = validate(RestoreArrayConfig, values, mistakes)
    own = set(RestoreArrayConfig.model_fields) - set(RestoreConfig.model_fields)
    asked = validate(RestoreConfig, {key: each for key, each in values.items() if key not in own})
    if has_slurm(settings.cluster):
        return _hand_over(settings, asked, _resources(settings))
    from maskrestore.inference.restore import find_out, restore

    print(f"{find_out(asked)} masks, here, without SLURM")
    return 0 if settings.dry_run else restore(asked)


def _resources(settings: RestoreArrayConfig) -> SlurmConfig:
    """What to ask for; ConfigError for what the array or the cluster cannot give."""
    wanted, default = with_profile(settings.profile, settings.slurm), SlurmConfig()
    mistakes = [
        f"slurm.{name}: not for restoring; leave it out"
        for name in NOT_HONOURED
        if getattr(wanted, name) != getattr(default, name)
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    check_resources(wanted, read_partitions())
    return wanted


def _hand_over(settings: RestoreArrayConfig, asked: RestoreConfig, wanted: SlurmConfig) -> int:
    output = asked.output.absolute()
    folder = output.with_name(f"{output.name}.jobs")
    # One name for all arrays that restore into this folder, so that SLURM knows them again.
    name = f"restore.{hashlib.sha256(str(output).encode()).hexdigest()[:12]}"
    found = sorted({job.id.partition("_")[0] for job in queue([name])})
    if found:
        raise UserError(
            f"output={asked.output}: job {', '.join(found)} is at work on it or waits for it; let "
            f"it end, or end it: scancel {' '.join(found)}"
        )
    from maskrestore.inference.restore import find_out

    num_masks = find_out(asked)
    num_parts = min(settings.parts, num_masks)
    at_a_time = f"%{settings.parallel}" if settings.parallel else ""
    options = _options(wanted, name, f"0-{num_parts - 1}{at_a_time}", folder)
    words = _words(asked)
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "restore.sh"
        script.write_text(_script(wanted, folder / "code"), encoding="utf-8")
        complaint = test_only(*options, str(script), *words)
    if settings.dry_run:
        print(_script(wanted, folder / "code"))
        print(shlex.join(["sbatch", *options, "restore.sh", *words]))
        print(f"--- sbatch --test-only: {complaint or 'accepted'}")
        print(f"{num_masks} masks in {num_parts} parts")
        return 2 if complaint else 0
    if complaint:
        raise ConfigError(f"sbatch refuses this: {complaint}")
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "restore.sh"
    write_atomically(script, _script(wanted, snapshot(folder / "code")).encode())
    with outside_of_jobs():
        job = ask("sbatch", "--parsable", *options, str(script), *words).strip().partition(";")[0]
    print(f"job {job}: {num_masks} masks in an array of {num_parts}")
    print(f"watch it: squeue --jobs={job}; logs: {folder}/{job}_*.log")
    print(f"the same command again restores what is left; then see {asked.output}/summary.csv")
    return 0


def _options(wanted: SlurmConfig, name: str, array: str, folder: Path) -> list[str]:
    """What sbatch is to give each job."""
    options = {
        "job-name": name,
        "array": array,
        "nodes": 1,
        "ntasks": wanted.num_tasks_per_node,
        "gpus-per-node": wanted.gpus_per_node,
        "cpus-per-task": wanted.cpus_per_task or None,
        "mem": f"{round(1024 * wanted.memory_gb)}M" if wanted.memory_gb else None,
        "time": wanted.minutes,
        "signal": f"USR2@{wanted.signal_seconds}",
        "output": f"{folder}/%A_%a.log",
        "open-mode": "append",
        "requeue": "",
    }
    for key in ("partition", "account", "qos", "constraint", "exclude"):
        options[key] = getattr(wanted, key) or None
    words = [f"--{key}={each}".rstrip("=") for key, each in options.items() if each is not None]
    return [*words, *wanted.sbatch]


def _script(wanted: SlurmConfig, code: Path) -> str:
    """The user's lines, and PART as it is by now."""
    exported = {"CODE": str(code), "PYTHON": wanted.python or sys.executable}
    part = PART.read_text(encoding="utf-8").splitlines()
    lines = ["#!/bin/bash", *wanted.setup]
    lines += [f"export {name}={shlex.quote(each)}" for name, each in exported.items()]
    return "\n".join([*lines, *(line for line in part if not line.startswith("#")), ""])


def _words(asked: RestoreConfig) -> list[str]:
    """The words of restore.py that say the same."""
    given = asked.model_dump(mode="json", exclude_unset=True)
    return [
        f"{key}={str(each).lower() if isinstance(each, bool) else each}"
        for key, each in flatten(given)
        if each is not None
    ]
