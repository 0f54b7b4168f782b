"""Checkpoints: complete or absent."""

from pathlib import Path

import pytest
import torch

from maskrestore import checkpoint
from maskrestore.settings import UserError

FROZEN = {"generator": "a" * 64}


def make(folder: Path, num_images: int) -> Path:
    state = {"num_images": num_images, "weight": torch.full((3,), float(num_images))}
    return checkpoint.save(folder, num_images, state, FROZEN)


def test_the_newest_comes_back_and_older_ones_go(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    for num_images in (8, 16, 24):
        make(tmp_path, num_images)
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000016", "000000024"]
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    state = checkpoint.load(newest, FROZEN)
    assert state["num_images"] == 24
    assert torch.equal(state["weight"], torch.full((3,), 24.0))


@pytest.mark.parametrize("damage", ["cut", "flip", "no state", "no manifest", "bad manifest"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    make(tmp_path, 8)
    newest = make(tmp_path, 16)
    state, manifest = newest / checkpoint.STATE, newest / checkpoint.MANIFEST
    content = bytearray(state.read_bytes())
    if damage == "cut":
        state.write_bytes(content[:-10])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif damage == "no state":
        state.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("{")
    assert checkpoint.latest(tmp_path) == tmp_path / "000000008"


def test_an_interrupted_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 8)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path, 16)
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == tmp_path / "000000008"
    assert checkpoint.load(make(tmp_path, 16), FROZEN)["num_images"] == 16


def test_another_frozen_network_stops_a_resume(tmp_path: Path) -> None:
    saved = make(tmp_path, 8)
    with pytest.raises(UserError, match="another generator was used until then"):
        checkpoint.load(saved, {"generator": "b" * 64})
