"""Evaluations while training."""

import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from maskrestore.data.loader import Batch, val_batches
from maskrestore.distributed.processes import on_every_process
from maskrestore.evaluation.evaluate import evaluate
from maskrestore.evaluation.pictures import contact_sheet
from maskrestore.evaluation.real_features import RealFeatures
from maskrestore.models.build import freeze
from maskrestore.runs.metrics_file import was_evaluated
from maskrestore.training.saving import Saving
from maskrestore.training.setup import Run
from maskrestore.utils.errors import Interrupted
from maskrestore.utils.stopping import Watchdog


class Evaluating:
    """Evaluates a run now and then, and at its end. Collective at the start, and when due."""

    def __init__(self, run: Run, saving: Saving, watchdog: Watchdog) -> None:
        self._run, self._saving, self._watchdog = run, saving, watchdog
        own = run.together(lambda: was_evaluated(run.config.run, run.num_images))
        was_done = run.gather(own)[0]  # as the main process sees it
        every, size = run.config.training.evaluate_images, run.config.training.batch_size
        passed = run.num_images // every > (run.num_images - size) // every
        self._was_cut_short = run.num_images > 0 and passed and not was_done
        self.metrics: dict[str, Any] = {}
        """What the last evaluation found."""

    @property
    def is_due(self) -> bool:
        """Whether to evaluate now: at evaluate_images, at the end, or since a kill cut it short."""
        run = self._run
        is_time = run.has_passed(run.config.training.evaluate_images)
        return is_time or run.is_done or self._was_cut_short

    def if_due(self) -> None:
        """Evaluate the networks as they are now, over the whole val split, with pictures."""
        if not self.is_due:
            return
        run = self._run
        run.on_main(self._saving.finish)
        run.telemetry.state("evaluating")
        began, self._was_cut_short = time.monotonic(), False
        self.metrics = self._evaluate()
        run.log.write({"evaluation": self.metrics})
        run.telemetry.evaluated(self.metrics, time.monotonic() - began)

    def _evaluate(self) -> dict[str, Any]:
        run = self._run
        config, accelerator = run.config, run.accelerator
        whole = {name: engine.whole() for name, engine in run.engines.items()}
        image_generator = run.image_generator
        if "generator" in whole:
            generator: Any = whole["generator"]
            image_generator = freeze(config, generator, accelerator.device)
        rank, world_size = accelerator.process_index, accelerator.num_processes
        share = val_batches(config, rank, world_size, run.left_out_shards)
        metrics = evaluate(
            config,
            self._watched(share),
            whole.get("mask_generator"),
            image_generator,
            accelerator.device,
            config.run / "pictures" if accelerator.is_main_process else None,
            show_progress=accelerator.is_main_process,
            together=partial(on_every_process, accelerator),
            real_features=None if image_generator is None else RealFeatures(accelerator, config),
        )
        sheet = config.run / "samples" / f"{run.num_images:09d}.png"
        run.on_main(lambda: contact_sheet(config.run / "pictures", sheet))
        return metrics

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Each batch tells the watchdog that something moves, and lets a signal through: all that
        was trained is saved."""
        for batch in batches:
            self._watchdog.fed()
            self._run.telemetry.beat()
            if self._run.stop.signal:
                raise Interrupted(
                    "stopped as asked in an evaluation, with all training saved; the same command "
                    "continues"
                )
            yield batch
