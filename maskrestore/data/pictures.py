"""Pictures and masks of users, as they say of themselves that they are to be seen.

Upright by their EXIF orientation; of a mask's pixels it is known which are transparent, pictures
lie on black; 16 bits per channel are scaled to 8. Colour profiles are not
applied: docs/restoring.md says why.
"""

import io
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from maskrestore.data.png import SIGNATURE, check_chunks, decode_plain
from maskrestore.utils.errors import UserError

Pixels = NDArray[np.uint8]

UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What PIL raises of files that are no pictures, or would fill the memory."""

DARK = 64
"""A picture of 16 bits that has nothing brighter, of 255, was not scaled to 16 bits."""

_TAIL = 2**17
"""Bytes at the end of a PNG in which some programs (exiftool) write what others write before the
pixels."""
_LATE = re.compile(rb"eXIf|iTXt|zTXt|tEXt")

_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""EXIF orientation (TIFF 6.0, tag 274) -> [H,W,...] as it is to be seen. Others change nothing."""
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Header:
    """What a picture says before its pixels. size: width, height, upright. depth: bits per channel.

    PIL does not tell the depth: it opens 16 bit RGB as RGB of 8, and scales grey of 4 bits up to 8.
    is_png: or else JPEG, whatever the file is called.
    """

    mode: str
    size: tuple[int, int]
    depth: int
    is_png: bool


@dataclass(frozen=True)
class Mask:
    """A decoded mask. pixels: [H,W] uint8 or uint16 (grey, or indices of the palette), or uint8
    [H,W,3]. palette: uint8 [256,3]. transparent: bool [H,W]. None where it has none."""

    pixels: Pixels | NDArray[np.uint16]
    palette: Pixels | None = None
    transparent: NDArray[np.bool_] | None = None

    def seen(self) -> Any:
        """The pixels that are not transparent: [H,W] or [N], and [...,3] if they are RGB."""
        return self.pixels if self.transparent is None else self.pixels[~self.transparent]

    @cached_property
    def values(self) -> NDArray[np.intp]:
        """The values that are seen, sorted, of a mask that is not RGB."""
        return np.flatnonzero(np.bincount(self.seen().ravel()))  # sorting takes ten times as long


def read_header(path: Path) -> Header:
    """The header of a PNG or JPEG; UserError on a file that is none."""
    try:
        with open(path, "rb") as file:
            start = file.read(25)
            file.seek(max(0, file.seek(0, io.SEEK_END) - _TAIL))
            is_late = start.startswith(SIGNATURE) and _LATE.search(file.read())
            file.seek(0)
            with Image.open(file, formats=["PNG", "JPEG"]) as image:
                if is_late:
                    image.load()
                width, height = image.size
                size = (height, width) if _orientation(image) in _SIDEWAYS else (width, height)
                return Header(image.mode, size, _depth(start), start.startswith(SIGNATURE))
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}") from error


def read_image(path: Path) -> Pixels:
    """A picture, uint8 [H,W,3]. UserError names the file and what is wrong with it."""
    try:
        with open(path, "rb") as file:
            depth = _depth(file.read(25))
            file.seek(0)
            with Image.open(file, formats=["PNG", "JPEG"]) as image:
                image.load()
                pixels = _rgb(image)
                orientation = _orientation(image)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}") from error
    if depth == 16 and pixels.max() < DARK:
        raise UserError(
            f"{path}: has 16 bits per channel but nothing brighter than {pixels.max() + 1}/256 of "
            "white: it would be seen as black; scale its values to 0..65535, or save it with 8 bits"
        )
    return _turn(pixels, orientation)


def decode_mask(data: bytes) -> Mask:
    """The mask of a PNG of any kind. Raises OSError on bytes that are no whole one."""
    array = decode_plain(data)
    if array is not None:
        return Mask(array)
    if not data.startswith(SIGNATURE):
        raise OSError("it is not a PNG")
    check_chunks(data)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            pixels, orientation = np.asarray(image), _orientation(image)
            transparent = _transparent(pixels, image.info.get("transparency"), image.mode)
            colors = image.getpalette("RGB") if image.mode == "P" else None
    except UNREADABLE as error:
        raise OSError(str(error)) from error
    if image.mode in ("LA", "RGBA"):
        pixels = pixels[..., 0] if image.mode == "LA" else pixels[..., :3]
    elif pixels.dtype == np.int32:
        pixels = pixels.astype(np.uint16)
    palette = None
    if colors is not None:
        palette = np.zeros((256, 3), np.uint8)
        palette.reshape(-1)[: len(colors)] = colors
    if transparent is not None:
        transparent = _turn(transparent, orientation) if transparent.any() else None
    return Mask(_turn(pixels, orientation), palette, transparent)


def _depth(start: bytes) -> int:
    """Bits per channel; start: the signature, then IHDR: length, name, width, height, depth."""
    return start[24] if start.startswith(SIGNATURE) and len(start) > 24 else 8


def _orientation(image: Image.Image) -> int:
    # Broken EXIF says nothing; the method of PNGs would decode the pixels to find some.
    with suppress(Exception):
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    return 1


def _turn(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    turn = _UPRIGHT.get(orientation)
    return array if turn is None else np.ascontiguousarray(turn(array))


def _rgb(image: Image.Image) -> Pixels:
    if image.mode in ("I;16", "I"):  # convert("RGB") would clip them
        high = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
        key = image.info.get("transparency")
        if key is not None:
            high[np.asarray(image) == key] = 0
        return np.repeat(high[..., None], 3, -1)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))


def _transparent(pixels: NDArray[Any], key: Any, mode: str) -> NDArray[np.bool_] | None:
    """bool [H,W]: fully transparent, by alpha or by a tRNS chunk; key: as PIL gives that one."""
    if mode in ("LA", "RGBA"):
        return np.asarray(pixels[..., -1] == 0)
    if isinstance(key, bytes):  # an alpha for each index of the palette, 255 for those beyond
        alpha = np.full(256, 255, np.uint8)
        alpha[: len(key)] = np.frombuffer(key, np.uint8)
        return np.asarray(alpha[pixels] == 0)
    if key is None:
        return None
    same = pixels == np.asarray(key)
    return np.asarray(same.all(-1) if pixels.ndim == 3 else same)
