"""What users of train.py get wrong: one message, status 2, no traceback, nothing half-written."""

import os
import sys
from pathlib import Path

import pytest
from label_sets import NUM_CLASSES
from tiny_runs import Words, run_ranks, run_train

from maskrestore.config.run import load_config
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.weights import save_spade_generator
from maskrestore.training.loop import train
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import lock
from shards.write import WriteConfig, write_shards


def fails(words: list[str], *launcher: str) -> str:
    done = run_train(words, *launcher)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.slow
def test_no_image_generator(words: Words) -> None:
    given = [w for w in words("run", "loss=ce_l1") if not w.startswith("generator.path")]
    assert "needs an image generator: write generator.path=FILE" in fails(given)


@pytest.mark.slow
def test_a_broken_or_missing_generator(words: Words, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pth"
    foreign.write_bytes(os.urandom(1000))
    assert "foreign.pth" in fails(words("run", f"generator.path={foreign}"))
    assert not (tmp_path / "run" / "result.json").exists()
    missing = tmp_path / "missing.pth"
    assert "missing.pth" in fails(words("run", f"generator.path={missing}"))


@pytest.mark.slow
def test_other_settings_in_the_same_folder(words: Words) -> None:
    train(load_config(words("run", "loss=ce", "training.num_images=8")))
    message = fails(words("run", "loss=ce", "training.num_images=8", "seed=5"))
    assert "was started with other settings" in message
    assert "seed: 0 -> 5" in message


def test_other_files_in_the_same_folder(words: Words, tmp_path: Path, generator: Path) -> None:
    """Compared by content: the same paths are no proof, and other paths no difference."""
    more = ("loss=ce", "training.num_images=8")
    train(load_config(words("run", *more)))
    moved = tmp_path / "moved.pth"
    moved.write_bytes(generator.read_bytes())
    train(load_config(words("run", *more, f"generator.path={moved}")))
    save_spade_generator(SPADEGenerator(NUM_CLASSES + 2, 4, 8, (32, 64)), moved)
    with pytest.raises(UserError, match=r"generator\.path: sha256"):
        train(load_config(words("run", *more, f"generator.path={moved}")))
    other = tmp_path / "other"
    write_shards(
        WriteConfig(size="32x64", num_train=4, num_val=2, source_seed=9, out=other, workers=1)
    )
    with pytest.raises(UserError, match="data: sha256"):
        train(load_config(words("run", *more, f"data.shards={other}")))


def test_a_folder_that_another_process_works_on(words: Words, tmp_path: Path) -> None:
    with (
        lock(tmp_path / "run"),
        pytest.raises(UserError, match="another process is at work on this run"),
    ):
        train(load_config(words("run", "loss=ce")))


def test_a_missing_val_split_is_found_before_training(words: Words, tmp_path: Path) -> None:
    folder = tmp_path / "no-val"
    write_shards(WriteConfig(size="32x64", num_train=4, splits=("train",), out=folder, workers=1))
    with pytest.raises(UserError, match="has no split 'val'; there are: train"):
        train(load_config(words("run", "loss=ce", f"data.shards={folder}")))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_mistake_of_the_main_process_ends_all(words: Words, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    statuses, errors = run_ranks(words("run", "loss=ce"), 2)
    assert statuses == [2, 2]
    assert "run cannot be written: File exists" in errors[0]
    assert errors[1] == ""


@pytest.mark.slow
def test_a_loss_that_explodes(words: Words) -> None:
    message = fails(words("run", "loss=ce", "training.learning_rate=1e30"))
    assert "gradient is not finite at image" in message


@pytest.mark.slow
def test_missing_shards(words: Words, tmp_path: Path) -> None:
    given = words("run", f"data.shards={tmp_path / 'nowhere'}", "loss=ce")
    message = fails(given, sys.executable)  # from a fresh interpreter
    assert "python shards/write.py" in message
