"""Masks as users have them: ids, trainIds or colours of a label set in a PNG <-> class numbers.

ids: those of the label set. trainIds: its evaluated classes, numbered from 0 on, 255 where nobody
annotated (or where a class is none of these). Colours: the label set's, black where nobody
annotated. Transparent pixels are not annotated in any of them.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maskrestore.config.inference import Encoding
from maskrestore.config.labels import UNANNOTATED, UNKNOWN, LabelSet
from maskrestore.data.label_tables import NUM_VALUES, colors_of, ids_of, numbers_of
from maskrestore.data.pictures import Mask, Pixels, decode_mask
from maskrestore.data.png import SIGNATURE

VOID = 255
"""The trainId of what is not evaluated, or not annotated."""
MAX_PIXELS = 178_956_970
"""Of a mask: PIL unpacks no more."""

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_GREYS = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
_BINARY = {0, 1, VOID}


def decode(data: bytes, labels: LabelSet) -> Mask:
    """The mask in a PNG that can be one. ValueError says what else it is."""
    if not data.startswith(SIGNATURE) or len(data) < 26:
        raise ValueError("is not a PNG")
    depth, kind = data[24], data[25]
    if depth == 16 and (kind != _GREY or labels.has_unlabeled_class):
        hint = ": instanceIds? give the labelIds, which have 8" if kind == _GREY else ""
        raise ValueError(f"has 16 bits per channel{hint}")
    is_mask = depth in (8, 16) if kind == _GREY else kind in (_RGB, _PALETTE, _GREY_ALPHA, _RGBA)
    if not is_mask:
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


def detect(named: Sequence[tuple[str, Mask]], labels: LabelSet) -> Encoding:
    """The one encoding of some masks (name, mask) of a data set.

    A grey one whose values fit both means ids, unless 255 occurs in some mask or a name says
    trainIds. Blank ones fit every encoding. ValueError names the masks that leave it open.
    """
    named = [(name, mask) for name, mask in named if not _is_blank(mask, labels)] or named
    signs: dict[str, dict[str, str]] = {"colors": {}, "train_ids": {}, "void": {}, "ids": {}}
    for name, mask in named:
        for sign, why in _signs(name, mask, labels):
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
        _check_not_binary(named, labels)
    train_ids = signs["train_ids"] | signs["void"]
    if train_ids and ids:
        (one, why), (other, why_not) = next(iter(train_ids.items())), next(iter(ids.items()))
        raise ValueError(
            f"{one} seems to hold trainIds ({why}), {other} {why_not}: write encoding=ids or "
            "train_ids"
        )
    return "train_ids" if train_ids else "ids"


def _signs(name: str, mask: Mask, labels: LabelSet) -> Iterator[tuple[str, str]]:
    """(what a mask seems to hold, why): colors, ids, train_ids, or void, a value of trainIds."""
    meaning = meaning_of_palette(mask, labels)
    if meaning == "unknown":
        raise ValueError(
            f"{name} has a palette of other colours than {labels.name}: write encoding=ids, "
            "train_ids or colors (ids and train_ids take its indices)"
        )
    if mask.pixels.ndim == 3 or meaning == "colors" or _are_greys_of_labels(mask, labels):
        yield "colors", ""
        return
    values = mask.values
    if meaning is not None:
        yield meaning, {"ids": "ids, by its palette"}.get(meaning, "by its palette")
    if "trainids" in name.lower():
        yield "train_ids", "by its name"
    are_ids, are_train_ids = (
        _numbers_of(encoding, labels)[values] != UNKNOWN for encoding in ("ids", "train_ids")
    )
    if VOID in values and not are_ids[values == VOID].any():
        yield "void", "255"
    only_ids = values[are_ids & ~are_train_ids]
    if only_ids.size:
        yield "ids", f"the id {only_ids[0]}, which is no trainId"


def _are_greys_of_labels(mask: Mask, labels: LabelSet) -> bool:
    """Programs that save space make grey what has no other colours: building, pole and black."""
    values = mask.values
    if (_numbers_of("ids", labels)[values] != UNKNOWN).all() or values.max() > 255:
        return False
    return bool(values.any() and (_numbers_of_colors(_GREYS[values], labels) != UNKNOWN).all())


def _check_not_binary(named: Sequence[tuple[str, Mask]], labels: LabelSet) -> None:
    values = sorted({int(value) for _, mask in named for value in mask.values})
    if not any(values) or not _BINARY.issuperset(values):
        return
    numbers = _numbers_of("ids", labels)
    if (numbers[values] != UNKNOWN).all() and not labels.has_unlabeled_class:
        return  # the label set itself has them
    shown = " and ".join(map(str, values))
    others = f" and {len(named) - 1} others" if len(named) > 1 else ""
    first, second = (labels.by_number[n].name for n in (*labels.evaluated, *labels.evaluated)[:2])
    one, zero = (labels.by_number[numbers[v]].name if numbers[v] != UNKNOWN else "" for v in (1, 0))
    nobody = "not annotated" if numbers[0] == UNANNOTATED else zero
    ids = "" if VOID in values or not one else f"encoding=ids if 1 is {one} and 0 {nobody}, "
    raise ValueError(
        f"no values but {shown} in {named[0][0]}{others}, as binary masks have them, whose "
        f"foreground is no class of {labels.name}: write {ids}encoding=train_ids if 0 is {first}, "
        f"1 {second} and 255 not annotated; or save the foreground as the id of its class"
    )


def _is_blank(mask: Mask, labels: LabelSet) -> bool:
    """Nothing but 0, or black, that is not transparent."""
    meaning = meaning_of_palette(mask, labels)
    if mask.pixels.ndim == 3:
        return not mask.seen().any()
    if meaning == "colors" and mask.palette is not None:
        return not mask.palette[mask.values].any()
    return not mask.values.any() and meaning != "train_ids"  # whose 0 is road


def meaning_of_palette(
    mask: Mask, labels: LabelSet
) -> Literal["colors", "ids", "train_ids", "unknown"] | None:
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
    if _is_palette_of("ids", mask.palette, used, labels):
        return "ids"
    if _is_palette_of("train_ids", mask.palette, used, labels):
        return "train_ids"
    # Several indices of one black are no picture of anything.
    is_known = (_numbers_of_colors(shown, labels) != UNKNOWN).all()
    is_known = is_known and (shown.any() or len(used) < 2)
    return "colors" if is_known else "unknown"


def _is_palette_of(
    encoding: Encoding, palette: Pixels, used: NDArray[np.intp], labels: LabelSet
) -> bool:
    numbers = _numbers_of(encoding, labels)[:256]
    own = np.where(
        (numbers == UNKNOWN)[:, None], 0, colors_of(labels)[numbers % labels.num_classes]
    )
    has_color, is_same = own.any(1), (own == palette).all(1)
    # Labels without a colour of their own have any (static of GTA5 is grey), but not another's.
    of_others = (_numbers_of_colors(palette, labels) != UNKNOWN) & palette.any(1)
    fits = np.where(has_color, is_same, ~of_others) & (numbers != UNKNOWN)
    return bool((has_color & is_same).any() and fits[used].all())


def to_numbers(mask: Mask, encoding: Encoding, labels: LabelSet) -> Pixels:
    """uint8 [H,W] class numbers. ValueError names what is unknown, and the class nearest to it."""
    pixels = mask.pixels
    if encoding != "colors":
        if pixels.ndim == 3:
            raise ValueError("is RGB, where label ids are expected (encoding=colors reads colours)")
        numbers = _numbers_of(encoding, labels)[pixels]
    elif pixels.ndim == 3:
        numbers = _numbers_of_colors(pixels.astype(np.uint8, copy=False), labels)
    else:
        shown = _GREYS if mask.palette is None else mask.palette
        numbers = _numbers_of_colors(shown, labels)[pixels]
    if mask.transparent is not None:
        numbers[mask.transparent] = UNANNOTATED
    unknown = numbers == UNKNOWN
    if unknown.any():
        describe = _unknown_color if encoding == "colors" else _unknown_value
        raise ValueError(describe(mask, encoding, unknown, labels))
    return numbers


def _unknown_color(
    mask: Mask, encoding: Encoding, unknown: NDArray[np.bool_], labels: LabelSet
) -> str:
    if mask.pixels.ndim == 2 and mask.palette is None:
        return "is grey, where colours are expected (encoding=ids reads label ids)"
    y, x = np.argwhere(unknown)[0]
    color = mask.pixels[y, x] if mask.palette is None else mask.palette[mask.pixels[y, x]]
    distances = np.abs(np.subtract(colors_of(labels), color, dtype=int)).sum(1)
    near = labels.by_number[int(np.argmin(distances))]
    return (
        f"{_count(unknown)} of colours that {labels.name} has not, the first at x {x}, y {y}: "
        f"{_triple(color)}; the nearest is {near.name} {_triple(near.color)}"
    )


def _unknown_value(
    mask: Mask, encoding: Encoding, unknown: NDArray[np.bool_], labels: LabelSet
) -> str:
    value = int(mask.pixels[unknown][0])
    table = _numbers_of(encoding, labels)
    known = np.flatnonzero(table != UNKNOWN)
    near = int(known[np.argmin(np.abs(known - value))])
    allowed = labels.values
    if encoding == "train_ids":
        allowed = f"0..{len(labels.evaluated) - 1} or {VOID}"
    hint = ""
    if value == VOID:
        hint = "; 255 is the void of trainIds, which encoding=train_ids reads"
    elif encoding == "train_ids" and value in labels.numbers:
        name = labels.by_number[labels.numbers[value]].name
        hint = f"; as an id it is {name}, which encoding=ids reads"
    return (
        f"{_count(unknown)} of values that are not {allowed}, the first {value}; the nearest is "
        f"{near}, {labels.by_number[table[near]].name}{hint}"
    )


def from_numbers(numbers: Pixels, encoding: Encoding, labels: LabelSet) -> NDArray[Any]:
    """uint8 [H,W] -> [H,W] uint8, or uint16 for ids of 16 bits, or uint8 [H,W,3] for colours.

    Several classes may share black, and trainId 255: these cannot be told apart afterwards.
    """
    if encoding == "colors":
        return colors_of(labels)[numbers]
    if encoding == "ids":
        return ids_of(labels)[numbers]
    train_ids = np.full(labels.num_classes, VOID, np.uint8)
    train_ids[list(labels.evaluated)] = np.arange(len(labels.evaluated))
    return train_ids[numbers]


@cache
def _numbers_of(encoding: Encoding, labels: LabelSet) -> Pixels:
    """uint8 [65536]: value -> class number, or UNKNOWN."""
    if encoding == "ids":
        return numbers_of(labels)
    numbers = np.full(NUM_VALUES, UNKNOWN, np.uint8)
    numbers[VOID] = UNANNOTATED
    numbers[: len(labels.evaluated)] = labels.evaluated
    return numbers


@cache
def _codes(labels: LabelSet) -> tuple[NDArray[np.int64], Pixels]:
    """The colours as numbers, sorted, and the first class of each."""
    codes, first = np.unique(_code(colors_of(labels)), return_index=True)
    return codes, first.astype(np.uint8)


def _code(colors: NDArray[np.generic]) -> NDArray[np.int64]:
    code: NDArray[np.int64] = colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return code


def _numbers_of_colors(colors: Pixels, labels: LabelSet) -> Pixels:
    """uint8 [...,3] -> uint8 [...], UNKNOWN where a colour is none of the label set's."""
    known, numbers = _codes(labels)
    codes = _code(colors)
    at = np.searchsorted(known, codes).clip(max=len(known) - 1)
    of_colors: Pixels = np.where(known[at] == codes, numbers[at], np.uint8(UNKNOWN))
    return of_colors


def _triple(color: Sequence[int] | Pixels) -> str:
    return "(" + ", ".join(str(int(value)) for value in color) + ")"


def _count(unknown: NDArray[np.bool_]) -> str:
    return f"{unknown.sum()} of {unknown.size} pixels are"
