"""Processes and devices, and what processes tell each other: the one home of accelerate.

Only what is trained goes into an engine (engine.py). The loader never goes through `prepare` (it
would be split twice), nor do the frozen networks (DDP refuses a module without trainable
parameters).
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch.distributed
from accelerate import Accelerator as Accelerator
from accelerate import DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from maskrestore.config.hardware import needs_gpu, uneven_share, without_order
from maskrestore.config.run import RunConfig
from maskrestore.distributed.devices import (
    device_identity,
    fix_order,
    left_out_gpu,
    own_gpu,
    sees_gpu,
    slow_formats,
    unusable_gpu,
)
from maskrestore.distributed.gathering import gather_processes
from maskrestore.distributed.launchers import refused, take_told, without_effect
from maskrestore.distributed.memory import told_if_full
from maskrestore.distributed.places import find_place, num_processes
from maskrestore.utils.errors import ConfigError, Interrupted, UserError
from maskrestore.utils.launcher import is_first_process

Result = TypeVar("Result")


def make_accelerator(config: RunConfig, for_training: bool) -> Accelerator:
    """The processes of this run as they were started: plain python, accelerate launch, torchrun, or
    one task of `srun` each.

    Waits until all of them are there. Raises ConfigError if the device is not there, cannot do what
    is asked, the batch cannot be shared evenly, or other than the processes asked for came up (a
    process that believes to be alone would train for itself).
    """
    told, size, settings = take_told(), num_processes(), config.distributed
    use_cpu = settings.device == "cpu" or not sees_gpu()
    mistakes = _mistakes(config, for_training, size, use_cpu)
    mistakes += refused(told, config, for_training, use_cpu)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    place = find_place(told, use_cpu)
    for line in without_effect(told) if is_first_process() else ():
        print(line, file=sys.stderr)
    # DDP sorts gradients into new buckets after its first step, which changes the order in which
    # three or more processes add them up: the first step after a resume would be rounded otherwise
    # than in an unbroken run. It does not where it is told to look for unused parameters.
    handlers: list[Any] = [
        DistributedDataParallelKwargs(
            find_unused_parameters=True,
            gradient_as_bucket_view=True,  # else each gradient is there twice
        )
    ]
    backend = "gloo" if use_cpu else "nccl"
    if size > 1:
        # Without the backend's name Accelerate can leave every process alone, without a word.
        handlers.append(InitProcessGroupKwargs(backend=backend, timeout=patience(config)))
    fix_order(settings.deterministic and not use_cpu)
    plugin = None
    if for_training and settings.engine == "deepspeed":
        from maskrestore.distributed.zero import make_plugin

        plugin = make_plugin(config, size, use_cpu)
    # Some come together once, and then do several runs after one another.
    if place is not None and not torch.distributed.is_initialized():
        gather_processes(place, backend, "" if use_cpu else device_identity(), patience(config))
    # "no": precision is the settings', whatever `accelerate launch --mixed_precision` says.
    # cpu=True would make Accelerate forget DeepSpeed, which finds the CPU by itself.
    device = torch.device("cpu") if use_cpu else torch.device("cuda", own_gpu())
    if not use_cpu and "LOCAL_RANK" in os.environ:
        # Where each process was shown a GPU of its own, DDP and DeepSpeed want that one's number.
        os.environ["LOCAL_RANK"] = str(device.index)
    with told_if_full(device, "its start", ()):
        accelerator = Accelerator(
            cpu=use_cpu and plugin is None,
            mixed_precision="no",
            kwargs_handlers=handlers,
            deepspeed_plugin=plugin,
            gradient_accumulation_steps=config.training.accumulation,  # must agree with DeepSpeed's
        )
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # else it is left to the next run as well
    if (
        use_cpu and settings.cpu_threads
    ):  # only now: Accelerate sets threads without OMP_NUM_THREADS
        torch.set_num_threads(settings.cpu_threads)
    # On a GPU PyTorch computes float32 convolutions with 10 bits (TF32) unless it is told not to:
    # fp32, and the features behind the image distances, are to be what they are called.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if accelerator.num_processes != size:
        raise ConfigError(
            f"WORLD_SIZE={size} processes were asked for, but {accelerator.num_processes} came up"
        )
    return accelerator


def patience(config: RunConfig) -> timedelta:
    """How long processes wait for each other: as long as the watchdog, or else a day."""
    return timedelta(seconds=config.health.watchdog_seconds or 24 * 3600)


def _mistakes(config: RunConfig, for_training: bool, size: int, use_cpu: bool) -> list[str]:
    settings = config.distributed
    mistakes = uneven_share(config, size) if for_training else []
    if use_cpu:
        mistakes += needs_gpu(config)
        unusable = "" if settings.device == "cpu" else unusable_gpu()
        if not unusable and settings.device == "cuda":
            unusable = "distributed.device=cuda: torch sees no GPU; write distributed.device=cpu"
        mistakes += [unusable] if unusable else []
    else:
        left_out = left_out_gpu()
        mistakes += [left_out] if left_out else slow_formats(config)
        mistakes += without_order(config) if for_training else []
    if settings.num_processes not in (0, size):
        mistakes.append(
            f"distributed.num_processes={settings.num_processes}, but {size} came up: start them "
            "with torchrun, accelerate launch or srun (`accelerate launch --cpu` starts one only)"
        )
    return mistakes


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
    mine = None if mistake is None else (isinstance(mistake, Interrupted), str(mistake))
    told = gather_objects(accelerator, mine)
    if any(one is not None and one[0] for one in told):
        raise mistake if isinstance(mistake, Interrupted) else Interrupted("stopped as asked")
    mistakes = [(rank, one[1]) for rank, one in enumerate(told) if one is not None]
    if mistake is not None and accelerator.process_index == mistakes[0][0]:
        raise mistake
    if mistakes:
        raise SystemExit(2) from UserError(mistakes[0][1])
    return result


def on_every_process_for_long(
    accelerator: Accelerator, action: Callable[[], Result], turn: float
) -> Result:
    """on_every_process for what may take one process longer than the others may wait in a
    collective: they meet every `turn` seconds, until all are done."""
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(action)
        while not all(gather_objects(accelerator, not wait([working], turn).not_done)):
            pass
        return on_every_process(accelerator, working.result)


def gather_objects(accelerator: Accelerator, value: Result) -> list[Result]:
    """Each process's value, in their order, on all."""
    if accelerator.num_processes == 1:
        return [value]
    return list(gather_object([value]))


def gather_parts(parts: list[Result]) -> list[Result]:
    """The parts of all processes, in their order, on all; for those who know no accelerator."""
    if not torch.distributed.is_initialized():
        return parts
    of_processes: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(of_processes, parts)
    return [part for of_process in of_processes for part in of_process]


def broadcast_object(value: Result) -> Result:
    """The main process's value, on all."""
    [of_main] = broadcast_object_list([value])
    return cast(Result, of_main)


def gather_tensor(accelerator: Accelerator, value: Tensor) -> Tensor:
    """[...] -> [processes, ...], on all, in their order."""
    gathered: Tensor = accelerator.gather(value.contiguous()[None])
    return gathered
