"""Pictures and their masks in folders of their own, paired by name."""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrestore.data.pictures import read_header
from maskrestore.utils.errors import UserError
from maskrestore.utils.file_names import PICTURES, plain, visible
from shards.sources.source import FIRST_INSTANCE, Item, read_ids_header


def pair(
    root: Path, images: Path, masks: Mapping[str, Path], problems: list[str]
) -> tuple[Item, ...]:
    """The pictures of a folder, each with its file in each folder of `masks` (what it is called in
    messages -> the folder), by the names without suffixes. What is wrong is added to `problems`,
    with paths as seen from root."""
    folders = {"picture": images, **masks}
    missing = [folder for folder in folders.values() if not folder.is_dir()]
    problems += [f"{_from(root, folder)}: there is no such folder" for folder in missing]
    if missing:
        return ()
    found: dict[str, dict[str, Path]] = {}
    for kind, folder in folders.items():
        suffixes = PICTURES if kind == "picture" else (".png",)
        paths = [path for path in visible(folder) if plain(path.name).endswith(suffixes)]
        counts = Counter(map(_key, paths))
        problems += [
            f"{_from(root, path)}: there is another {kind} of that name"
            for path in paths
            if counts[_key(path)] > 1
        ]
        found[kind] = {_key(path): path for path in paths}
    pictures = found.pop("picture")
    for key, path in pictures.items():
        problems += [
            f"{_from(root, path)}: has no {kind} {_from(root, masks[kind])}/{path.stem}.png"
            for kind, of_kind in found.items()
            if key not in of_kind
        ]
        member = path.stem.encode(errors="replace")  # of a tar, whose names have 100 bytes
        if "." in path.stem or len(member) > 80 or member.decode() != path.stem:
            problems.append(
                f"{_from(root, path)}: the name must have no further dot and at most 80 bytes of "
                "UTF-8"
            )
    for of_kind in found.values():
        problems += [
            f"{_from(root, path)}: has no picture in {_from(root, images)}/"
            for key, path in of_kind.items()
            if key not in pictures
        ]
    if not pictures and not any(found.values()):
        problems.append(f"{_from(root, images)}: there are no pictures")
    return tuple(
        Item(path.stem, (path, *(of_kind[key] for of_kind in found.values())))
        for key, path in pictures.items()
        if all(key in of_kind for of_kind in found.values())
    )


def check(item: Item, only_ids: bool = False) -> list[str]:
    """What the headers of a picture and its masks say that is wrong. only_ids: masks must be grey
    of 8 bits or have a palette."""
    problems, size = [], None
    image_path, *mask_paths = item.files
    try:
        header = read_header(image_path)
        size = header.size
        if header.depth > 8:
            problems.append(f"{image_path}: must have 8 bits per channel, got {header.depth} bits")
    except UserError as error:
        problems.append(str(error))
    for path in mask_paths:
        try:
            of_mask = (read_ids_header(path, 8) if only_ids else read_header(path)).size
            if size is not None and of_mask != size:
                problems.append(
                    f"{path}: is {of_mask[0]}x{of_mask[1]}, its picture {size[0]}x{size[1]}"
                )
        except UserError as error:
            problems.append(str(error))
    return problems


def connected_things(fine: NDArray[np.uint8], countable: Collection[int]) -> NDArray[np.uint16]:
    """The class, but a number of its own, from FIRST_INSTANCE on, for each connected part of a
    countable one: of classes beyond 65 class * 1000 has more than 16 bits."""
    instance, last = fine.astype(np.uint16), FIRST_INSTANCE - 1
    for number in countable:
        num_parts, parts = cv2.connectedComponents((fine == number).astype(np.uint8))
        inside = (parts > 0) & (parts <= np.iinfo(np.uint16).max - last)
        instance[inside] = last + parts[inside]
        last = min(last + num_parts - 1, np.iinfo(np.uint16).max)
    return instance


def _from(root: Path, path: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def _key(path: Path) -> str:
    return os.path.splitext(plain(path.name))[0]
