"""Checkpoints: complete or absent."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrestore import checkpoint


def make(folder: Path, num_images: int) -> Path:
    weights = {"weight": torch.full((3,), float(num_images))}
    state = {"num_images": num_images, "networks": weights, "scaling": {}}
    return checkpoint.save(folder, num_images, state)


def test_the_newest_comes_back_and_older_ones_go(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) == (None, [])
    for num_images in (8, 16, 24):
        make(tmp_path, num_images)
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000016", "000000024"]
    newest, faults = checkpoint.latest(tmp_path)
    assert newest is not None
    assert not faults
    state = checkpoint.load(newest)
    assert state["num_images"] == 24
    assert torch.equal(state["networks"]["weight"], torch.full((3,), 24.0))


@pytest.mark.parametrize("damage", ["cut", "flip", "no state", "no manifest", "bad", "list"])
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
        manifest.write_text("{" if damage == "bad" else "[1]")
    found, faults = checkpoint.latest(tmp_path)
    assert found == tmp_path / "000000008"
    assert faults == [f"checkpoint {newest} is damaged or missing"]


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """Not a mock: the file system itself refuses, through a limit on the size of files."""
    make(tmp_path, 8)
    program = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from maskrestore import checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: checkpoint.save(Path(sys.argv[1]), 16, {'weight': torch.zeros(100_000)})\n"
        "except OSError as error: print(error.strerror)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "File too large"
    assert [path.name for path in tmp_path.iterdir()] == ["000000008"]
    assert checkpoint.latest(tmp_path)[0] == tmp_path / "000000008"
    assert checkpoint.load(make(tmp_path, 16))["num_images"] == 16
