"""NVIDIA GPUs that a machine has, whether or not torch can use them; asked without torch, whose
import takes seconds."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path("/")


def named_gpus() -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES names, none where it hides all GPUs on purpose (empty, -1, or
    SLURM's NoDevFiles); None if it is not set."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return None
    names: list[str] = []
    for name in (part.strip() for part in allowed.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", name):
            break  # CUDA, too, passes over whatever comes after it
        names.append(name)
    return names


def present_gpus(root: Path = ROOT) -> list[str]:
    """What the machine says of each of its GPUs: their models by nvidia-smi, or else by the driver
    in /proc; without a name where there is only its device in /dev, or a driver that is loaded."""
    listing = [line for line in _ask_nvidia_smi("-L") if re.match(r"GPU \d+:", line)]
    if listing:
        return [line.partition(":")[2].partition("(")[0].strip() for line in listing]
    models = [
        _match(r"Model:\s*(.+)", path) or "NVIDIA GPU"
        for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    ]
    devices = ["NVIDIA GPU" for path in root.glob("dev/nvidia[0-9]*")]
    loaded = ["NVIDIA GPU"] if (root / "proc/driver/nvidia/version").is_file() else []
    return models or devices or loaded


def mig_instances() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name where MIG cuts GPUs up: each instance, and the numbers of
    the GPUs that are whole. Empty without MIG: a GPU's number alone would give its first instance.
    """
    names: list[str] = []
    has_instances = False
    whole = ""
    for line in _ask_nvidia_smi("-L"):
        if gpu := re.match(r"GPU (\d+):", line):
            names += [whole] if whole else []
            whole = gpu[1]
        elif instance := re.match(r"\s+MIG .*UUID: (MIG-[^)]+)\)", line):
            names.append(instance[1])
            whole, has_instances = "", True
    names += [whole] if whole else []
    return names if has_instances else []


def driver_version(root: Path = ROOT) -> str:
    """Version of the machine's NVIDIA driver, such as 535.104.05; "" if nothing tells it."""
    told = _match(r"NVRM version:.*?\s(\d+\.[\d.]+)", root / "proc/driver/nvidia/version")
    lines = _ask_nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")
    versions = [line.strip() for line in lines if re.fullmatch(r"\d+\.[\d.]+", line.strip())]
    return told or (versions[0] if versions else "")


def _match(pattern: str, path: Path) -> str:
    try:
        match = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return match[1].strip() if match else ""


def _ask_nvidia_smi(*words: str) -> Sequence[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):  # of another system; a driver that hangs
        return []
    return done.stdout.splitlines()
