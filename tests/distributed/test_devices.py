"""A GPU that torch cannot use is never passed over in silence."""

from pathlib import Path

import null_gpu
import pytest
import torch

from maskrestore.config.run import load_config
from maskrestore.distributed.devices import unusable_gpu
from maskrestore.distributed.processes import make_accelerator
from maskrestore.utils.errors import ConfigError

ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
SMI = """#!/bin/sh
case $1 in
    -L) echo "GPU 0: NVIDIA H100 PCIe (UUID: GPU-1)";;
    *) echo 535.104.05;;
esac
"""


@pytest.fixture
def _old_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@ON_CPU
@pytest.mark.usefixtures("_old_driver")
@pytest.mark.parametrize("for_training", [True, False])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_an_old_driver_is_refused(device: str, for_training: bool) -> None:
    with pytest.raises(ConfigError) as caught:
        make_accelerator(load_config([f"distributed.device={device}"]), for_training)
    text = str(caught.value)
    assert "has NVIDIA H100 PCIe (driver 535.104.05)" in text
    assert "distributed.device=cpu" in text
    if torch.version.cuda is None:
        assert "it is built without CUDA" in text
    elif torch.version.cuda.startswith("13"):
        assert f"built for CUDA {torch.version.cuda}, which needs a driver from 580 on" in text


@ON_CPU
@pytest.mark.usefixtures("_old_driver")
@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_a_gpu_that_is_hidden_on_purpose(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert unusable_gpu() == ""
    accelerator = make_accelerator(load_config([]), for_training=True)
    assert accelerator.device.type == "cpu"


@ON_CPU
@pytest.mark.usefixtures("_old_driver")
def test_the_way_on() -> None:
    accelerator = make_accelerator(load_config(["distributed.device=cpu"]), for_training=True)
    assert accelerator.device.type == "cpu"


@ON_CPU
def test_a_driver_that_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong then is what torch says."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  999.1  Sat Aug 19\n")
    text = unusable_gpu(tmp_path)
    assert "(driver 999.1, CUDA_VISIBLE_DEVICES=7)" in text
    assert "and says: " in text or "it is built without CUDA" in text


STARTED = """
from maskrestore.config.run import load_config
from maskrestore.distributed.processes import make_accelerator
from maskrestore.utils.errors import ConfigError
try:
    make_accelerator(load_config({}), for_training=True)
except ConfigError as error:
    print(error)
"""


def test_an_architecture_that_the_wheels_left_out() -> None:
    told = null_gpu.run_there(STARTED.format([]), MAJOR="3")  # Kepler, of 2012
    assert "has NVIDIA H100 80GB HBM3 (sm_30), for which torch" in told
    assert "is not built (sm_" in told
    assert "distributed.device=cpu" in told


def test_a_format_that_the_gpu_has_no_instructions_for() -> None:
    words = ["distributed.precision=bf16", "distributed.frozen_precision=fp16"]
    told = null_gpu.run_there(STARTED.format(words), MAJOR="7", MINOR="5")
    assert told.strip() == (
        "distributed.precision=bf16: NVIDIA H100 80GB HBM3 (sm_75) has no instructions for bf16: "
        "write fp16 or fp32"
    )


def test_an_image_averaged_by_no_whole_number_has_no_deterministic_form() -> None:
    words = ["distributed.device=cuda", "distributed.deterministic=true", "loss=ce_l1"]
    words += ["data.size=64x128", "generator.size=96x192"]
    assert null_gpu.run_there(STARTED.format(words)).strip() == (
        "generator.size=96x192: with distributed.deterministic=true write multiples of the "
        "sides of data.size=64x128"
    )


SECOND_OF_A_MACHINE = """
import os
from maskrestore.config.run import load_config
from maskrestore.distributed.processes import make_accelerator
os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "1"}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
accelerator = make_accelerator(load_config(["distributed.device=cuda"]), for_training=True)
print(accelerator.device, accelerator.local_process_index)
"""


def test_a_process_that_was_shown_its_own_gpu_alone_takes_that() -> None:
    """DDP, barriers and DeepSpeed go by the number of the process."""
    assert null_gpu.run_there(SECOND_OF_A_MACHINE).strip().splitlines()[-1] == "cuda:0 0"


@ON_CPU
def test_a_machine_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert unusable_gpu(tmp_path) == ""
