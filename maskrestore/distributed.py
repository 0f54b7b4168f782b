"""Processes and devices: the one home of accelerate.

Only the mask generator goes through `Accelerator.prepare`. The loader never does (it would be
split twice), nor do the frozen networks (DDP refuses a module without trainable parameters).
"""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator as Accelerator
from accelerate import InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim import Optimizer

from maskrestore.config import RunConfig
from maskrestore.settings import ConfigError, UserError

Result = TypeVar("Result")


def make_accelerator(config: RunConfig, for_training: bool) -> Accelerator:
    """The processes of this run as they were started (plain python, accelerate launch, torchrun).

    Raises ConfigError if the device is not there, the batch cannot be shared evenly, or fewer
    processes came up than were asked for (each would believe to be alone and train for itself).
    """
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = config.distributed.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "distributed.device=cuda: torch sees no GPU; write distributed.device=cpu"
        )
    use_cpu = wanted == "cpu" or not torch.cuda.is_available()
    if for_training and config.training.batch_size % asked:
        raise ConfigError(
            f"training.batch_size={config.training.batch_size} cannot be shared evenly by {asked} "
            "processes: write a multiple of that number"
        )
    if use_cpu and config.distributed.cpu_threads:
        torch.set_num_threads(config.distributed.cpu_threads)
    # Without the backend's name Accelerate can leave every process alone, without a word.
    group = [InitProcessGroupKwargs(backend="gloo" if use_cpu else "nccl")] if asked > 1 else []
    accelerator = Accelerator(
        cpu=use_cpu, mixed_precision=_precision(config), kwargs_handlers=group
    )
    if accelerator.num_processes != asked:
        raise ConfigError(
            f"WORLD_SIZE={asked} processes were asked for, but {accelerator.num_processes} came up"
        )
    return accelerator


def prepare(
    accelerator: Accelerator, network: nn.Module, optimizer: Optimizer
) -> tuple[nn.Module, Optimizer]:
    """A trained network and its optimizer, wrapped for the processes of this run.

    On several GPUs batch norm takes its statistics over all of them; gloo cannot do that, so on
    CPUs each process uses its own part of the batch (the mask generator has no batch norm).
    """
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    prepared: tuple[nn.Module, Optimizer] = accelerator.prepare(network, optimizer)
    return prepared


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


def mean_over_ranks(accelerator: Accelerator, values: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each scalar over all processes; one wait for the device for all of them."""
    stacked = accelerator.reduce(torch.stack(list(values.values())), reduction="mean")
    return dict(zip(values, stacked.tolist(), strict=True))


def _precision(config: RunConfig) -> str:
    return {"fp32": "no", "bf16": "bf16"}[config.distributed.precision]
