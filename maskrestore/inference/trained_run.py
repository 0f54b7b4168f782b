"""The run whose mask generator is used: found by its folder, its settings read."""

from pathlib import Path
from typing import Any

from maskrestore.config.inference import RestoreConfig
from maskrestore.config.run import RunConfig
from maskrestore.models.weights import load_weights
from maskrestore.runs.resume_check import read_run_config
from maskrestore.utils.errors import ConfigError, UserError

WEIGHTS = "mask_generator.pth"


def find_run(given: Path, setting: str) -> RunConfig:
    """The settings of a finished run that restores masks, its `run` the folder where it is now.

    given: that folder, or the mask_generator.pth in it, as the setting of this name was. Raises
    ConfigError or UserError if it is none.
    """
    folder = given
    if given.is_file():
        folder = given.parent
        if given.name != WEIGHTS:
            raise UserError(f"{setting}={given}: give a run folder, or the {WEIGHTS} in it")
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"{setting}={given} is not of a run: there is no {folder}/config.yaml, which tells "
            "what the network looks like"
        )
    run = read_run_config(folder / "config.yaml")
    if run.task == "synthesis" or not run.trains:
        raise UserError(
            f"{setting}={given}: a run with task={run.task} loss={run.loss} trains no mask "
            "generator; give one with task=densify or super_resolution and another loss than none"
        )
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise UserError(
            f"{setting}={given}: the run is not finished, there is no {weights}; the command that "
            "started it continues it"
        )
    logits = load_weights(weights).get("conv_logits.weight")
    labels = run.data.labels
    if logits is not None and len(logits) != labels.num_classes:
        raise UserError(
            f"{weights}: restores {len(logits)} classes, but data.labels of {folder}/config.yaml "
            f"is {labels.name}, which has {labels.num_classes}"
        )
    return run.model_copy(update={"run": folder})


def choose_run(given: Path, has_images: bool) -> Path:
    """`given`, or where that is a folder of runs, the one of them whose network sees what there is:
    the pictures too (has_images), or masks alone.

    Raises UserError if there is none, or several.
    """
    if not given.is_dir() or (given / "config.yaml").is_file():
        return given
    runs = []
    for settings in sorted(given.glob("*/config.yaml")):
        run = read_run_config(settings)
        finished = run.task != "synthesis" and (settings.parent / WEIGHTS).is_file()
        if finished and bool(run.image_channels) == has_images:
            runs.append(settings.parent)
    what = "masks and their pictures" if has_images else "masks alone"
    if len(runs) > 1:
        names = ", ".join(map(str, runs))
        raise UserError(f"checkpoint={given} has several runs that restore {what}: give {names}")
    if not runs and any(given.glob("*/config.yaml")):
        why = "images= is given" if has_images else "without images="
        raise UserError(f"checkpoint={given} has no finished run that restores {what} ({why})")
    return runs[0] if runs else given


def read_run(config: RestoreConfig) -> RunConfig:
    """The settings of the run whose checkpoint is given, to be operated as config says.

    Raises ConfigError or UserError if it restores no masks, or not with what is given.
    """
    given = choose_run(config.checkpoint, config.images is not None)
    run = find_run(given, "checkpoint")
    if config.augment and not (config.generator or run.generator.path):
        raise UserError(
            f"augment=true: the run of checkpoint={given} has no image generator; give one as "
            "generator=FILE (an official one of docs/generators.md, or generator.pth of a run with "
            "task=synthesis)"
        )
    if config.augment and run.generator.style_encoder and config.images is None:
        raise ConfigError(
            f"images: must be given, as images=DIR: the run of checkpoint={given} takes the style "
            f"of its pictures from real ones (generator.style={run.generator.style})"
        )
    if run.task == "super_resolution" and config.keep_annotated:
        raise ConfigError(
            f"keep_annotated=true: the run of checkpoint={given} has task=super_resolution, where "
            "all of the small map counts as annotated: it would come back as it is; leave that out"
        )
    if run.image_channels and config.images is None:
        raise ConfigError(
            f"images: must be given, as images=DIR: the run of checkpoint={given} was trained with "
            "condition=mask_image and sees the picture as well"
        )
    precision = config.precision or run.distributed.precision
    frozen = precision
    if config.augment:
        frozen = config.precision or run.distributed.frozen_precision
    distributed = {
        **{"device": config.device, "num_processes": 0, "cpu_threads": config.cpu_threads},
        **{"engine": "ddp", "zero_stage": 0, "offload_optimizer": False},
        **{"precision": precision, "frozen_precision": frozen},
        "activation_checkpointing": False,
    }
    generator: dict[str, Any] = {"path": config.generator or run.generator.path}
    if run.generator.edges == "instance":  # which nobody has of a restored mask
        generator["edges"] = "argmax"
    return run.model_copy(
        update={
            "distributed": run.distributed.model_copy(update=distributed),
            "generator": run.generator.model_copy(update=generator),
            # Processes wait for the one that has the largest masks.
            "health": run.health.model_copy(update={"watchdog_seconds": 0.0}),
        }
    )
