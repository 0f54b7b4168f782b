"""source=folder: pictures that were turned by a camera, and folders of thousands of small files."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrestore.data.label_tables import numbers_of
from maskrestore.data.manifest import read_manifest
from maskrestore.data.sample import Sample
from maskrestore.data.shard_folder import ShardFolder
from maskrestore.utils.errors import UserError
from shards.sources.fields import FIELDS, draw
from shards.write import main as write

TURNED = {"2": np.fliplr, "3": lambda array: array[::-1, ::-1], "6": np.rot90}
"""Orientation of EXIF -> how an upright array lies in its file."""


def folders(root: Path) -> tuple[Path, Path]:
    images, masks = root / "images", root / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    return images, masks


def words_for(root: Path, *more: str) -> list[str]:
    words = [f"images={root / 'images'}", f"masks={root / 'masks'}", f"out={root / 'out'}"]
    return ["source=folder", *words, "labels=fields", "size=32x64", "workers=1", *more]


def samples(folder: Path) -> dict[str, Sample]:
    splits = [ShardFolder(folder, split) for split in ("train", "val")]
    return {split[n].key: split[n] for split in splits for n in range(len(split))}


def save_turned(array: np.ndarray, path: Path, orientation: str) -> None:
    image = Image.fromarray(np.ascontiguousarray(TURNED[orientation](array)))
    exif = image.getexif()
    exif[0x112] = int(orientation)
    image.save(path, exif=exif, quality=100, subsampling=0)


def test_photographs_that_exif_turns_lie_upright_beside_their_masks(tmp_path: Path) -> None:
    """Masks were drawn over what a viewer shows, which is upright; some were saved as they lay."""
    images, masks = folders(tmp_path)
    scenes = {name: draw(0, number, 32, 64) for number, name in enumerate((*TURNED, "both"))}
    for name, scene in scenes.items():
        orientation = "6" if name == "both" else name
        save_turned(scene.image, images / f"{name}.jpg", orientation)
        if name == "both":
            save_turned(scene.mask, masks / f"{name}.png", orientation)
        else:
            Image.fromarray(scene.mask).save(masks / f"{name}.png")
    write(words_for(tmp_path))
    there = samples(tmp_path / "out")
    assert set(there) == set(scenes)
    for name, scene in scenes.items():
        assert np.array_equal(there[name].fine, numbers_of(FIELDS)[scene.mask])
        off = np.abs(there[name].image.astype(int) - scene.image)  # what JPEG changes
        assert off.mean() < 4
        assert np.abs(there[name].image[:, ::-1].astype(int) - scene.image).mean() > 3 * off.mean()


def test_a_mask_that_lies_as_its_photograph_did_is_refused_by_its_size(tmp_path: Path) -> None:
    images, masks = folders(tmp_path)
    scene = draw(0, 0, 32, 64)
    save_turned(scene.image, images / "a.jpg", "6")
    Image.fromarray(np.rot90(scene.mask)).save(masks / "a.png")
    with pytest.raises(UserError, match=r"a\.png: is 32x64, its picture 64x32"):
        write(words_for(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_three_bad_files_among_three_thousand_are_listed_and_left_out_if_asked(
    tmp_path: Path,
) -> None:
    images, masks = folders(tmp_path)
    scene, bytes_of = draw(0, 0, 32, 32), {}
    for folder, array in ((images, scene.image), (masks, scene.mask)):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        bytes_of[folder] = buffer.getvalue()
        for number in range(3000):
            (folder / f"{number:04}.png").write_bytes(bytes_of[folder])
    (images / "0700.png").write_bytes(b"no picture")
    (masks / "1400.png").unlink()
    Image.fromarray(scene.mask[:16]).save(masks / "2100.png")
    with pytest.raises(UserError) as told:
        write(words_for(tmp_path))
    head, *lines = str(told.value).splitlines()
    assert head.endswith("3 problems, nothing was written; only_good=true leaves them out:")
    assert len(lines) == 3
    for name, why in (
        ("images/0700.png", "cannot be read as a picture"),
        ("images/1400.png", "has no mask masks/1400.png"),
        ("masks/2100.png", "is 32x16, its picture 32x32"),
    ):
        assert [line for line in lines if name in line and why in line]
    assert not (tmp_path / "out").exists()
    # And one that only its content betrays.
    (masks / "2800.png").write_bytes(bytes_of[masks][:-40])
    write(words_for(tmp_path, "only_good=true", "size=32x32"))
    manifest = read_manifest(tmp_path / "out")
    written = {
        sample["key"]
        for split in manifest["splits"].values()
        for shard in split["shards"]
        for sample in shard["samples"]
    }
    left_out = {"0700", "1400", "2100", "2800"}
    assert written == {f"{number:04}" for number in range(3000)} - left_out
    notes = [note for note in manifest["notes"] if note.startswith("left out: ")]
    assert len(notes) == 4
