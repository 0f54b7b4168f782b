"""pictures.py: pictures and masks are read as they say of themselves that they are to be seen."""

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from raw_data import chunk, deep_png

from maskrestore.data.pictures import decode_mask, read_header, read_image
from maskrestore.utils.errors import UserError

RNG = np.random.default_rng(0)
SCENE = RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8)
IDS = np.arange(24, dtype=np.uint8).reshape(4, 6)
STORED = {
    1: lambda array: array,
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: lambda array: np.rot90(array, -1),
    0: lambda array: array,
    9: lambda array: array,
}
"""Orientation -> how an upright array lies in the file (TIFF 6.0, tag 274)."""


def exif(orientation: int) -> bytes:
    """TIFF with the orientation alone."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


def saved(array: np.ndarray, kind: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, kind, **more)
    return buffer.getvalue()


def read(tmp_path: Path, data: bytes) -> np.ndarray:
    (tmp_path / "picture").write_bytes(data)
    return read_image(tmp_path / "picture")


@pytest.mark.parametrize("orientation", STORED)
def test_pictures_and_masks_are_upright(tmp_path: Path, orientation: int) -> None:
    lying, tag = STORED[orientation](SCENE), exif(orientation)
    smooth = np.array([[0, 90, 180], [250, 60, 120]], np.uint8).repeat(16, 0).repeat(16, 1)
    jpeg = saved(STORED[orientation](smooth), "JPEG", quality=95, exif=b"Exif\0\0" + tag)
    late = saved(lying)
    late = late[:-12] + chunk(b"eXIf", tag) + late[-12:]
    for data in (saved(lying, exif=tag), late):
        assert np.array_equal(read(tmp_path, data), SCENE)
        assert read_header(tmp_path / "picture").size == (6, 4)
    assert np.abs(read(tmp_path, jpeg)[..., 0].astype(int) - smooth).max() < 20
    assert read_header(tmp_path / "picture").size == (48, 32)
    mask = decode_mask(saved(STORED[orientation](IDS), exif=tag))
    assert np.array_equal(mask.pixels, IDS)
    xmp = f'<x tiff:Orientation="{orientation}"/>'.encode()
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    assert np.array_equal(read(tmp_path, saved(lying)[:-12] + text + late[-12:]), SCENE)
    assert read_header(tmp_path / "picture").size == (6, 4)


@pytest.mark.parametrize("broken", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"no TIFF at all"])
def test_broken_exif_is_as_none(tmp_path: Path, broken: bytes) -> None:
    for data in (saved(SCENE), saved(SCENE, exif=broken) if broken else saved(SCENE)):
        assert np.array_equal(read(tmp_path, data), SCENE)
        assert read_header(tmp_path / "picture").size == (6, 4)


def test_transparent_pictures_lie_on_black(tmp_path: Path) -> None:
    alpha = RNG.choice([0, 100, 255], (4, 6)).astype(np.uint8)
    on_black = np.rint(SCENE * (alpha[..., None] / 255)).astype(int)
    assert np.abs(read(tmp_path, saved(np.dstack([SCENE, alpha]))) - on_black).max() <= 1
    assert np.array_equal(read(tmp_path, saved(np.dstack([SCENE, alpha * 0 + 255]))), SCENE)
    grey_alpha = saved(np.dstack([SCENE[..., 0], alpha]))
    assert np.abs(read(tmp_path, grey_alpha) - on_black[..., :1]).max() <= 1
    key = tuple(int(value) for value in SCENE[1, 2])
    expected = SCENE.copy()
    expected[1, 2] = 0
    assert np.array_equal(read(tmp_path, saved(SCENE, transparency=key)), expected)


def test_palettes_are_pictures_too(tmp_path: Path) -> None:
    image = Image.frombytes("P", (6, 4), IDS.tobytes())
    palette = RNG.integers(0, 256, (24, 3)).astype(np.uint8)
    image.putpalette(palette.ravel().tolist())
    image.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    expected = palette[IDS]
    expected[IDS == 1] = 0
    assert np.array_equal(read_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("color_type", [0, 2, 4, 6])
def test_16_bits_are_scaled(tmp_path: Path, color_type: int) -> None:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    samples = RNG.integers(0, 65536, (4, 6, channels))
    samples[..., -1] = samples[..., -1] if color_type in (0, 2) else 65535
    pixels = read(tmp_path, deep_png(16, color_type, samples))
    colors = samples[..., :3] if channels > 2 else samples[..., :1]
    assert np.array_equal(pixels, np.broadcast_to(colors // 256, pixels.shape))


@pytest.mark.parametrize("brightest", [255, 4095, 2**14 - 1])
def test_16_bits_that_hold_fewer_are_not_seen_as_black(tmp_path: Path, brightest: int) -> None:
    """Sensors of 8, 12 and 14 bits."""
    samples = np.linspace(0, brightest, 24).astype(int).reshape(4, 6)
    for data in (deep_png(16, 0, samples), deep_png(16, 2, np.dstack([samples] * 3))):
        with pytest.raises(UserError, match=r"picture: has 16 bits .* 0..65535, or save it with 8"):
            read(tmp_path, data)


def test_transparent_pixels_of_masks_are_known() -> None:
    alpha = np.where(IDS % 3, 255, 0).astype(np.uint8)
    alpha[3, 5] = 1
    for data in (
        saved(np.dstack([IDS, alpha])),
        saved(np.dstack([IDS, IDS, IDS, alpha])),
    ):
        mask = decode_mask(data)
        assert np.array_equal(mask.pixels if mask.pixels.ndim == 2 else mask.pixels[..., 1], IDS)
        assert mask.transparent is not None
        assert np.array_equal(mask.transparent, alpha == 0)
    for data in (
        deep_png(8, 0, IDS, chunk(b"tRNS", struct.pack(">H", 7))),
        deep_png(8, 2, np.dstack([IDS] * 3), chunk(b"tRNS", struct.pack(">HHH", 7, 7, 7))),
        deep_png(16, 0, IDS, chunk(b"tRNS", struct.pack(">H", 7))),
        deep_png(8, 3, IDS, chunk(b"PLTE", bytes(3 * 24)), chunk(b"tRNS", b"\xff" * 7 + b"\0")),
        deep_png(8, 3, IDS, chunk(b"PLTE", bytes(3 * 24)), chunk(b"tRNS", b"\1" * 7 + b"\0\1")),
    ):
        mask = decode_mask(data)
        assert mask.transparent is not None
        assert np.array_equal(mask.transparent, IDS == 7)
        assert 7 not in mask.seen()
    assert decode_mask(saved(np.dstack([IDS, alpha * 0 + 255]))).transparent is None


def test_a_turned_mask_has_its_transparent_pixels_with_it() -> None:
    alpha = np.where(IDS == 7, 0, 255).astype(np.uint8)
    mask = decode_mask(saved(np.rot90(np.dstack([IDS, alpha])), exif=exif(6)))
    assert mask.transparent is not None
    assert mask.transparent.shape == mask.pixels.shape == (4, 6)
    assert mask.pixels[mask.transparent].tolist() == [7]


def test_colour_profiles_change_nothing(tmp_path: Path) -> None:
    """As where the training pictures were read; in a mask they would make other ids of ids."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    smooth = np.array([[0, 90, 180], [250, 60, 120]], np.uint8).repeat(16, 0).repeat(16, 1)
    for kind, array in (("PNG", SCENE), ("PNG", IDS), ("JPEG", smooth)):
        plain, profiled = saved(array, kind), saved(array, kind, icc_profile=profile)
        assert len(profiled) > len(plain)
        assert np.array_equal(read(tmp_path, profiled), read(tmp_path, plain))
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
    for data in (saved(IDS, icc_profile=profile), deep_png(8, 0, IDS, gamma)):
        assert np.array_equal(decode_mask(data).pixels, IDS)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_the_bytes_are_the_error_is_one_that_is_caught(tmp_path: Path) -> None:
    """One bad file of many: nothing but a picture or an error that is caught comes of it."""
    whole = [saved(SCENE, exif=exif(6)), saved(SCENE, "JPEG", exif=b"Exif\0\0" + exif(3))]
    whole.append(deep_png(8, 3, IDS, chunk(b"PLTE", bytes(72)), chunk(b"tRNS", b"\xff\0")))
    for number in range(200):
        data = bytearray(whole[number % 3])
        for place in RNG.integers(0, len(data), 1 + number % 4):
            data[place] = RNG.integers(0, 256)
        path = tmp_path / "picture"
        path.write_bytes(data[: RNG.integers(1, len(data))] if number % 5 == 0 else data)
        for reader in (read_image, read_header, lambda path: decode_mask(path.read_bytes())):
            with suppress(UserError, OSError):
                reader(path)
