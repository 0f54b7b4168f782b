"""shards/: files as other systems and programs leave them are read rightly, or named."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_sets import LABEL_ID, LABELS
from PIL import Image
from raw_data import HEIGHT, WIDTH, camvid, chunk, cityscapes, deep_png, run_write

from maskrestore.config.settings import parse
from maskrestore.data.manifest import read_manifest
from maskrestore.data.png import decode_member, encode_member
from maskrestore.data.sample import Sample, decode
from maskrestore.utils.errors import UserError
from shards.verify import main as verify
from shards.write import WriteConfig, write_shards

NFC, NFD = "stra\u00dfe\u00e9", "stra\u00dfee\u0301"
PALETTE = np.array([label.color for label in LABELS], np.uint8)


def words(root: Path, source: str) -> list[str]:
    return [f"root={root}", f"out={root}-shards", f"source={source}", "splits=train",
            f"size={HEIGHT - 16}x{WIDTH}", "workers=1"]  # fmt: skip


def write(root: Path, source: str) -> int:
    return run_write(*words(root, source))


def samples(root: Path) -> dict[str, Sample]:
    out = Path(f"{root}-shards")
    manifest = read_manifest(out)
    return {
        sample["key"]: decode(
            sample["key"],
            {
                name: (out / shard["name"]).read_bytes()[start : start + size]
                for name, (start, size) in sample["members"].items()
            },
        )
        for split in manifest["splits"].values()
        for shard in split["shards"]
        for sample in shard["samples"]
    }


def litter(root: Path) -> None:
    """What macOS, Windows and notebooks leave beside the files of others."""
    for path in [path for path in root.rglob("*") if not path.name.startswith(".")]:
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(200))
        for name in (".DS_Store", "Thumbs.db"):
            (path.parent / name).write_bytes(b"\0")


@pytest.mark.parametrize(("source", "draw"), [("camvid", camvid), ("cityscapes", cityscapes)])
def test_files_of_systems_and_suffixes_in_capitals_change_nothing(
    tmp_path: Path, source: str, draw: Callable[[Path, dict[str, int]], Any]
) -> None:
    draw(tmp_path / "clean", {"train": 2})
    draw(tmp_path / "other", {"train": 2})
    for path in [path for path in (tmp_path / "other").rglob("*") if path.is_file()]:
        path.rename(path.with_suffix(path.suffix.upper()))
    litter(tmp_path / "other")
    assert write(tmp_path / "clean", source) == write(tmp_path / "other", source) == 0
    tar = "train-000000.tar"
    clean, other = (tmp_path / f"{name}-shards" / tar for name in ("clean", "other"))
    assert clean.read_bytes() == other.read_bytes()
    (other.parent / f"._{tar}").write_bytes(b"\0")
    assert verify([str(other.parent)]) == 0


def test_names_in_either_normal_form_belong_together(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    camvid(root, {"train": 2})
    for number, (image, mask) in enumerate(((NFC, NFD), (f"{NFD}2", f"{NFC}2"))):
        (root / f"train/clip0_000{number}.jpg").rename(root / f"train/{image}.jpg")
        (root / f"trainannot/clip0_000{number}.png").rename(root / f"trainannot/{mask}.png")
    assert write(root, "camvid") == 0
    assert set(samples(root)) == {NFC, f"{NFD}2"}


def test_names_that_would_be_one_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "raw"
    camvid(root, {"train": 1})
    cityscapes(tmp_path / "city", {"train": 1})
    (mask,) = (root / "trainannot").iterdir()
    mask.with_suffix(".PNG").write_bytes(mask.read_bytes())
    (fine,) = (tmp_path / "city").rglob("*_gtFine_labelIds.png")
    fine.with_suffix(".PNG").write_bytes(fine.read_bytes())
    assert write(root, "camvid") == write(tmp_path / "city", "cityscapes") == 2
    errors = capsys.readouterr().err
    for path in (mask, mask.with_suffix(".PNG")):
        assert f"{path.relative_to(root)}: there is another annotation of that name" in errors
    assert f"there is {fine.with_suffix('.PNG').name} beside it" in errors


@pytest.mark.parametrize(
    "name", ["\u9053" * 78, "b\udcfc", "a" * 81], ids=["wide", "latin1", "long"]
)
def test_names_that_no_tar_can_hold_are_named_before_work_begins(tmp_path: Path, name: str) -> None:
    root = tmp_path / "raw"
    camvid(root, {"train": 2})
    for folder, suffix in (("train", "jpg"), ("trainannot", "png")):
        (root / f"{folder}/clip0_0001.{suffix}").rename(root / f"{folder}/{name}.{suffix}")
    with pytest.raises(UserError) as mistake:
        write_shards(parse(WriteConfig, words(root, "camvid")))
    assert f"train/{name}.jpg: the name must have no further dot and at most 80 bytes" in str(
        mistake.value
    )
    assert not Path(f"{root}-shards").exists()


@pytest.mark.parametrize(
    ("source", "draw", "picture", "names"),
    [
        ("camvid", camvid, "train/clip0_0002.jpg", ["trainannot/clip0_0001"]),
        (
            "cityscapes",
            cityscapes,
            "leftImg8bit/*/*/*_000002_leftImg8bit.png",
            ["gtFine_labelIds", "gtFine_instanceIds", "gtCoarse_labelIds"],
        ),
    ],
)
def test_masks_that_are_jpegs_are_named_with_all_other_faults_before_work_begins(
    tmp_path: Path,
    source: str,
    draw: Callable[[Path, dict[str, int]], Any],
    picture: str,
    names: list[str],
) -> None:
    """By any name: what was a JPEG and is called PNG was found only when its pixels were read."""
    root = tmp_path / "raw"
    draw(root, {"train": 3})
    masks = [
        path
        for path in root.rglob("*1*.png")
        if any(str(path).endswith(f"{name}.png") for name in names)
    ]
    assert len(masks) == len(names)
    for path in masks:
        Image.fromarray(np.full((HEIGHT, WIDTH), 7, np.uint8)).save(path, format="JPEG")
    [other] = root.glob(picture)
    other.write_bytes(b"no picture")
    expected = f"{len(names) + 1} problems, nothing was written"
    with pytest.raises(UserError, match=expected) as mistake:
        write_shards(parse(WriteConfig, words(root, source)))
    for path in masks:
        assert f"{path}: is a JPEG, which changes ids: give the mask as PNG" in str(mistake.value)
    assert f"{other}: cannot be read as a picture" in str(mistake.value)
    assert not Path(f"{root}-shards").exists()


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    for name in ("plain", "turned"):
        camvid(tmp_path / name, {"train": 3})
        for path in (tmp_path / name / "train").iterdir():
            Image.open(path).save(path.with_suffix(".png"))
            path.unlink()
    turns = (np.fliplr, np.rot90, lambda array: array[::-1, ::-1])
    for path, tag, lying in zip(sorted((tmp_path / "turned/train").iterdir()), (2, 6, 3), turns,
                                strict=True):  # fmt: skip
        image = Image.fromarray(np.ascontiguousarray(lying(np.asarray(Image.open(path)))))
        exif = image.getexif()
        exif[0x112] = tag
        image.save(path, exif=exif)
    assert write(tmp_path / "plain", "camvid") == write(tmp_path / "turned", "camvid") == 0
    plain, turned = samples(tmp_path / "plain"), samples(tmp_path / "turned")
    assert len(turned) == 3
    for key, sample in turned.items():
        assert np.array_equal(sample.image, plain[key].image)


def test_transparent_pixels_of_masks_are_what_nobody_labelled(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    camvid(root, {"train": 1})
    (path,) = (root / "trainannot").iterdir()
    ids = np.full((HEIGHT, WIDTH), 3)
    ids[:, 40:] = 8
    path.write_bytes(deep_png(8, 0, ids, chunk(b"tRNS", struct.pack(">H", 8))))
    cityscapes(tmp_path / "city", {"train": 1})
    (fine,) = (tmp_path / "city").rglob("*_gtFine_labelIds.png")
    fine.write_bytes(deep_png(8, 0, ids + 4, chunk(b"tRNS", struct.pack(">H", 12))))
    assert write(root, "camvid") == write(tmp_path / "city", "cityscapes") == 0
    (sample,) = samples(root).values()
    assert np.unique(sample.fine).tolist() == [LABEL_ID["static"], LABEL_ID["road"]]
    (sample,) = samples(tmp_path / "city").values()
    assert np.unique(sample.fine).tolist() == [0, 7]


def in_palette(values: np.ndarray, palette: np.ndarray) -> bytes:
    return deep_png(8, 3, values, chunk(b"PLTE", palette.astype(np.uint8).tobytes()))


def test_palettes_hold_ids_unless_they_say_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "raw"
    cityscapes(root, {"train": 5})
    paths = sorted(root.rglob("*_gtFine_labelIds.png"))
    ids = [decode_member(path.read_bytes()).astype(np.uint8) for path in paths]
    foreign = np.random.default_rng(0).integers(34, 256, (34, 3))
    numbered = np.repeat(np.arange(34)[::-1, None], 3, 1)
    of_train_ids = np.array([label.color for label in LABELS if label.evaluated])
    for path, given, palette in zip(paths, ids, (PALETTE, foreign), strict=False):
        path.write_bytes(in_palette(given, palette))
    for path, values, palette in (
        (paths[2], 33 - ids[2], numbered),
        (paths[3], 33 - ids[3], PALETTE[::-1]),
        (paths[4], ids[4] % 19, of_train_ids),
    ):
        path.write_bytes(in_palette(values, palette))
    assert write(root, "cityscapes") == 2
    errors = capsys.readouterr().err
    assert f"{paths[2]}: its palette shows the id " in errors
    assert f"{paths[3]}: its palette says that it holds colors" in errors
    assert f"{paths[4]}: its palette says that it holds train_ids" in errors
    for path, given in zip(paths[2:], ids[2:], strict=True):
        path.write_bytes(encode_member(given))
    assert write(root, "cityscapes") == 0
    for sample, given in zip(samples(root).values(), ids, strict=False):
        assert np.isin(sample.fine, given).all()
