"""source=cityscapes: what is read, and that every mistake in the folder is named at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_data import HEIGHT, WIDTH, cityscapes, deep_png, run_write

from maskrestore.config.settings import parse
from maskrestore.data.png import decode_member, encode_member
from maskrestore.data.sample import decode
from maskrestore.utils.errors import ConfigError, UserError
from shards.write import WriteConfig, write_shards


def config(root: Path, out: Path, *words: str) -> WriteConfig:
    common = [f"root={root}", f"out={out}", "source=cityscapes", "size=32x64", "workers=1"]
    return parse(WriteConfig, [*common, *words])


def first_sample(out: Path, split: str) -> tuple[str, dict[str, bytes]]:
    manifest = json.loads((out / "manifest.json").read_text())
    shard = manifest["splits"][split]["shards"][0]
    data = (out / shard["name"]).read_bytes()
    sample = shard["samples"][0]
    return sample["key"], {
        name: data[start : start + size] for name, (start, size) in sample["members"].items()
    }


def test_reads_what_pil_resizes(tmp_path: Path) -> None:
    keys = cityscapes(tmp_path / "raw", {"train": 3, "val": 2})
    path = write_shards(config(tmp_path / "raw", tmp_path / "out"))
    manifest = json.loads(path.read_text())
    assert manifest["coarse"] == "annotated"
    assert {name: split["num_samples"] for name, split in manifest["splits"].items()} == {
        "train": 3,
        "val": 2,
    }
    key, members = first_sample(tmp_path / "out", "train")
    assert key == keys[0]
    sample = decode(key, members)
    folder = tmp_path / "raw"
    image = Image.open(folder / f"leftImg8bit/train/trainstadt/{key}_leftImg8bit.png")
    assert np.array_equal(
        sample.image, np.asarray(image.resize((64, 32), Image.Resampling.BICUBIC))
    )
    for array, name in (
        (sample.fine, f"gtFine/train/trainstadt/{key}_gtFine_labelIds.png"),
        (sample.coarse, f"gtCoarse/train/trainstadt/{key}_gtCoarse_labelIds.png"),
        (sample.instance, f"gtFine/train/trainstadt/{key}_gtFine_instanceIds.png"),
    ):
        whole = decode_member((folder / name).read_bytes())
        # Nearest neighbour 48x96 -> 32x64: the source pixel at the centre of each target pixel.
        rows = ((np.arange(32) + 0.5) * 1.5).astype(int)
        columns = ((np.arange(64) + 0.5) * 1.5).astype(int)
        assert np.array_equal(array, whole[np.ix_(rows, columns)])


def test_missing_gtcoarse_is_simulated_and_said(tmp_path: Path) -> None:
    cityscapes(tmp_path / "raw", {"train": 2}, coarse=False)
    path = write_shards(config(tmp_path / "raw", tmp_path / "out", "splits=train"))
    manifest = json.loads(path.read_text())
    assert manifest["coarse"] == "simulated"
    assert any("simulated" in note for note in manifest["notes"])
    sample = decode(*first_sample(tmp_path / "out", "train"))
    assert 0.3 < (sample.coarse > 0).mean() < 0.95


def test_black_train_extra_picture_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = cityscapes(tmp_path / "raw", {"train_extra": 2})
    folder = tmp_path / "raw/{}/train_extra/troisdorf"
    for kind, ids in (
        ("leftImg8bit", np.zeros((HEIGHT, WIDTH), np.uint8)),
        ("gtCoarse_labelIds", np.zeros((HEIGHT, WIDTH), np.uint8)),
        ("gtCoarse_instanceIds", np.zeros((HEIGHT, WIDTH), np.uint16)),
    ):
        path = Path(str(folder).format(kind.split("_")[0]))
        path.mkdir(parents=True, exist_ok=True)
        (path / f"troisdorf_000000_000073_{kind}.png").write_bytes(encode_member(ids))
    path = write_shards(config(tmp_path / "raw", tmp_path / "out", "splits=train_extra"))
    manifest = json.loads(path.read_text())
    samples = manifest["splits"]["train_extra"]["shards"][0]["samples"]
    assert [sample["key"] for sample in samples] == keys
    assert "troisdorf_000000_000073" in " ".join(manifest["notes"])
    assert "troisdorf_000000_000073" in capsys.readouterr().out
    sample = decode(*first_sample(tmp_path / "out", "train_extra"))
    assert np.array_equal(sample.fine, sample.coarse)
    assert any("fine mask is the coarse" in note for note in manifest["notes"])


def test_every_bad_header_is_named_at_once_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = cityscapes(tmp_path / "raw", {"train": 5})
    root = tmp_path / "raw"
    fine = decode_member(file(root, keys[0], "gtFine_labelIds").read_bytes())
    bad = {
        file(root, keys[0], "gtFine_labelIds"): (fine.astype(np.uint16), "I;16"),
        file(root, keys[1], "gtCoarse_labelIds"): (fine[:-16], f"{WIDTH}x{HEIGHT - 16}"),
        file(root, keys[2], "gtFine_instanceIds"): (fine, "mode L"),
        file(root, keys[3], "leftImg8bit"): (draw_small(), "is 32x32"),
    }
    for path, (array, _) in bad.items():
        path.write_bytes(encode_member(array))
    assert run_write(*words_for(tmp_path)) == 2
    lines = capsys.readouterr().err.splitlines()
    for path, (_, value) in bad.items():
        assert any(str(path) in line and value in line for line in lines), (path, lines)
    assert not any(keys[4] in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_every_file_of_bad_pixels_is_named_at_once_and_there_is_no_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = cityscapes(tmp_path / "raw", {"train": 4})
    root = tmp_path / "raw"
    picture = file(root, keys[0], "leftImg8bit")
    ids, instance = (file(root, keys[0], f"gtFine_{kind}Ids") for kind in ("label", "instance"))
    coarse = file(root, keys[2], "gtCoarse_labelIds")
    whole = {path: path.read_bytes() for path in (picture, ids, instance, coarse)}
    fine = decode_member(whole[ids])
    picture.write_bytes(whole[picture][:-400])
    ids.write_bytes(encode_member(np.where(fine == 7, 255, fine)))
    instance.write_bytes(encode_member(np.full_like(fine, 7001, np.uint16)))
    coarse.write_bytes(whole[coarse][:-40])
    words = [*words_for(tmp_path), "samples_per_shard=1"]
    assert run_write(*words) == 2
    errors = capsys.readouterr().err
    assert "4 problems, no manifest was written; mend them and run the same command" in errors
    for path, value in (
        (picture, "cannot be read"), (ids, "255"), (instance, "7001"), (coarse, "cannot be read")
    ):  # fmt: skip
        lines = errors.splitlines()
        assert any(str(path) in line and value in line for line in lines), (path, lines)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        ".records",
        "train-000001.tar",
        "train-000003.tar",
    ]
    kept = (out / "train-000001.tar").stat().st_mtime_ns
    for path, content in whole.items():
        path.write_bytes(content)
    assert run_write(*words) == 0
    assert (out / "train-000001.tar").stat().st_mtime_ns == kept
    assert json.loads((out / "manifest.json").read_text())["splits"]["train"]["num_samples"] == 4


def test_other_black_pictures_are_left_out_when_they_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = cityscapes(tmp_path / "raw", {"train": 3})
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    file(tmp_path / "raw", keys[1], "leftImg8bit").write_bytes(encode_member(black))
    assert run_write(*words_for(tmp_path)) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    [shard] = manifest["splits"]["train"]["shards"]
    assert [sample["key"] for sample in shard["samples"]] == [keys[0], keys[2]]
    assert f"left out: {keys[1]}, a black picture" in manifest["notes"]
    assert f"left out: {keys[1]}" in capsys.readouterr().out
    alone = words_for(tmp_path)
    alone[1] = f"out={tmp_path / 'alone'}"
    assert run_write(*alone, "samples_per_shard=1") == 2
    assert "train-000001.tar: all its pictures are left out" in capsys.readouterr().err


def file(root: Path, key: str, kind: str) -> Path:
    return root / kind.split("_")[0] / "train/trainstadt" / f"{key}_{kind}.png"


def words_for(folder: Path) -> list[str]:
    return [f"root={folder / 'raw'}", f"out={folder / 'out'}", "source=cityscapes", "splits=train",
            "size=32x64", "workers=1"]  # fmt: skip


def test_bit_depths_that_pil_hides_are_named(tmp_path: Path) -> None:
    """PIL opens 16 bit RGB as RGB of 8, and grey of 4 bits as ids times 17."""
    keys = cityscapes(tmp_path / "raw", {"train": 3})
    folder = tmp_path / "raw/{}/train/trainstadt"
    picture = Path(str(folder).format("leftImg8bit")) / f"{keys[0]}_leftImg8bit.png"
    colors = np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3)
    picture.write_bytes(deep_png(16, 2, colors))
    mask = Path(str(folder).format("gtFine")) / f"{keys[1]}_gtFine_labelIds.png"
    mask.write_bytes(deep_png(4, 0, np.full((HEIGHT, WIDTH), 1)))
    with pytest.raises(UserError) as error:
        write_shards(config(tmp_path / "raw", tmp_path / "out", "splits=train"))
    _, *lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert any(str(picture) in line and "16 bits" in line for line in lines)
    assert any(str(mask) in line and "4 bits" in line for line in lines)


def draw_small() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)


def test_unpaired_files_and_missing_folders_are_named(tmp_path: Path) -> None:
    keys = cityscapes(tmp_path / "raw", {"train": 3})
    folder = tmp_path / "raw/{}/train/trainstadt"
    gone = [
        ("leftImg8bit", "leftImg8bit"),
        ("gtFine", "gtFine_labelIds"),
        ("gtCoarse", "gtCoarse_labelIds"),
    ]
    for key, (kind, name) in zip(keys, gone, strict=True):
        (Path(str(folder).format(kind)) / f"{key}_{name}.png").unlink()
    with pytest.raises(UserError) as error:
        write_shards(config(tmp_path / "raw", tmp_path / "out"))
    for key, (_, name) in zip(keys, gone, strict=True):
        assert f"{key}_{name}.png: is missing" in str(error.value)
    for kind in ("leftImg8bit", "gtFine", "gtCoarse"):
        assert f"{kind}/val: there is no such folder" in str(error.value)


def test_wrong_settings_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cityscapes has train, val, train_extra"):
        write_shards(config(tmp_path, tmp_path / "out", "splits=train,tset"))
    no_root = parse(WriteConfig, ["source=cityscapes", f"out={tmp_path / 'out'}"])
    with pytest.raises(ConfigError, match="root=DIR"):
        write_shards(no_root)
