"""Draw a small data set of farmland from above, as files: the example of docs/own_data.md.

python shards/example.py out=DIR [num=80] [unfinished=8] [size=128x192]

DIR/images/*.jpg and DIR/masks/*.png are pictures and their finished masks, DIR/instances/*.png
numbers of trees and houses; DIR/new/*.jpg are further pictures, and DIR/unfinished/*.png their
masks as an annotator left them.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import PositiveInt
from tqdm import tqdm

from maskrestore.config.cli import run_program
from maskrestore.config.data import Seed, Size, height_and_width
from maskrestore.config.settings import Section, parse
from maskrestore.data.label_tables import ids_of, numbers_of
from maskrestore.data.png import encode_member
from maskrestore.utils.files import write_atomically
from shards.sources.coarse import simulate_coarse
from shards.sources.fields import FIELDS, Scene, draw
from shards.sources.source import FIRST_INSTANCE


class ExampleConfig(Section):
    """What is drawn, and where to."""

    out: Path
    """Folder for the files; made if it is not there."""
    num: PositiveInt = 80
    """Pictures with finished masks."""
    unfinished: PositiveInt = 8
    """Further pictures, with masks that are not finished."""
    size: Size = "128x192"
    """Height x width in pixels."""
    seed: Seed = 0
    """Of all that is drawn."""


def main(words: Sequence[str]) -> None:
    """Draw all files, and say where they are."""
    config = parse(ExampleConfig, words)
    height, width = height_and_width(config.size)
    for folder in ("images", "masks", "instances", "new", "unfinished"):
        (config.out / folder).mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(config.num + config.unfinished), "drawing", unit="picture"):
        scene, name = draw(config.seed, index, height, width), f"field_{index:04}"
        is_new = index >= config.num
        jpeg = io.BytesIO()
        Image.fromarray(scene.image).save(jpeg, "JPEG", quality=95)
        files = {f"{'new' if is_new else 'images'}/{name}.jpg": jpeg.getvalue()}
        if is_new:
            unfinished = _unfinished(scene, np.random.default_rng([config.seed, index]))
            files[f"unfinished/{name}.png"] = encode_member(unfinished)
        else:
            files[f"masks/{name}.png"] = encode_member(scene.mask)
            files[f"instances/{name}.png"] = encode_member(scene.things)
        for path, content in files.items():
            write_atomically(config.out / path, content)
    print(config.out)


def _unfinished(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    numbers = numbers_of(FIELDS)[scene.mask]
    things = np.where(scene.things, FIRST_INSTANCE + scene.things, numbers).astype(np.uint16)
    ids: NDArray[np.uint8] = ids_of(FIELDS)[simulate_coarse(numbers, things, rng)]
    return ids


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, ExampleConfig))
