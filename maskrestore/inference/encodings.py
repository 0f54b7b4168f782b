"""Masks as users have them: label ids, trainIds or colours in a PNG <-> ids.

ids: 0..33, 0 where nobody annotated. trainIds: 0..18, 255 where nobody annotated (or where an id
is none of the 19). Colours: those of the Cityscapes labels, black where nobody annotated.
Transparent pixels are not annotated in any of them.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from maskrestore.config.inference import Encoding
from maskrestore.data.labels import LABELS, NUM_CLASSES, UNANNOTATED
from maskrestore.data.pictures import Mask, Pixels, decode_mask
from maskrestore.data.png import SIGNATURE

VOID = 255
"""The trainId of what is not evaluated, or not annotated."""
UNKNOWN = 255
"""No id."""
MAX_PIXELS = 178_956_970
"""Of a mask: PIL unpacks no more."""

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_NUM_TRAIN_IDS = sum(label.train_id != VOID for label in LABELS)
_COLORS = np.array([label.color for label in LABELS], np.uint8)
_GREYS = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
_BINARY = {0, 1, VOID}


def decode(data: bytes) -> Mask:
    """The mask in a PNG of 8 bits that can be one. ValueError says what else it is."""
    if not data.startswith(SIGNATURE) or len(data) < 26:
        raise ValueError("is not a PNG")
    depth, kind = data[24], data[25]
    if depth == 16:
        hint = ": instanceIds? give the labelIds, which have 8" if kind == _GREY else ""
        raise ValueError(f"has 16 bits per channel{hint}")
    if kind not in (_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA) or (kind == _GREY and depth != 8):
        name = "grey " if kind == _GREY else ""
        raise ValueError(f"must be grey of 8 bits, RGB or with a palette, is {name}of {depth} bits")
    width, height = struct.unpack(">II", data[16:24])
    if not 0 < width * height <= MAX_PIXELS:
        why = f"more than the {MAX_PIXELS} pixels that are read" if width * height else ""
        raise ValueError(f"is {height}x{width} (height x width), {why or 'without a pixel'}")
    try:
        return decode_mask(data)
    except OSError as error:
        raise ValueError(f"is not a whole PNG: {error}") from error


def detect(named: Sequence[tuple[str, Mask]]) -> Encoding:
    """The one encoding of some masks (name, mask) of a data set.

    A grey one whose values fit both means ids, unless 255 occurs in some mask or a name says
    trainIds. Blank ones fit every encoding. ValueError names the masks that leave it open.
    """
    named = [(name, mask) for name, mask in named if not _is_blank(mask)] or named
    signs: dict[str, dict[str, str]] = {"colors": {}, "train_ids": {}, "void": {}, "ids": {}}
    for name, mask in named:
        for sign, why in _signs(name, mask):
            signs[sign].setdefault(name, why)
    colored, ids = signs["colors"], signs["ids"]
    others = [name for name, _ in named if name not in colored]
    if colored and others:
        raise ValueError(
            f"{next(iter(colored))} holds colours, {others[0]} ids: restore them apart from each "
            "other"
        )
    if colored:
        return "colors"
    if not ids and not signs["train_ids"]:
        _check_not_binary(named)
    train_ids = signs["train_ids"] | signs["void"]
    if train_ids and ids:
        (one, why), (other, why_not) = next(iter(train_ids.items())), next(iter(ids.items()))
        raise ValueError(
            f"{one} seems to hold trainIds ({why}), {other} {why_not}: write encoding=ids or "
            "train_ids"
        )
    return "train_ids" if train_ids else "ids"


def _signs(name: str, mask: Mask) -> Iterator[tuple[str, str]]:
    """(what a mask seems to hold, why): colors, ids, train_ids, or void, a value of trainIds."""
    meaning = meaning_of_palette(mask)
    if meaning == "unknown":
        raise ValueError(
            f"{name} has a palette of other colours than Cityscapes: write encoding=ids, train_ids "
            "or colors (ids and train_ids take its indices)"
        )
    if mask.pixels.ndim == 3 or meaning == "colors" or _are_greys_of_labels(mask):
        yield "colors", ""
        return
    values = mask.values
    if meaning is not None:
        yield meaning, {"ids": "ids, by its palette"}.get(meaning, "by its palette")
    if "trainids" in name.lower():
        yield "train_ids", "by its name"
    if VOID in values:
        yield "void", "255"
    only_ids = values[(values >= _NUM_TRAIN_IDS) & (values < NUM_CLASSES)]
    if only_ids.size:
        yield "ids", f"the id {only_ids[0]}, which is no trainId"


def _are_greys_of_labels(mask: Mask) -> bool:
    """Programs that save space make grey what has no other colours: building, pole and black."""
    return bool(mask.values.any() and (_ids_of_colors(_GREYS[mask.values]) != UNKNOWN).all())


def _check_not_binary(named: Sequence[tuple[str, Mask]]) -> None:
    values = sorted({int(value) for _, mask in named for value in mask.values})
    if not any(values) or not _BINARY.issuperset(values):
        return
    shown = " and ".join(map(str, values))
    others = f" and {len(named) - 1} others" if len(named) > 1 else ""
    ids = "" if VOID in values else "encoding=ids if 1 is ego vehicle and 0 not annotated, "
    raise ValueError(
        f"no values but {shown} in {named[0][0]}{others}, as binary masks have them, whose "
        f"foreground is no class of Cityscapes: write {ids}encoding=train_ids if 0 is road, 1 "
        "sidewalk and 255 not annotated; or save the foreground as the id of its class"
    )


def _is_blank(mask: Mask) -> bool:
    """Nothing but 0, or black, that is not transparent."""
    meaning = meaning_of_palette(mask)
    if mask.pixels.ndim == 3:
        return not mask.seen().any()
    if meaning == "colors" and mask.palette is not None:
        return not mask.palette[mask.values].any()
    return not mask.values.any() and meaning != "train_ids"  # whose 0 is road


def meaning_of_palette(mask: Mask) -> Literal["colors", "ids", "train_ids", "unknown"] | None:
    """What a mask's palette says of its indices: that they are ids or trainIds, since it has the
    colours of these labels at these places (as GTA5's has), or nothing but places of colours.

    None: nothing, without a palette or with one of greys that are the indices.
    """
    if mask.palette is None:
        return None
    used = mask.values
    shown = mask.palette[used]
    if (shown == used[:, None]).all():
        return None
    if _is_palette_of("ids", mask.palette, used):
        return "ids"
    if _is_palette_of("train_ids", mask.palette, used):
        return "train_ids"
    # Several indices of one black are no picture of anything.
    is_known = (_ids_of_colors(shown) != UNKNOWN).all() and (shown.any() or len(used) < 2)
    return "colors" if is_known else "unknown"


def _is_palette_of(encoding: Encoding, palette: Pixels, used: NDArray[np.intp]) -> bool:
    ids = _ids_of(encoding)
    own = _COLORS[np.where(ids == UNKNOWN, UNANNOTATED, ids)]  # black where there is no label
    has_color, is_same = own.any(1), (own == palette).all(1)
    # Labels without a colour of their own have any (static of GTA5 is grey), but not another's.
    of_others = (_ids_of_colors(palette) != UNKNOWN) & palette.any(1)
    fits = np.where(has_color, is_same, ~of_others) & (ids != UNKNOWN)
    return bool((has_color & is_same).any() and fits[used].all())


def to_ids(mask: Mask, encoding: Encoding) -> Pixels:
    """uint8 [H,W] ids 0..33. ValueError names what is unknown, and the class nearest to it."""
    pixels = mask.pixels
    if encoding != "colors":
        if pixels.ndim == 3:
            raise ValueError("is RGB, where label ids are expected (encoding=colors reads colours)")
        ids = _ids_of(encoding)[pixels]
    elif pixels.ndim == 3:
        ids = _ids_of_colors(pixels.astype(np.uint8, copy=False))
    else:
        ids = _ids_of_colors(_GREYS if mask.palette is None else mask.palette)[pixels]
    if mask.transparent is not None:
        ids[mask.transparent] = UNANNOTATED
    unknown = ids == UNKNOWN
    if unknown.any():
        describe = _unknown_color if encoding == "colors" else _unknown_value
        raise ValueError(describe(mask, encoding, unknown))
    return ids


def _unknown_color(mask: Mask, encoding: Encoding, unknown: NDArray[np.bool_]) -> str:
    if mask.pixels.ndim == 2 and mask.palette is None:
        return "is grey, where colours are expected (encoding=ids reads label ids)"
    y, x = np.argwhere(unknown)[0]
    color = mask.pixels[y, x] if mask.palette is None else mask.palette[mask.pixels[y, x]]
    distances = [np.abs(np.subtract(label.color, color, dtype=int)).sum() for label in LABELS]
    near = LABELS[int(np.argmin(distances))]
    return (
        f"{_count(unknown)} of colours that Cityscapes has not, the first at x {x}, y {y}: "
        f"{_triple(color)}; the nearest is {near.name} {_triple(near.color)}"
    )


def _unknown_value(mask: Mask, encoding: Encoding, unknown: NDArray[np.bool_]) -> str:
    value = int(mask.pixels[unknown][0])
    allowed, known = "0..33", "unlabeled (0) to bicycle (33)"
    if encoding == "train_ids":
        allowed, known = "0..18 or 255", "road (0) to bicycle (18)"
    hint = ""
    if value == VOID:
        hint = "; 255 is the void of trainIds, which encoding=train_ids reads"
    elif encoding == "train_ids" and value < NUM_CLASSES:
        hint = f"; as an id it is {LABELS[value].name}, which encoding=ids reads"
    return (
        f"{_count(unknown)} of values that are not {allowed}, the first {value}; the nearest is "
        f"bicycle, the last of {known}{hint}"
    )


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
