"""Checkpoints: complete or absent."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrestore.config.run import TrainingConfig
from maskrestore.runs import checkpoint


def make(folder: Path, num_images: int) -> Path:
    weights = {"weight": torch.full((3,), float(num_images))}
    state = {"num_images": num_images, "networks": weights, "scaling": {}, "history": []}
    return checkpoint.save(folder, num_images, state)


def test_the_newest_comes_back_and_older_ones_go(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) == (None, [])
    for num_images in (8, 16, 24):
        make(tmp_path, num_images)
    checkpoint.prune(tmp_path, 2, tmp_path / "000000024")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000016", "000000024"]
    newest, faults = checkpoint.latest(tmp_path)
    assert newest is not None
    assert not faults
    state = checkpoint.load(newest)
    assert state["num_images"] == 24
    assert torch.equal(state["networks"]["weight"], torch.full((3,), 24.0))


@pytest.mark.parametrize("keep", [1, 2])
def test_pruning_never_takes_the_last_whole_one_for_the_sake_of_damaged_ones(
    tmp_path: Path, keep: int
) -> None:
    for num_images in (8, 24, 32):
        make(tmp_path, num_images)
    for num_images in (24, 32):
        (tmp_path / f"{num_images:09d}" / checkpoint.STATE).write_bytes(b"damaged")
    newest = make(tmp_path, 16)  # resumed from 8, and saved again
    checkpoint.prune(tmp_path, keep, newest)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["000000008", "000000016"][2 - keep :]
    assert checkpoint.latest(tmp_path) == (newest, [])


def test_a_run_that_goes_back_drops_what_it_saved_in_the_bad_window(tmp_path: Path) -> None:
    for num_images in (8, 16, 24):
        make(tmp_path, num_images)
    checkpoint.drop_after(tmp_path, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000008", "000000016"]
    checkpoint.drop_after(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["000000008"]


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
    last_whole, faults = checkpoint.latest(tmp_path)
    assert last_whole == tmp_path / "000000008"
    assert faults == [f"checkpoint {newest} is damaged or missing"]


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """Not a mock: the file system itself refuses, through a limit on the size of files."""
    make(tmp_path, 8)
    program = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from maskrestore.runs import checkpoint\n"
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


KILLED_SAVE = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from maskrestore.runs import checkpoint

folder, calls = Path(sys.argv[1]), 0

def save(num_images):
    weights = {"weight": torch.full((1000,), float(num_images))}
    state = {"num_images": num_images, "networks": weights, "scaling": {}, "history": []}
    newest = checkpoint.save(folder, num_images, state)
    checkpoint.prune(folder, 1, newest)

def deadly(function, last):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

save(8)
last, found = 0, set()
while True:
    last += 1
    child = os.fork()
    if child == 0:
        for module, name in ((os, "fsync"), (os, "replace"), (os, "mkdir"), (shutil, "rmtree")):
            setattr(module, name, deadly(getattr(module, name), last))
        save(16)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    newest, faults = checkpoint.latest(folder)
    state = checkpoint.load(newest)
    assert torch.equal(state["networks"]["weight"], torch.full((1000,), float(state["num_images"])))
    assert not faults
    found.add(state["num_images"])
    if not killed:
        break
    shutil.rmtree(folder / "000000016", ignore_errors=True)
    save(8)
print(last, sorted(found), [path.name for path in folder.iterdir()])
"""


@pytest.mark.slow
def test_a_save_that_is_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """SIGKILL before each call that touches the folder, through saving and pruning."""
    command = [sys.executable, "-c", KILLED_SAVE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    count, rest = done.stdout.strip().split(" ", 1)
    assert int(count) > 8
    assert rest == "[8, 16] ['000000016']"


def test_saving_in_the_background_is_the_same_and_tells_of_failure(tmp_path: Path) -> None:
    state = {"num_images": 8, "networks": {"weight": torch.ones(3)}, "scaling": {}, "history": []}
    config = TrainingConfig(save_in_background=True, keep_checkpoints=1)
    saver = checkpoint.Saver(tmp_path, config)
    saver.save(8, state)
    state["networks"]["weight"].fill_(2)  # the next step; what was saved is the step before
    saver.save(16, state)
    saver.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["000000016"]
    assert checkpoint.load(tmp_path / "000000016")["networks"]["weight"].tolist() == [2, 2, 2]
    failing = checkpoint.Saver(tmp_path / "000000016" / "state.pt", config)  # no folder
    failing.save(24, state)
    with pytest.raises(OSError, match="Not a directory"):
        failing.wait()
    assert failing.failed
