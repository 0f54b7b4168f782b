"""Evaluation: a row of the table, and pictures. Protocol and reasons: docs/evaluation.md."""

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from maskrestore import provenance, run_folder
from maskrestore.config import RunConfig
from maskrestore.data import Batch, open_split, val_batches
from maskrestore.degrade import degrade, mask_generator_input, restore_untrained
from maskrestore.distances import DISTANCE_NAMES, ImageDistances
from maskrestore.distributed import (
    autocast,
    keep_freed_memory,
    make_accelerator,
    on_every_process,
    on_main_process,
)
from maskrestore.files import file_sha256, lock, write_atomically
from maskrestore.labels import NUM_CLASSES
from maskrestore.manifest import read_manifest
from maskrestore.metrics import FIGURES, SegmentationMetrics
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half import in_precision
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.pretrained import load_into, load_spade_generator, load_weights
from maskrestore.models.winograd import use_winograd
from maskrestore.pictures import Album
from maskrestore.real_features import RealFeatures
from maskrestore.result import read_result
from maskrestore.segmap import generator_input, one_hot, to_uint8
from maskrestore.settings import ConfigError

SEGMENTATION_FIGURES = (*FIGURES, "iou", "intervals", "by_degradation")


def evaluate(
    config: RunConfig,
    batches: Iterable[Batch],
    mask_generator: nn.Module | None,
    image_generator: nn.Module | None,
    device: torch.device,
    pictures: Path | None = None,
    show_progress: bool = False,
    together: Callable[[Callable[[], None]], None] = lambda action: action(),
    real_features: RealFeatures | None = None,
) -> dict[str, Any]:
    """The figures of one row over `batches`, this process's share of the val split.

    Returns, equal on every process: what SegmentationMetrics computes, the two image distances by
    their names, and num_samples over all processes. What does not apply is None: segmentation for
    task=synthesis, distances without an image generator. mask_generator None restores by the
    untrained baseline.

    Give bare networks on `device`: a distributed wrapper's forward waits for processes that may
    have fewer batches. They are left in the mode, training or evaluation, in which they came. The
    first evaluation.num_pictures samples seen are drawn into the folder `pictures`, and as many of
    the worst and best seen; samples.json beside it names all, and resamples.json holds the figures
    behind the intervals. `together` runs the part that can fail on one process alone
    (distributed.on_every_process). real_features: what earlier evaluations know of the real images,
    if `batches` are the whole val split.
    """
    names = DISTANCE_NAMES[config.evaluation.features]
    segmentation = None if config.task == "synthesis" else SegmentationMetrics().to(device)
    distances = None
    if image_generator is not None:
        weights = config.evaluation.inception_weights
        known = None if real_features is None else real_features.known
        distances = ImageDistances(config.evaluation.features, weights, known).to(device)
    album = None if pictures is None else Album(pictures, config.evaluation.num_pictures)
    networks = [net for net in (mask_generator, image_generator) if net is not None]

    def measure() -> None:
        bar = tqdm(batches, "evaluate", unit="batch", leave=False, disable=not show_progress)
        for batch in (batch.to(device) for batch in bar):
            drawn = {"true_mask": batch.fine.byte(), "real": batch.image}
            restored, edges, accu = batch.fine, "instance", None
            if segmentation is not None:
                edges = config.generator.edges
                degraded, valid = degrade(config, batch.fine, batch.coarse)
                with autocast(config, device):
                    restored, confidence = _restore(
                        config, degraded, valid, batch.image, mask_generator
                    )
                kinds = batch.kinds if config.degradation == "mixture" else ()
                segmentation.update(batch.keys, restored, batch.fine, valid, confidence, kinds)
                accu = (restored == batch.fine).flatten(1).double().mean(1)
                drawn |= {"input": degraded.byte(), "restored": restored.byte()}
            if image_generator is not None:
                segmap = generator_input(one_hot(restored), edges, batch.instance)
                drawn["synthesized"] = to_uint8(image_generator(segmap))
            if distances is not None:
                distances.update(batch.image, drawn["synthesized"])
            if album is not None:
                album.add(batch.keys, drawn, accu)
        if album is not None:
            album.close()

    with _evaluation_mode(networks), torch.no_grad():
        together(measure)
    metrics: dict[str, Any] = dict.fromkeys((*SEGMENTATION_FIGURES, *names))
    for metric in (segmentation, distances):
        if metric is not None:
            metrics |= metric.compute()
    if segmentation is not None:
        together(partial(_write_details, segmentation, pictures))
    if distances is not None and real_features is not None:
        real_features.keep(distances.all_real)
    return metrics


def _restore(
    config: RunConfig,
    degraded: Tensor,
    valid: Tensor,
    image: Tensor,
    mask_generator: nn.Module | None,
) -> tuple[Tensor, Tensor | None]:
    """The complete label map, int64 [B,H,W], of a degraded one, and the probability of each of its
    labels, float32 [B,H,W]; None without a network."""
    if mask_generator is None:
        return restore_untrained(config, degraded, valid), None
    seen = mask_generator_input(config, degraded, valid, image)
    restored_logits: Tensor = mask_generator(*seen).float()
    largest, restored = restored_logits.max(1)  # the first of equal ones, as argmax, and faster
    return restored, (largest - restored_logits.logsumexp(1)).exp()


def _write_details(metrics: SegmentationMetrics, pictures: Path | None) -> None:
    """samples.json and resamples.json beside the pictures; nothing on a process that draws none."""
    if pictures is not None:
        texts = {
            "samples": json.dumps(metrics.samples, indent=1),
            "resamples": json.dumps(metrics.resamples),
        }
        for name, text in texts.items():
            write_atomically(pictures.parent / f"{name}.json", text.encode())


@contextmanager
def _evaluation_mode(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Batch statistics and power iterations rest; afterwards each network is as it was."""
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)


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
        own = config.run / "generator.pth"
        image_generator = together(lambda: _frozen_generator(config, own, device))
    elif config.trains:
        mask_generator = together(lambda: load_mask_generator(config)).to(device)
    keep_freed_memory(device)
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
        on_main_process(accelerator, lambda: write_result(config, metrics, num_images, config.run))
    accelerator.wait_for_everyone()
    if held is not None:
        held.close()
    accelerator.end_training()
    return metrics


def check_ready(config: RunConfig, with_images: bool) -> None:
    """Find out before training, not after it, that the evaluation could not work.

    Raises UserError if there is no val split, or no weights for the image distances.
    """
    open_split(config.data, "val").close()
    if with_images:
        ImageDistances(config.evaluation.features, config.evaluation.inception_weights)


def load_mask_generator(config: RunConfig) -> MaskGenerator:
    """The mask generator that the run has trained, on the CPU. UserError if it does not fit."""
    shape, path = config.mask_generator, config.run / "mask_generator.pth"
    network = MaskGenerator(
        NUM_CLASSES,
        shape.width,
        shape.hidden,
        config.data.height_width,
        num_further=config.image_channels,
    )
    load_into(network, load_weights(path), path)
    if config.distributed.precision == "winograd":
        use_winograd(network)
    return network


def load_frozen_generator(config: RunConfig, device: torch.device) -> nn.Module | None:
    """The image generator of generator.path, frozen.

    None for a run that trains the image generator itself or that works without one. Raises
    ConfigError if the run cannot work without one, UserError if the file is no fitting generator.
    """
    path = config.generator.path
    if config.trains_generator:
        return None
    if path is None:
        if config.task == "synthesis" or {"perceptual", "l1"} & set(config.terms):
            raise ConfigError(
                f"task={config.task} loss={config.loss} needs an image generator: write "
                "generator.path=FILE (the official latest_net_G.pth, or generator.pth of a run "
                "with task=synthesis)"
            )
        return None
    return _frozen_generator(config, path, device)


def _frozen_generator(config: RunConfig, path: Path, device: torch.device) -> nn.Module:
    generator = load_spade_generator(path, config.data.height_width, NUM_CLASSES)
    frozen = FrozenGenerator(generator, config.distributed.activation_checkpointing).to(device)
    return in_precision(frozen, config.distributed.frozen_precision)


def write_result(config: RunConfig, metrics: dict[str, Any], num_images: int, folder: Path) -> None:
    """Write folder/result.json, whole or not at all: the row, and everything needed to judge it.

    metrics: what `evaluate` returned. num_images: images seen in training. Raises RuntimeError if
    not every val sample was counted exactly once.
    """
    left_out = run_folder.left_out_shards(config.run) or []
    num_val = len(open_split(config.data, "val", left_out))
    if metrics["num_samples"] != num_val:
        raise RuntimeError(f"{metrics['num_samples']} samples evaluated of {num_val} in val")
    manifest = read_manifest(config.data.shards)
    height, width = config.data.height_width
    synthesis, smaller = config.task == "synthesis", config.task == "super_resolution"
    restores, mixed = config.trains and not synthesis, config.degradation == "mixture"
    headline = "accu19" if config.protocol == "strict" else "accu"
    own = config.run / "generator.pth" if config.trains_generator else config.generator.path
    result = {
        "task": config.task,
        "loss": config.loss,
        "baseline": config.baseline,
        "seed": config.seed,
        "num_images": num_images,
        "metrics": metrics,
        "protocol": {
            "protocol": config.protocol,
            "headline": None if synthesis else f"{headline}, miou19",
            "degradation": config.degradation,
            "condition": config.condition if restores else None,
            "relaxation": config.relaxation if restores else None,
            "features": config.evaluation.features,
            "edges": "instance" if synthesis else config.generator.edges,
            "masks into the generator": "true" if synthesis else "argmax",
            "sampling": config.degrade.sampling if smaller or mixed else None,
            "factor": config.degrade.factor if smaller else None,
            "height": height,
            "width": width,
            "source": manifest["source"],
            "coarse": manifest["coarse"],
            "perceptual network": config.perceptual.network if config.trains else None,
            "precision": config.distributed.precision,
            "frozen precision": config.distributed.frozen_precision,
        },
        "left_out_shards": left_out,
        "images_passed_over": sum(b - a for a, b in run_folder.passed_over(config.run)),
        "resumed_with_other_code": run_folder.was_resumed_with_other_code(config.run),
        "commit": provenance.commit(),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)}
        | {name: version(name) for name in ("torchvision", "torchmetrics", "torch-fidelity")},
        "generator_sha256": file_sha256(own) if own is not None and own.is_file() else None,
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=1).encode())
