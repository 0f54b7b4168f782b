"""What a job asks SLURM for: profiles, and whether the cluster has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveInt

from launch.slurm.commands import ask, parse_clock
from maskrestore.config.settings import CONFIGS, Section, find_config, merge, read_yaml, validate
from maskrestore.utils.errors import ConfigError

PROFILES = CONFIGS / "slurm"


def _options(lines: tuple[str, ...]) -> tuple[str, ...]:
    for line in lines:
        if not line.startswith("--") or "\n" in line:
            raise ValueError(f"write options as sbatch takes them, such as --reservation=x: {line}")
    return lines


def _partitions(text: str) -> str:
    """a, b* -> a,b: sinfo marks the default partition with a star, which sbatch does not know."""
    names = (name.strip().removesuffix("*") for name in text.split(","))
    return ",".join(dict.fromkeys(filter(None, names)))


class SlurmConfig(Section):
    """What each job of a run asks for (the shards and the report take a single task of it)."""

    partition: Annotated[str, AfterValidator(_partitions)] = ""
    """Partition, or several with commas between them, of which a job takes the one that starts it
    first; empty is the cluster's default, and so with the next four."""
    account: str = ""
    """Account that is charged."""
    qos: str = ""
    """Quality of service."""
    constraint: str = ""
    """Features that nodes must have, as sbatch --constraint takes them."""
    exclude: str = ""
    """Nodes to stay away from, as sbatch --exclude takes them."""
    nodes: PositiveInt = 1
    """Nodes per run."""
    gpus_per_node: NonNegativeInt = 1
    """GPUs per node, one task for each; 0 is for clusters of CPUs."""
    tasks_per_node: NonNegativeInt = 0
    """Tasks (processes) per node; 0 is one per GPU, or without GPUs one."""
    cpus_per_task: NonNegativeInt = 0
    """Cores per task; 0 is the cluster's default."""
    memory_gb: NonNegativeFloat = 0.0
    """Memory per node in GB; 0 is the cluster's default."""
    minutes: PositiveInt = 240
    """Time limit of one attempt in minutes. Longer runs save, are requeued and go on."""
    signal_seconds: PositiveInt = 120
    """Seconds before the time limit at which a run is told to save; a step, a save and an
    evaluation's batch must fit in. SLURM may be a minute early."""
    max_idle_restarts: PositiveInt = 3
    """Restarts after crashes without a new checkpoint in between, after which a run is given up;
    of others, such as preemption, five times as many."""
    container: str = ""
    """Image in which tasks run: a file that ends in .sif by `apptainer exec`, anything else by
    pyxis (srun --container-image)."""
    container_mounts: str = ""
    """Further folders that the container sees: /data,/scratch/me:/scratch. The working folder, the
    grid's, and those of data and weights in the settings are seen anyway."""
    python: str = ""
    """Python of the tasks; empty is the one that runs submit.py, in a container python3."""
    setup: tuple[str, ...] = ()
    """Lines of shell before a job's work, such as [module load cuda]."""
    sbatch: Annotated[tuple[str, ...], AfterValidator(_options)] = ()
    """Further options of sbatch, such as [--reservation=mine, --exclusive]."""

    @property
    def is_apptainer(self) -> bool:
        """Whether the container is one of Apptainer."""
        return self.container.endswith(".sif")

    @property
    def num_tasks_per_node(self) -> int:
        """Processes per node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def num_tasks(self) -> int:
        """Processes of a run."""
        return self.nodes * self.num_tasks_per_node

    @property
    def single_task(self) -> "SlurmConfig":
        """The same for a job of one task without a GPU."""
        return self.model_copy(update={"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1})


def read_profile(name: str) -> dict[str, Any]:
    """The unchecked settings of configs/slurm/NAME.yaml, or of a file that ends in .yaml."""
    try:
        return read_yaml(find_config(name, PROFILES))
    except ConfigError as error:
        raise ConfigError(str(error).replace("config=", "profile=", 1)) from error


def with_profile(name: str, given: SlurmConfig) -> SlurmConfig:
    """What was given, over the profile; ConfigError for the mistakes of the latter."""
    set_by_user = given.model_dump(exclude_unset=True)
    try:
        return validate(SlurmConfig, merge(read_profile(name), set_by_user))
    except ConfigError as error:
        lines = [f"profile {name}: slurm.{line}" for line in str(error).splitlines()]
        raise ConfigError("\n".join(lines)) from error


@dataclass(frozen=True)
class Partition:
    """A kind of nodes in a partition, as sinfo tells it. minutes: None is without limit."""

    name: str
    is_default: bool
    is_up: bool
    minutes: float | None
    num_nodes: int
    num_cpus: int
    memory_gb: float
    num_gpus: int


def read_partitions() -> list[Partition]:
    """All partitions, a row per kind of node in each. Raises UserError if SLURM does not answer."""
    rows = []
    for line in ask("sinfo", "--noheader", "--format=%P|%a|%l|%D|%c|%m|%G").splitlines():
        name, up, limit, nodes, cpus, memory, generic = line.split("|", 6)
        seconds = parse_clock(limit)
        rows.append(
            Partition(
                name.removesuffix("*"),
                name.endswith("*"),
                up == "up",
                None if seconds is None else seconds / 60,
                int(nodes),
                int(cpus.rstrip("+")),
                int(memory.rstrip("+")) / 1024,
                _count_gpus(generic),
            )
        )
    return rows


def _count_gpus(generic: str) -> int:
    """gpu:a100:4(S:0-1),gpu:h100:4 -> 8."""
    entries = [entry.partition("(")[0].split(":") for entry in generic.split(",")]
    return sum(int(e[-1]) for e in entries if e[0] == "gpu" and e[-1].isdecimal())


def check_resources(resources: SlurmConfig, rows: Sequence[Partition]) -> None:
    """ConfigError with everything that no partition of those asked for could ever give.

    rows: of all partitions of the cluster. Of several partitions one that gives it all is enough.
    """
    partitions = _choose_partitions(resources.partition, rows)
    lacks = [_find_lacks(resources, of_partition) for of_partition in partitions]
    mistakes = [] if [] in lacks else [line for lines in lacks for line in lines]
    if mistakes and len(partitions) > 1:
        mistakes.insert(0, f"slurm.partition={resources.partition}: none of them can give it all")
    mistakes += _container_mistakes(resources)
    if resources.signal_seconds >= resources.minutes * 60:
        mistakes.append(
            f"slurm.signal_seconds={resources.signal_seconds}: not before a time limit of "
            f"slurm.minutes={resources.minutes}"
        )
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _container_mistakes(resources: SlurmConfig) -> list[str]:
    """Files and folders that a container takes and that are not there, seen from here."""
    image = resources.container
    mistakes = []
    if image.endswith((".sif", ".sqsh")) and not Path(image).is_file():
        mistakes.append(
            f"slurm.container={image}: no such file; containers/README.md says how to build one"
        )
    sources = [mount.partition(":")[0] for mount in resources.container_mounts.split(",") if mount]
    mistakes += [
        f"slurm.container_mounts: {source} is not there"
        for source in sources
        if not Path(source).exists()
    ]
    return mistakes


def _choose_partitions(names: str, rows: Sequence[Partition]) -> list[list[Partition]]:
    """The rows of each partition of these names; ConfigError lists those that there are."""
    known = ", ".join(sorted({row.name for row in rows}))
    if not names:
        default = [row for row in rows if row.is_default]
        if not default:
            raise ConfigError(f"slurm.partition: this cluster has no default; there are: {known}")
        return [default]
    partitions = {name: [row for row in rows if row.name == name] for name in names.split(",")}
    unknown = [name for name, of_partition in partitions.items() if not of_partition]
    if unknown:
        raise ConfigError(
            f"slurm.partition={','.join(unknown)}: no such partition; there are: {known}"
        )
    return list(partitions.values())


def _find_lacks(resources: SlurmConfig, rows: Sequence[Partition]) -> list[str]:
    """What a partition, all of whose rows these are, could never give."""
    name = rows[0].name
    lacks = []
    if not any(row.is_up for row in rows):
        lacks.append(f"slurm.partition={name}: closed at present")
    limits = [row.minutes for row in rows]
    longest = None if None in limits else max(limit for limit in limits if limit is not None)
    if longest is not None and resources.minutes > longest:
        lacks.append(
            f"slurm.minutes={resources.minutes}: partition {name} allows {longest:.0f}; longer "
            "runs are requeued and go on"
        )
    num_cpus = resources.num_tasks_per_node * max(1, resources.cpus_per_task)
    for number, attribute, key, what in (
        (resources.gpus_per_node, "num_gpus", "slurm.gpus_per_node", "GPUs"),
        (num_cpus, "num_cpus", "slurm.tasks_per_node x slurm.cpus_per_task", "cores"),
        (resources.memory_gb, "memory_gb", "slurm.memory_gb", "GB of memory"),
    ):
        most = max(getattr(row, attribute) for row in rows)
        if number > most:
            lacks.append(
                f"{key}={number:g}: no node of partition {name} has more than {most:g} {what}"
            )
    num_nodes = sum(row.num_nodes for row in rows)
    if resources.nodes > num_nodes:
        lacks.append(f"slurm.nodes={resources.nodes}: partition {name} has {num_nodes}")
    return lacks
