"""What annotation programs export: COCO's panoptic masks, labelme's polygons, CVAT's masks.

Formats: cocodataset.org/#format-data (panoptic segmentation), labelme's JSON (github.com/wkentaro/
labelme), "Segmentation mask 1.1" of docs.cvat.ai.
"""

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskrestore.data.pictures import decode_mask
from maskrestore.utils.errors import UserError
from maskrestore.utils.file_names import visible

NOBODY = 255
"""Of pixels that nobody annotated, in what is converted."""
MOST_PIXELS = 2**28
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Converted:
    """A mask of an export. key: its picture's name without suffix. mask: uint8 [H,W], places in
    Export.classes, or NOBODY. things: uint16 [H,W], a number for each single thing, or 0."""

    key: str
    mask: NDArray[np.uint8]
    things: NDArray[np.uint16]


@dataclass(frozen=True)
class Export:
    """classes: name -> whether it has single things, and its colour, if the export tells one.
    masks: reads them one by one; UserError names a file and what is wrong with it."""

    classes: dict[str, tuple[bool, Color | None]]
    num_masks: int
    masks: Callable[[], Iterator[Converted]]


def open_coco(root: Path) -> Export:
    """A folder with one panoptic JSON and, beside it, the folder of its PNGs (of the same name
    without .json, as COCO has them) or those PNGs themselves."""
    files = [path for path in visible(root) if path.suffix == ".json"]
    if len(files) != 1:
        raise UserError(
            f"root={root}: {len(files)} JSON files, where COCO's panoptic one is wanted"
        )
    content = _json(files[0])
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        names = {category["id"]: str(category["name"]) for category in categories}
        classes = {
            str(category["name"]): (bool(category.get("isthing")), _color(category.get("color")))
            for category in categories
        }
        annotations = [
            (str(entry["file_name"]), {s["id"]: s["category_id"] for s in entry["segments_info"]})
            for entry in content["annotations"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{files[0]}: is no panoptic JSON: {error!r}") from error
    place = {name: number for number, name in enumerate(classes)}
    folder = files[0].with_suffix("") if files[0].with_suffix("").is_dir() else root

    def masks() -> Iterator[Converted]:
        for file_name, segments in annotations:
            path = folder / PurePosixPath(file_name).name
            pixels = _decoded(path, path.read_bytes if path.is_file() else None)
            if pixels.ndim != 3:
                raise UserError(f"{path}: is no panoptic PNG, which is RGB")
            ids = pixels.astype(np.int64) @ np.array([1, 256, 65536])
            found, number = np.unique(ids, return_inverse=True)
            unknown = [int(one) for one in found if one and int(one) not in segments]
            foreign = [one for one in segments.values() if one not in names]
            if unknown or foreign:
                raise UserError(
                    f"{path}: the JSON has no segment {unknown[0]}"
                    if unknown
                    else f"{path}: the JSON has no category {foreign[0]}"
                )
            of_segment = np.array(
                [place[names[segments[int(one)]]] if one else NOBODY for one in found], np.uint8
            )
            is_thing = np.array(
                [bool(one) and classes[names[segments[int(one)]]][0] for one in found]
            )
            numbers = np.where(is_thing, np.arange(1, len(found) + 1), 0).astype(np.uint16)
            shape = ids.shape
            yield Converted(
                path.stem, of_segment[number].reshape(shape), numbers[number].reshape(shape)
            )

    return Export(classes, len(annotations), masks)


def open_labelme(root: Path) -> Export:
    """A folder of labelme's JSON files, one for each picture. Later shapes lie above earlier ones;
    shapes of one class and one group_id are one thing."""
    files = [path for path in visible(root) if path.suffix == ".json"]
    if not files:
        raise UserError(f"root={root}: there is no JSON file")
    labels = set()
    for path in files:
        try:
            labels |= {str(shape["label"]) for shape in _json(path)["shapes"]}
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: is no file of labelme: {error!r}") from error
    names = sorted(labels)

    def masks() -> Iterator[Converted]:
        for path in files:
            content = _json(path)
            try:
                height, width = int(content["imageHeight"]), int(content["imageWidth"])
                if not 0 < height * width <= MOST_PIXELS:
                    raise ValueError(f"is {height}x{width}")
                mask = np.full((height, width), NOBODY, np.uint8)
                things = np.zeros((height, width), np.uint16)
                groups: dict[tuple[str, Any], int] = {}
                for at, shape in enumerate(content["shapes"]):
                    inside = _inside(shape, height, width)
                    name, group = str(shape["label"]), shape.get("group_id")
                    own = ("", at) if group is None else (name, group)
                    mask[inside] = names.index(name)
                    things[inside] = groups.setdefault(own, len(groups) + 1)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}: cannot be read: {error}") from error
            yield Converted(path.stem, mask, things)

    return Export(dict.fromkeys(names, (True, None)), len(files), masks)


def _inside(shape: Any, height: int, width: int) -> NDArray[np.bool_]:
    kind = shape.get("shape_type", "polygon")
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    canvas = np.zeros((height, width), np.uint8)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    elif kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        center = (round(points[0][0]), round(points[0][1]))
        cv2.circle(canvas, center, round(radius), 1, -1)
        return canvas.astype(bool)
    elif kind != "polygon" or len(points) < 3:
        raise ValueError(
            f"a shape {kind!r} of {len(points)} points ({shape['label']}); polygons, rectangles "
            "and circles are read"
        )
    cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 1)
    return canvas.astype(bool)


def open_cvat(root: Path) -> Export:
    """A ZIP of CVAT's "Segmentation mask 1.1": labelmap.txt, SegmentationClass/, and perhaps
    SegmentationObject/. Black, CVAT's background, is what nobody annotated."""
    try:
        with zipfile.ZipFile(root) as archive:
            names = archive.namelist()
            lines = archive.read("labelmap.txt").decode().splitlines()
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise UserError(f"root={root}: is no export of CVAT: {error}") from error
    colors: dict[str, Color] = {}
    for line in lines:
        name, _, rest = line.partition(":")
        color = _color(rest.partition(":")[0].split(","))
        if line and not line.startswith("#") and color is not None and any(color):
            colors[name] = color
    if not colors:
        raise UserError(f"root={root}: its labelmap.txt names no class")
    members = sorted(
        name for name in names if name.startswith("SegmentationClass/") and name.endswith(".png")
    )
    place = {color: number for number, color in enumerate(colors.values())}

    def masks() -> Iterator[Converted]:
        with zipfile.ZipFile(root) as archive:
            for member in members:
                shown = _shown(root, archive, member)
                found, number = np.unique(shown.reshape(-1, 3), axis=0, return_inverse=True)
                unknown = [c for c in map(tuple, found.tolist()) if any(c) and c not in place]
                if unknown:
                    raise UserError(f"{root}/{member}: the colour {unknown[0]} is of no class")
                numbers = [place.get((r, g, b), NOBODY) for r, g, b in found.tolist()]
                mask = np.array(numbers, np.uint8)[number].reshape(shown.shape[:2])
                things = np.zeros(mask.shape, np.uint16)
                other = member.replace("SegmentationClass/", "SegmentationObject/", 1)
                if other in names:
                    objects = _shown(root, archive, other).reshape(-1, 3)
                    _, number = np.unique(objects, axis=0, return_inverse=True)
                    things = (number.reshape(mask.shape) + 1).astype(np.uint16)
                    things[mask == NOBODY] = 0
                yield Converted(PurePosixPath(member).stem, mask, things)

    return Export({name: (True, color) for name, color in colors.items()}, len(members), masks)


def _shown(root: Path, archive: zipfile.ZipFile, member: str) -> NDArray[np.uint8]:
    """uint8 [H,W,3]: the colours of a PNG, RGB or with a palette."""
    if archive.getinfo(member).file_size > MOST_PIXELS:
        raise UserError(f"{root}/{member}: is too large")
    try:
        mask = decode_mask(archive.read(member))
    except OSError as error:
        raise UserError(f"{root}/{member}: {error}") from error
    if mask.palette is not None:
        shown: NDArray[np.uint8] = mask.palette[mask.pixels]
        return shown
    pixels = mask.pixels.astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)


def _decoded(path: Path, read: Callable[[], bytes] | None) -> NDArray[Any]:
    if read is None:
        raise UserError(f"{path}: there is no such PNG, which the JSON names")
    try:
        return decode_mask(read()).pixels
    except OSError as error:
        raise UserError(f"{path}: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error


def _color(value: Any) -> Color | None:
    try:
        red, green, blue = (int(part) for part in value)
    except (TypeError, ValueError):
        return None
    return (red, green, blue) if all(0 <= part < 256 for part in (red, green, blue)) else None


OPENERS: dict[str, Callable[[Path], Export]] = {
    "coco": open_coco,
    "labelme": open_labelme,
    "cvat": open_cvat,
}
