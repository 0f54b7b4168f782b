"""Tasks in a container: what srun is told (pyxis), or what is put before Python (Apptainer)."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from launch.slurm.resources import SlurmConfig
from maskrestore.utils.errors import ConfigError


def find_mounts(given: str, paths: Iterable[Path]) -> str:
    """`given` (slurm.container_mounts), and the folders of these paths that it leaves out, each at
    the place that it has outside.

    The working folder is one of them. A path that is not there yet counts as the nearest folder
    that is; links are seen with what they mean. ConfigError for paths that no mount can name.
    """
    entries = [entry for entry in given.split(",") if entry]
    covered = {Path(entry) for entry in entries if ":" not in entry}
    wanted = {_existing(p) for path in (Path.cwd(), *paths) for p in _with_target(path)}
    for folder in sorted(wanted - {Path("/")}):  # each behind those that it lies in
        if folder in covered or covered & set(folder.parents):
            continue
        if set(",:") & set(str(folder)):
            raise ConfigError(
                f"{folder}: a container cannot be given a path with , or : in it; move it, or name "
                "a folder that it lies in as slurm.container_mounts=FOLDER"
            )
        covered.add(folder)
        entries.append(str(folder))
    return ",".join(entries)


def _with_target(path: Path) -> set[Path]:
    return {path.absolute(), path.resolve()}


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def step_options(resources: SlurmConfig, mounts: str) -> list[str]:
    """What srun is told of the container: for pyxis alone."""
    if not resources.container or resources.is_apptainer:
        return []
    # Relative paths mean the same inside.
    place = [f"--container-workdir={Path.cwd()}", f"--container-mounts={mounts}"]
    return [f"--container-image={resources.container}", *place]


def python_of(resources: SlurmConfig, mounts: str, has_gpus: bool) -> str | None:
    """The tasks' Python as words of the shell; None is the one that runs submit.py.

    Apptainer stays in the working folder by itself, since that is mounted.
    """
    python = resources.python or ("python3" if resources.container else None)
    if not resources.is_apptainer:
        return python
    image = str(Path(resources.container).absolute())
    command = ["apptainer", "exec", *(["--nv"] if has_gpus else []), "--bind", mounts, image]
    return f"{shlex.join(command)} {python}"
