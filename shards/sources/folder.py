"""A user's own data: a folder of pictures and one of masks, of any label set."""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskrestore.config.data import SourceConfig
from maskrestore.config.inference import Encoding
from maskrestore.config.labels import UNANNOTATED, LabelSet
from maskrestore.data.pictures import Mask, Pixels, decode_mask, read_image
from maskrestore.data.sample import Sample
from maskrestore.inference.encodings import decode, detect, to_numbers
from maskrestore.utils.errors import ConfigError, UserError
from shards.sources.coarse import simulate_coarse
from shards.sources.pairs import check, connected_things, pair
from shards.sources.source import (
    FIRST_INSTANCE,
    Item,
    Source,
    all_problems,
    resize_ids,
    resize_image,
)
from shards.workers import look_at_all

NUM_LOOKED_AT = 32
"""Masks by which encoding=auto decides."""
ALL = ""
"""Stands for the splits where there are no folders of them."""
MOST_THINGS = 65536 - FIRST_INSTANCE


def open_source(config: SourceConfig) -> Source:
    """Finds all files and checks their headers. UserError lists all that is wrong."""
    if config.images is None or config.masks is None:
        raise ConfigError("images, masks: must be given for source=folder, as images=DIR masks=DIR")
    kinds = {"mask": config.masks}
    if config.coarse is not None:
        kinds["incomplete mask"] = config.coarse
    if config.instances is not None:
        kinds["instance map"] = config.instances
    problems: list[str] = []
    folders = _pairs(config, config.images, kinds, problems)
    items = [item for of_folder in folders.values() for item in of_folder]
    checks = look_at_all(check, items, "checking", "sample")
    bad = {item.files for item, found in zip(items, checks, strict=True) if found}
    problems += [problem for found in checks for problem in found]
    if problems and not config.only_good:
        remedy = "nothing was written; only_good=true leaves them out"
        raise all_problems(config.images, problems, remedy)
    good = {
        split: tuple(item for item in of_folder if item.files not in bad)
        for split, of_folder in folders.items()
    }
    splits = good if ALL not in good else _drawn(config, good[ALL])
    empty = [split for split, of_split in splits.items() if not of_split]
    if empty:
        why = "no picture with a mask is left for " + " and ".join(empty)
        raise all_problems(config.images, [*problems, why])
    encoding = _encoding(config, [item for of_split in splits.values() for item in of_split])
    notes = [f"left out: {problem}" for problem in problems]
    notes.append(f"encoding of the masks: {encoding}")
    if config.instances is None:
        notes.append("instances are simulated: the connected parts of countable classes")
    if config.coarse is None:
        notes.append("coarse masks are simulated: polygons inside each region")
    read = partial(_read, config, encoding)
    is_simulated = config.coarse is None
    return Source(
        "simulated" if is_simulated else "annotated", tuple(notes), splits, read, config.labels
    )


def _pairs(
    config: SourceConfig, images: Path, kinds: Mapping[str, Path], problems: list[str]
) -> dict[str, tuple[Item, ...]]:
    """The pairs of each split that has folders, or those of ALL."""
    root = images.parent
    if not any((images / split).is_dir() for split in config.splits):
        return {ALL: pair(root, images, kinds, problems)}
    return {
        split: pair(
            root, images / split, {k: folder / split for k, folder in kinds.items()}, problems
        )
        for split in config.splits
    }


def _drawn(config: SourceConfig, items: Sequence[Item]) -> dict[str, tuple[Item, ...]]:
    """val and train, by a hash of the names: another picture moves few of the others."""
    ordered = sorted(items, key=lambda item: zlib.crc32(item.key.encode()))
    num_val = max(1, round(config.val_share * len(ordered))) if len(ordered) > 1 else 0
    drawn = {"train": tuple(ordered[num_val:]), "val": tuple(ordered[:num_val])}
    unknown = [split for split in config.splits if split not in drawn]
    if unknown:
        raise ConfigError(
            f"splits={','.join(config.splits)}: there is no folder {config.images}/{unknown[0]}; "
            "without folders of splits there are train and val"
        )
    return {split: drawn[split] for split in config.splits}


def _encoding(config: SourceConfig, items: Sequence[Item]) -> Encoding:
    if config.encoding != "auto":
        return config.encoding
    step = max(1, len(items) // NUM_LOOKED_AT)
    looks: list[tuple[str, Mask]] = []
    for item in items[::step][:NUM_LOOKED_AT]:
        try:
            looks.append((item.files[1].name, decode(item.files[1].read_bytes(), config.labels)))
        except (OSError, ValueError):
            continue  # told of with all others, when they are read
    try:
        return detect(looks, config.labels) if looks else "ids"
    except ValueError as error:
        raise UserError(f"encoding=auto: {error}") from error


def _read(config: SourceConfig, encoding: Encoding, item: Item) -> Sample | str:
    try:
        return _sample(config, encoding, item)
    except UserError as error:
        if config.only_good:
            return f"left out: {error}"
        raise


def _sample(config: SourceConfig, encoding: Encoding, item: Item) -> Sample:
    height, width = config.height_width
    labels = config.labels
    image_path, mask_path, *others = item.files
    image = resize_image(read_image(image_path), height, width)
    whole = _numbers(mask_path, encoding, labels)
    if config.instances is None:
        instance = connected_things(whole, labels.countable)
    else:
        instance = _things(others[-1], whole, labels)
    fine, instance = resize_ids(whole, height, width), resize_ids(instance, height, width)
    if config.coarse is not None:
        coarse = resize_ids(_numbers(others[0], encoding, labels), height, width)
    else:
        rng = np.random.default_rng([config.source_seed, zlib.crc32(item.key.encode())])
        # What has no class is nobody's region.
        coarse = simulate_coarse(fine, instance, rng, frame=(UNANNOTATED,))
    return Sample(item.key, image, fine, coarse, instance)


def _numbers(path: Path, encoding: Encoding, labels: LabelSet) -> Pixels:
    try:
        return to_numbers(decode(path.read_bytes(), labels), encoding, labels)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error


def _things(path: Path, numbers: Pixels, labels: LabelSet) -> NDArray[np.uint16]:
    """uint16 [H,W]: class numbers, and from FIRST_INSTANCE on the things of countable classes."""
    try:
        pixels = decode_mask(path.read_bytes()).pixels
    except OSError as error:
        raise UserError(f"{path}: cannot be read as an instance map: {error}") from error
    if pixels.ndim == 3:
        raise UserError(f"{path}: is RGB, where each thing must have a number of its own")
    instance = numbers.astype(np.uint16)
    inside = np.isin(numbers, labels.countable)
    things, number = np.unique(
        pixels[inside].astype(np.int64) * 256 + numbers[inside], return_inverse=True
    )
    if len(things) > MOST_THINGS:
        raise UserError(f"{path}: has {len(things)} things, and {MOST_THINGS} are the most")
    instance[inside] = FIRST_INSTANCE + number
    return instance
