"""Tiny data sets in the official layouts, drawn: the fixtures of the shard tests."""

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrestore.config.cli import run_program
from maskrestore.data.labels import LABEL_ID
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


def deep_png(depth: int, color_type: int, samples: np.ndarray) -> bytes:
    """A PNG of `depth` bits per channel, which PIL cannot write. samples: [H,W] grey (color_type 0)
    or [H,W,3] RGB (2), of 16 bits, or of 4 with an even width."""
    height, width = samples.shape[:2]
    flat = samples.reshape(height, -1)
    if depth == 16:
        rows = flat.astype(">u2").view(np.uint8)
    else:
        rows = (flat[:, ::2] << 4 | flat[:, 1::2]).astype(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    content = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())  # filter 0 before each row
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", content), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + name + data
        png += struct.pack(">I", zlib.crc32(name + data))
    return png


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
