"""A CUDA device that is not there (device.cpp), for tests of what a CPU cannot show.

Built from torch's own libraries: each function that they want of CUDA's and that device.cpp does
not have becomes one that returns 0. Needs g++, nm and the CUDA headers that torch's packages bring.
"""

import atexit
import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
WANTED = re.compile(
    r"(cu[A-Z]|cuda|cublas|cudnn|cusparse|cusolver|cufft|curand|nccl|nvrtc|__cuda)\w*"
)
LIBRARIES = ("c10_cuda", "torch_cuda", "torch_cuda_linalg", "torch_python", "caffe2_nvrtc")
EMPTY_MACROS = (
    *("host", "device", "global", "shared", "constant", "managed", "noinline", "forceinline"),
    *("thread", "import", "export", "cdecl", "specialization_static", "static", "cudart_builtin"),
    *("device_builtin", "device_builtin_texture_type", "device_builtin_surface_type"),
)
"""Of CUDA's host_defines.h, which comes with the compiler and not with torch."""

PREAMBLE = """
import torch
torch.backends.cudnn.enabled = False  # its graphs cannot be made up
from null_gpu.emulation import Emulation, counts, reset_counts
"""
END = """
import os, sys
sys.stdout.flush()
os._exit(0)  # CUDA's threads of a backward pass do not end well here
"""


def missing() -> str:
    """Why there is no null GPU on this machine, or an empty string."""
    if sys.platform != "linux" or not all(map(shutil.which, ("g++", "nm"))):
        return "the null GPU needs Linux, g++ and nm"
    return "" if _headers() else "torch is built without CUDA"


def _headers() -> Path | None:
    packages = Path(sysconfig.get_paths()["purelib"])
    places = [packages, *(Path(p) for p in sys.path if p.endswith("site-packages"))]
    found = (f for p in places for f in sorted(p.glob("nvidia/**/cuda_runtime_api.h")))
    return next((file.parent for file in found), None)


@functools.cache
def build() -> Path:
    """The folder of its libraries, built once for a process of tests; without what that takes, the
    test is skipped."""
    import torch

    if why := missing():
        import pytest  # which a machine of a rehearsal need not have

        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="null_gpu"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    headers = folder / "crt"
    headers.mkdir()
    macros = [f"#define __{name}__" for name in EMPTY_MACROS]
    macros += ["#define __align__(n) __attribute__((aligned(n)))", "#define CUDARTAPI"]
    macros += ["#define __builtin_align__(n) __align__(n)", "#define __annotate__(a)"]
    macros += ["#define __no_return__ __attribute__((noreturn))", "#define CUDARTAPI_CDECL"]
    macros += ["#define __location__(a)"]
    for name in ("host_config.h", "host_defines.h"):
        (headers / name).write_text("#pragma once\n" + "\n".join(macros) + "\n")
    include = ["-I", str(folder), "-I", str(_headers())]
    run("g++", "-fPIC", "-O1", "-c", HERE / "device.cpp", "-o", folder / "device.o", *include)
    has = {line.split()[-1] for line in run("nm", folder / "device.o").splitlines()}
    libraries = (Path(torch.__file__).parent / "lib" / f"lib{name}.so" for name in LIBRARIES)
    wanted = set()
    for library in filter(Path.is_file, libraries):
        for line in run("nm", "-D", "--undefined-only", library).splitlines():
            name = line.split()[-1].split("@")[0]
            if WANTED.fullmatch(name) and name not in has:
                wanted.add(name)
    (folder / "rest.c").write_text("".join(f"int {n}() {{return 0;}}\n" for n in sorted(wanted)))
    run("gcc", "-fPIC", "-w", "-c", folder / "rest.c", "-o", folder / "rest.o")
    objects = (folder / "device.o", folder / "rest.o")
    run("g++", "-shared", "-o", folder / "libnull_gpu.so", *objects, "-ldl")
    # The driver is looked for by its file name.
    run("g++", "-shared", "-o", folder / "libcuda.so.1", folder / "rest.o")
    return folder


def environment(computes: bool = False, **settings: str) -> dict[str, str]:
    """What a process needs to see it. computes: and to have results there, with all that it starts
    (Emulation; without, nothing is computed). settings: those of device.cpp, as DEVICES="2"."""
    folder = build()
    places = [HERE / "computing"] if computes else []
    places += [ROOT, HERE.parent, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        "LD_LIBRARY_PATH": str(folder),
        "LD_PRELOAD": str(folder / "libnull_gpu.so"),
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, places))),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        **{f"NULL_GPU_{name}": value for name, value in settings.items()},
    }


def run_there(script: str, **settings: str) -> str:
    """What a Python script prints on a machine with this GPU; it has `torch`, `Emulation` and
    `counts`."""
    command = [sys.executable, "-c", PREAMBLE + script + END]
    whole = os.environ | environment(**settings)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=whole)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
