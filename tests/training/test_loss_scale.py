"""fp16 finds its loss scale by steps without effect: no fault, and not to be found twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import null_gpu
import pytest
import torch
from forked import ROOT
from processes import PATIENCE
from tiny_runs import ENGINES, Words, lines_of

from maskrestore.distributed.engine import START_SCALE
from maskrestore.runs.run_folder import add_rollback

PROGRAMS = ROOT / "tests" / "programs"
FP16 = (
    *("loss=ce", "distributed.device=cuda", "distributed.precision=fp16"),
    *("training.log_images=4", "training.checkpoint_images=16"),
)

pytestmark = pytest.mark.slow


def run_poisoned(words: list[str], poison: str) -> str:
    """Stderr of a run on the null GPU that has to end well."""
    command = [sys.executable, PROGRAMS / "poisoned.py", *words]
    environment = os.environ | null_gpu.environment(computes=True) | {"POISON": poison}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def scale_of(run: Path, checkpoint: str) -> float:
    path = run / "checkpoints" / checkpoint / "state.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return float(state["networks"]["mask_generator"]["scaler"]["scale"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_scale_that_is_too_large_is_lowered_and_that_is_no_fault(
    words: Words, tmp_path: Path, engine: str
) -> None:
    given = words(
        "run", *FP16, *ENGINES[engine], "training.num_images=32", "health.max_skipped_steps=2"
    )
    run_poisoned(given, "1e5:0:0:32")
    lines = [line for line in lines_of(tmp_path / "run") if "losses" in line]
    lowered = [line["lowered_loss_scale"] for line in lines]
    assert sum(lowered) > 2  # in a row, and more than what is forgiven of faults
    assert lowered == sorted(lowered, reverse=True)
    assert lowered[-1] == 0
    assert [line for line in lines if line["skipped_steps"]] == []
    assert scale_of(tmp_path / "run", "000000032") == START_SCALE / 2 ** sum(lowered)


def test_a_lowered_scale_is_kept_when_a_run_goes_back(words: Words, tmp_path: Path) -> None:
    more = ("training.num_images=40", "training.keep_checkpoints=9", "health.max_skipped_steps=3")
    run, given = tmp_path / "run", words("run", *FP16, *more)
    run_poisoned(given, "nan:0:16:28")
    [entry] = json.loads((run / "rollbacks.json").read_text())
    assert entry["images"] == [16, 28]
    # Losses that are not finite lower the scale as well, by no fault of it.
    assert entry["scales"] == {"mask_generator": START_SCALE}
    assert scale_of(run, "000000040") == START_SCALE

    # Gone back from there, with a scale that was found after the checkpoint.
    add_rollback(run, (36, 40), "so it is", {"mask_generator": 64.0})
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "000000040")
    run_poisoned(given, "nan:0:36:40")
    assert scale_of(run, "000000040") == 64.0
