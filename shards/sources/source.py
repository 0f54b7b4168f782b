"""What a data set tells the writer: its items per split, and how one becomes a Sample."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskrestore.config.labels import UNANNOTATED, LabelSet, load_labels
from maskrestore.data.pictures import Header, Mask, decode_mask, read_header
from maskrestore.data.sample import Sample
from maskrestore.utils.errors import UserError

CITYSCAPES = load_labels("cityscapes")
"""What the sources but one are read as; its numbers are its ids."""
LABEL_ID = CITYSCAPES.number
NUM_CLASSES = CITYSCAPES.num_classes
FRAME_IDS = tuple(LABEL_ID[name] for name in ("ego vehicle", "rectification border", "out of roi"))
"""Regions that belong to the camera, not to the scene: the same in every image, never redrawn."""
COUNTABLE = CITYSCAPES.countable
FIRST_INSTANCE = 1000
"""Instance maps hold class numbers, and from this number on single things."""
Ids = TypeVar("Ids", np.uint8, np.uint16)


@dataclass(frozen=True)
class Item:
    """One sample before it is read. key: unique in its split. files: everything it is made of."""

    key: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set whose files are all there and, as far as their headers say, as they must be.

    coarse: whether people drew the coarse masks. notes: for the manifest and the screen.
    read: decodes and checks one item, or says why it is left out. Picklable, so
    that other processes can call it; UserError with a line for each problem.
    """

    coarse: Literal["annotated", "simulated"]
    notes: tuple[str, ...]
    splits: dict[str, tuple[Item, ...]]
    read: Callable[[Item], Sample | str]
    labels: LabelSet = CITYSCAPES


def read_ids_header(path: Path, bits: int) -> Header:
    """The header of a one-channel PNG of 8 or 16 bits; UserError names a file of another kind.

    Palette PNGs hold their ids as indices and are taken as they are.
    """
    header = read_header(path)
    if not header.is_png:
        raise UserError(f"{path}: is a JPEG, which changes ids: give the mask as PNG")
    known = header.mode in (("L", "P") if bits == 8 else ("I;16", "I"))
    if not known or (header.mode != "P" and header.depth != bits):
        raise UserError(
            f"{path}: must hold one channel of {bits} bits, got mode {header.mode} of "
            f"{header.depth} bits"
        )
    return header


def read_mask(path: Path) -> Mask:
    """A mask whose header is right; UserError if it is not a whole PNG, or if its palette shows
    other ids than its indices are."""
    try:
        mask = decode_mask(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a mask: {error}") from error
    if mask.palette is not None:
        used = mask.values
        shown, greys = mask.palette[used], mask.palette[used, 0]
        # Programs that save space number the greys of ids anew, as they come.
        are_ids = (shown == greys[:, None]).all() and (greys < NUM_CLASSES).all()
        if are_ids and (greys != used).any():
            first = int(np.argmax(greys != used))
            raise UserError(
                f"{path}: its palette shows the id {greys[first]} where its index is "
                f"{used[first]}: save it as grey of 8 bits"
            )
    return mask


def ids_of(mask: Mask, dtype: type[Ids], transparent: int = UNANNOTATED) -> NDArray[Ids]:
    """The values of a mask [H,W], `transparent` where it is that."""
    ids = mask.pixels.astype(dtype, copy=mask.transparent is not None)
    if mask.transparent is not None:
        ids[mask.transparent] = transparent
    return ids


def unknown_ids(ids: NDArray[Any]) -> list[int]:
    """The values that are neither an id 0..33 nor class*1000+n of a countable class."""
    # Most maps hold none, and comparing is many times faster than listing their values.
    first, end = 1000 * COUNTABLE[0], 1000 * (COUNTABLE[-1] + 1)
    if ids.max() < NUM_CLASSES or np.all((ids < NUM_CLASSES) | ((ids >= first) & (ids < end))):
        return []
    values: list[int] = np.unique(ids).tolist()
    return [value for value in values if value >= NUM_CLASSES and value // 1000 not in COUNTABLE]


def resize_ids(ids: NDArray[Ids], height: int, width: int) -> NDArray[Ids]:
    """[H,W] -> [height,width], nearest neighbour as in PIL."""
    resized = Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized).astype(ids.dtype)


def resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [H,W,3] -> [height,width,3], bicubic as in PIL."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def left_out(key: str) -> str:
    """The note on a picture that is not used."""
    return f"left out: {key}, a black picture"


def all_problems(
    root: Path, problems: list[str], outcome: str = "nothing was written"
) -> UserError:
    """One message with every problem of a data set, each on a line of its own and once."""
    problems = list(dict.fromkeys(problems))
    lines = "\n".join(f"  {problem}" for problem in problems)
    return UserError(f"{root}: {len(problems)} problems, {outcome}:\n{lines}")
