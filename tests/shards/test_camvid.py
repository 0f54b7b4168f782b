"""source=camvid: the SegNet layout, its ids mapped to those of Cityscapes."""

import json
from pathlib import Path

import numpy as np
import pytest
from label_sets import LABEL_ID
from PIL import Image
from raw_data import camvid, deep_png

from maskrestore.config.settings import parse
from maskrestore.data.png import encode_member
from maskrestore.data.sample import Sample, decode
from maskrestore.utils.errors import UserError
from shards.write import WriteConfig, write_shards


def write(root: Path, out: Path) -> dict[str, list[Sample]]:
    words = [f"root={root}", f"out={out}", "source=camvid", "size=32x64", "workers=1"]
    manifest = json.loads(write_shards(parse(WriteConfig, words)).read_text())
    samples: dict[str, list[Sample]] = {}
    for split, content in manifest["splits"].items():
        for shard in content["shards"]:
            data = (out / shard["name"]).read_bytes()
            for sample in shard["samples"]:
                members = {name: data[a : a + n] for name, (a, n) in sample["members"].items()}
                samples.setdefault(split, []).append(decode(sample["key"], members))
    assert manifest["coarse"] == "simulated"
    assert any("bicyclist is rider" in note for note in manifest["notes"])
    return samples


def test_ids_are_mapped_to_cityscapes(tmp_path: Path) -> None:
    camvid(tmp_path / "raw", {"train": 2, "val": 1})
    names = ("sky", "building", "pole", "road", "sidewalk", "vegetation", "traffic sign",
             "fence", "car", "person", "rider", "static")  # fmt: skip
    stripes = np.repeat(np.arange(12, dtype=np.uint8), 8)[None].repeat(48, 0)
    (tmp_path / "raw/valannot/clip1_0000.png").write_bytes(encode_member(stripes))
    samples = write(tmp_path / "raw", tmp_path / "out")
    assert [len(samples["train"]), len(samples["val"])] == [2, 1]
    fine = samples["val"][0].fine
    centres = ((np.arange(12) + 0.5) * 64 / 12).astype(int)
    assert fine[16, centres].tolist() == [LABEL_ID[name] for name in names]


def test_each_connected_part_of_a_countable_class_is_an_instance(tmp_path: Path) -> None:
    camvid(tmp_path / "raw", {"train": 1, "val": 1})
    ids = np.full((48, 96), 3, np.uint8)
    ids[10:30, 10:30] = ids[10:30, 60:80] = 8
    (tmp_path / "raw/valannot/clip1_0000.png").write_bytes(encode_member(ids))
    sample = write(tmp_path / "raw", tmp_path / "out")["val"][0]
    assert np.unique(sample.instance).tolist() == [LABEL_ID["road"], 26000, 26001]


def test_every_bad_file_is_named_and_nothing_written(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    camvid(root, {"train": 4, "val": 1})
    ids = np.full((48, 96), 3, np.uint8)
    mask = root / "trainannot/clip0_0001.png"
    mask.write_bytes(encode_member(ids[:40]))
    picture = root / "train/clip0_0002.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100])
    with pytest.raises(UserError) as error:
        write(root, tmp_path / "out")
    for part in ("clip0_0001.png: is 96x40", "clip0_0002.jpg: cannot"):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()
    mask.write_bytes(encode_member(np.full_like(ids, 12)))
    picture.write_bytes(whole[:-300])
    with pytest.raises(UserError) as error:
        write(root, tmp_path / "bad-pixels")
    for part in ("clip0_0001.png: ids 12", "clip0_0002.jpg: cannot"):
        assert part in str(error.value)
    assert not (tmp_path / "bad-pixels" / "manifest.json").exists()
    (root / "trainannot/clip0_0003.png").unlink()
    Image.fromarray(ids).save(root / "valannot/alone.png")
    with pytest.raises(UserError) as error:
        write(root, tmp_path / "out")
    assert "train/clip0_0003.jpg: has no annotation" in str(error.value)
    assert "valannot/alone.png: has no picture" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_pictures_of_16_bits_are_named(tmp_path: Path) -> None:
    camvid(tmp_path / "raw", {"train": 1, "val": 1})
    (tmp_path / "raw/val/clip1_0000.jpg").unlink()
    picture = tmp_path / "raw/val/clip1_0000.png"
    picture.write_bytes(deep_png(16, 2, np.arange(48 * 96 * 3).reshape(48, 96, 3)))
    with pytest.raises(UserError, match=r"clip1_0000\.png: .*16 bits"):
        write(tmp_path / "raw", tmp_path / "out")
