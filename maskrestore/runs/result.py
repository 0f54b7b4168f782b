"""result.json of a finished run, for all who read it."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from maskrestore.config.run import RunConfig
from maskrestore.config.settings import flatten
from maskrestore.data.manifest import read_manifest
from maskrestore.runs import provenance, run_folder
from maskrestore.runs.figures import HEADLINES
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import file_sha256, write_atomically

SMALLER = ("smaller", "mixture")
"""Damages of which some or all are smaller maps, however they are sampled."""
NESTED = ("iou", "intervals", "by_degradation")
"""What of "metrics" is no single number."""


def read_result(run: Path) -> dict[str, Any]:
    """The result of a run; UserError if there is none, or none of ours.

    "metrics" holds numbers or None. Nested in it, or None: "iou", one for each class;
    "by_degradation", some for each kind of damage; "intervals", a low and a high end for each
    figure.
    """
    path = run / "result.json"
    if not path.is_file():
        raise UserError(
            f"run={run} has no result.json: finish it by the same command that started it, which "
            "ends with an evaluation"
        )
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        metrics, protocol = dict(result["metrics"]), dict(result["protocol"])
        figures = {"num_images": result["num_images"], **metrics}
        nested = {name: dict(figures.pop(name, None) or {}) for name in NESTED}
        kinds = {kind: dict(some) for kind, some in nested["by_degradation"].items()}
        figures |= flatten(nested | {"by_degradation": kinds})
        wrong = [key for key, value in figures.items() if not _is_figure(key, value)]
        if wrong:
            raise ValueError(f"no number: {', '.join(wrong)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a result: {error!r}; delete it, and run the same command again"
        ) from error
    return {**result, "metrics": metrics, "protocol": protocol}


def _is_figure(key: str, value: Any) -> bool:
    if key.startswith("intervals."):
        ends = value if isinstance(value, list) else []
        return len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
    return isinstance(value, int | float | None)


def write_result(
    config: RunConfig,
    metrics: dict[str, Any],
    num_images: int,
    folder: Path,
    generator: Mapping[str, Any],
) -> None:
    """Write folder/result.json, whole or not at all: the row, and everything needed to judge it.

    metrics: what `evaluate` returned. num_images: images seen in training. generator: the facts
    of a given one that it was evaluated with. Raises RuntimeError if not every val sample was
    counted exactly once.
    """
    left_out = run_folder.left_out_shards(config.run) or []
    manifest = read_manifest(config.data.shards)
    shards = manifest["splits"]["val"]["shards"]
    num_val = sum(shard["num_samples"] for shard in shards if shard["name"] not in left_out)
    if metrics["num_samples"] != num_val:
        raise RuntimeError(f"{metrics['num_samples']} samples evaluated of {num_val} in val")
    height, width = config.data.height_width
    synthesis, smaller = config.task == "synthesis", config.task == "super_resolution"
    restores, mixed = config.trains and not synthesis, config.degradation.startswith(SMALLER)
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
            "headline": None if synthesis else ", ".join(HEADLINES[config.protocol]),
            "degradation": config.degradation,
            "condition": config.condition if restores else None,
            "relaxation": config.relaxation if restores else None,
            "features": config.evaluation.features,
            "edges": "instance" if synthesis else config.generator.edges,
            **generator,
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
        "versions": {"python": platform.python_version(), "torch": provenance.torch_version()}
        | {name: version(name) for name in ("torchvision", "torch-fidelity")},
        "generator_sha256": file_sha256(own) if own is not None and own.is_file() else None,
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=1).encode())
