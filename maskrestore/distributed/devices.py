"""Whether torch can use this machine's GPU, and if not, why: it is never passed over in silence."""

import os
import re
import socket
import warnings
from pathlib import Path

import torch

from maskrestore.config.run import RunConfig
from maskrestore.utils.gpu import ROOT, driver_version, named_gpus, present_gpus

OLDEST_DRIVERS = {"11": 450, "12": 525, "13": 580}
"""CUDA's major version -> the first driver that runs it (NVIDIA, CUDA Compatibility)."""


def sees_gpu() -> bool:
    """Whether torch can use a GPU here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unusable_gpu says it, with the remedy
        return torch.cuda.is_available()


def unusable_gpu(root: Path = ROOT) -> str:
    """Why torch cannot use the NVIDIA GPU of this machine, with the remedy; "" if there is none,
    or CUDA_VISIBLE_DEVICES hides it on purpose."""
    names = named_gpus()
    gpus = [] if names == [] else present_gpus(root)
    if not gpus:
        return ""
    driver = driver_version(root)
    hidden = "" if names is None else f", CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}"
    return (
        f"{socket.gethostname()} has {' and '.join(sorted(set(gpus)))} "
        f"(driver {driver or 'unknown'}{hidden}), but torch {torch.__version__} cannot use it: "
        f"{_reason(driver)} (docs/running.md); without it: distributed.device=cpu"
    )


def own_gpu() -> int:
    """The number of the GPU that this process takes, among those that it sees."""
    return int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()


def left_out_gpu() -> str:
    """Why the GPU that torch sees cannot run what it was built for, with the remedy; "" if it can.
    Wheels leave old architectures out, and torch says so only at its first operation."""
    index = own_gpu()
    major, minor = torch.cuda.get_device_capability(index)
    built = torch.cuda.get_arch_list()
    known = [re.fullmatch(r"(sm|compute)_(\d+)[a-z]?", name) for name in built]
    if not any(known):  # of another maker
        return ""
    for kind, number in (match.groups() for match in known if match):  # sm_86; compute_90 and newer
        own_major, own_minor = divmod(int(number), 10)
        is_newer = kind == "compute" and (major, minor) >= (own_major, own_minor)
        if is_newer or (major == own_major and minor >= own_minor):
            return ""
    return (
        f"{socket.gethostname()} has {torch.cuda.get_device_name(index)} (sm_{major}{minor}), for "
        f"which torch {torch.__version__} is not built ({', '.join(built)}): install one that is "
        "(docs/running.md); without it: distributed.device=cpu"
    )


def slow_formats(config: RunConfig) -> list[str]:
    """The number formats that the GPU which torch sees has no instructions for: bf16 before compute
    capability 8.0. PyTorch computes it all the same, many times slower, without a word."""
    index = own_gpu()
    major, minor = torch.cuda.get_device_capability(index)
    name = f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})"
    return [
        f"distributed.{setting}=bf16: {name} has no instructions for bf16: write fp16 or fp32"
        for setting in ("precision", "frozen_precision")
        if major < 8 and getattr(config.distributed, setting) == "bf16"
    ]


def _reason(driver: str) -> str:
    cuda = torch.version.cuda
    if cuda is None:
        return "it is built without CUDA: install one with it"
    oldest = OLDEST_DRIVERS.get(cuda.partition(".")[0], 0)
    if driver and int(driver.partition(".")[0]) < oldest:
        return (
            f"it is built for CUDA {cuda}, which needs a driver from {oldest} on: install a newer "
            "driver, or torch for an older CUDA"
        )
    return f"it is built for CUDA {cuda} and says: {_complaint()}"


def _complaint() -> str:
    """The first sentence of what torch says of a GPU that it cannot use."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return re.split(r"[.\n](?:\s|$)", str(error))[0]
    return "no reason"


def fix_order(is_fixed: bool) -> None:
    """Whether a GPU is to take only operations that give the same bits each time: in torch, cuDNN,
    cuBLAS and NCCL. Call it before any of them is used; torch raises RuntimeError for an operation
    that has no such form."""
    torch.use_deterministic_algorithms(is_fixed)
    torch.backends.cudnn.deterministic = is_fixed
    # Nothing of ours reads memory that nobody has written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if is_fixed:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("NCCL_ALGO", "Ring")


def device_identity() -> str:
    """The GPU that this process takes, by machine and number: no other may have it as well."""
    index = own_gpu()
    name = str(torch.cuda.get_device_properties(index).uuid)
    if not name.strip("0-"):  # a virtual one may have no number of its own
        name = f"{index} of CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}"
    return f"{socket.gethostname()} GPU {name}"
