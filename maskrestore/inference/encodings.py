"""Masks as users have them: label ids, trainIds or colours in a PNG <-> ids.

ids: 0..33, 0 where nobody annotated. trainIds: 0..18, 255 where nobody annotated (or where an id
is none of the 19). Colours: those of the Cityscapes labels, black where nobody annotated.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskrestore.config.inference import Encoding
from maskrestore.data.labels import LABELS, NUM_CLASSES, UNANNOTATED
from maskrestore.data.png import decode_member

Pixels = NDArray[np.uint8]
VOID = 255
"""The trainId of what is not evaluated, or not annotated."""
UNKNOWN = 255
"""No id."""
MAX_PIXELS = 178_956_970
"""Of a mask: PIL unpacks no more."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6


@dataclass(frozen=True)
class Picture:
    """A decoded PNG. pixels: uint8 [H,W] (grey, or indices of the palette) or [H,W,3].
    palette: uint8 [256,3], or None."""

    pixels: Pixels
    palette: Pixels | None = None


def decode_picture(data: bytes) -> Picture:
    """The picture of a PNG that can be a mask; interlaced ones too. ValueError says what it is."""
    if not data.startswith(_SIGNATURE) or len(data) < 26:
        raise ValueError("is not a PNG")
    depth, kind = data[24], data[25]
    if depth == 16:
        hint = ": instanceIds? give the labelIds, which have 8" if kind == _GREY else ""
        raise ValueError(f"has 16 bits per channel{hint}")
    if kind not in (_GREY, _RGB, _PALETTE, _RGBA) or (kind == _GREY and depth != 8):
        name = {_GREY: "grey ", _GREY_ALPHA: "grey with alpha "}.get(kind, "")
        raise ValueError(f"must be grey of 8 bits, RGB or with a palette, is {name}of {depth} bits")
    width, height = struct.unpack(">II", data[16:24])
    if not 0 < width * height <= MAX_PIXELS:
        why = f"more than the {MAX_PIXELS} pixels that are read" if width * height else ""
        raise ValueError(f"is {height}x{width} (height x width), {why or 'without a pixel'}")
    try:
        pixels = decode_member(data)
        palette: Pixels | None = None
        if kind == _PALETTE:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                flat = np.zeros(768, np.uint8)
                colors = image.getpalette("RGB") or []
                flat[: len(colors)] = colors
                palette = flat.reshape(256, 3)
    except OSError as error:
        raise ValueError(f"is not a whole PNG: {error}") from error
    pixels = pixels[..., :3] if pixels.ndim == 3 else pixels
    return Picture(pixels.astype(np.uint8, copy=False), palette)


def detect(named: Sequence[tuple[str, Picture]]) -> Encoding:
    """The one encoding of some masks (name, picture) of a data set.

    A grey one whose values fit both means ids, unless 255 occurs in some mask or a name says
    trainIds. Blank ones fit every encoding. ValueError names the masks that leave it open.
    """
    named = [(name, picture) for name, picture in named if not _is_blank(picture)] or named
    advice = "write encoding=ids, train_ids or colors"
    colored: list[tuple[str, Picture]] = []
    grey: list[tuple[str, Picture]] = []
    for name, picture in named:
        (colored if _is_colored(name, picture, advice) else grey).append((name, picture))
    if colored and grey:
        raise ValueError(
            f"{colored[0][0]} holds colours, {grey[0][0]} ids: restore them apart from each other"
        )
    if colored:
        return "colors"
    void = [name for name, picture in grey if (picture.pixels == VOID).any()]
    void += [name for name, _ in grey if "trainids" in name.lower()]
    num_train_ids = sum(label.train_id != VOID for label in LABELS)
    for name, picture in grey if void else ():
        only_ids = (picture.pixels >= num_train_ids) & (picture.pixels < NUM_CLASSES)
        if only_ids.any():
            raise ValueError(
                f"{void[0]} seems to hold trainIds (255, or by its name), {name} the id "
                f"{picture.pixels[only_ids][0]}, which is no trainId: {advice}"
            )
    return "train_ids" if void else "ids"


def _is_blank(picture: Picture) -> bool:
    """Nothing but 0, or black."""
    if picture.palette is None:
        return not picture.pixels.any()
    return not picture.palette[np.unique(picture.pixels)].any()


def _is_colored(name: str, picture: Picture, advice: str) -> bool:
    if picture.palette is None:
        return picture.pixels.ndim == 3
    used = np.unique(picture.pixels)
    colors = picture.palette[used]
    if (colors == used[:, None]).all():
        return False
    if (_ids_of_colors(colors) != UNKNOWN).all():
        return True
    raise ValueError(
        f"{name} has a palette of other colours than Cityscapes: {advice} (ids and train_ids take "
        "its indices)"
    )


def to_ids(picture: Picture, encoding: Encoding) -> Pixels:
    """uint8 [H,W] ids 0..33. ValueError names what is unknown, and the class nearest to it."""
    pixels, palette = picture.pixels, picture.palette
    if encoding == "colors":
        if pixels.ndim == 2 and palette is None:
            raise ValueError("is grey, where colours are expected (encoding=ids reads label ids)")
        ids = _ids_of_colors(pixels) if palette is None else _ids_of_colors(palette)[pixels]
        if not (ids == UNKNOWN).any():
            return ids
        y, x = np.argwhere(ids == UNKNOWN)[0]
        color = pixels[y, x] if palette is None else palette[pixels[y, x]]
        distances = [np.abs(np.subtract(label.color, color, dtype=int)).sum() for label in LABELS]
        near = LABELS[int(np.argmin(distances))]
        raise ValueError(
            f"{_count(ids == UNKNOWN)} of colours that Cityscapes has not, the first at x {x}, y "
            f"{y}: {_triple(color)}; the nearest is {near.name} {_triple(near.color)}"
        )
    if pixels.ndim == 3:
        raise ValueError("is RGB, where label ids are expected (encoding=colors reads colours)")
    ids = _ids_of(encoding)[pixels]
    if (ids == UNKNOWN).any():
        value = int(pixels[ids == UNKNOWN][0])
        allowed, known = "0..33", "unlabeled (0) to bicycle (33)"
        if encoding == "train_ids":
            allowed, known = "0..18 or 255", "road (0) to bicycle (18)"
        hint = ""
        if value == VOID:
            hint = "; 255 is the void of trainIds, which encoding=train_ids reads"
        elif encoding == "train_ids" and value < NUM_CLASSES:
            hint = f"; as an id it is {LABELS[value].name}, which encoding=ids reads"
        raise ValueError(
            f"{_count(ids == UNKNOWN)} of values that are not {allowed}, the first {value}; the "
            f"nearest is bicycle, the last of {known}{hint}"
        )
    return ids


def from_ids(ids: Pixels, encoding: Encoding) -> Pixels:
    """uint8 [H,W] ids 0..33 -> uint8 [H,W], or [H,W,3] for colours.

    Several ids share black, and trainId 255: these cannot be told apart afterwards.
    """
    if encoding == "ids":
        return ids
    values = [label.train_id if encoding == "train_ids" else label.color for label in LABELS]
    return np.array(values, np.uint8)[ids]


@cache
def _ids_of(encoding: Encoding) -> Pixels:
    """uint8 [256]: value -> id."""
    ids = np.full(256, UNKNOWN, np.uint8)
    if encoding == "ids":
        ids[:NUM_CLASSES] = np.arange(NUM_CLASSES)
        return ids
    ids[VOID] = UNANNOTATED
    for label in LABELS:
        if label.train_id != VOID:
            ids[label.train_id] = label.id
    return ids


@cache
def _codes() -> tuple[NDArray[np.int64], Pixels]:
    """The colours as numbers, sorted, and the first id of each."""
    colors = np.array([label.color for label in LABELS])
    codes, first = np.unique(_code(colors), return_index=True)
    return codes, first.astype(np.uint8)


def _code(colors: NDArray[np.generic]) -> NDArray[np.int64]:
    code: NDArray[np.int64] = colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return code


def _ids_of_colors(colors: Pixels) -> Pixels:
    """uint8 [...,3] -> uint8 [...], UNKNOWN where a colour is none of ours."""
    known, ids = _codes()
    codes = _code(colors)
    at = np.searchsorted(known, codes).clip(max=len(known) - 1)
    ids_of_colors: Pixels = np.where(known[at] == codes, ids[at], np.uint8(UNKNOWN))
    return ids_of_colors


def _triple(color: Sequence[int] | Pixels) -> str:
    return "(" + ", ".join(str(int(value)) for value in color) + ")"


def _count(unknown: NDArray[np.bool_]) -> str:
    return f"{unknown.sum()} of {unknown.size} pixels are"
