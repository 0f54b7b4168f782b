"""Cityscapes in its official layout: {root}/{type}/{split}/{city}/{key}_{kind}.png.

Source: the README of cityscapesScripts; key is {city}_{sequence:06}_{frame:06}. Every file is
decoded and checked before the first shard is written.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrestore.config import SourceConfig
from maskrestore.labels import NUM_CLASSES
from maskrestore.sample import Sample
from maskrestore.settings import ConfigError, UserError
from shards.coarse import simulate_coarse
from shards.source import (
    COUNTABLE,
    Item,
    Source,
    all_problems,
    bit_depth,
    read_ids,
    read_image,
    resize_ids,
    resize_image,
    unknown_ids,
)
from shards.workers import run_all

SPLITS = ("train", "val", "train_extra")
KNOWN_BLACK = "troisdorf_000000_000073"
"""train_extra picture that was published black; left out by name, others by check."""

IMAGE = ("leftImg8bit", "leftImg8bit")
FINE = ("gtFine", "gtFine_labelIds")
INSTANCE = ("gtFine", "gtFine_instanceIds")
COARSE = ("gtCoarse", "gtCoarse_labelIds")
COARSE_INSTANCE = ("gtCoarse", "gtCoarse_instanceIds")
KEY = re.compile(r"[A-Za-z-]+_\d{6}_\d{6}")


def open_source(config: SourceConfig, workers: int) -> Source:
    """Finds and checks all files of the splits. UserError lists everything that is wrong.

    Fine and instance masks of train_extra are its coarse ones, for nobody drew it finely. If the
    whole gtCoarse folder is missing, coarse masks are simulated. The notes say so.
    """
    root = config.root
    if root is None:
        raise ConfigError("root: must be given for source=cityscapes, as root=DIR")
    unknown = [split for split in config.splits if split not in SPLITS]
    if unknown:
        raise ConfigError(f"splits={','.join(unknown)}: cityscapes has {', '.join(SPLITS)}")
    simulated = not (root / COARSE[0]).is_dir() and "train_extra" not in config.splits
    problems: list[str] = []
    splits = {
        split: _pair(root, split, _kinds(split, simulated), problems) for split in config.splits
    }
    if problems:
        raise all_problems(root, problems)
    items = [item for found in splits.values() for item in found]
    checks = run_all(_check, items, [1] * len(items), workers, "checking", "sample")
    blank = {item.files[0] for item, check in zip(items, checks, strict=True) if check.blank}
    problems = [problem for check in checks for problem in check.problems]
    problems += _unequal_sizes(items, checks)
    if problems:
        raise all_problems(root, problems)
    notes = [f"left out: {path.relative_to(root)}, a black picture" for path in sorted(blank)]
    if simulated:
        notes.append("no gtCoarse: coarse masks are simulated: polygons inside each region")
    if "train_extra" in splits:
        notes.append("train_extra: the fine mask is the coarse annotation, 0 where there is none")
    kept = {
        split: tuple(item for item in found if item.files[0] not in blank)
        for split, found in splits.items()
    }
    empty = [split for split, found in kept.items() if not found]
    if empty:
        raise UserError(f"{root}: no usable sample in {', '.join(empty)}")
    read = partial(_read, *config.height_width, config.source_seed)
    return Source("simulated" if simulated else "annotated", tuple(notes), kept, read)


@dataclass(frozen=True)
class _Check:
    """What looking at the pixels of one sample found. size: width, height; None if unreadable."""

    problems: tuple[str, ...]
    size: tuple[int, int] | None
    blank: bool


def _kinds(split: str, simulated: bool) -> tuple[tuple[str, str], ...]:
    """(type, kind) of the files of a sample: picture, fine, instance and perhaps coarse."""
    if split == "train_extra":
        return IMAGE, COARSE, COARSE_INSTANCE
    return (IMAGE, FINE, INSTANCE) if simulated else (IMAGE, FINE, INSTANCE, COARSE)


def _pair(
    root: Path, split: str, kinds: tuple[tuple[str, str], ...], problems: list[str]
) -> tuple[Item, ...]:
    found: list[dict[tuple[str, str], Path]] = []
    for folder, kind in kinds:
        files = {}
        if not (root / folder / split).is_dir():
            problems.append(f"{folder}/{split}: there is no such folder")
        for path in sorted((root / folder / split).glob(f"*/*_{kind}.png")):
            key = path.name.removesuffix(f"_{kind}.png")
            files[path.parent.name, key] = path
            if not KEY.fullmatch(key):
                problems.append(
                    f"{path.relative_to(root)}: is not named city_000000_000000_{kind}.png"
                )
        found.append(files)
    samples = sorted(set().union(*found))
    if not samples and all((root / folder / split).is_dir() for folder, _ in kinds):
        problems.append(f"{split}: there are no pictures CITY/*_{kinds[0][1]}.png")
    for city, key in samples:
        for files, (folder, kind) in zip(found, kinds, strict=True):
            if (city, key) not in files and (root / folder / split).is_dir():
                problems.append(f"{folder}/{split}/{city}/{key}_{kind}.png: is missing")
    complete = [sample for sample in samples if all(sample in files for files in found)]
    return tuple(Item(key, tuple(files[city, key] for files in found)) for city, key in complete)


def _check(item: Item) -> _Check:
    problems = []
    image_path, *mask_paths = item.files
    size, blank = None, item.key == KNOWN_BLACK
    try:
        image = read_image(image_path)
        size = image.size
        blank = blank or _is_blank(image.getextrema())
        depth = bit_depth(image_path)
        if (image.mode != "RGB" or depth != 8) and not blank:
            problems.append(
                f"{image_path}: must be RGB of 8 bits, got mode {image.mode} of {depth} bits"
            )
    except UserError as error:
        problems.append(str(error))
    for path in mask_paths:
        try:
            ids: NDArray[Any] = (
                read_ids(path, np.uint16)
                if path.stem.endswith("instanceIds")
                else read_ids(path, np.uint8)
            )
        except UserError as error:
            problems.append(str(error))
            continue
        problems += [f"{path}: {problem}" for problem in _wrong_ids(ids)]
        if size is not None and ids.shape != size[::-1]:
            width, height = size
            problems.append(
                f"{path}: is {ids.shape[1]}x{ids.shape[0]}, its picture {width}x{height} pixels"
            )
    return _Check(tuple(problems), size, blank)


def _is_blank(extrema: tuple[float, float] | tuple[tuple[float, float], ...]) -> bool:
    bands = np.reshape(np.asarray(extrema), (-1, 2))
    return bool(np.all(bands[:, 0] == bands[:, 1]))


def _wrong_ids(ids: NDArray[Any]) -> Iterator[str]:
    wrong = unknown_ids(ids)
    if wrong:
        shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
        allowed = f"0..{NUM_CLASSES - 1}"
        if ids.dtype == np.uint16:
            allowed += f" or class*1000+n of classes {COUNTABLE[0]}..{COUNTABLE[-1]}"
        hint = " (255 is the void of trainIds; labelIds are needed)" if wrong[0] == 255 else ""
        yield f"ids {shown} are not {allowed}{hint}"


def _unequal_sizes(items: list[Item], checks: list[_Check]) -> list[str]:
    """Pictures of another size than most."""
    sizes = Counter(check.size for check in checks if check.size is not None)
    if len(sizes) < 2:
        return []
    (width, height), _ = sizes.most_common(1)[0]
    return [
        f"{item.files[0]}: is {check.size[0]}x{check.size[1]}, most are {width}x{height} pixels"
        for item, check in zip(items, checks, strict=True)
        if check.size is not None and check.size != (width, height)
    ]


def _read(height: int, width: int, seed: int, item: Item) -> Sample:
    image = resize_image(read_image(item.files[0]), height, width)
    fine = resize_ids(read_ids(item.files[1], np.uint8), height, width)
    instance = resize_ids(read_ids(item.files[2], np.uint16), height, width)
    if len(item.files) > 3:
        coarse = resize_ids(read_ids(item.files[3], np.uint8), height, width)
    elif item.files[1].stem.endswith(COARSE[1]):
        coarse = fine
    else:
        rng = np.random.default_rng([seed, zlib.crc32(item.key.encode())])
        coarse = simulate_coarse(fine, instance, rng)
    return Sample(item.key, image, fine, coarse, instance)
