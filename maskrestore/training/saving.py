"""Checkpoints while training, and the weights that others load at its end."""

from collections.abc import Mapping
from typing import Any

from maskrestore.config.run import RunConfig
from maskrestore.distributed.engine import Engine
from maskrestore.distributed.processes import Accelerator, on_main_process
from maskrestore.models.weights import save_spade_generator, save_weights
from maskrestore.monitoring.health import Health
from maskrestore.objectives.objective import Objective
from maskrestore.runs import checkpoint


def save(
    accelerator: Accelerator,
    saver: checkpoint.Saver,
    num_images: int,
    engines: Mapping[str, Engine],
    objective: Objective,
    health: Health,
) -> None:
    """Save everything that a resumed run needs; the sample order needs only num_images."""
    state = {
        "num_images": num_images,
        "networks": {name: engine.state() for name, engine in engines.items()},
        "scaling": objective.scaling_state(),
        "history": health.history,
    }
    on_main_process(accelerator, lambda: saver.save(num_images, state))


def save_weights_of(
    config: RunConfig, accelerator: Accelerator, engines: Mapping[str, Engine]
) -> None:
    """What others load: generator.pth in the official layout, or mask_generator.pth."""
    whole: dict[str, Any] = {name: engine.whole() for name, engine in engines.items()}

    def save() -> None:
        if "generator" in whole:
            save_spade_generator(whole["generator"], config.run / "generator.pth")
        elif "mask_generator" in whole:
            save_weights(whole["mask_generator"].state_dict(), config.run / "mask_generator.pth")

    on_main_process(accelerator, save)
