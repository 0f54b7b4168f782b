"""train(config): one run, from its settings to its row of the table.

Run the same command again to resume. Progress is counted in images seen. The form is EDM2's
(Karras et al. 2024): set everything up, then one flat loop to be read top to bottom. Each concern
of the loop decides by itself when it is due, from what all processes know alike, so that the order
of collectives is the order of the lines.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

from maskrestore.config.hardware import less_memory
from maskrestore.config.run import RunConfig
from maskrestore.data.fetch import fetch_manifest
from maskrestore.distributed.gathering import ended_with_others
from maskrestore.distributed.memory import told_if_full
from maskrestore.distributed.processes import (
    Accelerator,
    gather_objects,
    make_accelerator,
    on_every_process,
    on_main_process,
)
from maskrestore.monitoring.failed_start import failed_start_told
from maskrestore.monitoring.targets import node_name
from maskrestore.monitoring.telemetry import Telemetry
from maskrestore.runs import run_folder
from maskrestore.runs.result import read_result, write_result
from maskrestore.training.agreement import Agreement
from maskrestore.training.batches import Batches
from maskrestore.training.evaluating import Evaluating
from maskrestore.training.monitor import Monitor
from maskrestore.training.recovery import Judge, check_end
from maskrestore.training.saving import Saving, save_networks
from maskrestore.training.setup import Run, set_up
from maskrestore.training.step import take_step
from maskrestore.utils.stopping import LastAct, StopRequest, Watchdog


def train(config: RunConfig) -> dict[str, Any]:
    """Train (unless loss=none), evaluate, write result.json into the run folder and return it.

    A finished run is left as it is. Raises ConfigError or UserError for everything that the user
    can mend, and Interrupted once it has saved after SIGTERM, SIGINT or SIGUSR2.
    """
    with failed_start_told(config):
        # Signals end it at once until all processes are there: nothing is to be saved yet.
        accelerator = make_accelerator(config, for_training=config.trains)
        stop = StopRequest()
        listening = stop if config.trains else nullcontext()  # else nothing is to be saved
        with listening, claimed(config, accelerator):
            if not any(gather_objects(accelerator, (config.run / "result.json").is_file())):
                remedies = less_memory(config, accelerator.num_processes)
                with (
                    telemetry_of(config, accelerator) as telemetry,
                    leaving(config, telemetry),
                    ended_with_others(),
                    told_if_full(accelerator.device, "training", remedies),
                ):
                    while not take_steps(set_up(config, accelerator, stop, telemetry)):
                        settle(accelerator)  # the run has gone back
                settle(accelerator)
            result = on_main_process(accelerator, lambda: read_result(config.run))
            return gather_objects(accelerator, result or {})[0]


def take_steps(run: Run) -> bool:
    """From where the run is to its end (True), or until it has to go back (False)."""
    watchdog = Watchdog(run.config.health.watchdog_seconds)
    saving, monitor = Saving(run), Monitor(run, watchdog)
    judge, agreement = Judge(run, saving, monitor), Agreement(run, saving)
    evaluating = Evaluating(run, saving, watchdog)
    with run.log, watchdog, closing(Batches(run)) as batches:
        while True:
            # Once in a while, and at the end: judge the last steps, save, leave, evaluate.
            must_save = evaluating.is_due or agreement.is_to_leave
            has_gone_back = judge.if_due(saving.is_due(must_save))
            if has_gone_back and not agreement.is_to_leave:
                return False
            if not has_gone_back:
                saving.if_due(must_save)
            agreement.leave_if_agreed()
            if run.is_done:
                run.on_main(lambda: check_end(run))
            evaluating.if_due()
            if run.is_done:
                break

            # One step: every phase takes one optimizer step on the same batch. Meanwhile the
            # processes learn whether all of them go on to the next one.
            with monitor.step():
                batch = batches.take()
                agreement.cast(batches.mistake)
                if batch is not None:  # else these images were the end of it before
                    run.health.add(
                        take_step(
                            run.config, run.objective, run.engines, batch, run.num_images, run.meter
                        )
                    )
                agreement.count()

    save_networks(run)
    given = run.image_generator.facts(run.config.generator.style) if run.image_generator else {}
    run.on_main(
        lambda: write_result(run.config, evaluating.metrics, run.num_images, run.config.run, given)
    )
    run.telemetry.finish(evaluating.metrics)
    return True


@contextmanager
def claimed(config: RunConfig, accelerator: Accelerator) -> Iterator[None]:
    """The run's folder is held by its processes, which end with this."""
    on_every_process(accelerator, lambda: fetch_manifest(config.data))
    lock = on_main_process(accelerator, lambda: run_folder.claim(config))
    try:
        on_every_process(accelerator, lambda: run_folder.check_shared(config.run))
        yield
    finally:
        if lock is not None:
            lock.close()
        accelerator.end_training()


def telemetry_of(config: RunConfig, accelerator: Accelerator) -> Telemetry:
    """What tells Prometheus of this start of the run, which is counted."""
    num_starts = on_main_process(accelerator, lambda: run_folder.count_start(config.run)) or 0
    nodes = gather_objects(accelerator, node_name())
    rank, device = accelerator.process_index, accelerator.device
    return Telemetry(config, rank, nodes, device, num_starts)


def leaving(config: RunConfig, telemetry: Telemetry) -> AbstractContextManager[object]:
    """A run that only evaluates is ended at once by a signal: Prometheus forgets it before."""
    return nullcontext() if config.trains else LastAct(telemetry.withdraw)


def settle(accelerator: Accelerator) -> None:
    """Forget the engines, on all processes."""
    accelerator.free_memory()
    accelerator.wait_for_everyone()
