"""Exports of annotation programs, as they write them, become masks, instances and a label file."""

import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrestore.config.labels import load_labels
from maskrestore.utils.errors import ConfigError, UserError
from shards.convert import main as convert
from shards.write import main as write


def coco(root: Path) -> list[str]:
    """Two segments of sky and sea, two boats, and a strip that is nobody's."""
    (root / "panoptic_val").mkdir(parents=True)
    ids = np.zeros((32, 64), np.int64)
    ids[:10], ids[10:24] = 70000, 300
    ids[12:16, 4:10], ids[12:16, 20:30] = 9, 66051
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(rgb).save(root / "panoptic_val/a.png")
    segments = [(70000, 5), (300, 8), (9, 2), (66051, 2)]
    content = {
        "categories": [
            {"id": 8, "name": "sea", "isthing": 0, "color": [0, 0, 200]},
            {"id": 5, "name": "sky", "isthing": 0, "color": [90, 200, 250]},
            {"id": 2, "name": "boat", "isthing": 1, "color": [250, 0, 0]},
        ],
        "annotations": [
            {
                "file_name": "a.png",
                "segments_info": [{"id": one, "category_id": of} for one, of in segments],
            }
        ],
    }
    (root / "panoptic_val.json").write_text(json.dumps(content))
    return ["format=coco", f"root={root}"]


def labelme(root: Path) -> list[str]:
    root.mkdir(parents=True)
    shapes = [
        {"label": "sea", "points": [[0, 10], [63, 10], [63, 23], [0, 23]]},
        {"label": "sky", "points": [[0, 0], [63, 9]], "shape_type": "rectangle"},
        {"label": "boat", "points": [[4, 12], [9, 15]], "shape_type": "rectangle", "group_id": 1},
        {"label": "boat", "points": [[20, 12], [29, 15]], "shape_type": "rectangle"},
    ]
    content = {"imagePath": "a.jpg", "imageHeight": 32, "imageWidth": 64, "shapes": shapes}
    (root / "a.json").write_text(json.dumps(content))
    return ["format=labelme", f"root={root}"]


def cvat(root: Path) -> list[str]:
    root.mkdir(parents=True)
    colors = {"sky": (90, 200, 250), "sea": (0, 0, 200), "boat": (250, 0, 0)}
    shown = np.zeros((32, 64, 3), np.uint8)
    shown[:10], shown[10:24] = colors["sky"], colors["sea"]
    objects = np.zeros_like(shown)
    for number, box in enumerate((np.s_[12:16, 4:10], np.s_[12:16, 20:30])):
        shown[box], objects[box] = colors["boat"], (0, number + 1, 7)
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    lines += [f"{name}:{','.join(map(str, color))}::" for name, color in colors.items()]
    with zipfile.ZipFile(root / "job.zip", "w") as archive:
        archive.writestr("labelmap.txt", "\n".join(lines))
        for folder, pixels in (("Class", shown), ("Object", objects)):
            buffer = BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            archive.writestr(f"Segmentation{folder}/a.png", buffer.getvalue())
    return ["format=cvat", f"root={root / 'job.zip'}"]


@pytest.mark.parametrize("export", [coco, labelme, cvat])
def test_they_all_say_the_same(export: Callable[[Path], list[str]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [*export(tmp_path / "export"), f"out={out}"]
    convert(words)
    labels = load_labels(str(out / "labels.yaml"))
    names = {entry.id: entry.name for entry in labels.classes} | {255: "nobody"}
    mask = np.asarray(Image.open(out / "masks/a.png"))
    shown = np.vectorize(names.__getitem__)(mask)
    expected = np.full((32, 64), "nobody")
    expected[:10], expected[10:24] = "sky", "sea"
    expected[12:16, 4:10] = expected[12:16, 20:30] = "boat"
    assert (shown == expected).all()
    things = np.asarray(Image.open(out / "instances/a.png"))
    boats = [things[12:16, 4:10], things[12:16, 20:30]]
    assert all(len(np.unique(boat)) == 1 and boat.any() for boat in boats)
    assert boats[0][0, 0] != boats[1][0, 0]
    assert next(entry for entry in labels.classes if entry.name == "boat").instances
    with pytest.raises(ConfigError, match="is there already"):
        convert(words)


def test_what_is_converted_becomes_shards(tmp_path: Path) -> None:
    convert([*coco(tmp_path / "export"), f"out={tmp_path / 'out'}"])
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (64, 32)).save(tmp_path / "images" / f"{name}.jpg")
        for kind in ("masks", "instances"):
            content = (tmp_path / "out" / kind / "a.png").read_bytes()
            (tmp_path / "out" / kind / f"{name}.png").write_bytes(content)
    folders = {"images": "images", "masks": "out/masks", "instances": "out/instances"}
    write([
        *("source=folder", "size=32x64", f"labels={tmp_path / 'out/labels.yaml'}"),
        *(f"{name}={tmp_path / folder}" for name, folder in folders.items()),
        f"out={tmp_path / 'shards'}",
    ])  # fmt: skip
    manifest = json.loads((tmp_path / "shards/manifest.json").read_text())
    assert manifest["num_classes"] == 4
    assert [entry["name"] for entry in manifest["labels"]["classes"]] == ["boat", "sky", "sea"]


def spoiled(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    def told(words: list[str], message: str) -> None:
        with pytest.raises(UserError, match=message):
            convert([*words, f"out={tmp_path / 'out'}"])

    told(["format=coco", f"root={tmp_path / 'gone'}"], "there is no such file or folder")
    told(["format=coco", f"root={tmp_path}"], "0 JSON files")
    told(["format=labelme", f"root={tmp_path}"], "there is no JSON file")
    words, path = coco(tmp_path / "c"), tmp_path / "c/panoptic_val.json"
    spoiled(path, lambda content: content["annotations"][0]["segments_info"].pop())
    told(words, r"a\.png: the JSON has no segment 66051")
    spoiled(path, lambda content: content["categories"].pop())
    told(words, r"a\.png: the JSON has no (segment|category)")
    (tmp_path / "c/panoptic_val/a.png").unlink()
    told(words, r"a\.png: there is no such PNG")
    path.write_text("{}")
    told(words, "is no panoptic JSON")
    words, path = labelme(tmp_path / "l"), tmp_path / "l/a.json"
    spoiled(path, lambda content: content["shapes"][0].update(shape_type="linestrip"))
    told(words, r"a\.json: cannot be read: a shape 'linestrip' of 4 points \(sea\)")
    path.write_text("no JSON")
    told(words, r"a\.json: cannot be read as JSON")
    (tmp_path / "z.zip").write_bytes(b"no ZIP")
    told(["format=cvat", f"root={tmp_path / 'z.zip'}"], "is no export of CVAT")
    assert not (tmp_path / "out/labels.yaml").exists()
