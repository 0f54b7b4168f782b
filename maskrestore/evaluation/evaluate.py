"""The figures of a row of the table, and pictures. Protocol and reasons: docs/evaluation.md."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from maskrestore.config.inference import OVERLAP
from maskrestore.config.run import RunConfig
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.data.loader import Batch
from maskrestore.data.segmap import one_hot, to_uint8
from maskrestore.data.tiles import blend
from maskrestore.distributed.memory import told_if_full
from maskrestore.distributed.processes import autocast
from maskrestore.evaluation.baselines import restore_untrained
from maskrestore.evaluation.counts import accuracies
from maskrestore.evaluation.image_distances import DISTANCE_NAMES, ImageDistances
from maskrestore.evaluation.pictures import Album
from maskrestore.evaluation.real_features import RealFeatures
from maskrestore.evaluation.segmentation import SegmentationMetrics
from maskrestore.runs.figures import SHARES
from maskrestore.utils.files import write_atomically

SEGMENTATION_FIGURES = (*SHARES, "iou", "intervals", "by_degradation")


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
    (processes.on_every_process). real_features: what earlier evaluations know of the real images,
    if `batches` are the whole val split.
    """
    names = DISTANCE_NAMES[config.evaluation.features]
    labels = config.data.labels
    segmentation = None if config.task == "synthesis" else SegmentationMetrics(labels)
    distances = None
    if image_generator is not None:
        weights = config.evaluation.inception_weights
        known = None if real_features is None else real_features.known
        distances = ImageDistances(config.evaluation.features, weights, known).to(device)
    album = None if pictures is None else Album(pictures, config.evaluation.num_pictures, labels)
    networks = [net for net in (mask_generator, image_generator) if net is not None]

    size = config.evaluation.batch_size
    smaller = [f"a smaller evaluation.batch_size (now {size})"] if size > 1 else []

    @told_if_full(device, "an evaluation", smaller)
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
                accu = accuracies(restored, batch.fine, labels)
                drawn |= {"input": degraded.byte(), "restored": restored.byte()}
            if image_generator is not None:
                segmap = one_hot(restored, labels.num_classes)
                image = image_generator(segmap, edges, batch.instance, batch.keys, batch.image)
                drawn["synthesized"] = to_uint8(image)
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
        return restore_untrained(config, degraded, valid, image), None
    network = mask_generator

    def logits_of(*maps: Tensor) -> Tensor:
        logits: Tensor = network(*mask_generator_input(config, *maps))
        return logits

    # Whole samples, or pieces of them, as restore.py's fit=tile cuts these.
    align = config.degrade.factor if config.task == "super_resolution" else 1
    maps = (degraded, valid, image)
    restored_logits = blend(logits_of, maps, config.data.network_size, OVERLAP, align)
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
