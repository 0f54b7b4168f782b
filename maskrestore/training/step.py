"""One step of training, as the loop takes it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from maskrestore.config.run import RunConfig
from maskrestore.data.loader import Batch
from maskrestore.distributed.engine import Engine
from maskrestore.distributed.processes import autocast
from maskrestore.monitoring.health import Step
from maskrestore.monitoring.meter import OPTIMIZER, OTHER, Meter
from maskrestore.objectives.objective import Objective


def take_step(
    config: RunConfig,
    objective: Objective,
    engines: Mapping[str, Engine],
    batch: Batch,
    num_images: int,
    meter: Meter,
) -> Step:
    """One optimizer step of every phase on this process's share of a batch, without waiting for
    the device. After it num_images were seen."""
    terms: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    totals = []
    factor = learning_rate_factor(config, num_images - config.training.batch_size)
    parts = batch.split(config.training.accumulation)
    for phase in objective.phases():
        engine = engines[phase.network]
        for part in parts:
            with engine.part(is_last=part is parts[-1]):
                with autocast(config, batch.image.device):
                    losses = phase.losses(part)
                weighted = [phase.weights[name] * term for name, term in losses.items()]
                total = torch.stack(weighted).sum() / len(parts)
                with meter.backward(phase.network):
                    engine.backward(total)
            totals.append(total.detach())
            for name, term in losses.items():
                terms[name] = terms.get(name, 0) + term.detach() / len(parts)
        meter.mark(OPTIMIZER)
        scales[phase.network] = engine.loss_scale()
        norms[phase.network] = engine.step(phase.learning_rate * factor)
        meter.mark(OTHER)
    objective.adapt_scaling(torch.stack(list(norms.values())).isfinite().all())
    return Step(num_images, batch.keys, torch.stack(totals).sum(), terms, norms, scales)


def learning_rate_factor(config: RunConfig, num_images: int) -> float:
    """1 until decay_start of the run, then linearly to 0 at its end (SPADE's schedule)."""
    progress, start = num_images / config.total_images, config.training.decay_start
    return 1.0 if progress < start or start == 1 else max(0.0, (1 - progress) / (1 - start))
