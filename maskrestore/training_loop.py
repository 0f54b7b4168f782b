"""train(config): one run, from its settings to its row of the table.

Run the same command again to resume. Progress is counted in images seen. The form is EDM2's
(Karras et al. 2024): set everything up, then one flat loop to be read top to bottom.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore import checkpoint, run_folder
from maskrestore.config import RunConfig
from maskrestore.data import training_batches, val_batches
from maskrestore.distributed import Accelerator, make_accelerator, mean_over_ranks, prepare
from maskrestore.evaluation import contact_sheet, evaluate, load_frozen_generator, write_result
from maskrestore.losses import PerceptualLoss
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.perceptual import make_features
from maskrestore.models.pretrained import save_spade_generator, save_weights
from maskrestore.objectives import Objective, Restoration, Synthesis


def train(config: RunConfig) -> dict[str, Any]:
    """Train (unless loss=none), evaluate, write result.json into the run folder and return it.

    Raises ConfigError or UserError for everything that the user can mend.
    """
    accelerator = make_accelerator(config)
    is_main, device = accelerator.is_main_process, accelerator.device
    if is_main:
        run_folder.claim(config)
    accelerator.wait_for_everyone()

    # Networks. The frozen ones stay outside of the engine and of the checkpoints.
    torch.manual_seed(config.seed)
    image_generator, frozen = load_frozen_generator(config, device)
    objective = make_objective(config, image_generator, device)
    phases = objective.phases() if config.trains else []
    optimizers: dict[str, Any] = {}
    for phase in phases:
        network = objective.networks[phase.network].to(device)
        optimizer = torch.optim.Adam(network.parameters(), phase.learning_rate, phase.betas)
        prepared = prepare(accelerator, network, optimizer)
        objective.networks[phase.network], optimizers[phase.network] = prepared

    # Resume from the newest whole checkpoint, if there is one.
    num_images, total_images = 0, config.total_images
    saves = config.run / "checkpoints"
    newest = checkpoint.latest(saves) if config.trains else None
    if newest is not None:
        state = checkpoint.load(newest, frozen)
        num_images = state["num_images"]
        for name, network in objective.networks.items():
            accelerator.unwrap_model(network).load_state_dict(state["networks"][name])
            optimizers[name].load_state_dict(state["optimizers"][name])

    log = run_folder.RunLog(config.run / "metrics.jsonl", num_images, total_images, is_main)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    batches = training_batches(config, num_images, rank, world_size)
    metrics: dict[str, Any] = {}
    while True:
        # Once in a while, and at the end: save and evaluate.
        done = num_images >= total_images
        if config.trains and (done or log.due("checkpoint", config.training.checkpoint_images)):
            if is_main:
                state = snapshot(accelerator, objective, optimizers, num_images)
                checkpoint.save(saves, num_images, state, frozen)
                checkpoint.prune(saves, config.training.keep_checkpoints)
            accelerator.wait_for_everyone()
        if done or log.due("evaluation", config.training.evaluate_images):
            metrics = evaluate_now(config, accelerator, objective, image_generator, num_images)
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
            total = torch.stack([phase.weights[name] * term for name, term in terms.items()]).sum()
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(total)
            optimizer.step()
            losses |= {name: term.detach() for name, term in terms.items()}
        num_images += config.training.batch_size
        log.add(losses, num_images)
        if log.due("log", config.training.log_images):
            log.report(mean_over_ranks(accelerator, log.means()), factor)

    batches.close()
    log.close()
    if is_main:
        save_weights_of(config, accelerator, objective)
        write_result(config, metrics, num_images, config.run)
    accelerator.wait_for_everyone()
    return dict(json.loads((config.run / "result.json").read_text()))


def make_objective(
    config: RunConfig, image_generator: nn.Module | None, device: torch.device
) -> Objective:
    """What the task trains; the perceptual network is loaded only if a term needs it."""
    synthesis = config.task == "synthesis" and config.trains
    if not synthesis and "perceptual" not in config.terms:
        return Restoration(config, image_generator, None)
    perceptual_loss = PerceptualLoss(make_features(config.perceptual)).to(device)
    if synthesis:
        return Synthesis(config, perceptual_loss)
    return Restoration(config, image_generator, perceptual_loss)


def learning_rate_factor(config: RunConfig, num_images: int) -> float:
    """1 until decay_start of the run, then linearly to 0 at its end (SPADE's schedule)."""
    progress, start = num_images / config.total_images, config.training.decay_start
    return 1.0 if progress < start or start == 1 else max(0.0, (1 - progress) / (1 - start))


def snapshot(
    accelerator: Accelerator,
    objective: Objective,
    optimizers: dict[str, Any],
    num_images: int,
) -> dict[str, Any]:
    """Everything that a resumed run needs; the sample order needs only num_images."""
    networks = objective.networks.items()
    return {
        "num_images": num_images,
        "networks": {name: accelerator.unwrap_model(net).state_dict() for name, net in networks},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
    }


def evaluate_now(
    config: RunConfig,
    accelerator: Accelerator,
    objective: Objective,
    image_generator: nn.Module | None,
    num_images: int,
) -> dict[str, Any]:
    """Metrics of the networks as they are now, over the whole val split, with pictures."""
    networks = {name: accelerator.unwrap_model(net) for name, net in objective.networks.items()}
    mask_generator = networks.get("mask_generator") if config.trains else None
    if "generator" in networks:
        image_generator = FrozenGenerator(networks["generator"])
    pictures = config.run / "pictures" if accelerator.is_main_process else None
    metrics = evaluate(
        config,
        val_batches(config, accelerator.process_index, accelerator.num_processes),
        mask_generator,
        image_generator,
        accelerator.device,
        pictures,
        show_progress=accelerator.is_main_process,
    )
    if pictures is not None:
        contact_sheet(pictures, config.run / "samples" / f"{num_images:09d}.png")
    return metrics


def save_weights_of(config: RunConfig, accelerator: Accelerator, objective: Objective) -> None:
    """What others load: generator.pth in the official layout, or mask_generator.pth."""
    networks = {name: accelerator.unwrap_model(net) for name, net in objective.networks.items()}
    if "generator" in networks:
        save_spade_generator(networks["generator"], config.run / "generator.pth")
    elif config.trains:
        state = networks["mask_generator"].state_dict()
        save_weights(state, config.run / "mask_generator.pth")
