"""Tiny data sets in the official layouts, drawn: the fixtures of the shard tests."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrestore.labels import LABEL_ID
from maskrestore.program import run_program
from maskrestore.sample import encode_member
from shards.camvid import CLASSES
from shards.streetscenes import draw
from shards.write import WriteConfig, main

HEIGHT, WIDTH = 48, 96


def run_write(*words: str) -> int:
    """Exit status of `python shards/write.py WORDS`, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["write.py", *words])
        return run_program(main, "", WriteConfig)


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
