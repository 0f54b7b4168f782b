"""python -m benchmarks.gpu in small, on the CPU, and on the GPU that is not there."""

import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import null_gpu
import psutil
import pytest
import torch
from forked import ROOT
from processes import PATIENCE
from torch import Tensor

from benchmarks.gpu.__main__ import end_all, table
from benchmarks.gpu.precision import is_derivative
from benchmarks.gpu.runs import run_program
from benchmarks.labels import NUM_CLASSES
from benchmarks.plain_spade import PlainGenerator
from benchmarks.random_weights import calibrated

SMALL = (
    *("device=cpu", "size=32x64", "large_size=32x64", "width=2", "hidden=4", "batch_size=1"),
    *("steps=4", "repeats=1"),
)


def run(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *SMALL, f"out={out}", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)


@pytest.mark.slow
def test_it_is_rehearsed_on_a_cpu_and_goes_on_where_it_was(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((tmp_path / "figures.json").read_text())["parts"]
    assert list(kept) == ["facts", "precision", "runs", "rows", "loader", "variants"]
    figures = {f["what"]: f["value"] for part in kept.values() for f in part["figures"]}
    assert figures["resumed half-way, bit for bit"] is True
    assert figures["gradcheck: frozen convolution"] is True
    assert figures["counts of masks equal the CPU's"] is True
    assert figures["frozen fp32, 1 of 32x64: gradient"] > 0.9999
    unlike = [value for what, value in figures.items() if what.endswith("numbers unlike the CPU's")]
    assert figures["restore.py: files compared"] == len(unlike) > 0
    assert not any(unlike)
    assert figures["step, batch 2, ours"] > 0
    assert "step, frozen networks compiled: times as fast" in figures
    # One line for each figure, the table last, and nothing that was not measured.
    line = f"| rows | step, batch 2, ours | {figures['step, batch 2, ours']:.4g} ms |  |"
    assert line in done.stdout
    assert "not measured" not in done.stdout
    kept["loader"]["figures"][0] |= {"value": "kept", "unit": ""}
    del kept["facts"]["seconds"]  # it has not come to its end
    kept["facts"] |= {"failed": "took longer"}
    content = json.loads((tmp_path / "figures.json").read_text()) | {"parts": kept}
    (tmp_path / "figures.json").write_text(json.dumps(content))
    again = run(tmp_path)
    assert "rows: is there already" in again.stdout
    assert "| loader | loader, 1 threads | kept |" in again.stdout
    assert "facts: at most" in again.stdout
    assert "| facts | cores of the host |" in again.stdout
    assert "not measured" not in again.stdout


@pytest.mark.slow
def test_on_a_gpu_too(tmp_path: Path) -> None:
    """One part, on the one that is not there: its clock stands, its memory is real."""
    words = [word for word in SMALL if word != "device=cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words, "part=variants", f"out={tmp_path}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | null_gpu.environment(computes=True),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((tmp_path / "figures.json").read_text())["parts"]["variants"]
    figures = {figure["what"]: figure["value"] for figure in kept["figures"]}
    assert figures["step, activations computed twice: times as fast"] == 1
    assert figures["step, activations computed twice: times less memory"] > 1
    assert figures["step, frozen networks compiled: times as fast"] == 1
    assert "failed: " in figures["frozen pass, bf16, batch 2, as a CUDA graph"]  # which it has not


class Scaled(torch.autograd.Function):
    """x, with a gradient that is wrong by what is called for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, error: Callable[[], float]) -> Tensor:
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * (1 + ctx.error()), None


def test_a_wrong_derivative_is_a_figure_and_rounding_is_none() -> None:
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    rounding = iter(1e-14 * number for number in range(99))
    assert is_derivative(lambda x: Scaled.apply(x, lambda: next(rounding)), (x,)) is True
    told = is_derivative(lambda x: Scaled.apply(x, lambda: 0.01), (x,))
    assert str(told).startswith("Jacobian mismatch")


def test_the_gradient_that_formats_are_compared_by_comes_through_the_blocks() -> None:
    """And not by the first, smallest map alone, which sees one pixel of 64."""
    plain = PlainGenerator(NUM_CLASSES + 2, 4, 8, (64, 128))
    plain.load_state_dict(calibrated(NUM_CLASSES, 4, 8, (64, 128)).state_dict())
    x = torch.randn(1, NUM_CLASSES + 2, 64, 128).mul(2).softmax(1).requires_grad_()
    (gradient,) = torch.autograd.grad(plain.eval()(x).abs().mean(), x)
    whole = gradient.norm()
    gradient[..., ::64, ::64] = 0
    assert gradient.norm() > 0.9 * whole


def test_a_program_that_takes_too_long_is_ended_and_told(capsys: pytest.CaptureFixture) -> None:
    told = run_program("-c", "import time; print('began', flush=True); time.sleep(99)", times=0.02)
    assert told == "took longer than 2 s"
    assert "began" in capsys.readouterr().out


def test_what_a_part_had_found_before_it_failed_is_in_the_table() -> None:
    figure = {"what": "step fed from shards", "value": 2.5, "unit": "ms", "goal": ""}
    lines = table({"loader": {"figures": [figure], "failed": "took longer"}}).splitlines()
    at = lines.index("| loader | step fed from shards | 2.5 ms |  |")
    assert lines[at + 1] == "| loader | the rest | not measured: took longer | |"


def test_what_lacks_time_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "seconds=1")  # ten on a CPU, fewer than a part needs
    assert done.returncode == 2
    assert "| facts | the rest | not measured: no time was left | |" in done.stdout
    assert "| variants | the rest | not measured: no time was left | |" in done.stdout
    assert "Traceback" not in done.stderr
    assert "the same command again tries it" in done.stderr


def test_shards_are_drawn_in_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    """As on a machine that the code was brought to: its Python has the packages alone."""
    venv.create(tmp_path / "venv", symlinks=True)
    packages = [path for path in sys.path if path.endswith("-packages")]
    draw = f"draw_shards(Path({str(tmp_path / 'shards')!r}), '32x64', 1, 1)"
    done = subprocess.run(
        [
            tmp_path / "venv" / "bin" / "python",
            *("-c", f"from benchmarks.gpu.runs import Path, draw_shards; {draw}"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(packages)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "shards" / "manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("listens", [True, False], ids=["listens", "ignores"])
def test_what_takes_too_long_ends_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    """torchrun's workers have sessions of their own, out of reach of a kill of the group."""
    monkeypatch.setattr("benchmarks.gpu.__main__.GRACE", 5.0)
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", str(worker))
    part = (
        "import signal, subprocess, time\n"
        f"agent = subprocess.Popen({[sys.executable, *launch]!r})\n"
        f"signal.signal(signal.SIGTERM, signal.{'SIG_DFL' if listens else 'SIG_IGN'})\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", part], start_new_session=True)
    written, deadline = tmp_path / "pid", time.monotonic() + PATIENCE
    while not (written.is_file() and written.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    started = psutil.Process(int(written.read_text()))
    end_all(process)
    started.wait(PATIENCE)
    assert process.returncode == -(signal.SIGTERM if listens else signal.SIGKILL)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", f"out={tmp_path}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 2
    assert "there is no GPU here; device=cpu rehearses the program" in done.stderr
