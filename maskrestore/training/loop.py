"""train(config): one run, from its settings to its row of the table.

Run the same command again to resume. Progress is counted in images seen. The form is EDM2's
(Karras et al. 2024): set everything up, then one flat loop to be read top to bottom.
"""

import time
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

from maskrestore.config.run import RunConfig
from maskrestore.data.fetch import fetch_manifest
from maskrestore.data.loader import training_batches, val_batches
from maskrestore.distributed.engine import Engine
from maskrestore.distributed.processes import (
    Accelerator,
    gather_objects,
    gather_tensor,
    make_accelerator,
    on_every_process,
    on_main_process,
)
from maskrestore.evaluation.readiness import check_ready
from maskrestore.models.build import load_frozen_generator
from maskrestore.monitoring.health import Health
from maskrestore.monitoring.log import RunLog
from maskrestore.monitoring.meter import COMMUNICATION, OTHER, Meter
from maskrestore.monitoring.telemetry import Telemetry, node_name
from maskrestore.runs import checkpoint, run_folder
from maskrestore.runs.metrics_file import was_evaluated
from maskrestore.runs.result import read_result, write_result
from maskrestore.training.agreement import FAILED, GO_ON, STOP, Ballot, end_early, fetch
from maskrestore.training.evaluating import evaluate_now, watched
from maskrestore.training.recovery import check_end, go_back, tell_skipped
from maskrestore.training.saving import save, save_weights_of
from maskrestore.training.setup import bad_shards, make_engine, make_objective
from maskrestore.training.step import learning_rate_factor, take_step
from maskrestore.utils.errors import UserError
from maskrestore.utils.stopping import StopRequest, Watchdog
from maskrestore.utils.system import keep_freed_memory


def train(config: RunConfig) -> dict[str, Any]:
    """Train (unless loss=none), evaluate, write result.json into the run folder and return it.

    A finished run is left as it is. Raises ConfigError or UserError for everything that the user
    can mend, and Interrupted once it has saved after SIGTERM, SIGINT or SIGUSR2.
    """
    stop = StopRequest()
    with stop if config.trains else nullcontext():  # without training there is nothing to save
        return _train_with(config, stop)


def _train_with(config: RunConfig, stop: StopRequest) -> dict[str, Any]:
    accelerator = make_accelerator(config, for_training=config.trains)
    on_every_process(accelerator, lambda: fetch_manifest(config.data))
    held = on_main_process(accelerator, lambda: run_folder.claim(config))
    try:
        on_every_process(accelerator, lambda: run_folder.check_shared(config.run))
        if not any(gather_objects(accelerator, (config.run / "result.json").is_file())):
            starts = on_main_process(accelerator, lambda: run_folder.count_start(config.run))
            nodes, rank = gather_objects(accelerator, node_name()), accelerator.process_index
            with Telemetry(config, rank, nodes, accelerator.device, starts or 0) as telemetry:
                while not _train(config, accelerator, stop, telemetry):
                    accelerator.free_memory()
                    accelerator.wait_for_everyone()
            accelerator.free_memory()
            accelerator.wait_for_everyone()
        result = on_main_process(accelerator, lambda: read_result(config.run))
        return gather_objects(accelerator, result or {})[0]
    finally:
        if held is not None:
            held.close()
        accelerator.end_training()


def _train(
    config: RunConfig, accelerator: Accelerator, stop: StopRequest, telemetry: Telemetry
) -> bool:
    """From the newest checkpoint to the end (True), or until the run has to go back (False)."""
    is_main, device = accelerator.is_main_process, accelerator.device
    rank, world_size = accelerator.process_index, accelerator.num_processes
    together = partial(on_every_process, accelerator)
    gather = partial(gather_objects, accelerator)

    # What the run is made of. The frozen networks stay outside of engines and checkpoints.
    left_out = bad_shards(config, accelerator)
    image_generator = together(lambda: load_frozen_generator(config, device))
    together(lambda: check_ready(config, config.trains_generator or image_generator is not None))
    objective = together(lambda: make_objective(config, image_generator, device))

    # The newest checkpoint that is whole for every process, if there is one.
    newest, faults = checkpoint.latest(config.run / "checkpoints", gather)
    state = together(lambda: checkpoint.load(newest)) if newest else checkpoint.BEGINNING
    num_images, last_saved = state["num_images"], state["num_images"] if newest else None
    engines: dict[str, Engine] = {}
    watched_by_any = any(gather(config.telemetry.serve))  # each could have been started otherwise
    meter = Meter(device, world_size, watched_by_any)
    for phase in objective.phases():
        bare, saved = objective.networks[phase.network], state["networks"].get(phase.network)
        engine = make_engine(accelerator, config, bare, phase.betas, saved, newest or "a new run")
        engines[phase.network], objective.networks[phase.network] = engine, engine.network
        meter.attend(phase.network, bare)
    for name, network in objective.frozen.items():
        meter.attend(name, network)
    objective.load_scaling(state["scaling"])
    history = state["history"]
    del state  # it may be large

    on_main_process(accelerator, lambda: run_folder.record(config, left_out))
    passed_over = gather(run_folder.passed_over(config.run))[0]  # as the main process sees it
    metrics: dict[str, Any] = {}
    vote, total_images, batch_size = GO_ON, config.total_images, config.training.batch_size
    health = Health(config.health, batch_size, partial(gather_tensor, accelerator), history)
    saver = checkpoint.Saver(config.run / "checkpoints", config.training)
    ballot, watchdog = Ballot(accelerator, config), Watchdog(config.health.watchdog_seconds)
    evaluated = gather(was_evaluated(config.run, num_images))[0]
    log = together(lambda: RunLog(config, num_images, evaluated, is_main, world_size))
    log.tell(faults)
    telemetry.saved(checkpoint.describe(newest) if newest else None)
    terms = [term for phase in objective.phases() for term in phase.weights]
    telemetry.begin(num_images, len(left_out), meter.phases, terms)
    batches = training_batches(config, num_images, rank, world_size, left_out)
    keep_freed_memory(device.type)
    with log, watchdog, closing(batches):
        upcoming: Any = together(lambda: next(batches)) if num_images < total_images else None
        mistake: UserError | None = None
        while True:
            # Once in a while, and at the end: judge the last steps, save, evaluate.
            done = num_images >= total_images
            evaluating = log.due("evaluation", config.training.evaluate_images) or done
            saving = log.due("checkpoint", config.training.checkpoint_images) or evaluating
            saving = (saving or vote or last_saved is None) and num_images != last_saved
            if log.due("log", config.training.log_images) or saving:
                if is_main and run_folder.is_superseded(config.run):
                    stop.ask()
                report = health.read()
                if report:
                    tell_skipped(log, health, report, gather)
                    factor = learning_rate_factor(config, num_images)
                    log.report(report, factor, objective.scales())
                    if watched_by_any:
                        measured = meter.read()
                        usage = gather_tensor(accelerator, measured.usage).tolist()
                        rates = {p.network: p.learning_rate * factor for p in objective.phases()}
                        scales = {name: engine.loss_scale() for name, engine in engines.items()}
                        telemetry.report(report, measured, usage, rates, scales, objective.scales())
                if report and report.bad_images:
                    on_main_process(accelerator, partial(go_back, config, report, saver, log))
                    if not vote:
                        return False
                    saving = False
            if saving and engines:
                telemetry.state("saving")
                save(accelerator, saver, num_images, engines, objective, health)
                last_saved = num_images
            telemetry.saved(saver.last)
            if vote:
                on_main_process(accelerator, saver.wait)
                end_early(accelerator, config, vote, mistake or log.mistake, last_saved)
            if done:
                on_main_process(accelerator, partial(check_end, config, health))
            if evaluating:
                on_main_process(accelerator, saver.wait)
                telemetry.state("evaluating")
                began = time.monotonic()
                share = val_batches(config, rank, world_size, left_out)
                val = watched(share, watchdog, telemetry, stop)
                metrics = evaluate_now(
                    config, accelerator, engines, image_generator, num_images, val
                )
                log.write({"evaluation": metrics})
                telemetry.evaluated(metrics, time.monotonic() - began)
            if done:
                break

            # One step: every phase takes one optimizer step on the same batch. Meanwhile the
            # processes learn whether all of them go on to the next one.
            telemetry.state("training")
            meter.begin()
            batch = upcoming.to(device)
            num_images += batch_size
            upcoming, mistake = fetch(batches, needed=num_images < total_images)
            meter.mark(OTHER)
            failed = mistake or log.mistake or saver.failed
            ballot.cast(FAILED if failed else STOP if stop.signal else GO_ON)
            if not any(first < num_images <= last for first, last in passed_over):
                step = take_step(config, objective, engines, batch, num_images, meter)
                health.add(step)
            log.advance(num_images)
            meter.mark(COMMUNICATION)
            vote = ballot.count()
            meter.end()
            telemetry.step(num_images)
            watchdog.fed()

    save_weights_of(config, accelerator, engines)
    on_main_process(accelerator, lambda: write_result(config, metrics, num_images, config.run))
    telemetry.finish(metrics)
    return True
