"""The loop's own step on a batch of random data, for whatever measures it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.models import vgg19

from benchmarks.labels import NUM_CLASSES
from benchmarks.random_weights import calibrated
from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.loader import Batch
from maskrestore.distributed.engine import Engine
from maskrestore.distributed.processes import make_accelerator
from maskrestore.models.build import load_frozen_generator
from maskrestore.models.weights import save_spade_generator
from maskrestore.monitoring.health import Step
from maskrestore.monitoring.meter import Meter
from maskrestore.objectives.objective import Objective
from maskrestore.training.setup import make_engine, make_objective
from maskrestore.training.step import take_step
from maskrestore.utils.system import keep_freed_memory, set_up_torch


@dataclass
class OurStep:
    """What a step is made of."""

    config: RunConfig
    objective: Objective
    engines: dict[str, Engine]
    meter: Meter
    batch: Batch

    def take(self, batch: Batch | None = None) -> Step:
        """One step, of the random batch if none is given; waits for nothing."""
        self.meter.begin()
        step = take_step(
            self.config, self.objective, self.engines, batch or self.batch, 1, self.meter
        )
        self.meter.end()
        return step


def make_our_step(words: Sequence[str], is_measured: bool = False) -> OurStep:
    """The step of a run of these settings. is_measured: whether its meter counts operations."""
    set_up_torch()
    config = load_config(words)
    accelerator = make_accelerator(config, for_training=True)
    device = accelerator.device
    objective = make_objective(config, load_frozen_generator(config, device), device)
    engines: dict[str, Engine] = {}
    meter = Meter(device, active=is_measured)
    for phase in objective.phases():
        bare = objective.networks[phase.network]
        engine = make_engine(accelerator, config, bare, phase.betas, None, "the benchmark")
        engines[phase.network], objective.networks[phase.network] = engine, engine.network
        meter.attend(phase.network, bare)
    for name, network in objective.frozen.items():
        meter.attend(name, network)
    size = (config.training.batch_size, *config.data.height_width)
    label_map = torch.randint(0, config.data.labels.num_classes, size)
    image = torch.randint(0, 256, (size[0], 3, *size[1:]), dtype=torch.uint8)
    batch = Batch(("",) * size[0], image, label_map, label_map, label_map).to(device)
    keep_freed_memory(device.type)
    return OurStep(config, objective, engines, meter, batch)


def ours(words: Sequence[str]) -> Callable[[], object]:
    """The loop's step, in its own environment; it waits for its end."""
    step = make_our_step(words)
    return lambda: step.take().total.item()


def save_random_networks(
    folder: Path, width: int, hidden: int, size: tuple[int, int]
) -> tuple[Path, Path]:
    """Files of a SPADE generator and of VGG19's convolutions, of random weights; made if they are
    not there."""
    generator, perceptual = folder / "generator.pth", folder / "vgg19.pth"
    if not generator.is_file():
        torch.manual_seed(0)
        save_spade_generator(calibrated(NUM_CLASSES, width, hidden, size), generator)
    if not perceptual.is_file():
        state = {k: v for k, v in vgg19().state_dict().items() if k.startswith("features.")}
        torch.save(state, perceptual)
    return generator, perceptual
