"""Processes and devices, and what processes tell each other: the one home of accelerate.

Only what is trained goes into an engine (engine.py). The loader never goes through `prepare` (it
would be split twice), nor do the frozen networks (DDP refuses a module without trainable
parameters).
"""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch.distributed
from accelerate import Accelerator as Accelerator
from accelerate import DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from maskrestore.config.hardware import needs_gpu, uneven_share
from maskrestore.config.run import RunConfig
from maskrestore.utils.errors import ConfigError, Interrupted, UserError

Result = TypeVar("Result")


def make_accelerator(config: RunConfig, for_training: bool) -> Accelerator:
    """The processes of this run as they were started: plain python, accelerate launch, torchrun, or
    one task of `srun` each.

    Raises ConfigError if the device is not there, cannot do what is asked, the batch cannot be
    shared evenly, or other than the processes asked for came up (a process that believes to be
    alone would train for itself).
    """
    join_slurm_step()
    asked, wanted = int(os.environ.get("WORLD_SIZE", "1")), config.distributed
    use_cpu = wanted.device == "cpu" or not torch.cuda.is_available()
    mistakes = _mistakes(config, for_training, asked, use_cpu)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    if use_cpu and wanted.cpu_threads:
        torch.set_num_threads(wanted.cpu_threads)
    # DDP sorts gradients into new buckets after its first step, which changes the order in which
    # three or more processes add them up: the first step after a resume would be rounded otherwise
    # than in an unbroken run. It does not where it is told to look for unused parameters.
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    plugin = None
    if asked > 1:
        # Without the backend's name Accelerate can leave every process alone, without a word.
        backend = "gloo" if use_cpu else "nccl"
        handlers.append(InitProcessGroupKwargs(backend=backend, timeout=patience(config)))
    if for_training and wanted.engine == "deepspeed":
        from maskrestore.distributed.zero import make_plugin

        plugin = make_plugin(config, asked, use_cpu)
    # "no": precision is the settings', whatever `accelerate launch --mixed_precision` says.
    # cpu=True would make Accelerate forget DeepSpeed, which finds the CPU by itself.
    accelerator = Accelerator(
        cpu=use_cpu and plugin is None,
        mixed_precision="no",
        kwargs_handlers=handlers,
        deepspeed_plugin=plugin,
        gradient_accumulation_steps=config.training.accumulation,  # must agree with DeepSpeed's
    )
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # else it is left to the next run as well
    if accelerator.num_processes != asked:
        raise ConfigError(
            f"WORLD_SIZE={asked} processes were asked for, but {accelerator.num_processes} came up"
        )
    return accelerator


def patience(config: RunConfig) -> timedelta:
    """How long processes wait for each other: as long as the watchdog, or else a day."""
    return timedelta(seconds=config.health.watchdog_seconds or 24 * 3600)


def _mistakes(config: RunConfig, for_training: bool, asked: int, use_cpu: bool) -> list[str]:
    wanted, found = config.distributed, []
    if wanted.device == "cuda" and use_cpu:
        found.append("distributed.device=cuda: torch sees no GPU; write distributed.device=cpu")
    if use_cpu:
        found += needs_gpu(config)
    if wanted.num_processes not in (0, asked):
        found.append(
            f"distributed.num_processes={wanted.num_processes}, but {asked} came up: start them "
            "with torchrun, accelerate launch or srun (`accelerate launch --cpu` starts one only)"
        )
    if not for_training:
        return found
    found += uneven_share(config, asked)
    for name, option in (("DEEPSPEED", "--use_deepspeed"), ("FSDP", "--use_fsdp")):
        if os.environ.get(f"ACCELERATE_USE_{name}") == "true" and wanted.engine == "ddp":
            found.append(
                f"distributed.engine=ddp, but accelerate launch was told {option}: leave that out, "
                "or write distributed.engine=deepspeed"
            )
    return found


def join_slurm_step() -> None:
    """Let the tasks of one `srun` find each other: what torchrun would set, from SLURM's words.

    Does nothing where a launcher has set it, or outside of a step of several tasks.
    """
    environment = os.environ
    num_tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if "WORLD_SIZE" in environment or num_tasks == 1 or "SLURM_PROCID" not in environment:
        return
    # A task that was given a GPU of its own sees but that one.
    num_devices = torch.cuda.device_count() or num_tasks
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    restart = int(environment.get("SLURM_RESTART_COUNT", "0"))
    values = {
        "WORLD_SIZE": str(num_tasks),
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": str(int(environment["SLURM_LOCALID"]) % num_devices),
        "MASTER_ADDR": first_host(environment["SLURM_STEP_NODELIST"]),
        # Two jobs may share a node, as may a job and what is left of its start before.
        "MASTER_PORT": str(20_000 + (31 * job + 7 * restart + step) % 20_000),
    }
    for name, value in values.items():
        environment.setdefault(name, value)


def first_host(node_list: str) -> str:
    """The first name of SLURM's compressed list: `rack2-n[07-09,11],login` -> `rack2-n07`."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", node_list)
    if found is None:
        raise UserError(f"SLURM_STEP_NODELIST={node_list}: not a list of nodes; set MASTER_ADDR")
    return "".join(part or "" for part in found.groups())


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """The context in which trained networks compute, in distributed.precision."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.distributed.precision)
    # An autocast that is switched off must not name float32, which it does not know.
    return torch.autocast(device.type, kind or torch.bfloat16, enabled=kind is not None)


def on_main_process(accelerator: Accelerator, action: Callable[[], Result]) -> Result | None:
    """The result of `action` on the main process, None on the others.

    If it ends in a user's mistake there, all processes end: none is left waiting for it.
    """
    result, mistake = None, None
    if accelerator.is_main_process:
        try:
            result = action()
        except (ConfigError, UserError, OSError) as error:
            mistake = error
    [failed] = broadcast_object_list([mistake is not None])
    if mistake is not None:
        raise mistake
    if failed:
        raise SystemExit(2)
    return result


def on_every_process(accelerator: Accelerator, action: Callable[[], Result]) -> Result:
    """The result of `action` on each process.

    If it ends in a user's mistake on some, the first of these says so and all end. If it is
    Interrupted on some, it is so on all.
    """
    mistake: Exception | Interrupted | None = None
    try:
        result = action()
    except (ConfigError, UserError, OSError, Interrupted) as error:
        mistake = error
    kinds = gather_objects(accelerator, mistake and isinstance(mistake, Interrupted) + 1)
    if 2 in kinds:
        raise mistake if isinstance(mistake, Interrupted) else Interrupted("stopped as asked")
    if mistake is not None and accelerator.process_index == kinds.index(1):
        raise mistake
    if any(kinds):
        raise SystemExit(2)
    return result


def gather_objects(accelerator: Accelerator, value: Result) -> list[Result]:
    """Each process's value, in their order, on all."""
    if accelerator.num_processes == 1:
        return [value]
    return list(gather_object([value]))


def broadcast_object(value: Result) -> Result:
    """The main process's value, on all."""
    [found] = broadcast_object_list([value])
    return cast(Result, found)


def gather_tensor(accelerator: Accelerator, value: Tensor) -> Tensor:
    """[...] -> [processes, ...], on all, in their order."""
    gathered: Tensor = accelerator.gather(value.contiguous()[None])
    return gathered
