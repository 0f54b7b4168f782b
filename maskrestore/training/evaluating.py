"""Evaluations while training."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from maskrestore.config.run import RunConfig
from maskrestore.data.loader import Batch
from maskrestore.distributed.engine import Engine
from maskrestore.distributed.processes import Accelerator, on_every_process, on_main_process
from maskrestore.evaluation.evaluate import evaluate
from maskrestore.evaluation.pictures import contact_sheet
from maskrestore.evaluation.real_features import RealFeatures
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half_precision import in_precision
from maskrestore.monitoring.telemetry import Telemetry
from maskrestore.utils.errors import Interrupted
from maskrestore.utils.stopping import StopRequest, Watchdog


def evaluate_now(
    config: RunConfig,
    accelerator: Accelerator,
    engines: Mapping[str, Engine],
    image_generator: nn.Module | None,
    num_images: int,
    batches: Iterable[Batch],
) -> dict[str, Any]:
    """Metrics of the networks as they are now, over the whole val split, with pictures."""
    whole = {name: engine.whole() for name, engine in engines.items()}
    if "generator" in whole:
        generator: Any = whole["generator"]
        precision = config.distributed.frozen_precision
        image_generator = in_precision(FrozenGenerator(generator), precision)
    pictures = config.run / "pictures" if accelerator.is_main_process else None
    metrics = evaluate(
        config,
        batches,
        whole.get("mask_generator"),
        image_generator,
        accelerator.device,
        pictures,
        show_progress=accelerator.is_main_process,
        together=partial(on_every_process, accelerator),
        real_features=RealFeatures(accelerator, config) if image_generator is not None else None,
    )
    sheet = config.run / "samples" / f"{num_images:09d}.png"
    on_main_process(accelerator, lambda: contact_sheet(config.run / "pictures", sheet))
    return metrics


def watched(
    batches: Iterable[Batch], watchdog: Watchdog, telemetry: Telemetry, stop: StopRequest
) -> Iterator[Batch]:
    """The batches of an evaluation; each one tells the watchdog that something moves, and lets a
    signal through: all that was trained is saved."""
    for batch in batches:
        watchdog.fed()
        telemetry.beat()
        if stop.signal:
            raise Interrupted(
                "stopped as asked in an evaluation, with all training saved; the same command "
                "continues"
            )
        yield batch
