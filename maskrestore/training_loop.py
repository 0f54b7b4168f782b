"""train(config): one run, from its settings to its row of the table.

Run the same command again to resume. Progress is counted in images seen. The form is EDM2's
(Karras et al. 2024): set everything up, then one flat loop to be read top to bottom.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

from torch import nn

from maskrestore import checkpoint, run_folder
from maskrestore.config import RunConfig
from maskrestore.data import Batch, find_bad_shards, training_batches, val_batches
from maskrestore.distributed import (
    Accelerator,
    Ballot,
    gather_objects,
    gather_tensor,
    keep_freed_memory,
    make_accelerator,
    on_every_process,
    on_main_process,
)
from maskrestore.engine import Engine, make_engine
from maskrestore.evaluation import (
    check_ready,
    evaluate,
    load_frozen_generator,
    write_result,
)
from maskrestore.health import Health
from maskrestore.meter import COMMUNICATION, OTHER, Meter
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half import in_precision
from maskrestore.models.pretrained import save_spade_generator, save_weights
from maskrestore.objectives import Objective, make_objective
from maskrestore.optimizer_step import learning_rate_factor, take_step
from maskrestore.pictures import contact_sheet
from maskrestore.program import Interrupted
from maskrestore.real_features import RealFeatures
from maskrestore.recovery import check_end, go_back, tell_skipped
from maskrestore.result import read_result
from maskrestore.run_log import RunLog, was_evaluated
from maskrestore.settings import UserError
from maskrestore.shard_cache import fetch_manifest
from maskrestore.stopping import StopRequest, Watchdog
from maskrestore.telemetry import Telemetry, node_name

GO_ON, STOP, FAILED = 0, 1, 2
"""What a process votes for at each step; the largest vote counts."""


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
    keep_freed_memory(device)
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


def fetch(batches: Iterator[Batch], needed: bool) -> tuple[Batch | None, UserError | None]:
    """The next batch if one is needed, or what is wrong with its shard, which all processes then
    hear of together."""
    try:
        return (next(batches) if needed else None), None
    except UserError as error:
        return None, error


def end_early(
    accelerator: Accelerator,
    config: RunConfig,
    vote: int,
    mistake: UserError | None,
    last_saved: int | None,
) -> None:
    """Leave the run on all processes together: as asked to, or since one of them cannot go on."""
    if vote == STOP:
        raise Interrupted(
            f"stopped as asked and saved at image {last_saved} of {config.run}; "
            "the same command continues"
        )

    def tell() -> None:
        if mistake is not None:
            raise mistake

    on_every_process(accelerator, tell)


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
