"""Members of a sample: exact in both directions, for us and for others, or an error."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from maskrestore.data.png import decode_member, encode_member

RNG = np.random.default_rng(0)
ARRAYS = {
    "picture": RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8),
    "large picture": RNG.integers(0, 256, (200, 301, 3)).astype(np.uint8),  # several stored blocks
    "ids": RNG.integers(0, 34, (5, 7)).astype(np.uint8),
    "instances": RNG.integers(0, 34000, (5, 7)).astype(np.uint16),
    "one pixel": np.full((1, 1), 33999, np.uint16),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_members_are_exact_here_in_pil_and_in_opencv(array: np.ndarray) -> None:
    data = encode_member(array)
    decoded = decode_member(data)
    assert decoded.dtype == array.dtype
    assert np.array_equal(decoded, array)
    assert encode_member(decoded) == data
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), array)
    others = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(others[..., ::-1] if array.ndim == 3 else others, array)


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_pngs_of_other_programs_are_read(array: np.ndarray) -> None:
    """Shards that were written before are of this kind."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=6)
    opencv = cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)[1].tobytes()
    for data in (buffer.getvalue(), opencv):
        decoded = decode_member(data)
        assert decoded.dtype == array.dtype
        assert np.array_equal(decoded, array)


@pytest.mark.parametrize("name", ["picture", "ids", "instances"])
def test_broken_bytes_are_errors_or_change_nothing(name: str) -> None:
    array = ARRAYS[name]
    data = encode_member(array)
    broken = [data[:size] for size in range(len(data))]
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        broken.append(bytes(flipped))
    refused = 0
    for attempt in broken:
        try:
            assert np.array_equal(decode_member(attempt), array)
        except OSError:
            refused += 1
    assert refused > 0.8 * len(broken)


def claiming(width: int, height: int) -> bytes:
    """A whole PNG, its checksums right, whose header claims another size."""
    data = encode_member(ARRAYS["ids"])
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4) + data[33:]


@pytest.mark.parametrize("size", [(2**32 - 1, 2**32 - 1), (40_000, 40_000), (0, 5), (8, 5)])
def test_a_header_that_claims_another_size_is_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(OSError, match=r"."):
        decode_member(claiming(*size))
