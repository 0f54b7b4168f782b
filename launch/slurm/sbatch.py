"""A step of a grid as sbatch gets it: SlurmConfig to options and script, and what sbatch says."""

import re
import secrets
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.slurm.commands import test_only
from launch.slurm.container import find_mounts, python_of, step_options
from launch.slurm.resources import SlurmConfig
from maskrestore.utils.errors import ConfigError


@dataclass(frozen=True)
class Step:
    """One job, or an array of them. cells: the settings of each element by its name, its run folder
    among them as "run"; none for jobs that are no runs. after: condition and kind of those that it
    waits for."""

    kind: str
    jobs: list[Callable[[], Any]]
    cells: dict[str, dict[str, Any]]
    resources: SlurmConfig
    paths: frozenset[Path] = frozenset()
    """What the settings name, for a container to see."""
    after: tuple[tuple[str, str], ...] = ()


def new_folder(grid_folder: Path, kind: str) -> Path:
    """A folder for a submission of this kind, whose name no other job has; not made yet.

    ConfigError if SLURM would take it for another one.
    """
    if set("%\\") & set(str(grid_folder.absolute())):
        raise ConfigError(
            f"{grid_folder.absolute()}: SLURM reads % and \\ in the path of a log as patterns; "
            "give a folder without them, as runs=DIR or, where masks are restored, output=DIR"
        )
    grid_name = re.sub(r"[^\w.+-]", "_", grid_folder.name)  # squeue lists names between commas
    return grid_folder.absolute() / "jobs" / f"{grid_name}.{kind}.{secrets.token_hex(4)}"


def make_executor(
    folder: Path, step: Step, code: Path, after: Sequence[str] = (), parallel: int = 0
) -> Any:
    """submitit's executor for the jobs of one submission.

    after: such as ["afterok:12"]. parallel: elements of the array at a time; 0 is all.
    """
    from submitit import SlurmExecutor

    resources = step.resources
    mounts = ""
    if resources.container:
        mounts = find_mounts(resources.container_mounts, {folder.parents[1], *step.paths})
    supervisor = [sys.executable, "-m", "launch.slurm.supervisor"]
    srun = ["--kill-on-bad-exit=0", "--wait=60"]  # all tasks end within a second of each other
    if resources.cpus_per_task:
        srun.append(f"--cpus-per-task={resources.cpus_per_task}")  # srun does not ask sbatch
    options = [option.removeprefix("--").partition("=") for option in resources.sbatch]
    # A node's GPUs that nobody asked for are not this job's, and that it cannot use them no fault.
    has_gpus = resources.gpus_per_node or any(
        key.startswith(("g", "tres-per")) for key, _, _ in options
    )
    hidden = [] if has_gpus else ["export CUDA_VISIBLE_DEVICES="]
    parameters: dict[str, Any] = {
        "job_name": folder.name,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.num_tasks_per_node,
        "gpus_per_node": resources.gpus_per_node or None,
        "cpus_per_task": resources.cpus_per_task or None,
        "mem": f"{round(1024 * resources.memory_gb)}M" if resources.memory_gb else None,
        "dependency": ",".join(after) or None,
        "array_parallelism": parallel or 100_000,
        "signal_delay_s": resources.signal_seconds,
        "wckey": "",  # submitit's own is refused where keys are checked
        "stderr_to_stdout": True,
        "srun_args": [*srun, *step_options(resources, mounts)],
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"}
        | {key: value if equals else True for key, equals, value in options},
        "setup": [
            *hidden,
            *resources.setup,
            "trap : TERM  # the tasks save; this shell lives on to put the job back into the queue",
            # The snapshot, and not what lies in the folder where the job happens to start.
            "export PYTHONSAFEPATH=1",
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            f"{shlex.join([*supervisor, 'begin', str(folder)])} || exit",
        ],
        "teardown": [f"{shlex.join([*supervisor, 'end', str(folder)])} $?"],
    }
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        parameters[name] = getattr(resources, name) or None
    executor = SlurmExecutor(folder, python=python_of(resources, mounts, bool(has_gpus)))
    executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
    return executor


def script_of(executor: Any, num_elements: int) -> str:
    """The text that sbatch would get, for an array of so many elements."""
    if num_elements > 1:
        executor.parameters["map_count"] = num_elements
    try:
        text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    finally:
        executor.parameters.pop("map_count", None)
    return text


def try_step(step: Step, grid_folder: Path, parallel: int) -> str:
    """What `sbatch --test-only` finds wrong with a step; "" if nothing is."""
    # Without those that it waits for: they have no ids yet, and sbatch refuses any other word.
    executor = make_executor(
        new_folder(grid_folder, step.kind), step, grid_folder / "code", parallel=parallel
    )
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / f"{step.kind}.sh"
        script.write_text(script_of(executor, len(step.jobs)), encoding="utf-8")
        return test_only(str(script))


def check_steps(steps: Sequence[Step], grid_folder: Path, parallel: int) -> None:
    """ConfigError with all that `sbatch --test-only` finds wrong with these steps of a grid."""
    complaints = {try_step(step, grid_folder, parallel) for step in steps} - {""}
    if complaints:
        raise ConfigError(f"sbatch refuses this: {'; '.join(sorted(complaints))}")


def show_step(step: Step, grid_folder: Path, parallel: int) -> bool:
    """Print the text that sbatch would get, tried with `sbatch --test-only`; whether it passed."""
    folder, after = (
        new_folder(grid_folder, step.kind),
        [f"{how}:<{kind}>" for how, kind in step.after],
    )
    executor = make_executor(folder, step, grid_folder / "code", after, parallel)
    print(f"\n--- sbatch script of {step.kind}: {', '.join(step.cells) or step.kind}")
    print(script_of(executor, len(step.jobs)))
    complaint = try_step(step, grid_folder, parallel)
    print(f"--- sbatch --test-only: {complaint or 'accepted'}")
    return not complaint
