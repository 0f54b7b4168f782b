"""A user's own folders: any encoding, size and label set; all that is wrong at once."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from maskrestore.config.labels import load_labels
from maskrestore.config.run import load_config
from maskrestore.data.label_tables import colors_of, numbers_of
from maskrestore.data.sample import Sample
from maskrestore.data.shard_folder import ShardFolder, open_split
from maskrestore.utils.errors import ConfigError, UserError
from shards.sources.fields import FIELDS, draw
from shards.sources.pairs import connected_things
from shards.verify import verify
from shards.write import main as write

SIZE = (32, 64)
NUM = 8
Save = Callable[[NDArray[np.uint8], Path], None]


def save_ids(mask: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(mask).save(path)


def save_16_bits(mask: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(mask.astype(np.uint16)).save(path)


def save_colors(mask: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(colors_of(FIELDS)[numbers_of(FIELDS)[mask]]).save(path)


def save_palette(mask: NDArray[np.uint8], path: Path) -> None:
    palette = np.zeros((256, 3), np.uint8)
    for entry in FIELDS.by_number:
        palette[entry.id] = entry.color
    image = Image.fromarray(mask, "L")
    image.putpalette(palette.tobytes())
    image.save(path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Pictures, masks and instance maps of NUM scenes, of which the first has a hole."""
    for folder in ("images", "masks", "things"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for index in range(NUM):
        scene = draw(0, index, *SIZE)
        if index == 0:
            scene.mask[:8, :8] = 255
        Image.fromarray(scene.image).save(tmp_path / "raw/images" / f"{index}.jpg", quality=95)
        save_ids(scene.mask, tmp_path / "raw/masks" / f"{index}.png")
        Image.fromarray(scene.things).save(tmp_path / "raw/things" / f"{index}.png")
    return tmp_path / "raw"


def words_for(raw: Path, *more: str) -> list[str]:
    words = [f"images={raw / 'images'}", f"masks={raw / 'masks'}", f"out={raw.parent / 'out'}"]
    return ["source=folder", *words, "labels=fields", "size=32x64", "workers=1", *more]


def samples(folder: Path, split: str) -> dict[str, Sample]:
    opened = ShardFolder(folder, split)
    return {opened[n].key: opened[n] for n in range(len(opened))}


@pytest.mark.parametrize("save", [save_ids, save_16_bits, save_colors, save_palette])
def test_masks_of_every_encoding_become_the_same_numbers(raw: Path, save: Save) -> None:
    masks = {path.stem: np.asarray(Image.open(path)) for path in (raw / "masks").iterdir()}
    for stem, mask in masks.items():
        save(mask, raw / "masks" / f"{stem}.png")
    out = raw.parent / "out"
    write(words_for(raw))
    there = samples(out, "train") | samples(out, "val")
    assert set(there) == set(masks)
    for stem, mask in masks.items():
        assert np.array_equal(there[stem].fine, numbers_of(FIELDS)[mask])
    assert (there["0"].fine[:8, :8] == 0).all()
    assert (there["0"].coarse[:8, :8] == 0).all()
    assert verify(out)[0] == []


def test_val_is_drawn_by_name_and_stays(raw: Path) -> None:
    write(words_for(raw, "val_share=0.3"))
    out = raw.parent / "out"
    val = set(samples(out, "val"))
    assert len(val) == 2
    assert len(samples(out, "train")) == NUM - 2


def test_folders_of_splits_are_the_splits(raw: Path) -> None:
    for folder in ("images", "masks"):
        for split, stems in (("train", "012367"), ("val", "45")):
            (raw / folder / split).mkdir()
            for path in [path for path in (raw / folder).iterdir() if path.stem in stems]:
                path.rename(raw / folder / split / path.name)
    write(words_for(raw))
    assert set(samples(raw.parent / "out", "val")) == {"4", "5"}


def test_instances_are_given_or_found(raw: Path) -> None:
    out = raw.parent / "out"
    write(words_for(raw, f"instances={raw / 'things'}"))
    things = np.asarray(Image.open(raw / "things/1.png"))
    instance = (samples(out, "train") | samples(out, "val"))["1"].instance
    assert ((instance >= 1000) == (things > 0)).all()
    pairs = {
        (int(a), int(b)) for a, b in zip(instance[things > 0], things[things > 0], strict=True)
    }
    assert len({a for a, _ in pairs}) == len(pairs)  # one class cut in two is two things
    found = [*words_for(raw)[:-1], f"out={raw.parent / 'found'}"]
    write(found)
    there = samples(raw.parent / "found", "train") | samples(raw.parent / "found", "val")
    assert ((there["1"].instance >= 1000) == (things > 0)).all()


def test_things_of_any_class_have_numbers_of_their_own() -> None:
    fine = np.zeros((9, 9), np.uint8)
    fine[0, 0], fine[2, 2], fine[4:6, 4:6], fine[8] = 91, 91, 200, 150
    instance = connected_things(fine, (91, 200))
    assert (instance[fine == 150] == 150).all()
    things = [int(instance[place]) for place in ((0, 0), (2, 2), (4, 4), (5, 5))]
    assert things == [1000, 1001, 1002, 1002]


def test_masks_that_are_not_finished_are_the_coarse_ones(raw: Path) -> None:
    (raw / "open").mkdir()
    for path in (raw / "masks").iterdir():
        mask = np.asarray(Image.open(path)).copy()
        mask[10:] = 255
        save_ids(mask, raw / "open" / path.name)
    write(words_for(raw, f"coarse={raw / 'open'}"))
    manifest = json.loads((raw.parent / "out/manifest.json").read_text())
    assert manifest["coarse"] == "annotated"
    for sample in samples(raw.parent / "out", "train").values():
        assert np.array_equal(sample.coarse[:10], sample.fine[:10])
        assert (sample.coarse[10:] == 0).all()


def test_all_that_is_wrong_is_told_at_once_and_left_out_if_asked(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "masks/1.png").unlink()
    Image.new("L", (10, 10)).save(raw / "masks/2.png")
    (raw / "images/3.jpg").write_bytes(b"no picture")
    Image.new("RGB", (64, 32)).save(raw / "images/lonely.png")
    with pytest.raises(UserError) as told:
        write(words_for(raw))
    for line in (
        "images/1.jpg: has no mask masks/1.png",
        "2.png: is 10x10, its picture 64x32",
        "3.jpg: cannot be read as a picture",
        "images/lonely.png: has no mask",
        "only_good=true leaves them out",
    ):
        assert line in str(told.value)
    assert not (raw.parent / "out").exists()
    mask = np.asarray(Image.open(raw / "masks/4.png")).copy()
    mask[3, 5] = 77
    save_ids(mask, raw / "masks/4.png")
    write(words_for(raw, "only_good=true"))
    there = samples(raw.parent / "out", "train") | samples(raw.parent / "out", "val")
    assert set(there) == {"0", "5", "6", "7"}
    assert "4.png: 1 of 2048 pixels are of values that are not" in capsys.readouterr().out


def test_ids_that_the_labels_have_not_are_named_with_their_number(raw: Path) -> None:
    for stem in "25":
        mask = np.asarray(Image.open(raw / f"masks/{stem}.png")).copy()
        mask[3, :7] = 77
        save_ids(mask, raw / f"masks/{stem}.png")
    with pytest.raises(UserError) as told:
        write(words_for(raw))
    for stem in "25":
        assert (
            f"{stem}.png: 7 of 2048 pixels are of values that are not 0..3, 10..11, 20..21 or 255, "
            "the first 77; the nearest is 21, house"
        ) in str(told.value)


def test_labels_are_proposed_from_what_there_is(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("labels=fields", "labels=auto") for word in words_for(raw)]
    write(words)
    assert "name its classes" in capsys.readouterr().out
    labels = load_labels(str(raw.parent / "out/labels.yaml"))
    ids = {entry.id for entry in labels.classes}
    assert ids == {int(v) for path in (raw / "masks").iterdir()
                   for v in np.unique(np.asarray(Image.open(path)))} - {255}  # fmt: skip
    with pytest.raises(ConfigError, match="is there already"):
        write(words)


def test_a_run_of_other_labels_is_refused_with_both_named(raw: Path) -> None:
    write(words_for(raw))
    data = [f"data.shards={raw.parent / 'out'}", "data.size=32x64"]
    with pytest.raises(UserError, match=r"data\.labels=cityscapes, but .* are of Fields \(9 class"):
        open_split(load_config(data).data, "train")
    assert open_split(load_config([*data, "data.labels=fields"]).data, "train")


def test_other_sources_have_the_classes_of_cityscapes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="source=streetscenes is read as the classes of City"):
        write([f"out={tmp_path}", "labels=fields"])
    with pytest.raises(ConfigError, match="images, masks: must be given"):
        write([f"out={tmp_path}", "source=folder", "labels=fields"])


def test_sizes_are_proposed_with_the_memory_that_they_take(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (raw / "images").iterdir():
        Image.new("RGB", (400, 200)).save(path)
    words = [word.replace("size=32x64", "size=auto") for word in words_for(raw)]
    write(words)
    told = capsys.readouterr().out
    assert "8 pictures, 200x400 (height x width) in the middle" in told
    found = re.findall(r"size=(\d+)x(\d+) +([\d.]+) GB", told)
    assert [f"{h}x{w}" for h, w, _ in found] == ["192x384", "96x192", "64x96", "32x64"]
    largest, second = (float(memory) for *_, memory in found[:2])
    assert largest == pytest.approx(4 * second, abs=0.02)
    assert 0.2 < largest < 2  # a network of width 16 that sees the picture, 9 classes
    assert not (raw.parent / "out").exists()
