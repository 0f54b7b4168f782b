"""What a run is made of: objective, engines, and where they start."""

from pathlib import Path

import torch
from torch import nn

from maskrestore.config.run import RunConfig
from maskrestore.data.shard_folder import find_bad_shards
from maskrestore.distributed.engine import Engine, Replicated, State
from maskrestore.distributed.processes import Accelerator, gather_objects, on_every_process
from maskrestore.models.half_precision import in_precision
from maskrestore.models.perceptual import PerceptualLoss, make_features
from maskrestore.models.weights import load_into
from maskrestore.objectives.objective import Objective
from maskrestore.objectives.restoration import Restoration
from maskrestore.objectives.synthesis import Synthesis
from maskrestore.runs import run_folder


def make_engine(
    accelerator: Accelerator,
    config: RunConfig,
    network: nn.Module,
    betas: tuple[float, float],
    state: State | None,
    source: Path | str,
) -> Engine:
    """The engine of the settings around `network`, at its start or at a `state` read from `source`.

    Raises UserError if the state is of another network.
    """
    if state is not None:
        load_into(network, state["weights"], source)
    network = network.to(accelerator.device)
    if config.distributed.engine == "ddp":
        return Replicated(accelerator, config, network, betas, state)
    from maskrestore.distributed.zero import Sharded

    return Sharded(accelerator, config, network, betas, state)


def make_objective(
    config: RunConfig, image_generator: nn.Module | None, device: torch.device
) -> Objective:
    """What the task trains; the perceptual network is loaded only if a term needs it."""
    needed = "perceptual" in config.terms
    if config.trains_generator:
        needed = config.weights.synthesis_perceptual > 0
    perceptual_loss = None
    if needed:
        features = make_features(config.perceptual).to(device)
        # Lite0 stays in float32: it is small, and in bf16 rounding leaves its gradient a cosine of
        # 0.3 to 0.9 to the true one.
        lite0 = config.perceptual.network == "lite0"
        precision = "fp32" if lite0 else config.distributed.frozen_precision
        perceptual_loss = PerceptualLoss(in_precision(features, precision), features.tap_weights)
    # Only now: whatever else the run is made of, the same seed gives the same first weights.
    torch.manual_seed(config.seed)
    if not config.trains:
        return Objective()
    if config.trains_generator:
        return Synthesis(config, perceptual_loss)
    return Restoration(config, image_generator, perceptual_loss)


def bad_shards(config: RunConfig, accelerator: Accelerator) -> frozenset[str]:
    """Names of the shards that all processes leave out: those that the run was started without, or
    those that are bad now (data.bad_shards=skip)."""
    recorded = gather_objects(accelerator, run_folder.left_out_shards(config.run))[0]
    if recorded is not None:
        return frozenset(recorded)
    if config.data.bad_shards == "stop":
        return frozenset()  # the first of them stops the run when it is opened
    rank, world_size = accelerator.process_index, accelerator.num_processes
    mine = on_every_process(
        accelerator, lambda: find_bad_shards(config.data, ("train", "val"), rank, world_size)
    )
    return frozenset().union(*gather_objects(accelerator, mine))
