"""GPUs that a machine has: by nvidia-smi, the driver's /proc, and devices."""

from pathlib import Path

import pytest

from launch.grid.run_here import find_devices
from maskrestore.utils.gpu import driver_version, named_gpus, present_gpus

VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n"
)
OPEN_VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"


@pytest.fixture
def no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def put_program(folder: Path, script: str) -> None:
    program = folder / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.usefixtures("no_program")
@pytest.mark.parametrize(
    ("text", "version"), [(VERSION, "535.104.05"), (OPEN_VERSION, "570.86.15"), ("?", "")]
)
def test_a_driver_in_proc(tmp_path: Path, text: str, version: str) -> None:
    assert present_gpus(tmp_path) == []
    put(tmp_path / "proc/driver/nvidia/version", text)
    assert driver_version(tmp_path) == version
    assert present_gpus(tmp_path) == ["NVIDIA GPU"]
    put(tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA A100\n")
    assert present_gpus(tmp_path) == ["NVIDIA A100"]


@pytest.mark.usefixtures("no_program")
def test_devices_alone(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        put(tmp_path / "dev" / name)
    assert present_gpus(tmp_path) == ["NVIDIA GPU"] * 2


@pytest.mark.usefixtures("no_program")
def test_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(
        tmp_path,
        'case $1 in -L) echo "GPU 0: NVIDIA H100 PCIe (UUID: GPU-1)"; '
        'echo "GPU 1: Tesla T4 (UUID: GPU-2)";; '
        "--query*) echo 550.54.15; echo 550.54.15;; esac",
    )
    assert present_gpus(tmp_path) == ["NVIDIA H100 PCIe", "Tesla T4"]
    assert driver_version(tmp_path) == "550.54.15"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_devices() == ["1"]
    for hidden in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert find_devices() == []


@pytest.mark.usefixtures("no_program")
def test_a_gpu_that_mig_cuts_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = (
        "GPU 0: NVIDIA H100 PCIe (UUID: GPU-1)",
        "  MIG 3g.40gb     Device  0: (UUID: MIG-a)",
        "  MIG 1g.10gb     Device  1: (UUID: MIG-b)",
        "GPU 1: NVIDIA H100 PCIe (UUID: GPU-2)",
    )
    put_program(tmp_path, "\n".join(f'echo "{line}"' for line in listing))
    assert present_gpus(tmp_path) == ["NVIDIA H100 PCIe"] * 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_devices() == ["MIG-a", "MIG-b", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
    assert find_devices() == ["MIG-b"]


@pytest.mark.usefixtures("no_program")
@pytest.mark.parametrize(
    "script",
    [
        "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
        "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9",
        "exit 127",
    ],
)
def test_an_nvidia_smi_that_fails(tmp_path: Path, script: str) -> None:
    put_program(tmp_path, script)
    assert present_gpus(tmp_path) == []
    put(tmp_path / "proc/driver/nvidia/version", VERSION)
    assert present_gpus(tmp_path) == ["NVIDIA GPU"]
    assert driver_version(tmp_path) == "535.104.05"


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        ("0, 1", ["0", "1"]),
        ("GPU-8f,MIG-1", ["GPU-8f", "MIG-1"]),
        ("0,-1,1", ["0"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_what_the_shell_lets_see(
    allowed: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert named_gpus() == names
