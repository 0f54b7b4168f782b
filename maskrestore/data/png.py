"""PNG files that are ours, read and written: the members of shards, and what restore.py makes."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 2**26
"""Of a member; a picture that claims more is not unpacked (Cityscapes has 2**21)."""


SIGNATURE = b"\x89PNG\r\n\x1a\n"


_START = SIGNATURE + b"\0\0\0\rIHDR"
_UP = 2
"""The filter of a row that holds the differences from the row above."""


def png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """PNG of uint8 or uint16 [H,W], or uint8 [H,W,3], to look at: small, in a third of the time
    of PIL, which tries all filters on each row and looks for repetitions farther away than pictures
    have them."""
    rows = np.pad(_samples(pixels), ((0, 0), (1, 0)), constant_values=_UP)
    np.subtract(rows[1:, 1:], rows[:-1, 1:], out=rows[1:, 1:])
    packing = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return _file(pixels, packing.compress(rows.data) + packing.flush())


def encode_member(array: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """PNG bytes of uint8 [H,W,3], uint8 [H,W] or uint16 [H,W]; equal arrays give equal bytes.

    Not by PIL, which filters the rows of pictures whatever it is asked for.
    """
    level = 0 if array.ndim == 3 else 1
    # Before each row stands the number of its filter: 0, none.
    rows = np.pad(_samples(array), ((0, 0), (1, 0)))
    return _file(array, zlib.compress(rows.data, level))


def _samples(array: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Its rows as a PNG has them: the high byte first."""
    in_order = array.astype(array.dtype.newbyteorder(">"), copy=False)
    return np.ascontiguousarray(in_order).reshape(len(array), -1).view(np.uint8)


def _file(array: NDArray[np.uint8] | NDArray[np.uint16], packed: bytes) -> bytes:
    """A whole PNG; packed: the rows of the array, filtered and compressed."""
    height, width = array.shape[:2]
    color_type, depth = 2 if array.ndim == 3 else 0, 8 * array.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = [SIGNATURE]
    for name, data in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")):
        checksum = zlib.crc32(data, zlib.crc32(name))
        parts += [struct.pack(">I", len(data)), name, data, struct.pack(">I", checksum)]
    return b"".join(parts)


def decode_member(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The array that `encode_member` was given. Raises OSError on bytes that are no whole PNG.

    Any other PNG is read as well, shards that were written earlier among them.
    """
    plain = decode_plain(data)
    if plain is not None:
        return plain
    check_chunks(data)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            array = np.asarray(image)
    # What PIL raises for some broken chunks, and for pictures that would fill the memory.
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"broken PNG: {error}") from error
    return array.astype(np.uint16) if array.dtype == np.int32 else array


def decode_plain(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16] | None:
    """The array of a PNG as `encode_member` makes them; None if it is another one, or is broken.

    PIL takes twice as long: it copies pictures to four bytes per pixel and back.
    """
    if data[:16] != _START or data[37:41] != b"IDAT" or len(data) < 57:
        return None
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33]):
        return None
    width, height, depth, *kind = struct.unpack(">IIBBBBB", data[16:29])
    channels = {(8, 0): 1, (16, 0): 1, (8, 2): 3}.get((depth, kind[0]))
    end = 41 + int.from_bytes(data[33:37])
    if channels is None or any(kind[1:]) or data[end + 8 : end + 12] != b"IEND":
        return None
    if not 0 < width * height <= MAX_PIXELS:
        return None
    num_bytes = height * (1 + width * channels * depth // 8)
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(memoryview(data)[41:end], num_bytes + 1)
    except zlib.error:
        return None
    if not unpacking.eof or len(content) != num_bytes:
        return None
    rows = np.frombuffer(content, np.uint8).reshape(height, -1)
    if rows[:, 0].any():
        return None
    if depth == 16:
        return rows[:, 1:].view(">u2").astype(np.uint16)
    return rows[:, 1:].reshape(height, width, 3) if channels == 3 else rows[:, 1:]


def check_chunks(data: bytes) -> None:
    """OSError unless every chunk has its checksum and the last is there; PIL looks at some only."""
    at, name = len(SIGNATURE), b""
    while name != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4])
        name = data[at + 4 : at + 8]
        if data[end : end + 4] != zlib.crc32(data[at + 4 : end]).to_bytes(4):
            raise OSError(f"a chunk at byte {at} of {len(data)} is broken or cut off")
        at = end + 4
