"""Cityscapes in its official layout: {root}/{type}/{split}/{city}/{key}_{kind}.png.

Source: the README of cityscapesScripts; key is {city}_{sequence:06}_{frame:06}. Names and headers
of all files are checked before the first shard is written, pixels when they are read.
"""

import re
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrestore.config.data import SourceConfig
from maskrestore.data.pictures import read_header, read_image
from maskrestore.data.sample import Sample
from maskrestore.inference.encodings import meaning_of_palette
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.file_names import KNOWN_BLACK, plain, visible
from shards.sources.coarse import simulate_coarse
from shards.sources.source import (
    CITYSCAPES,
    COUNTABLE,
    FRAME_IDS,
    NUM_CLASSES,
    Ids,
    Item,
    Source,
    all_problems,
    ids_of,
    left_out,
    read_ids_header,
    read_mask,
    resize_ids,
    resize_image,
    unknown_ids,
)
from shards.workers import look_at_all

SPLITS = ("train", "val", "train_extra")

IMAGE = ("leftImg8bit", "leftImg8bit")
FINE = ("gtFine", "gtFine_labelIds")
INSTANCE = ("gtFine", "gtFine_instanceIds")
COARSE = ("gtCoarse", "gtCoarse_labelIds")
COARSE_INSTANCE = ("gtCoarse", "gtCoarse_instanceIds")
KEY = re.compile(r"[A-Za-z-]+_\d{6}_\d{6}")


def open_source(config: SourceConfig) -> Source:
    """Finds all files of the splits and checks their headers. UserError lists all that is wrong.

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
    kept = {
        split: tuple(item for item in of_split if item.key != KNOWN_BLACK)
        for split, of_split in splits.items()
    }
    items = [item for of_split in kept.values() for item in of_split]
    checks = look_at_all(_check, items, "checking", "sample")
    problems = [problem for check, _ in checks for problem in check]
    problems += _unequal_sizes(items, [size for _, size in checks])
    if problems:
        raise all_problems(root, problems)
    notes = [left_out(KNOWN_BLACK)] if kept != splits else []
    if simulated:
        notes.append("no gtCoarse: coarse masks are simulated: polygons inside each region")
    if "train_extra" in splits:
        notes.append("train_extra: the fine mask is the coarse annotation, 0 where there is none")
    empty = [split for split, of_split in kept.items() if not of_split]
    if empty:
        raise UserError(f"{root}: no usable sample in {', '.join(empty)}")
    read = partial(_read, *config.height_width, config.source_seed)
    return Source("simulated" if simulated else "annotated", tuple(notes), kept, read)


def _kinds(split: str, simulated: bool) -> tuple[tuple[str, str], ...]:
    """(type, kind) of the files of a sample: picture, fine, instance and perhaps coarse."""
    if split == "train_extra":
        return IMAGE, COARSE, COARSE_INSTANCE
    return (IMAGE, FINE, INSTANCE) if simulated else (IMAGE, FINE, INSTANCE, COARSE)


def _pair(
    root: Path, split: str, kinds: tuple[tuple[str, str], ...], problems: list[str]
) -> tuple[Item, ...]:
    by_kind: list[dict[tuple[str, str], Path]] = []
    for folder, kind in kinds:
        files: dict[tuple[str, str], Path] = {}
        if not (root / folder / split).is_dir():
            problems.append(f"{folder}/{split}: there is no such folder")
        for path in _named(root / folder / split, f"_{kind}.png"):
            key = plain(path.name).removesuffix(f"_{kind}.png")
            if not KEY.fullmatch(key):
                problems.append(
                    f"{path.relative_to(root)}: is not named city_000000_000000_{kind}.png"
                )
            other = files.setdefault((plain(path.parent.name), key), path)
            if other != path:
                problems.append(f"{path.relative_to(root)}: there is {other.name} beside it")
        by_kind.append(files)
    samples = sorted(set().union(*by_kind))
    if not samples and all((root / folder / split).is_dir() for folder, _ in kinds):
        problems.append(f"{split}: there are no pictures CITY/*_{kinds[0][1]}.png")
    for city, key in samples:
        for files, (folder, kind) in zip(by_kind, kinds, strict=True):
            if (city, key) not in files and (root / folder / split).is_dir():
                problems.append(f"{folder}/{split}/{city}/{key}_{kind}.png: is missing")
    complete = [sample for sample in samples if all(sample in files for files in by_kind)]
    return tuple(Item(key, tuple(files[city, key] for files in by_kind)) for city, key in complete)


def _named(split: Path, ending: str) -> list[Path]:
    """The files of all cities whose names end so."""
    cities = [city for city in visible(split) if city.is_dir()] if split.is_dir() else []
    paths = [path for city in cities for path in visible(city)]
    return [path for path in paths if plain(path.name).endswith(ending)]


def _check(item: Item) -> tuple[list[str], tuple[int, int] | None]:
    """What is wrong with the headers of a sample, and the picture's width and height if it is one.

    Files: picture, fine, instance (16 bits) and perhaps coarse.
    """
    problems: list[str] = []
    size = None
    for path, bits in zip(item.files, (0, 8, 16, 8), strict=False):
        try:
            header = read_ids_header(path, bits) if bits else read_header(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if not bits:
            size = header.size
            if (header.mode, header.depth) != ("RGB", 8):
                problems.append(
                    f"{path}: must be RGB of 8 bits, got mode {header.mode} of {header.depth} bits"
                )
        elif size is not None and header.size != size:
            problems.append(f"{path}: is {_by(header.size)}, its picture {_by(size)} pixels")
    return problems, size


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _unequal_sizes(items: list[Item], sizes: list[tuple[int, int] | None]) -> list[str]:
    """Pictures of another size than most."""
    counts = Counter(size for size in sizes if size is not None)
    if len(counts) < 2:
        return []
    most, _ = counts.most_common(1)[0]
    return [
        f"{item.files[0]}: is {_by(size)}, most are {_by(most)} pixels"
        for item, size in zip(items, sizes, strict=True)
        if size not in (None, most)
    ]


def _read(height: int, width: int, seed: int, item: Item) -> Sample | str:
    arrays: list[Any] = []
    problems: list[str] = []
    for path, dtype in zip(item.files, (None, np.uint8, np.uint16, np.uint8), strict=False):
        try:
            if dtype is None:
                arrays.append(resize_image(read_image(path), height, width))
            else:
                arrays.append(resize_ids(_read_ids(path, dtype), height, width))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    image, fine, instance, *annotated = arrays
    if np.all(image == image[0, 0]):
        return left_out(item.key)
    if annotated:
        [coarse] = annotated
    elif item.files[1].stem.endswith(COARSE[1]):
        coarse = fine
    else:
        rng = np.random.default_rng([seed, zlib.crc32(item.key.encode())])
        coarse = simulate_coarse(fine, instance, rng, FRAME_IDS)
    return Sample(item.key, image, fine, coarse, instance)


def _read_ids(path: Path, dtype: type[Ids]) -> NDArray[Ids]:
    """The ids of a mask; UserError if there are some that Cityscapes has not."""
    mask = read_mask(path)
    meaning = meaning_of_palette(mask, CITYSCAPES)
    if meaning in ("colors", "train_ids"):
        raise UserError(
            f"{path}: its palette says that it holds {meaning}; give label ids, as grey of 8 bits"
        )
    ids = ids_of(mask, dtype)
    wrong = unknown_ids(ids)
    if wrong:
        shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
        allowed = f"0..{NUM_CLASSES - 1}"
        if dtype is np.uint16:
            allowed += f" or class*1000+n of classes {COUNTABLE[0]}..{COUNTABLE[-1]}"
        hint = " (255 is the void of trainIds; labelIds are needed)" if wrong[0] == 255 else ""
        raise UserError(f"{path}: ids {shown} are not {allowed}{hint}")
    return ids
