"""source=cityscapes: what is read, and that every mistake in the folder is named at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_data import HEIGHT, WIDTH, cityscapes, deep_png, run_write

from maskrestore.sample import decode, decode_member, encode_member
from maskrestore.settings import ConfigError, UserError, parse
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


def test_every_bad_file_is_named_at_once_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = cityscapes(tmp_path / "raw", {"train": 8})
    root = tmp_path / "raw"

    def file(number: int, kind: str) -> Path:
        return root / kind.split("_")[0] / "train/trainstadt" / f"{keys[number]}_{kind}.png"

    picture = file(0, "leftImg8bit")
    picture.write_bytes(picture.read_bytes()[:-400])
    fine = decode_member(file(1, "gtFine_labelIds").read_bytes())
    file(1, "gtFine_labelIds").write_bytes(encode_member(fine.astype(np.uint16)))
    file(2, "gtFine_labelIds").write_bytes(encode_member(np.where(fine == 7, 255, fine)))
    file(3, "gtCoarse_labelIds").write_bytes(encode_member(fine[:-16]))
    file(4, "gtFine_instanceIds").write_bytes(encode_member(fine))
    file(5, "gtFine_instanceIds").write_bytes(encode_member(np.full_like(fine, 7001, np.uint16)))
    file(6, "leftImg8bit").write_bytes(encode_member(draw_small()))
    words = [f"root={root}", f"out={tmp_path / 'out'}", "source=cityscapes", "splits=train"]
    assert run_write(*words, "size=32x64", "workers=1") == 2
    lines = capsys.readouterr().err.splitlines()
    for path, value in (
        (picture, "cannot be read"),
        (file(1, "gtFine_labelIds"), "I;16"),
        (file(2, "gtFine_labelIds"), "255"),
        (file(3, "gtCoarse_labelIds"), f"{WIDTH}x{HEIGHT - 16}"),
        (file(4, "gtFine_instanceIds"), "mode L"),
        (file(5, "gtFine_instanceIds"), "7001"),
        (file(6, "leftImg8bit"), "is 32x32"),
    ):
        assert any(str(path) in line and value in line for line in lines), (path, lines)
    assert not any(keys[7] in line for line in lines)
    assert not (tmp_path / "out").exists()


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
