"""A run folder that earlier code left goes on: recorded at commit 11f660e, whose modules had other
names and other places, and stopped at image 12 of 32."""

import json
import tarfile
from pathlib import Path

import pytest
from forked import ROOT, start_program
from tiny_runs import lines_of

RECORDING = Path(__file__).with_name("recorded_run.tar.xz")
WORDS = (
    "data.size=32x64",
    "mask_generator.width=4",
    "mask_generator.hidden=8",
    "generator.width=4",
    "generator.hidden=8",
    "generator.discriminator_width=4",
    "generator.num_images=16",
    "perceptual.network=lite0",
    "evaluation.features=lite0",
    "evaluation.num_pictures=2",
    "training.batch_size=4",
    "training.num_images=32",
    "training.log_images=8",
    "training.checkpoint_images=8",
    "distributed.device=cpu",
    "distributed.cpu_threads=1",
    "data.shards=shards",
    "run=run",
    "task=densify",
    "loss=ce",
    "training.num_images=32",
    "mask_generator.width=1",
    "mask_generator.hidden=1",
    "training.keep_checkpoints=1",
)
"""With which it was started, in the folder that holds `run` and `shards`; not the tests' words of
today, which may change."""


def train_in(folder: Path, *more: str) -> tuple[int, str]:
    """Exit status and stderr."""
    process = start_program([str(ROOT / "train.py"), *WORDS, *more], folder=folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode is not None
    return process.returncode, errors


@pytest.mark.slow
def test_goes_on_with_todays_code_once_that_is_accepted(tmp_path: Path) -> None:
    with tarfile.open(RECORDING) as recording:
        recording.extractall(tmp_path, filter="data")
    run = tmp_path / "run"
    before = lines_of(run)
    assert [line["num_images"] for line in before] == [8, 12]

    status, errors = train_in(tmp_path)  # there was but one start for a mask to train from
    assert status == 2
    assert "  mask_generator.start: input -> prior\n" in errors

    status, errors = train_in(tmp_path, "mask_generator.start=input")
    assert status == 2
    assert "run was started with other code: " in errors
    assert "accept_changed_code=true to go on with the new code" in errors
    assert lines_of(run) == before
    assert not (run / "result.json").exists()

    status, errors = train_in(tmp_path, "mask_generator.start=input", "accept_changed_code=true")
    assert status == 0, errors
    lines = lines_of(run)
    assert lines[:2] == before
    steps = [line["num_images"] for line in lines if "losses" in line]
    assert steps[2:] == [16, 24, 32], "from image 12 on"
    result = json.loads((run / "result.json").read_text())
    assert (result["num_images"], result["resumed_with_other_code"]) == (32, True)
    assert result["metrics"]["num_samples"] == 2
