"""Which processes a run has, as a launcher, `srun` or the shell numbers them; read without torch,
so that what is wrong is said at once."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.launcher import NUMBERS

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
STEP_NUMBERS = tuple(
    f"SLURM_{name}" for name in ("STEP_NUM_TASKS", "PROCID", "LOCALID", "JOB_ID", "STEP_ID")
)
ALONE = "to run alone, unset RANK WORLD_SIZE LOCAL_RANK"


def num_processes() -> int:
    """How many processes the launcher or `srun` has started, 1 without one.

    Raises ConfigError if their numbers are none.
    """
    join_slurm_step()
    numbers = {name: os.environ[name] for name in NUMBERS if name in os.environ}
    wrong = [
        f"{name}={text!r} is no number of processes: start them with torchrun or accelerate "
        f"launch, which set it; {ALONE}"
        for name, text in numbers.items()
        if not text.isdecimal() or (int(text) == 0 and "SIZE" in name)
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return int(numbers.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Place:
    """One process among those of its run, and where they meet."""

    rank: int
    num_processes: int
    host: str
    port: int


def find_place(told: Mapping[str, str], use_cpu: bool) -> Place | None:
    """This process's place; None where it is alone.

    told: what is withheld from Accelerate. Raises ConfigError with all that is missing or wrong.
    """
    environment, size = os.environ, num_processes()
    missing = [name for name in NEEDED if not environment.get(name)]
    if use_cpu and "LOCAL_RANK" in missing:
        missing.remove("LOCAL_RANK")
    if environment.get("WORLD_SIZE") == "1" and missing:
        for name in NEEDED[:3]:  # a group of one needs no address
            environment.pop(name, None)
    present = [f"{name}={environment[name]}" for name in NEEDED[:3] if name in environment]
    if present and missing:
        raise ConfigError(
            f"{', '.join(present)} without {', '.join(missing)}: start processes with torchrun, "
            f"accelerate launch or srun, which set all of these; {ALONE}"
        )
    if not present:
        _check_mpi(told)
        return None
    rank, port = int(environment["RANK"]), environment["MASTER_PORT"]
    wrong = []
    if rank >= size:
        wrong.append(f"RANK={rank} is not below WORLD_SIZE={size}, as numbers from 0 on are")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        wrong.append(f"MASTER_PORT={port} is no port: write a number from 1 to 65535")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return Place(rank, size, environment["MASTER_ADDR"], int(port))


def _check_mpi(told: Mapping[str, str]) -> None:
    for size in ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE"):
        is_several = told.get(size, "").isdecimal() and int(told[size]) > 1
        if is_several and not _is_terminal_of_step():
            raise ConfigError(
                f"{size}={told[size]}, but MPI does not start this program: start processes with "
                f"torchrun, accelerate launch or srun; to run alone, unset {size}"
            )


def join_slurm_step() -> None:
    """Let the tasks of one `srun` find each other: what torchrun would set, from SLURM's words.

    Does nothing where a launcher has set it, outside of a step of several tasks, and in a shell
    that is itself such a step, where only one command was typed.
    """
    environment = os.environ
    text = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if "WORLD_SIZE" in environment or "SLURM_PROCID" not in environment or text == "1":
        return
    if _is_terminal_of_step():
        del environment["SLURM_STEP_NUM_TASKS"]  # of the shell; said once
        if environment["SLURM_PROCID"] == "0":
            print(
                f"this shell is a step of SLURM with {text} tasks (srun --pty): going on alone; "
                "`srun python ...` starts as many processes as the step has tasks",
                file=sys.stderr,
            )
        return
    said = {name: environment.get(name, "") for name in STEP_NUMBERS}
    said["SLURM_RESTART_COUNT"] = environment.get("SLURM_RESTART_COUNT", "0")
    wrong = [f"{name}={text!r}" for name, text in said.items() if not text.isdecimal()]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: no step of SLURM says so; start tasks with srun, or to run "
            "alone, unset SLURM_STEP_NUM_TASKS"
        )
    num_tasks, rank, local_rank, job, step, restart = map(int, said.values())
    import torch

    # A task that was given a GPU of its own sees but that one.
    num_devices = torch.cuda.device_count() or num_tasks
    values = {
        "WORLD_SIZE": str(num_tasks),
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank % num_devices),
        "MASTER_ADDR": first_host(environment.get("SLURM_STEP_NODELIST", "")),
        # Two jobs may share a node, as may a job and what is left of its start before.
        "MASTER_PORT": str(20_000 + (31 * job + 7 * restart + step) % 20_000),
    }
    for name, value in values.items():
        environment.setdefault(name, value)


def _is_terminal_of_step() -> bool:
    """Whether this was typed in a shell that is a task of SLURM (srun --pty bash), and which has
    the variables of all of them."""
    if "SLURM_PTY_PORT" not in os.environ:
        return False
    task = os.environ.get("SLURM_TASK_PID", "")
    try:  # a step started in that shell inherits the port, but its tasks have no terminal
        return os.readlink(f"/proc/{task}/fd/0").startswith("/dev/pts/")
    except OSError:
        return True


def first_host(node_list: str) -> str:
    """The first name of SLURM's compressed list: `rack2-n[07-09,11],login` -> `rack2-n07`."""
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", node_list)
    if match is None:
        raise UserError(f"SLURM_STEP_NODELIST={node_list}: not a list of nodes; set MASTER_ADDR")
    return "".join(part or "" for part in match.groups())
