"""Restoring the masks of users: what is asked for, by whom, and what came of it.

How to use it: docs/restoring.md.
"""

import platform
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from maskrestore import provenance
from maskrestore.config import RunConfig
from maskrestore.distributed import (
    Accelerator,
    broadcast_object,
    gather_objects,
    make_accelerator,
    on_every_process,
    on_main_process,
)
from maskrestore.drift import read_run_config
from maskrestore.files import file_sha256
from maskrestore.labels import NUM_CLASSES
from maskrestore.mask_files import MaskFile, check_apart, detect_encoding, find_masks
from maskrestore.models.pretrained import load_weights
from maskrestore.restore_config import Encoding, RestoreConfig
from maskrestore.restore_folder import SHOWN, RestoreFolder
from maskrestore.restorer import Restorer
from maskrestore.settings import ConfigError, UserError
from maskrestore.stopping import StopRequest

WEIGHTS = "mask_generator.pth"


class Plan(NamedTuple):
    """What all processes agree on."""

    masks: list[MaskFile]
    notes: list[str]
    encoding: Encoding
    identity: dict[str, Any]


def restore(config: RestoreConfig) -> int:
    """Restore this command's masks, those of `part`, shared out among all processes.

    Returns the exit status: 2 if some masks could not be restored, which are named at the end.
    Raises ConfigError or UserError for everything else that the user can mend, and Interrupted if
    asked to stop: what was written until then is whole, and the same command continues.
    """
    run = read_run(config)
    accelerator = _make_accelerator(config, run)
    planned = on_main_process(accelerator, lambda: _plan(config, run))
    plan = cast(Plan, broadcast_object(planned))
    folder = RestoreFolder(config.output, config.part, accelerator.process_index, plan.identity)
    mine = plan.masks[config.share]
    together = partial(on_every_process, accelerator)
    restorer = together(lambda: Restorer(config, run, plan.encoding, folder, accelerator.device))
    held = on_main_process(
        accelerator, lambda: folder.claim(mine, config.augment, _facts(config), config.overwrite)
    )
    found_done = on_main_process(accelerator, lambda: folder.done(mine, config.augment))
    done = cast(set[str], broadcast_object(found_done))
    left = [mask for mask in mine if mask.name not in done]
    own = left[accelerator.process_index :: accelerator.num_processes]
    is_main = accelerator.is_main_process
    if is_main:
        print(*plan.notes, f"encoding: {plan.encoding}", sep="\n")
    label = "restore"
    if accelerator.num_processes > 1:
        label += f", process 1 of {accelerator.num_processes}"
    with StopRequest() as stop:
        problems = together(lambda: restorer.restore(own, stop, label if is_main else None))
    found = [line for part in gather_objects(accelerator, problems) for line in part]
    on_main_process(accelerator, lambda: folder.summarize(plan.masks, config.augment))
    if is_main:
        counts = {"restored": len(left) - len(found), "done before": len(mine) - len(left)}
        counts |= {"not restored": len(found)}
        told = [f"{name}: {count}" for name, count in counts.items() if count]
        print(", ".join(told) or f"part={config.part}: no mask is left for it")
        print(f"{config.output}/summary.csv")
        if found:
            more = f"\n  and {len(found) - SHOWN} more: see summary.csv" if found[SHOWN:] else ""
            print("not restored:", *found[:SHOWN], sep="\n  ", end=f"{more}\n", file=sys.stderr)
    accelerator.wait_for_everyone()
    if held is not None:
        held.close()
    accelerator.end_training()
    return 2 if found else 0


def find_out(config: RestoreConfig) -> int:
    """Find out beforehand what `restore` would refuse; returns how many masks there are, of all
    parts. Raises ConfigError or UserError for what the user can mend."""
    return len(_plan(config, read_run(config)).masks)


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
    if logits is not None and len(logits) != NUM_CLASSES:
        raise UserError(
            f"{weights}: restores {len(logits)} classes, but the masks here have {NUM_CLASSES} "
            f"(ids 0..{NUM_CLASSES - 1} of Cityscapes)"
        )
    return run.model_copy(update={"run": folder})


def read_run(config: RestoreConfig) -> RunConfig:
    """The settings of the run whose checkpoint is given, to be operated as config says.

    Raises ConfigError or UserError if it restores no masks, or not with what is given.
    """
    given = config.checkpoint
    run = find_run(given, "checkpoint")
    if config.augment and not (config.generator or run.generator.path):
        raise UserError(
            f"augment=true: the run of checkpoint={given} has no image generator; give one as "
            "generator=FILE (the official latest_net_G.pth, or generator.pth of a run with "
            "task=synthesis)"
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


def _make_accelerator(config: RestoreConfig, run: RunConfig) -> Accelerator:
    """ConfigError names this program's settings, not those of train.py that they stand for."""
    try:
        return make_accelerator(run, for_training=False)
    except ConfigError as error:
        text = str(error).replace("frozen_precision", "precision").replace("distributed.", "")
        origin = "" if config.precision else f" (it is that of checkpoint={config.checkpoint})"
        lines = (line + origin * line.startswith("precision=") for line in text.splitlines())
        # Both precisions are one setting here.
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def _plan(config: RestoreConfig, run: RunConfig) -> Plan:
    check_apart(config.output, config.input)
    masks, notes = find_masks(config.input, config.images)
    encoding = detect_encoding(masks) if config.encoding == "auto" else config.encoding
    generator = run.generator.path if config.augment else None
    if generator is not None and not generator.is_file():
        raise UserError(
            f"augment=true: there is no image generator {generator}: give generator=FILE"
        )
    identity = {
        "input": str(config.input.resolve()),
        "images": str(config.images.resolve()) if config.images is not None else None,
        "encoding": encoding,
        "fit": config.fit,
        "overlap": config.overlap if config.fit == "tile" else None,
        "keep_annotated": config.keeps_annotated(run),
        "regions": config.regions,
        "augment": config.augment,
        "precision": run.distributed.precision,
        "frozen_precision": run.distributed.frozen_precision if config.augment else None,
        "checkpoint_sha256": file_sha256(run.run / WEIGHTS),
        "generator_sha256": file_sha256(generator) if generator is not None else None,
        "run": {
            "task": run.task,
            "size": run.data.size,
            "degrade": run.degrade.model_dump(mode="json"),
            "edges": run.generator.edges,
        },
    }
    return Plan(masks, notes, encoding, identity)


def _facts(config: RestoreConfig) -> dict[str, Any]:
    """What restore.json tells beside the identity."""
    return {
        "checkpoint": str(config.checkpoint),
        "commit": provenance.commit(),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)}
        | {name: version(name) for name in ("numpy", "pillow")},
    }
