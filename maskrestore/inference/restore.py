"""Restoring the masks of users: what is asked for, by whom, and what came of it.

How to use it: docs/restoring.md.
"""

import platform
import sys
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple, cast

import torch

from maskrestore.config.inference import Encoding, RestoreConfig
from maskrestore.config.run import RunConfig
from maskrestore.distributed.memory import told_if_full
from maskrestore.distributed.processes import (
    Accelerator,
    broadcast_object,
    gather_objects,
    make_accelerator,
    on_every_process,
    on_main_process,
)
from maskrestore.inference.mask_files import MaskFile, check_apart, detect_encoding, find_masks
from maskrestore.inference.networks import Networks
from maskrestore.inference.output.folder import SHOWN, OutputFolder
from maskrestore.inference.processing import Processor
from maskrestore.inference.restorer import Restorer
from maskrestore.inference.trained_run import WEIGHTS, read_run
from maskrestore.runs import provenance
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import file_sha256
from maskrestore.utils.stopping import StopRequest


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
    folder = OutputFolder(config.output, config.part, accelerator.process_index, plan.identity)
    mine = plan.masks[config.share]
    together = partial(on_every_process, accelerator)
    full = told_if_full(accelerator.device, "restoring", _less_memory(config))
    networks = together(full(lambda: Networks(run, config.augment, accelerator.device)))
    processor = Processor(config, run, plan.encoding)
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
    restorer = Restorer(networks, processor, config.output, folder.journal, config.batch_size)
    with StopRequest() as stop:
        problems = together(full(lambda: restorer.restore(own, stop, label if is_main else None)))
    not_restored = [line for part in gather_objects(accelerator, problems) for line in part]
    on_main_process(accelerator, lambda: folder.summarize(plan.masks, config.augment))
    if is_main:
        counts = {"restored": len(left) - len(not_restored), "done before": len(mine) - len(left)}
        counts |= {"not restored": len(not_restored)}
        told = [f"{name}: {count}" for name, count in counts.items() if count]
        print(", ".join(told) or f"part={config.part}: no mask is left for it")
        print(f"{config.output}/summary.csv")
        if not_restored:
            lines = ["not restored:", *not_restored[:SHOWN]]
            if not_restored[SHOWN:]:
                lines.append(f"and {len(not_restored) - SHOWN} more: see summary.csv")
            print(*lines, sep="\n  ", file=sys.stderr)
    accelerator.wait_for_everyone()
    if held is not None:
        held.close()
    accelerator.end_training()
    return 2 if not_restored else 0


class Outlook(NamedTuple):
    """What there is to be restored. left: places, in the list of all masks, of those not done."""

    num_masks: int
    left: list[int]


def find_out(config: RestoreConfig) -> Outlook:
    """Find out beforehand what `restore` would refuse, and what is left, in all parts. Raises
    ConfigError or UserError for what the user can mend."""
    plan = _plan(config, read_run(config))
    folder = OutputFolder(config.output, config.part, 0, plan.identity)
    folder.check(plan.masks, config.augment, config.overwrite)
    done = folder.done(plan.masks, config.augment)
    return Outlook(
        len(plan.masks), [place for place, mask in enumerate(plan.masks) if mask.name not in done]
    )


def summarize(config: RestoreConfig) -> None:
    """Write the tables of all that was restored into the output folder: whoever restored the last
    mask may have died before it did. Raises ConfigError or UserError as `find_out` does."""
    plan = _plan(config, read_run(config))
    folder = OutputFolder(config.output, config.part, 0, plan.identity)
    folder.summarize(plan.masks, config.augment)


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


def _less_memory(config: RestoreConfig) -> list[str]:
    size = config.batch_size
    smaller = [f"a smaller batch_size (now {size})"] if size > 1 else []
    return smaller + ["device=cpu"] * (config.device != "cpu")


def _plan(config: RestoreConfig, run: RunConfig) -> Plan:
    check_apart(config.output, config.input)
    masks, notes = find_masks(config.input, config.images)
    encoding = config.encoding
    if encoding == "auto":
        encoding = detect_encoding(masks, run.data.labels)
    generator = run.generator.path if config.augment else None
    if generator is not None and not generator.is_file():
        raise UserError(
            f"augment=true: there is no image generator {generator}: give generator=FILE"
        )
    identity = {
        "input": str(config.input.resolve()),
        "images": str(config.images.resolve()) if config.images is not None else None,
        "encoding": encoding,
        "fit": config.fits_by(run),
        "overlap": config.overlap if config.fits_by(run) == "tile" else None,
        "keep_annotated": config.keeps_annotated(run),
        "regions": config.regions,
        "augment": config.augment,
        "precision": run.distributed.precision,
        "frozen_precision": run.distributed.frozen_precision if config.augment else None,
        "checkpoint_sha256": file_sha256(run.run / WEIGHTS),
        "generator_sha256": file_sha256(generator) if generator is not None else None,
        "run": {
            "task": run.task,
            "size": run.data.crop or run.data.size,
            "degrade": run.degrade.model_dump(mode="json"),
            "edges": run.generator.edges,
            **({"style": run.generator.style} if config.augment else {}),
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
