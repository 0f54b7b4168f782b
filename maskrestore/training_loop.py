"""train(config): one run, from its settings to its row of the table.

Run the same command again to resume. Progress is counted in images seen. The form is EDM2's
(Karras et al. 2024): set everything up, then one flat loop to be read top to bottom.
"""

from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore import checkpoint, run_folder
from maskrestore.config import RunConfig
from maskrestore.data import training_batches, val_batches
from maskrestore.distributed import (
    Accelerator,
    make_accelerator,
    mean_over_ranks,
    on_main_process,
    prepare,
)
from maskrestore.evaluation import (
    check_ready,
    evaluate,
    load_frozen_generator,
    read_result,
    write_result,
)
from maskrestore.losses import PerceptualLoss
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.perceptual import make_features
from maskrestore.models.pretrained import load_into, save_spade_generator, save_weights
from maskrestore.objectives import Objective, Restoration, Synthesis
from maskrestore.pictures import contact_sheet


def train(config: RunConfig) -> dict[str, Any]:
    """Train (unless loss=none), evaluate, write result.json into the run folder and return it.

    A finished run is left as it is. Raises ConfigError or UserError for everything that the user
    can mend.
    """
    accelerator = make_accelerator(config, for_training=config.trains)
    held = on_main_process(accelerator, lambda: run_folder.claim(config))
    try:
        if not (config.run / "result.json").is_file():
            _train(config, accelerator)
            accelerator.wait_for_everyone()
        return read_result(config.run)
    finally:
        if held is not None:
            held.close()
        accelerator.end_training()


def _train(config: RunConfig, accelerator: Accelerator) -> None:
    is_main, device = accelerator.is_main_process, accelerator.device
    rank, world_size = accelerator.process_index, accelerator.num_processes

    # Networks. The frozen ones stay outside of the engine and of the checkpoints.
    torch.manual_seed(config.seed)
    image_generator = load_frozen_generator(config, device)
    check_ready(config, with_images=config.trains_generator or image_generator is not None)
    objective = make_objective(config, image_generator, device) if config.trains else None
    networks = objective.networks if objective else {}
    phases = objective.phases() if objective else []
    optimizers: dict[str, Any] = {}
    for phase in phases:
        network = networks[phase.network].to(device)
        optimizer = torch.optim.Adam(network.parameters(), phase.learning_rate, phase.betas)
        networks[phase.network], optimizers[phase.network] = prepare(
            accelerator, network, optimizer
        )

    # Resume from the newest whole checkpoint, if there is one.
    num_images, total_images = 0, config.total_images
    saves = config.run / "checkpoints"
    newest = checkpoint.latest(saves)
    if newest is not None:
        state = checkpoint.load(newest)
        num_images = state["num_images"]
        for name, network in networks.items():
            load_into(accelerator.unwrap_model(network), state["networks"][name], newest)
            optimizers[name].load_state_dict(state["optimizers"][name])

    if is_main:
        run_folder.record(config)
    metrics: dict[str, Any] = {}
    path = config.run / "metrics.jsonl"
    log = run_folder.RunLog(path, num_images, total_images, is_main, world_size)
    with log, closing(training_batches(config, num_images, rank, world_size)) as batches:
        while True:
            # Once in a while, and at the end: save and evaluate.
            done = num_images >= total_images
            if log.due("checkpoint", config.training.checkpoint_images) or (
                done and log.num_trained_images > 0
            ):
                if is_main:
                    state = snapshot(accelerator, networks, optimizers, num_images)
                    checkpoint.save(saves, num_images, state)
                    checkpoint.prune(saves, config.training.keep_checkpoints)
                accelerator.wait_for_everyone()
            if done or log.due("evaluation", config.training.evaluate_images):
                metrics = evaluate_now(config, accelerator, networks, image_generator, num_images)
                log.write({"evaluation": metrics})
            if done:
                break

            # One step: every phase takes one optimizer step on the same batch.
            batch = next(batches).to(device)
            losses: dict[str, Tensor] = {}
            factor = learning_rate_factor(config, num_images)
            for phase in phases:
                optimizer = optimizers[phase.network]
                for group in optimizer.param_groups:
                    group["lr"] = phase.learning_rate * factor
                with accelerator.autocast():
                    terms = phase.losses(batch)
                weighted = [phase.weights[name] * term for name, term in terms.items()]
                optimizer.zero_grad(set_to_none=True)
                accelerator.backward(torch.stack(weighted).sum())
                optimizer.step()
                losses |= {name: term.detach() for name, term in terms.items()}
            num_images += config.training.batch_size
            log.add(losses, num_images)
            if log.due("log", config.training.log_images):
                log.report(mean_over_ranks(accelerator, log.means()), factor)

    if is_main:
        save_weights_of(config, accelerator, networks)
        write_result(config, metrics, num_images, config.run)


def make_objective(
    config: RunConfig, image_generator: nn.Module | None, device: torch.device
) -> Objective:
    """What the task trains; the perceptual network is loaded only if a term needs it."""
    needed = "perceptual" in config.terms
    if config.trains_generator:
        needed = config.weights.synthesis_perceptual > 0
    perceptual_loss = None
    if needed:
        perceptual_loss = PerceptualLoss(make_features(config.perceptual)).to(device)
    if config.trains_generator:
        return Synthesis(config, perceptual_loss)
    return Restoration(config, image_generator, perceptual_loss)


def learning_rate_factor(config: RunConfig, num_images: int) -> float:
    """1 until decay_start of the run, then linearly to 0 at its end (SPADE's schedule)."""
    progress, start = num_images / config.total_images, config.training.decay_start
    return 1.0 if progress < start or start == 1 else max(0.0, (1 - progress) / (1 - start))


def snapshot(
    accelerator: Accelerator,
    networks: dict[str, nn.Module],
    optimizers: dict[str, Any],
    num_images: int,
) -> dict[str, Any]:
    """Everything that a resumed run needs; the sample order needs only num_images."""
    bare = {name: accelerator.unwrap_model(network) for name, network in networks.items()}
    return {
        "num_images": num_images,
        "networks": {name: network.state_dict() for name, network in bare.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
    }


def evaluate_now(
    config: RunConfig,
    accelerator: Accelerator,
    networks: dict[str, nn.Module],
    image_generator: nn.Module | None,
    num_images: int,
) -> dict[str, Any]:
    """Metrics of the networks as they are now, over the whole val split, with pictures."""
    bare = {name: accelerator.unwrap_model(network) for name, network in networks.items()}
    if "generator" in bare:
        image_generator = FrozenGenerator(bare["generator"])
    pictures = config.run / "pictures" if accelerator.is_main_process else None
    metrics = evaluate(
        config,
        val_batches(config, accelerator.process_index, accelerator.num_processes),
        bare.get("mask_generator"),
        image_generator,
        accelerator.device,
        pictures,
        show_progress=accelerator.is_main_process,
    )
    if pictures is not None:
        contact_sheet(pictures, config.run / "samples" / f"{num_images:09d}.png")
    return metrics


def save_weights_of(
    config: RunConfig, accelerator: Accelerator, networks: dict[str, nn.Module]
) -> None:
    """What others load: generator.pth in the official layout, or mask_generator.pth."""
    bare = {name: accelerator.unwrap_model(network) for name, network in networks.items()}
    if "generator" in bare:
        save_spade_generator(bare["generator"], config.run / "generator.pth")
    elif "mask_generator" in bare:
        save_weights(bare["mask_generator"].state_dict(), config.run / "mask_generator.pth")
