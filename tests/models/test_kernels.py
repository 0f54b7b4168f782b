"""The fast form of what stands between convolutions, on a machine without a GPU: what its kernels
compute, by Triton's interpreter, and that they compile for GPUs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import null_gpu
import pytest
from forked import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton comes with torch for CUDA"
)
HERE = Path(__file__).parent
KERNELS = {
    *("find_moments", "join_moments", "modulate", "modulate_backward", "normalize_backward"),
    *("split_relu", "split_relu_backward"),
}


def start(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


@pytest.mark.slow
def test_they_compute_what_the_plain_form_does() -> None:
    words = ("-q", "--tb=short", "-p", "no:cacheprovider")
    told = start("-m", "pytest", HERE / "interpreted_kernels.py", *words, TRITON_INTERPRET="1")
    assert " passed" in told
    assert not {"skipped", "deselected"} & set(told.split())


@pytest.mark.slow
def test_they_compile(tmp_path: Path) -> None:
    """For an H100."""
    targets = ("90:bfloat16", "90:float32")  # float16 compiles as bfloat16 does, in as much time
    settings = {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    lines = start(HERE / "compiled_kernels.py", *targets, **settings).splitlines()
    compiled = [json.loads(line) for line in lines]
    for target in targets:
        names = {k["name"] for k in compiled if target == f"{k['capability']}:{k['dtype'][6:]}"}
        assert names == KERNELS
    assert all(kernel["spilled"] == 0 and kernel["registers"] <= 128 for kernel in compiled)


INTERPRETED = f"""
import os
os.environ["TRITON_INTERPRET"] = "1"
from maskrestore.models import fast_modulation, kernels, modulation

class Counted:
    def __init__(self, name):
        self.name, self.kernel = name, getattr(kernels, name)

    def __getitem__(self, grid):
        launched.add(self.name)
        return self.kernel[grid]

for name in {sorted(KERNELS)}:
    setattr(kernels, name, Counted(name))
modulation._tried = lambda device, dtype: fast_modulation  # a trial sees no emulation
chosen, modulation.fast_form = modulation.fast_form, lambda x: fast_modulation
"""
NETWORK = """
import os, sys, warnings
sys.stderr = sys.stdout
warnings.simplefilter("ignore")
from maskrestore.models import modulation
from maskrestore.models.mask_generator import MaskGenerator

launched = set()
chosen = globals().get("chosen", modulation.fast_form)
torch.manual_seed(0)
network = MaskGenerator(5, 2, 5, (32, 64)).to(memory_format=torch.channels_last)
torch.nn.init.normal_(network.conv_logits.weight)
mask = torch.rand(1, 5, 32, 64), torch.ones(1, 1, 32, 64)

def results(device):
    network.to(device).zero_grad()
    logits = network(*(part.to(device) for part in mask))
    logits.square().mean().backward()
    every = [logits, *(part.grad for part in network.parameters())]
    return [part.detach().cpu().clone() for part in every]

expected = results("cpu")
modulation.fast_form = chosen
with Emulation():
    found = results("cuda")
print(all(map(torch.equal, found, expected)), sorted(launched), flush=True)
os._exit(0)  # a thread of the backward pass may still be there
"""


@pytest.mark.slow
def test_a_gpu_that_they_do_not_compute_for_is_told_once_and_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    [told, end] = null_gpu.run_there(NETWORK).splitlines()
    assert told.startswith("Triton's kernels cannot be used for float32 on cuda:0 (")
    assert told.endswith("compute the same without them, in more time and memory")
    assert end == "True []"


@pytest.mark.slow
def test_on_a_gpu_a_network_uses_them() -> None:
    """Computed by the interpreter, in the GPU's memory: what it computes in that of the CPU."""
    told = null_gpu.run_there(INTERPRETED + NETWORK).splitlines()
    assert told[-1] == f"True {sorted(KERNELS)}"
