"""What a run is made of, and where it starts: `set_up`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from maskrestore.config.run import RunConfig
from maskrestore.data.shard_folder import find_bad_shards
from maskrestore.distributed.engine import Engine, Replicated, State
from maskrestore.distributed.processes import (
    Accelerator,
    gather_objects,
    gather_tensor,
    on_every_process,
    on_every_process_for_long,
    on_main_process,
    patience,
)
from maskrestore.evaluation.readiness import check_ready
from maskrestore.models.build import load_frozen_generator
from maskrestore.models.generators.image_generator import ImageGenerator
from maskrestore.models.half_precision import in_precision
from maskrestore.models.perceptual import FeatureDistances, PerceptualLoss, make_features
from maskrestore.models.weights import load_into
from maskrestore.monitoring.health import Health
from maskrestore.monitoring.log import RunLog
from maskrestore.monitoring.meter import Meter
from maskrestore.monitoring.telemetry import Telemetry
from maskrestore.objectives.objective import Objective
from maskrestore.objectives.restoration import Restoration
from maskrestore.objectives.synthesis import Synthesis
from maskrestore.objectives.targets import Teacher
from maskrestore.runs import checkpoint, run_folder
from maskrestore.utils.stopping import StopRequest
from maskrestore.utils.system import keep_freed_memory

Result = TypeVar("Result")


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
        if accelerator.device.type == "cuda":  # as tensor cores read it; cuDNN would transpose
            network = network.to(memory_format=torch.channels_last)  # DeepSpeed takes no such one
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
        distances = in_precision(FeatureDistances(features), precision)
        perceptual_loss = PerceptualLoss(distances, features.tap_weights)
    teacher = None
    if config.trains and config.target == "restored" and config.teacher is not None:
        teacher = Teacher(config.teacher, config.data.network_size).to(device)
    # Only now: whatever else the run is made of, the same seed gives the same first weights.
    torch.manual_seed(config.seed)
    if not config.trains:
        return Objective()
    if config.trains_generator:
        return Synthesis(config, perceptual_loss)
    return Restoration(config, image_generator, perceptual_loss, teacher)


def left_out_shards(config: RunConfig, accelerator: Accelerator) -> frozenset[str]:
    """Names of the shards that all processes leave out: those that the run was started without, or
    those that are bad now (data.bad_shards=skip)."""
    recorded = gather_objects(accelerator, run_folder.left_out_shards(config.run))[0]
    if recorded is not None:
        return frozenset(recorded)
    if config.data.bad_shards == "stop":
        return frozenset()  # the first of them stops the run when it is opened
    rank, world_size = accelerator.process_index, accelerator.num_processes
    mine = on_every_process_for_long(
        accelerator,
        lambda: find_bad_shards(config.data, ("train", "val"), rank, world_size),
        turn=patience(config).total_seconds() / 10,
    )
    return frozenset().union(*gather_objects(accelerator, mine))


@dataclass
class Run:
    """What a run is made of on this process, from one checkpoint on, and how far it is."""

    config: RunConfig
    accelerator: Accelerator
    stop: StopRequest
    telemetry: Telemetry
    left_out_shards: frozenset[str]
    image_generator: ImageGenerator | None
    """Frozen: outside of engines and checkpoints, as all that the losses look through."""
    objective: Objective
    engines: dict[str, Engine]
    meter: Meter
    is_watched: bool
    """Whether any process answers Prometheus: all take part in what it is told."""
    health: Health
    log: RunLog
    num_images: int
    """Images seen, those passed over included; the same on every process."""
    before: int
    """What num_images was before the last step."""
    resumed_from: Path | None
    """The checkpoint that it starts from; None for a new run."""
    num_rollbacks: int
    """How often it had gone back when it started from there."""

    def together(self, action: Callable[[], Result]) -> Result:
        """See processes.on_every_process."""
        return on_every_process(self.accelerator, action)

    def on_main(self, action: Callable[[], Result]) -> Result | None:
        """See processes.on_main_process."""
        return on_main_process(self.accelerator, action)

    def gather(self, value: Result) -> list[Result]:
        """See processes.gather_objects."""
        return gather_objects(self.accelerator, value)

    def has_passed(self, every: int) -> bool:
        """Whether the last step passed a multiple of `every` images."""
        return self.num_images // every > self.before // every

    def advance(self, num_images: int) -> None:
        """Count the images of a step."""
        self.before, self.num_images = self.num_images, num_images

    @property
    def is_done(self) -> bool:
        """Whether all images were seen."""
        return self.num_images >= self.config.total_images

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs; the sample order needs only num_images. Whole on the
        main process; call it on all."""
        return {
            "num_images": self.num_images,
            "networks": {name: engine.state() for name, engine in self.engines.items()},
            "scaling": self.objective.scaling_state(),
            "history": self.health.history,
            "num_rollbacks": self.num_rollbacks,
        }


def set_up(
    config: RunConfig, accelerator: Accelerator, stop: StopRequest, telemetry: Telemetry
) -> Run:
    """The run at its newest checkpoint that is whole for every process, or at its beginning.

    Raises ConfigError or UserError, on all processes, for everything that the user can mend.
    """
    device, world_size = accelerator.device, accelerator.num_processes
    together, gather = partial(on_every_process, accelerator), partial(gather_objects, accelerator)

    left_out = left_out_shards(config, accelerator)
    image_generator = together(lambda: load_frozen_generator(config, device))
    together(lambda: check_ready(config, config.trains_generator or image_generator is not None))
    objective = together(lambda: make_objective(config, image_generator, device))

    newest, faults = checkpoint.latest(config.run / "checkpoints", gather)
    state = together(lambda: checkpoint.load(newest)) if newest else checkpoint.BEGINNING
    rollbacks = gather(run_folder.rollbacks(config.run))[0]  # as the main process sees them
    _keep_lowered(state, rollbacks[state["num_rollbacks"] :])
    is_watched = any(gather(config.telemetry.serve))  # each could have been started otherwise
    meter = Meter(device, world_size, is_watched)
    engines: dict[str, Engine] = {}
    for phase in objective.phases():
        bare, saved = objective.networks[phase.network], state["networks"].get(phase.network)
        engine = make_engine(accelerator, config, bare, phase.betas, saved, newest or "a new run")
        engines[phase.network], objective.networks[phase.network] = engine, engine.network
        meter.attend(phase.network, bare)
    for name, network in objective.frozen.items():
        meter.attend(name, network)
    objective.load_scaling(state["scaling"])
    num_images, history = state["num_images"], state["history"]
    del state  # it may be large

    on_main_process(accelerator, lambda: run_folder.record(config, left_out))
    batch_size = config.training.batch_size
    health = Health(config.health, batch_size, partial(gather_tensor, accelerator), history)
    is_main = accelerator.is_main_process
    log = together(lambda: RunLog(config, num_images, is_main, world_size))
    log.tell(faults)
    telemetry.saved(checkpoint.describe(newest) if newest else None)
    terms = [term for phase in objective.phases() for term in phase.weights]
    telemetry.begin(num_images, len(left_out), meter.phases, terms)
    keep_freed_memory(device.type)
    return Run(
        config,
        accelerator,
        stop,
        telemetry,
        left_out,
        image_generator,
        objective,
        engines,
        meter,
        is_watched,
        health,
        log,
        num_images,
        num_images,
        newest,
        len(rollbacks),
    )


def _keep_lowered(state: dict[str, Any], rollbacks: Sequence[Mapping[str, Any]]) -> None:
    """Let no loss scale of the state be larger than when the run went back to it since: it would
    have to be lowered by steps without effect once more."""
    for rollback in rollbacks:
        for name, scale in rollback.get("scales", {}).items():
            scaler = state["networks"].get(name, {}).get("scaler")
            if scaler:
                scaler["scale"] = min(scaler["scale"], scale)
