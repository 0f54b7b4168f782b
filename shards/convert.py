"""Masks of an annotation program as source=folder takes them:

python shards/convert.py format=coco|labelme|cvat root=PATH out=DIR

root: COCO's folder with the panoptic JSON, a folder of labelme's JSON files, or the ZIP of CVAT's
"Segmentation mask 1.1". Writes DIR/masks/*.png, DIR/instances/*.png and the label file
DIR/labels.yaml; what nobody annotated is 255. (COCO-Stuff's pixel maps need none of this: they are
masks already, of labels=coco_stuff.)
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from maskrestore.config.cli import run_program
from maskrestore.config.labels import MOST_CLASSES, LabelSet, save_labels
from maskrestore.config.settings import Section, parse
from maskrestore.data.png import encode_member
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import write_atomically
from shards.sources.exports import NOBODY, OPENERS, Export
from shards.sources.propose import free_color


class ConvertConfig(Section):
    """What is converted, and where to."""

    format: Literal["coco", "labelme", "cvat"]
    """Which program's export it is."""
    root: Path
    """The export."""
    out: Path
    """Folder for masks, instances and the label file; made if it is not there."""


def main(words: Sequence[str]) -> None:
    """Convert all masks, and say what to write next. Raises ConfigError and UserError."""
    config = parse(ConvertConfig, words)
    if not config.root.exists():
        raise UserError(f"root={config.root}: there is no such file or folder")
    path = config.out / "labels.yaml"
    if path.exists():
        raise ConfigError(f"{path} is there already: give another out=, or delete it")
    export = OPENERS[config.format](config.root)
    labels = _labels(export, config)
    for folder in ("masks", "instances"):
        (config.out / folder).mkdir(parents=True, exist_ok=True)
    for one in tqdm(export.masks(), "converting", total=export.num_masks, unit="mask"):
        write_atomically(config.out / "masks" / f"{one.key}.png", encode_member(one.mask))
        write_atomically(config.out / "instances" / f"{one.key}.png", encode_member(one.things))
    write_atomically(path, save_labels(labels).encode())  # last: it says that all is there
    print(
        f"{export.num_masks} masks of {len(labels.classes)} classes. Their shards:\n"
        f"python shards/write.py source=folder images=DIR masks={config.out / 'masks'} "
        f"instances={config.out / 'instances'} labels={path} out=DIR"
    )


def _labels(export: Export, config: ConvertConfig) -> LabelSet:
    if len(export.classes) > MOST_CLASSES:
        raise UserError(
            f"root={config.root}: {len(export.classes)} classes, and {MOST_CLASSES} are the most"
        )
    used = {(0, 0, 0)}
    classes = []
    for number, (name, (has_things, color)) in enumerate(export.classes.items()):
        if color is None or color in used:
            color = free_color(number + 1, used)
        used.add(color)
        classes.append({"id": number, "name": name, "color": color, "instances": has_things})
    return LabelSet.model_validate(
        {"name": config.root.stem, "not_annotated": NOBODY, "classes": classes}
    )


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, ConvertConfig))
