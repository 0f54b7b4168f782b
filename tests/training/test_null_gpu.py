"""Whole runs on a GPU that is not there, computed on the CPU: what CUDA makes of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import null_gpu
import pytest
import torch
from forked import ROOT
from tiny_runs import Words, losses_of

from maskrestore.config.run import RunConfig, load_config
from maskrestore.models.build import make_mask_generator
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.objectives import restoration
from maskrestore.training.loop import train

START = """
import json, os
from maskrestore.config.run import load_config
from maskrestore.training import loop
config = load_config(json.loads('''{words}'''))
"""
WATCHED = """
CONVOLUTIONS = {torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default}
LAYOUT = torch.channels_last
others = set()

class Watched(Emulation):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for x in args[:2] if function in CONVOLUTIONS else ():
            is_picture = x.shape[1] in (3, 34, 36)  # real ones, and segmaps
            if not (is_picture or x.is_contiguous(memory_format=LAYOUT)):
                others.add((function.name(), tuple(x.shape)))
        return super().__torch_dispatch__(function, types, args, kwargs)

with Watched():
    loop.train(config)
print(sorted(others))
"""
COUNTED = """
seen = []
take_step = loop.take_step

def counted(*args):
    seen.append(counts())
    if len(seen) == 10:
        print(json.dumps(seen[3:]), flush=True)  # the first steps make things ready
        os._exit(0)  # what it has drawn cannot be judged
    return take_step(*args)

loop.take_step = counted
loop.train(config)
"""


SOME_OF_A_BATCH = ("data.num_true_masks=2", "synthesized_images=0.5", "condition=mask_image")
"""Settings by which images of one batch are treated otherwise than its others."""


def run_on_it(script: str, words: list[str]) -> str:
    whole = [*words, "distributed.device=cuda"]
    return null_gpu.run_there(START.format(words=json.dumps(whole)) + script)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "precision", "frozen", "tolerance"),
    [("ce_vgg_l1", "fp32", "fp32", 1e-4), ("ce_l1", "bf16", "fp16", 5e-2)],
)
def test_a_run_computes_on_it_what_it_computes_on_a_cpu(
    words: Words,
    monkeypatch: pytest.MonkeyPatch,
    loss: str,
    precision: str,
    frozen: str,
    tolerance: float,
) -> None:
    def laid_out_as_there(config: RunConfig) -> MaskGenerator:
        return make_mask_generator(config).to(memory_format=torch.channels_last)

    # Some CPUs round a convolution otherwise in another layout.
    monkeypatch.setattr(restoration, "make_mask_generator", laid_out_as_there)
    precisions = (f"distributed.precision={precision}", f"distributed.frozen_precision={frozen}")
    here = load_config(words("cpu", f"loss={loss}"))
    there = load_config(words("gpu", f"loss={loss}"))
    expected = train(here)["metrics"]
    told = run_on_it(WATCHED, words("gpu", f"loss={loss}", *precisions))
    found = json.loads(Path(there.run / "result.json").read_text())["metrics"]
    for name in ("accu", "miou19", "boundary_f3", "ece"):
        assert found[name] == pytest.approx(expected[name], abs=10 * tolerance), name
    for (_, mine), (_, other) in zip(losses_of(there.run), losses_of(here.run), strict=True):
        assert mine == pytest.approx(other, rel=tolerance)
    assert told.strip().splitlines()[-1] == "[]"  # nothing is transposed around a convolution


FROZEN = """
from maskrestore.models.frozen import FrozenConv2d
torch.manual_seed(0)
for options in (1, 1, 1, 1), (2, 0, 1, 2), (2, 3, 2, 1), ((2, 3), (0, 1), 1, 4):
    layer = FrozenConv2d(4, 16, 3, *options, dtype=torch.double).requires_grad_(False)
    x = torch.randn(2, 4, 15, 16, dtype=torch.double)
    with Emulation():
        found = []
        for device in "cpu", "cuda":
            shown = x.to(device).requires_grad_()
            y = layer.to(device)(shown)
            gradient = torch.linspace(-1, 1, y.numel(), dtype=torch.double).view(y.shape)
            found += torch.autograd.grad(y, shown, gradient.to(device))
        torch.testing.assert_close(found[1].cpu(), found[0])
    layer = layer.to(torch.bfloat16, memory_format=torch.channels_last)
    shown = torch.ones_like(x, device="cuda", dtype=torch.bfloat16).requires_grad_()
    torch.backends.cudnn.enabled = False
    y = layer(shown)
    gradient = torch.ones_like(y, memory_format=torch.channels_last)
    torch.backends.cudnn.enabled = True
    reset_counts()
    try:
        y.backward(gradient)
    except RuntimeError:  # of cuDNN's graph, which cannot be made up
        print(counts()["launches"])
    torch.backends.cudnn.enabled = False
"""


@pytest.mark.slow
def test_a_frozen_convolution_gives_its_gradient_and_cudnn_copies_nothing_for_it() -> None:
    assert null_gpu.run_there(FROZEN).splitlines() == ["0"] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [("task=densify", *SOME_OF_A_BATCH), ("task=synthesis",)], ids=["densify", "synthesis"]
)
def test_the_host_waits_for_nothing_between_two_reports(
    words: Words, given: tuple[str, ...]
) -> None:
    more = ("training.num_images=96", "generator.num_images=96", "training.log_images=96")
    more += ("loss=ce_vgg_l1", "training.checkpoint_images=96")
    counted = json.loads(run_on_it(COUNTED, words("run", *given, *more)).splitlines()[-1])
    assert len(counted) == 7
    assert len({counts["synchronizations"] for counts in counted}) == 1
    assert counted[-1]["launches"] > counted[0]["launches"]
    assert len({counts["unpinned"] for counts in counted}) == 1


@pytest.mark.slow
def test_a_step_takes_half_of_the_memory_of_a_plain_script() -> None:
    """In small; at the paper's size: docs/performance.md."""
    words = ("size=64x128", "width=16", "hidden=32", "batch_size=16")
    command = [sys.executable, "tests/programs/peak_memory.py", *words]
    environment = os.environ | null_gpu.environment(computes=True)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    less = dict(re.findall(r"^ours, (.*): .*, ([0-9.]+)x less$", done.stdout, re.M))
    assert float(less["Triton's kernels"]) > 1.85
    assert float(less["plain form"]) > 1.78
    assert float(less["Triton's kernels, activations computed twice"]) > 2.7
