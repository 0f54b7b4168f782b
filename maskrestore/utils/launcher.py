"""What launchers leave in the environment about processes, for all programs; read without torch."""

import os

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""What torchrun and its like number processes by."""
LEFT_BY_LAUNCHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_"),
    *("SLURM_", "SLURMD_", "PMI_", "PMIX_", "OMPI_", "MV2_", "MPI_LOCAL", "ACCELERATE_"),
)
"""How their variables begin."""


def is_first_process() -> bool:
    """Whether this process speaks for a run: the first one, or one that only the shell numbers."""
    return _number("RANK") == 0 or _number("WORLD_SIZE") <= 1


def is_first_of_machine() -> bool:
    """Whether this process speaks for its machine, whose faults the others need not share."""
    return is_first_process() or _number("LOCAL_RANK") == 0


def forget_numbers() -> None:
    """Be the only process of this program, whatever the shell that it was typed in is one of."""
    for name in NUMBERS:
        os.environ.pop(name, None)


def forget_launchers() -> None:
    """Start as if from no launcher and from outside of SLURM, whatever shell this came from."""
    for name in list(os.environ):
        if name.startswith(LEFT_BY_LAUNCHERS) and name != "SLURM_CONF":
            del os.environ[name]


def _number(name: str) -> int:
    """0 where there is none: processes.py says what is wrong with it."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0
