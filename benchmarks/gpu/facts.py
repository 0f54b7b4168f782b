"""Which device this is, and what it can do at best."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.settings import Figure, GpuBenchmark, timed

PACKAGES = ("torch", "torchvision", "accelerate", "triton", "deepspeed")
ASKED = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,"
    "mig.mode.current"
)


def facts(config: GpuBenchmark) -> Iterator[Figure]:
    """The device, its software, and two ceilings: of arithmetic and of bytes."""
    yield Figure("cores of the host", os.cpu_count() or 0)
    for package in PACKAGES:
        try:
            yield Figure(package, version(package))
        except PackageNotFoundError:
            yield Figure(package, "not installed")
    if config.device == "cuda":
        device = torch.cuda.get_device_properties(0)
        yield Figure("device", device.name)
        yield Figure("memory of it", device.total_memory / 1e9, "GB")
        yield Figure("CUDA", str(torch.version.cuda))
        yield Figure("cuDNN", str(torch.backends.cudnn.version()))
        yield Figure("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
        yield from _told_by_driver()
    # Large enough to leave every cache on a GPU.
    number, side = (2**29, 8192) if config.device == "cuda" else (2**22, 256)
    source = torch.ones(number, dtype=torch.int32, device=config.device)
    target = torch.empty_like(source)
    copying, _ = timed(lambda: target.copy_(source), config.device, config.repeats)
    kind = torch.bfloat16
    a, b = (torch.randn(side, side, device=config.device).to(kind) for _ in range(2))
    multiplying, _ = timed(lambda: a @ b, config.device, config.repeats)
    yield Figure("copy, read and written", 8 * number / copying / 1e9, "TB/s")
    yield Figure(f"bf16 matrix product of {side}", 2 * side**3 / multiplying / 1e9, "TFLOP/s")


def _told_by_driver() -> list[Figure]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return [Figure("nvidia-smi", "not installed")]
    command = [program, f"--query-gpu={ASKED}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return [Figure("nvidia-smi", "says nothing for 10 s")]
    if done.returncode:
        return [Figure("nvidia-smi", done.stderr.strip()[:100] or f"status {done.returncode}")]
    told = done.stdout.splitlines()[0].split(", ")
    return [Figure(f"nvidia-smi {k}", v) for k, v in zip(ASKED.split(","), told, strict=True)]
