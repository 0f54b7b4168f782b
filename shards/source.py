"""What a data set tells the writer: its items per split, and how one becomes a Sample."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskrestore.labels import LABELS, NUM_CLASSES
from maskrestore.sample import Sample
from maskrestore.settings import UserError

COUNTABLE = [label.id for label in LABELS if label.has_instances]
Ids = TypeVar("Ids", np.uint8, np.uint16)


@dataclass(frozen=True)
class Item:
    """One sample before it is read. key: unique in its split. files: everything it is made of."""

    key: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set whose files were checked.

    coarse: whether people drew the coarse masks. notes: for the manifest and the screen.
    read: picklable, so that other processes can call it; raises UserError.
    """

    coarse: Literal["annotated", "simulated"]
    notes: tuple[str, ...]
    splits: dict[str, tuple[Item, ...]]
    read: Callable[[Item], Sample]


def read_image(path: Path) -> Image.Image:
    """A decoded picture; UserError on a file that is none, or not a whole one."""
    try:
        with Image.open(path, formats=["PNG", "JPEG"]) as image:
            image.load()
            return image.copy()
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}") from error


def bit_depth(path: Path) -> int:
    """Bits per channel as the header of a PNG says; 8 for other files.

    PIL does not tell: it opens 16 bit RGB as RGB of 8, and scales grey of 4 bits up to 8.
    """
    with open(path, "rb") as file:
        header = file.read(25)  # the signature, then IHDR: length, name, width, height, depth
    return header[24] if header.startswith(b"\x89PNG") else 8


def read_ids(path: Path, dtype: type[Ids]) -> NDArray[Ids]:
    """The ids [H,W] of a one-channel PNG of 8 or 16 bits; UserError names one of another kind.

    Palette PNGs hold their ids as indices and are taken as they are.
    """
    image = read_image(path)
    bits = 8 * np.dtype(dtype).itemsize
    depth = bit_depth(path)
    known = image.mode in (("L", "P") if bits == 8 else ("I;16", "I"))
    if not known or (image.mode != "P" and depth != bits):
        raise UserError(
            f"{path}: must hold one channel of {bits} bits, got mode {image.mode} of {depth} bits"
        )
    return np.asarray(image).astype(dtype)


def unknown_ids(ids: NDArray[Any]) -> list[int]:
    """The values that are neither an id 0..33 nor class*1000+n of a countable class."""
    values: list[int] = np.unique(ids).tolist()
    return [value for value in values if value >= NUM_CLASSES and value // 1000 not in COUNTABLE]


def resize_ids(ids: NDArray[Ids], height: int, width: int) -> NDArray[Ids]:
    """[H,W] -> [height,width], nearest neighbour as in PIL."""
    resized = Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized).astype(ids.dtype)


def resize_image(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Picture -> uint8 [height,width,3] RGB, bicubic as in PIL."""
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def all_problems(root: Path, problems: list[str]) -> UserError:
    """One message with every problem of a data set, each on a line of its own and once."""
    problems = list(dict.fromkeys(problems))
    lines = "\n".join(f"  {problem}" for problem in problems)
    return UserError(f"{root}: {len(problems)} problems, nothing was written:\n{lines}")
