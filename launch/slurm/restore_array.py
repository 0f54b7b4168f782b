"""Restore masks: python launch/submit.py grid=densify_extra checkpoint=RUN input=DIR output=DIR ...

Hands SLURM one array of jobs, each restore.py on a part of the masks, or does it all on this
machine. The same command again continues what is left. docs/restoring.md tells the rest.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import NonNegativeInt, PositiveInt

from launch.grid.cells import find_grid, read_restoration
from launch.grid.snapshot import snapshot
from launch.grid.state import held
from launch.slurm.commands import has_slurm
from launch.slurm.holds import describe_hold, hold_of
from launch.slurm.jobs import RestoreTask
from launch.slurm.relaunch import failed_launches, send_elsewhere
from launch.slurm.resources import SlurmConfig, check_resources, read_partitions, with_profile
from launch.slurm.sbatch import Step, check_steps, show_step
from launch.slurm.submission import Queue, read_queue, submit_step, withdraw_left_over
from maskrestore.config.inference import RestoreConfig
from maskrestore.config.settings import docstring, flatten, merge, paths_in, read_words, validate
from maskrestore.utils.errors import ConfigError, UserError

KIND = "restore"
"""Of its submissions."""
NEEDED = ("checkpoint", "input", "output")
"""Settings without a default."""


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


Settings = TypeVar("Settings", bound=RestoreArrayConfig)


def is_restoration(words: Sequence[str]) -> bool:
    """Whether the words name a grid of this kind, which trains nothing."""
    with suppress(ConfigError):  # whoever reads it in earnest says what is wrong
        given, _ = read_words(RestoreArrayConfig, words)  # of several grid= the last, as it does
        name = given.get("grid")
        return isinstance(name, str) and read_restoration(find_grid(name)) is not None
    return False


def usage(words: Sequence[str]) -> str:
    """What this program does, with what its grid file sets."""
    given, _ = read_words(RestoreArrayConfig, words)
    path = find_grid(given["grid"])
    in_file = " ".join(f"{key}={value}" for key, value in flatten(read_restoration(path) or {}))
    text = docstring(sys.modules[__name__]).strip()
    return f"{text}\n\n{path.name} sets {in_file}, unless words say otherwise." if in_file else text


def submit_restoration(words: Sequence[str]) -> int:
    """Restore, or hand it to SLURM; the exit status of restore.py, or 0 if it is handed over."""
    settings, values = read_settings(RestoreArrayConfig, words)
    own = set(RestoreArrayConfig.model_fields) - set(RestoreConfig.model_fields)
    restoration = validate(
        RestoreConfig, {key: value for key, value in values.items() if key not in own}
    )
    if has_slurm(settings.cluster):
        return hand_over(settings, restoration)
    return restore_here(restoration, settings.dry_run)


def read_settings(schema: type[Settings], words: Sequence[str]) -> tuple[Settings, dict[str, Any]]:
    """The words below those of their grid file, checked, and the values that stand there. Raises
    ConfigError with all mistakes."""
    given, mistakes = read_words(schema, words)
    path = find_grid(given["grid"])
    in_file = read_restoration(path) or {}
    mistakes += [
        f"{where}part: set by the array, one for each job; give parts=NUMBER"
        for where, settings in (("", given), (f"{path.name}: ", in_file))
        if "part" in settings
    ]
    values = merge(in_file, given)
    return validate(schema, values, mistakes), values


def jobs_folder(output: Path) -> Path:
    """Where the jobs that restore into an output folder are handed over, beside it."""
    return output.absolute().with_name(f"{output.absolute().name}.jobs")


def restore_here(restoration: RestoreConfig, dry_run: bool) -> int:
    """Restore in this process; the exit status of restore.py."""
    from launch.grid.run_here import find_devices
    from maskrestore.inference.restore import find_out, restore

    print(f"{find_out(restoration).num_masks} masks, here, without SLURM")
    devices = [] if restoration.device == "cpu" else find_devices()
    if len(devices) > 1:
        given = restoration.model_dump(mode="json", exclude_unset=True)
        words = shlex.join(f"{key}={value}" for key, value in given.items() if value is not None)
        print(
            f"this uses one of {len(devices)} GPUs; all of them: accelerate launch --multi_gpu "
            f"--num_processes {len(devices)} restore.py {words}"
        )
    return 0 if dry_run else restore(restoration)


def hand_over(settings: RestoreArrayConfig, restoration: RestoreConfig) -> int:
    """Hand SLURM the array, unless it has one of this output folder already; the exit status."""
    resources = with_profile(settings.profile, settings.slurm)
    if resources.nodes > 1:
        raise ConfigError("slurm.nodes: not for restoring; leave it out")
    check_resources(resources, read_partitions())
    output = restoration.output.absolute()
    folder = jobs_folder(output)
    queue, _ = read_queue(folder)
    if failed_launches(queue.cells.values()):
        if settings.dry_run:
            print("parts whose launch failed are held; this would send them to other nodes")
            return 0
        with held(folder):
            queue, submissions = read_queue(folder)  # another submit.py may have been quicker
            return send_elsewhere(queue.cells.values(), submissions)
    refuse_queued(restoration, queue)
    from maskrestore.inference.restore import find_out, summarize

    num_masks, left = find_out(restoration)
    if not left:
        if not settings.dry_run:
            summarize(restoration)
        print(f"nothing to submit: {num_masks} masks are restored; see {output}/summary.csv")
        return 0
    num_parts = min(settings.parts, num_masks)
    parts = sorted({place % num_parts for place in left})
    step = plan_step(restoration, parts, num_parts, num_masks, resources, folder)
    what = f"{num_masks} masks" if len(left) == num_masks else f"{len(left)} of {num_masks} masks"
    if settings.dry_run:
        has_passed = show_step(step, folder, settings.parallel)
        print(f"{what} in {len(parts)} parts")
        return 0 if has_passed else 2
    check_steps([step], folder, settings.parallel)
    with held(folder):
        withdraw_left_over(folder)
        refuse_queued(restoration, read_queue(folder)[0])  # by another submit.py, since
        for part in step.cells.values():
            Path(part["run"], "result.json").unlink(missing_ok=True)  # masks may have come since
        code = snapshot(folder / "code")
        job = submit_step(step, folder, code, parallel=settings.parallel)
    print(f"job {job}: {what} in an array of {len(parts)}")
    words = shlex.join([f"{name}={getattr(restoration, name)}" for name in NEEDED])
    print(f"watch it: python launch/status.py grid={settings.grid} {words} watch=true")
    print(f"logs: {folder}/jobs/*/{job}_*_log.out")
    print(
        f"the same command again restores what is left; then see {restoration.output}/summary.csv"
    )
    return 0


def refuse_queued(restoration: RestoreConfig, queue: Queue) -> None:
    """UserError if jobs that restore into this output folder wait or run."""
    ids = queue.ids(KIND)
    if not ids:
        return
    holds = ((job, hold_of(job)) for job in queue.cells.values())
    lines = [describe_hold(job, hold) for job, hold in holds if hold]
    first = (
        f"output={restoration.output}: job {', '.join(ids)} is at work on it or waits for it; "
        f"let it end, or end it: scancel {' '.join(ids)}"
    )
    raise UserError("\n  ".join([first, *lines]))


def plan_step(
    restoration: RestoreConfig,
    parts: Sequence[int],
    num_parts: int,
    num_masks: int,
    resources: SlurmConfig,
    folder: Path,
) -> Step:
    """The array of these parts of `num_parts`, which share out all masks. Each has a run folder of
    its own for its journal: part-0-of-8, ..."""
    jobs: list[Callable[[], Any]] = []
    cells = {}
    for number in parts:
        config = restoration.model_copy(update={"part": f"{number}/{num_parts}"})
        run = folder / f"part-{number}-of-{num_parts}"
        jobs.append(RestoreTask(config, run))
        facts = {"run": str(run), "num_masks": len(range(number, num_masks, num_parts))}
        cells[run.name] = config.model_dump(mode="json") | facts
    return Step(KIND, jobs, cells, resources, frozenset(paths_in(restoration)))
