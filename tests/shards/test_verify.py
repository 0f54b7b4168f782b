"""shards/verify.py finds every kind of damage to a shard folder."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskrestore.config.cli import run_program
from maskrestore.config.settings import parse
from shards import verify
from shards.write import WriteConfig, write_shards


def main(words: list[str]) -> int:
    """Exit status of `python shards/verify.py WORDS`, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["verify.py", *words])
        return run_program(verify.main, verify.__doc__, schema=None)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "sound"
    words = ["num_train=4", "num_val=2", "size=32x64", "samples_per_shard=2", "workers=1"]
    write_shards(parse(WriteConfig, [f"out={out}", *words]))
    return out


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


Edit = Callable[[bytearray, dict[str, Any]], None]


def damage(folder: Path, edit: Edit, resign: bool) -> None:
    """Edits train-000000.tar and its manifest; `resign` makes size and sha256 right again."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    shard = manifest["splits"]["train"]["shards"][0]
    tar = folder / shard["name"]
    data = bytearray(tar.read_bytes())
    edit(data, manifest)
    if resign:
        shard["num_bytes"], shard["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    tar.write_bytes(data)
    path.write_text(json.dumps(manifest))


def first_shard(manifest: dict[str, Any]) -> dict[str, Any]:
    shard: dict[str, Any] = manifest["splits"]["train"]["shards"][0]
    return shard


def flip_byte(data: bytearray, manifest: dict[str, Any]) -> None:
    start, size = first_shard(manifest)["samples"][0]["members"]["image.png"]
    data[start + size // 2] ^= 1


def cut_in_header(data: bytearray, manifest: dict[str, Any]) -> None:
    """webdataset reads such a tar without any error, one sample short."""
    start, _ = first_shard(manifest)["samples"][1]["members"]["image.png"]
    del data[start - 200 :]


def swap_members(data: bytearray, manifest: dict[str, Any]) -> None:
    """The names of a fine and a coarse mask change places, header checksums and all."""
    members = first_shard(manifest)["samples"][0]["members"]
    one, other = members["fine.png"][0] - 512, members["image.png"][0] - 512
    data[one : one + 100], data[other : other + 100] = (
        data[other : other + 100],
        data[one : one + 100],
    )
    for start in (one, other):
        # The checksum of a header counts its own eight bytes as spaces.
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])


def wrong_offset(_: bytearray, manifest: dict[str, Any]) -> None:
    first_shard(manifest)["samples"][0]["members"]["fine.png"][0] += 512


def wrong_histogram(_: bytearray, manifest: dict[str, Any]) -> None:
    manifest["splits"]["train"]["class_pixels"][7] += 1


def repeated_key(_: bytearray, manifest: dict[str, Any]) -> None:
    samples = first_shard(manifest)["samples"]
    samples[1] = samples[0]


def wrong_count(_: bytearray, manifest: dict[str, Any]) -> None:
    first_shard(manifest)["num_samples"] += 1


def wrong_size(_: bytearray, manifest: dict[str, Any]) -> None:
    manifest["height"] = 64


@pytest.mark.parametrize(
    ("edit", "resign", "message"),
    [
        (flip_byte, False, "sha256"),
        (flip_byte, True, "image.png is not a whole PNG"),
        (cut_in_header, False, "bytes, the manifest says"),
        (cut_in_header, True, "train-000000.tar: without"),
        (swap_members, True, "not in the order"),
        (wrong_offset, True, "offset and size"),
        (wrong_histogram, True, "class_pixels"),
        (repeated_key, True, "occurs twice"),
        (wrong_count, True, "lists 2 samples and says 3"),
        (wrong_size, True, "expected (64, 64, 3)"),
    ],
)
def test_damage_is_found(
    folder: Path, edit: Edit, resign: bool, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(folder, edit, resign)
    assert main([str(folder)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "sound" not in captured.out


def test_sound_folder(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sound)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train: 4 samples in 2 shards")
    assert lines[1].startswith("val: 2 samples in 1 shards")
    assert lines[-1] == "sound"


def test_files_missing_and_files_too_many(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train-000001.tar").rename(folder / "train-000009.tar")
    assert main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert "train-000001.tar: cannot be read" in error
    assert "train-000009.tar: is not in the manifest" in error


def test_no_manifest_no_folder_and_a_foreign_manifest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder / "nowhere")]) == 2
    assert "no shards at" in capsys.readouterr().err
    for content in ("{", "[]", '{"schema_version": 1}'):
        (folder / "manifest.json").write_text(content)
        assert main([str(folder)]) == 2
        assert "is not a shard manifest" in capsys.readouterr().err
    (folder / "manifest.json").unlink()
    assert main([str(folder)]) == 2
    assert "unfinished" in capsys.readouterr().err
    assert main([]) == 2
