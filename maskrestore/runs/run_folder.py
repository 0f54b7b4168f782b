"""The run folder: what the run was started with, and what it passed over."""

import json
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TextIO

from maskrestore.config.run import RunConfig
from maskrestore.config.settings import to_yaml
from maskrestore.data.manifest import data_sha256, read_manifest
from maskrestore.runs.provenance import torch_version, write_provenance
from maskrestore.runs.resume_check import code_sha256, differing_keys, read_run_config
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import LOCK, file_sha256, lock, write_atomically

INPUTS, ROLLBACKS = "inputs.json", "rollbacks.json"
STARTS = "starts"
HOLDER = "holder"
"""Names the SLURM job at work on the run, and how often it was started before."""


def claim(config: RunConfig) -> TextIO:
    """Make the run folder and lock it; the run holds it until the returned file is closed.

    Raises ConfigError, naming the keys, if the folder was started with settings that would give
    another result; UserError if it was started with other data, weights or code, or if another
    process is at work on it. (An earlier start of the same SLURM job is asked to end, and waited
    for.)
    """
    try:
        held = _lock_for_this_start(config)
    except OSError as error:
        raise UserError(f"run={config.run} cannot be written: {error.strerror}") from error
    try:
        _check_same(config)
    except BaseException:
        held.close()
        raise
    return held


def _lock_for_this_start(config: RunConfig) -> TextIO:
    """Where a node loses touch with SLURM, but not with the disk, SLURM starts the job elsewhere
    while its processes work on."""
    start, deadline = _slurm_start(), time.monotonic() + (config.health.watchdog_seconds or 86_400)
    holder, has_asked = config.run / HOLDER, False
    while True:
        try:
            held = lock(config.run)
        except UserError:
            earlier = _read_holder(holder)
            is_ours = start and earlier and earlier[0] == start[0] and earlier[1] < start[1]
            if not (is_ours or has_asked) or (has_asked and time.monotonic() > deadline):
                raise
            if not has_asked:
                print(f"{config.run}: waiting for an earlier start of this job to end", flush=True)
                write_atomically(holder, " ".join(map(str, start or ())).encode())
                has_asked = True
            time.sleep(1)
            continue
        holder.unlink(missing_ok=True)
        if start is not None:
            write_atomically(holder, " ".join(map(str, start)).encode())
        return held


def is_superseded(run: Path) -> bool:
    """Whether this SLURM job was started again since this process was."""
    start, holder = _slurm_start(), _read_holder(run / HOLDER)
    return bool(start and holder and holder[0] == start[0] and holder[1] > start[1])


def _slurm_start() -> tuple[str, int] | None:
    """The job of this process, and its number of restarts."""
    job = os.environ.get("SLURM_JOB_ID")
    return None if job is None else (job, int(os.environ.get("SLURM_RESTART_COUNT", "0")))


def _read_holder(path: Path) -> tuple[str, int] | None:
    try:
        job, restart = path.read_text(encoding="utf-8").split()
        return job, int(restart)
    except (OSError, ValueError):
        return None


def check_shared(run: Path) -> None:
    """UserError if this process does not see the folder that the main process has just claimed."""
    for _ in range(50):  # a network file system may take a while
        if (run / LOCK).exists():
            return
        time.sleep(0.2)
    raise UserError(f"run={run} is not there for every process: give a folder that all nodes share")


def record(config: RunConfig, left_out_shards: Collection[str]) -> None:
    """Write down what the run is about to be computed from: config.yaml, inputs.json,
    provenance.json and changes.diff.

    Only now, so that a run that could not start leaves a folder which refuses nothing.
    """
    before = _read_json(config.run / INPUTS, {})
    code = {"torch": torch_version(), **code_sha256()}
    earlier = list(before.get("earlier_code", []))
    if before.get("code", code) != code:
        earlier.append(before["code"])
    facts = inputs(config) | {
        "left_out_shards": sorted(left_out_shards),
        "code": code,
        "earlier_code": earlier,
    }
    write_atomically(config.run / "config.yaml", to_yaml(config).encode())
    write_atomically(config.run / INPUTS, json.dumps(facts, indent=1).encode())
    write_provenance(config.run)


def _check_same(config: RunConfig) -> None:
    path = config.run / "config.yaml"
    remedy = "give those again to resume it, or another folder as run=DIR"
    if path.exists():
        different = "\n  ".join(differing_keys(read_run_config(path), config))
        if different:
            raise ConfigError(
                f"{config.run} was started with other settings:\n  {different}\n{remedy}"
            )
    changed = "\n  ".join(changed_inputs(config))
    if changed:
        raise UserError(f"{config.run} was started with other files:\n  {changed}\n{remedy}")
    changed = ", ".join(changed_code(config.run))
    if changed and not config.accept_changed_code and not (config.run / "result.json").exists():
        raise UserError(
            f"{config.run} was started with other code: {changed}\n"
            "go back to that code to resume it, or give another folder as run=DIR, or "
            "accept_changed_code=true to go on with the new code, which result.json will tell"
        )


def inputs(config: RunConfig) -> dict[str, Any]:
    """sha256 of the files that the result depends on: data, image generator, other networks."""
    sha256s = {"data": data_sha256(read_manifest(config.data.shards))}
    files = {
        "generator.path": None if config.trains_generator else config.generator.path,
        "generator.style": config.generator.style_encoder,
        "perceptual.weights": config.perceptual.weights,
        "teacher": _teacher_weights(config),
    }
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise UserError(f"{name}={path}: there is no such file")
        if path is not None:
            sha256s[name] = file_sha256(path)
    return sha256s


def _teacher_weights(config: RunConfig) -> Path | None:
    if config.target != "restored" or config.teacher is None:
        return None
    return config.teacher / "mask_generator.pth"


def changed_inputs(config: RunConfig) -> list[str]:
    """What the run was started with and what the settings name now, where they differ."""
    before = _read_json(config.run / INPUTS, {})
    if not before:
        return []
    now = inputs(config)
    names = ("data", "generator.path", "generator.style", "perceptual.weights", "teacher")
    return [
        f"{name}: sha256 {str(before.get(name))[:12]} -> {str(now.get(name))[:12]}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def changed_code(run: Path) -> list[str]:
    """Modules (or torch, with its versions) whose code is not the one the run was started with."""
    before = _read_json(run / INPUTS, {}).get("code")
    if before is None:
        return []
    now = {"torch": torch_version(), **code_sha256()}
    return [
        f"torch {before.get(name)} -> {now.get(name)}" if name == "torch" else name
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def was_resumed_with_other_code(run: Path) -> bool:
    """Whether accept_changed_code was made use of."""
    return bool(_read_json(run / INPUTS, {}).get("earlier_code"))


def left_out_shards(run: Path) -> list[str] | None:
    """Names of the damaged shards that the run works without; None if it has not begun."""
    names: list[str] | None = _read_json(run / INPUTS, {}).get("left_out_shards")
    return names


def count_start(run: Path) -> int:
    """How often the run was started, this time included."""
    path = run / STARTS
    try:
        before = int(path.read_text())
    except (OSError, ValueError):
        before = 0
    write_atomically(path, str(before + 1).encode())
    return before + 1


def passed_over(run: Path) -> list[tuple[int, int]]:
    """Windows of images (from, to) that the run does not train on since it went back."""
    return [(first, last) for first, last in (entry["images"] for entry in rollbacks(run))]


def rollbacks(run: Path) -> list[dict[str, Any]]:
    """Each time that the run went back: "images" [from, to] to pass over, the "reason", and (but in
    old runs) the loss "scales" by network that it was not to exceed from there on."""
    entries: list[dict[str, Any]] = _read_json(run / ROLLBACKS, [])
    return entries


def add_rollback(
    run: Path, images: tuple[int, int], reason: str, scales: Mapping[str, float]
) -> None:
    """Write down that the run goes back, before it does."""
    entry = {"images": list(images), "reason": reason, "scales": dict(scales)}
    entries = [*rollbacks(run), entry]
    write_atomically(run / ROLLBACKS, json.dumps(entries, indent=1).encode())


def _read_json(path: Path, default: Any) -> Any:
    if not path.exists():
        return default
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, type(default)):
            raise ValueError(f"holds a {type(content).__name__}")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error!r}; start in another folder") from error
    return content
