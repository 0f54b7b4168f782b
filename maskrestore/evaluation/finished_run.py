"""A finished run evaluated again: its figures, its result.json and its pictures."""

from functools import partial
from typing import Any

from maskrestore.config.run import RunConfig
from maskrestore.data.loader import val_batches
from maskrestore.distributed.processes import make_accelerator, on_every_process, on_main_process
from maskrestore.evaluation.evaluate import evaluate
from maskrestore.evaluation.real_features import RealFeatures
from maskrestore.models.build import (
    load_frozen_generator,
    load_mask_generator,
    load_trained_generator,
)
from maskrestore.runs import run_folder
from maskrestore.runs.result import read_result, write_result
from maskrestore.utils.files import lock
from maskrestore.utils.system import keep_freed_memory


def evaluate_run(config: RunConfig, write: bool = True) -> dict[str, Any]:
    """Evaluate the trained networks in the run folder (or the untrained baseline) again.

    Returns what `evaluate` does; `write` also replaces the run's result.json and pictures. Raises
    ConfigError or UserError for everything that the user can mend.
    """
    accelerator = make_accelerator(config, for_training=False)
    together = partial(on_every_process, accelerator)
    num_images = together(lambda: read_result(config.run))["num_images"]
    held = on_main_process(accelerator, lambda: lock(config.run) if write else None)
    device, is_main = accelerator.device, accelerator.is_main_process
    mask_generator = None
    image_generator = together(lambda: load_frozen_generator(config, device))
    if config.trains_generator:
        image_generator = together(lambda: load_trained_generator(config, device))
    elif config.trains:
        mask_generator = together(lambda: load_mask_generator(config)).to(device)
    keep_freed_memory(device.type)
    metrics = evaluate(
        config,
        val_batches(
            config,
            accelerator.process_index,
            accelerator.num_processes,
            run_folder.left_out_shards(config.run) or (),
        ),
        mask_generator,
        image_generator,
        device,
        config.run / "pictures" if is_main and write else None,
        show_progress=is_main,
        together=together,
        real_features=RealFeatures(accelerator, config) if image_generator is not None else None,
    )
    if write:
        given = {}
        if image_generator is not None and not config.trains_generator:
            given = image_generator.facts(config.generator.style)
        on_main_process(
            accelerator, lambda: write_result(config, metrics, num_images, config.run, given)
        )
    accelerator.wait_for_everyone()
    if held is not None:
        held.close()
    accelerator.end_training()
    return metrics
