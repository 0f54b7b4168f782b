"""Memory that is full ends a program with what to set, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import null_gpu
import pytest
from forked import ROOT
from masks import draw_mask, make_run
from processes import PATIENCE
from tiny_runs import Words, run_ranks

from maskrestore.config.hardware import less_memory
from maskrestore.config.run import load_config

PROGRAMS = ROOT / "tests" / "programs"


def error_of(memory: dict[str, str], program: str, *words: str) -> str:
    """The last line on stderr of a program on a GPU of such memory, where it ends with 2."""
    command = [sys.executable, str(ROOT / program), *words]
    environment = os.environ | null_gpu.environment(computes=True, **memory)
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("megabytes", "work", "remedy"),
    [
        (24, "training", "training.accumulation=2 (now 1) or distributed.activation_checkpointing"),
        (44, "an evaluation", "a smaller evaluation.batch_size (now 16)"),
    ],
)
def test_a_gpu_that_is_too_small(
    words: Words, tmp_path: Path, megabytes: int, work: str, remedy: str
) -> None:
    own = ("loss=ce", "training.num_images=8", "distributed.device=cuda")
    line = error_of({"MEMORY": f"{megabytes}000000"}, "train.py", *words("run", *own))
    assert f"GPU 0 (NVIDIA H100 80GB HBM3) is out of memory in {work}: of 0.0" in line
    assert "more were wanted" in line
    assert f"it takes less with {remedy}" in line
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_gpu_that_others_have_filled(words: Words) -> None:
    line = error_of({"FULL": "1"}, "train.py", *words("run", "loss=ce", "distributed.device=cuda"))
    assert "GPU 0 (NVIDIA H100 80GB HBM3) is out of memory in " in line
    assert line.endswith(
        ": not even CUDA itself found room: other programs fill it (see nvidia-smi)"
    )


@pytest.mark.slow
def test_a_gpu_that_is_too_small_to_restore(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    draw_mask(tmp_path / "in" / "a.png", seed=0)
    given = (f"checkpoint={run}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}")
    line = error_of({"MEMORY": "1000000"}, "restore.py", *given)
    assert "is out of memory in restoring: " in line
    assert "it takes less with a smaller batch_size (now 4) or device=cpu" in line


@pytest.mark.slow
def test_the_others_do_not_wait_for_one_without_memory(words: Words, tmp_path: Path) -> None:
    environment = {"EXHAUSTED": "1:16", "PYTHONPATH": str(ROOT)}
    statuses, errors = run_ranks(
        words("run", "loss=ce"), 2, program=PROGRAMS / "exhausted.py", environment=environment
    )
    assert statuses == [1, 2], errors
    assert "2.50 GiB more were wanted; it takes less with training.accumulation=2" in errors[1]
    assert "another process of this run has ended; if it could, it says why" in errors[0]
    assert "Traceback" not in "".join(errors)


def test_what_takes_less_memory() -> None:
    config = load_config(["training.batch_size=12", "training.accumulation=2", "loss=ce_vgg"])
    assert less_memory(config, 2) == [
        "training.accumulation=6 (now 2)",
        "distributed.activation_checkpointing=true",
        "distributed.precision=bf16",
        "distributed.frozen_precision=fp16",
        "distributed.engine=deepspeed distributed.zero_stage=2",
        "a smaller training.batch_size (now 12)",
    ]
    for remedy in ("training.accumulation=6", "distributed.engine=deepspeed"):
        load_config([*remedy.split(), "training.batch_size=12"])
    least = ["training.batch_size=1", "distributed.device=cpu", "task=synthesis"]
    assert less_memory(load_config(least), 1) == []
