"""What Accelerate would take from the environment, where `accelerate launch` puts its command line
and the user's default_config.yaml. It gets none of it: a run is made by its settings."""

import os
from collections.abc import Mapping

from maskrestore.config.run import RunConfig

READ_BY_ACCELERATE = (
    "ACCELERATE_",
    "FORK_LAUNCHED",
    *("PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "MPI_LOCAL"),
)
"""How variables begin that decide in Accelerate. Others (FSDP_*, MEGATRON_LM_*, ...) only count
where one of these does."""
METHODS = {
    "USE_FSDP": ("--use_fsdp", "deepspeed distributed.zero_stage=3"),
    "USE_DEEPSPEED": ("--use_deepspeed", "deepspeed"),
    "USE_MEGATRON_LM": ("--use_megatron_lm", "deepspeed"),
    "USE_PARALLELISM_CONFIG": ("--use_parallelism_config", "deepspeed"),
    "USE_SAGEMAKER": ("to run on SageMaker", "ddp"),
}
"""ACCELERATE_ variable -> what was asked for by it, and the engine that comes closest: another way
to train, which nobody can have meant to be left out."""
DECIDED = {
    "MIXED_PRECISION": "distributed.precision and distributed.frozen_precision decide",
    "DYNAMO_BACKEND": "networks are not compiled",
    "GRADIENT_ACCUMULATION_STEPS": "training.accumulation decides",
    "GRADIENT_CLIPPING": "training.max_gradient_norm decides",
    "DEEPSPEED_CONFIG_FILE": "distributed.zero_stage and its like decide",
    "DEEPSPEED_ZERO_STAGE": "distributed.zero_stage decides",
    "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "distributed.offload_optimizer decides",
    "DEEPSPEED_OFFLOAD_PARAM_DEVICE": "distributed.zero_stage=3 keeps weights on the GPUs",
    "DOWNCAST_BF16": "distributed.precision decides",
    "CPU_AFFINITY": "numactl or srun --cpu-bind can do that",
    "DEBUG_MODE": "nothing is checked by it",
}
"""ACCELERATE_ variable -> what holds instead: it is said that it has no effect."""
ASKS_NOTHING = ("", "0", "no", "none", "false", "auto", "off")

_withheld: dict[str, str] = {}


def withhold() -> None:
    """Take from the environment all that Accelerate would obey. Called before Accelerate is
    imported, which reads some of it then."""
    for name in list(os.environ):
        if name.startswith(READ_BY_ACCELERATE):
            _withheld[name] = os.environ.pop(name)
    os.environ["USE_TORCH_XLA"] = "0"  # else it takes TPUs wherever torch_xla is installed


def take_told() -> dict[str, str]:
    """What the launcher said for this run, by variable; Accelerate will not see it."""
    withhold()
    told = dict(_withheld)
    _withheld.clear()
    return told


def refused(told: Mapping[str, str], config: RunConfig, trains: bool, use_cpu: bool) -> list[str]:
    """What was asked of the launcher and cannot be had, with the remedy."""
    engine = config.distributed.engine
    mistakes = []
    for name, (option, closest) in METHODS.items() if trains else ():
        if not _asks(told, name) or (name == "USE_DEEPSPEED" and engine == "deepspeed"):
            continue
        mistakes.append(
            f"distributed.engine={engine}, but accelerate launch was told {option} "
            f"({_origin(told, name)}): leave that out"
            + ("" if closest == engine else f", or write distributed.engine={closest}")
        )
    if _asks(told, "USE_CPU") and not use_cpu:
        mistakes.append(
            f"distributed.device={config.distributed.device} takes the GPU, but accelerate launch "
            f"was told to use the CPU ({_origin(told, 'USE_CPU')}): write distributed.device=cpu, "
            "or leave that out"
        )
    if _asks(told, "TORCH_DEVICE") and not (use_cpu and told["ACCELERATE_TORCH_DEVICE"] == "cpu"):
        mistakes.append(
            f"{_origin(told, 'TORCH_DEVICE')}: unset it; write distributed.device=cpu or cuda, and "
            "CUDA_VISIBLE_DEVICES=NUMBER in front of the command for one of several GPUs"
        )
    return mistakes


def without_effect(told: Mapping[str, str]) -> list[str]:
    """What was asked of the launcher and is decided by the settings alone."""
    return [
        f"{_origin(told, name)} has no effect: {instead}"
        for name, instead in DECIDED.items()
        if _asks(told, name)
    ]


def _asks(told: Mapping[str, str], name: str) -> bool:
    value = told.get(f"ACCELERATE_{name}", "").lower()
    is_count = name == "GRADIENT_ACCUMULATION_STEPS"
    return value not in ASKS_NOTHING and not (is_count and value == "1")


def _origin(told: Mapping[str, str], name: str) -> str:
    return f"ACCELERATE_{name}={told[f'ACCELERATE_{name}']}"
