"""Compiles what a GPU would be given, without one: test_kernels.py starts it.

python tests/models/compiled_kernels.py 90:bfloat16 ... prints a line of JSON for each kernel that
is compiled for that compute capability and format: registers of a thread, bytes of those that did
not fit ("spilled") and of shared memory.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from maskrestore.models import fast_modulation as fast


class NoGPU:
    """What Triton asks its driver for before it compiles."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def usage(cubin: bytes) -> dict[str, int]:
    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run(
            [program, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    names = {"registers": "REG", "spilled": "LOCAL"}
    return {name: int(re.findall(rf"\b{short}:(\d+)", told)[-1]) for name, short in names.items()}


def compile_for(capability: int, dtype: torch.dtype) -> None:
    compiled: dict[int, tuple[str, Any]] = {}

    def launch(kernel: Any, grid: tuple[int, ...]) -> Any:
        assert len(grid) == 3

        def compile_only(*args: Any, **kwargs: Any) -> None:
            result = kernel.run(*args, grid=grid, warmup=True, **kwargs)
            compiled[id(result)] = kernel.__name__, result

        return compile_only

    triton.runtime.driver.set_active(NoGPU(capability))
    triton.runtime.jit.KernelInterface.__getitem__ = launch

    def zeros(channels: int, size: int) -> torch.Tensor:
        shape = (2, channels, size, size)
        return torch.zeros(shape, dtype=dtype).requires_grad_()

    for doubled in (False, True):
        for normalized in (False, True):
            large = 32 if doubled else 16
            maps = [zeros(128, large), zeros(128 if normalized else 64, large)]
            results = fast.modulated(zeros(64, 16), doubled, maps, normalized)
            torch.autograd.backward(results, [torch.zeros_like(part) for part in results])
    for keep_results in (False, True):
        results = fast.split_relu(zeros(3 * 64, 16), 3, keep_results)
        torch.autograd.backward(results, [torch.zeros_like(part) for part in results])
    for name, kernel in compiled.values():
        told = {"name": name, "capability": capability, "dtype": str(dtype)}
        told |= usage(kernel.asm["cubin"]) | {"shared": kernel.metadata.shared}
        print(json.dumps(told))


for word in sys.argv[1:]:
    number, name = word.split(":")
    compile_for(int(number), getattr(torch, name))
