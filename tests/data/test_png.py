"""png.py: what is written for people holds the very pixels, however it is packed."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskrestore.data.png import decode_member, png


def by_pil(pixels: np.ndarray) -> bytes:
    """As these files were written before."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(), (3,)]), st.integers(0, 99))
def test_pixels_come_back_as_from_pil(
    height: int, width: int, channels: tuple[int, ...], seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)
    for data in (png(pixels), by_pil(pixels), png(pixels[::-1, ::-1])):
        with Image.open(io.BytesIO(data)) as image:
            image.verify()  # checksums
    for data in (png(pixels), by_pil(pixels)):
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == ("RGB" if channels else "L")
            assert np.array_equal(np.asarray(image), pixels)
        assert np.array_equal(decode_member(data), pixels)
    assert np.array_equal(decode_member(png(pixels[::-1, ::-1])), pixels[::-1, ::-1])


@pytest.mark.parametrize("channels", [(), (3,)])
def test_files_are_about_as_small_as_before(channels: tuple[int, ...]) -> None:
    """Of labels, and of a scene with the noise of a camera."""
    labels = np.random.default_rng(0).integers(0, 34, (16, 32), np.uint8)
    labels = labels.repeat(32, 0).repeat(32, 1)
    assert len(png(labels)) < len(by_pil(labels))
    ramp = np.add.outer(np.arange(512), np.arange(1024)) // 8
    noise = np.random.default_rng(0).integers(0, 4, (512, 1024, *channels))
    scene = (ramp.reshape(512, 1024, *(1 for _ in channels)) + noise).astype(np.uint8)
    assert len(png(scene)) < 1.1 * len(by_pil(scene))
