"""Tiny data sets in the official layouts, drawn: the fixtures of the shard tests."""

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_sets import LABEL_ID
from PIL import Image

from maskrestore.config.cli import run_program
from maskrestore.data.png import encode_member
from shards.sources.camvid import CLASSES
from shards.sources.streetscenes import draw
from shards.write import WriteConfig, main

HEIGHT, WIDTH = 48, 96


def run_write(*words: str) -> int:
    """Exit status of `python shards/write.py WORDS`, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["write.py", *words])
        return run_program(main, "", WriteConfig)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def deep_png(depth: int, color_type: int, samples: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG of `depth` bits per channel, which PIL cannot write, with `chunks` before the pixels.
    samples: [H,W] grey (color_type 0), [H,W,3] RGB (2), [H,W,2] grey and alpha (4) or [H,W,4] RGBA
    (6), of 16 or 8 bits, or of 4 with an even width."""
    height, width = samples.shape[:2]
    rows = flat = samples.reshape(height, -1).astype(np.uint16)
    if depth == 16:
        rows = flat.astype(">u2").view(np.uint8)
    elif depth == 4:
        rows = flat[:, ::2] << 4 | flat[:, 1::2]
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    filtered = np.pad(rows.astype(np.uint8), ((0, 0), (1, 0)))  # filter 0 before each row
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(filtered.tobytes())))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def cityscapes(root: Path, counts: dict[str, int], coarse: bool = True) -> list[str]:
    """Writes the Cityscapes layout and returns the keys; split train_extra has no gtFine."""
    keys = []
    for place, (split, count) in enumerate(counts.items()):
        for number in range(count):
            city = f"{split.replace('_', '-')}stadt"
            key = f"{city}_{place:06}_{number:06}"
            scene = draw(7, place * 1000 + number, HEIGHT, WIDTH)
            files: dict[str, dict[str, Any]] = {
                "leftImg8bit": {"leftImg8bit": scene.image},
                "gtFine": {"gtFine_labelIds": scene.fine, "gtFine_instanceIds": scene.instance},
                "gtCoarse": {
                    "gtCoarse_labelIds": scene.coarse,
                    "gtCoarse_instanceIds": scene.coarse.astype(np.uint16),
                },
            }
            if split == "train_extra":
                del files["gtFine"]
            if not coarse:
                del files["gtCoarse"]
            for folder, arrays in files.items():
                (root / folder / split / city).mkdir(parents=True, exist_ok=True)
                for kind, array in arrays.items():
                    path = root / folder / split / city / f"{key}_{kind}.png"
                    path.write_bytes(encode_member(array))
            keys.append(key)
    return keys


def camvid(root: Path, counts: dict[str, int]) -> None:
    """Writes the SegNet layout of CamVid: JPEG pictures, 8 bit ids 0..11."""
    for place, (split, count) in enumerate(counts.items()):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for number in range(count):
            scene = draw(7, place * 1000 + number, HEIGHT, WIDTH)
            ids = np.full(scene.fine.shape, CLASSES.index("static"), np.uint8)
            for id_, name in enumerate(CLASSES):
                ids[scene.fine == LABEL_ID[name]] = id_
            stem = f"clip{place}_{number:04}"
            Image.fromarray(scene.image).save(root / split / f"{stem}.jpg", quality=95)
            (root / f"{split}annot" / f"{stem}.png").write_bytes(encode_member(ids))
