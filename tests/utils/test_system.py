"""Cores that one may use, and the environment of the libraries that compute."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from forked import ROOT

from maskrestore.utils import system

V2_MOUNT = "30 23 0:27 {root} {folder} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "32 31 0:29 {root} {folder} rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHER_MOUNT = "35 31 0:32 {root} {folder} rw,relatime shared:9 - cgroup cgroup rw,cpuset"


def process_in(tmp_path: Path, group: str, mount: str, root: str = "/") -> Path:
    """What /proc/self tells of a process in a cgroup: `group` is its line."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(f"1:name=systemd:/elsewhere\n{group}\n")
    lines = ["22 1 8:1 / / rw - ext4 /dev/sda1 rw", mount.format(root=root, folder=tmp_path / "fs")]
    (tmp_path / "proc" / "mountinfo").write_text("\n".join(lines) + "\n")
    return tmp_path / "proc"


def limit(group: Path, v2: str = "", v1: tuple[int, int] | None = None) -> None:
    group.mkdir(parents=True, exist_ok=True)
    if v2:
        (group / "cpu.max").write_text(v2 + "\n")
    if v1:
        for name, value in zip(("quota", "period"), v1, strict=True):
            (group / f"cpu.cfs_{name}_us").write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("200000 100000", 2.0),
        ("150000 100000", 1.5),
        ("5000 100000", 0.05),
        ("max 100000", math.inf),
        ("nonsense", math.inf),
        ("100000 0", math.inf),
    ],
)
def test_the_quota_of_version_2(tmp_path: Path, text: str, quota: float) -> None:
    limit(tmp_path / "fs" / "job" / "step", v2=text)
    limit(tmp_path / "fs" / "job", v2="max 100000")
    assert system._quota(process_in(tmp_path, "0::/job/step", V2_MOUNT)) == quota


def test_the_smallest_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    limit(tmp_path / "fs" / "job" / "step" / "task", v2="400000 100000")
    limit(tmp_path / "fs" / "job", v2="300000 100000")
    assert system._quota(process_in(tmp_path, "0::/job/step/task", V2_MOUNT)) == 3.0


@pytest.mark.parametrize(
    ("v1", "quota"), [((100_000, 100_000), 1.0), ((50_000, 20_000), 2.5), ((-1, 100_000), math.inf)]
)
@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpuacct,cpu", "cpu"])
def test_the_quota_of_version_1(
    tmp_path: Path, v1: tuple[int, int], quota: float, controllers: str
) -> None:
    limit(tmp_path / "fs" / "docker", v1=v1)
    assert system._quota(process_in(tmp_path, f"4:{controllers}:/docker", V1_MOUNT)) == quota


@pytest.mark.parametrize("root", ["/docker/1f0", "/somewhere/else"])
def test_a_container_knows_its_group_by_a_name_from_outside(tmp_path: Path, root: str) -> None:
    limit(tmp_path / "fs", v1=(200_000, 100_000))
    process = process_in(tmp_path, "4:cpu:/docker/1f0", V1_MOUNT, root)
    assert system._quota(process) == 2.0


def test_other_controllers_and_systems_have_no_quota(tmp_path: Path) -> None:
    limit(tmp_path / "fs", v1=(100_000, 100_000))
    assert system._quota(process_in(tmp_path, "4:cpuset:/", OTHER_MOUNT)) == math.inf
    assert system._quota(tmp_path / "gone") == math.inf


@pytest.mark.parametrize(("quota", "cores"), [(0.05, 1), (1.0, 1), (1.5, 2), (3.5, 4), (9.0, 4)])
def test_a_quota_is_rounded_up(monkeypatch: pytest.MonkeyPatch, quota: float, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(system, "_quota", lambda: quota)
    assert system.count_cores() == cores


def real_groups() -> list[Path]:
    """Where this machine lets a cgroup with a quota be made, of either version: nowhere in most
    containers. Found out when tests are collected, so that there is none to be skipped."""
    is_v1 = Path("/sys/fs/cgroup/cpu").is_dir()
    above = Path("/sys/fs/cgroup/cpu" if is_v1 else "/sys/fs/cgroup")
    try:
        with real_group(above):
            return [above]
    except OSError:
        return []


@contextmanager
def real_group(above: Path) -> Iterator[Path]:
    """A cgroup with a quota of half a core."""
    path = above / f"maskrestore_test_{os.getpid()}"
    path.mkdir()
    try:
        is_v1 = (path / "cpu.cfs_quota_us").exists()
        limit(path, v1=(50_000, 100_000)) if is_v1 else limit(path, v2="50000 100000")
        yield path
    finally:
        path.rmdir()


def run_python(program: str, **environment: str) -> str:
    """What a fresh interpreter prints, in which nobody has said how threads wait."""
    unset = (*system.WAITING, "OMP_NUM_THREADS")
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


THREADS = (
    "import os, sys\n"
    "from functools import partial\n"
    "from pathlib import Path\n"
    "from maskrestore.utils import system\n"
    "{enter}\n"
    "system.set_up_torch()\n"
    "print(system.count_cores(), os.environ['OMP_NUM_THREADS'])"
)
"""Cores and threads of a program in a cgroup that it enters first."""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["v1", "v2", *real_groups()], ids=str)
def test_a_quota_decides_on_the_threads(tmp_path: Path, where: str | Path) -> None:
    """Of the kernel's where one can be set, and everywhere of files as the kernel writes them."""
    with ExitStack() as stack:
        if isinstance(where, Path):
            group = stack.enter_context(real_group(where))
            enter = f"Path('{group}/cgroup.procs').write_text(str(os.getpid()))"
        else:
            v1, v2 = ((50_000, 100_000), "") if where == "v1" else (None, "50000 100000")
            limit(tmp_path / "fs" / "docker", v1=v1, v2=v2)
            line, mount = ("4:cpu", V1_MOUNT) if where == "v1" else ("0:", V2_MOUNT)
            process = process_in(tmp_path, f"{line}:/docker", mount)
            enter = f"system._quota = partial(system._quota, Path('{process}'))"
        program = THREADS.format(enter=enter)
        assert run_python(program) == "1 1"
        assert run_python(program, OMP_NUM_THREADS="3") == "1 3"


SET_UP = (
    "import os, sys\n"
    "from maskrestore.config.cli import run_program\n"
    "from maskrestore.config.settings import Section\n"
    "sys.argv = ['program']\n"
    "def main(words):\n"
    "    is_loaded = 'libgomp' in open('/proc/self/maps').read()\n"
    "    import torch\n"
    "    torch.ones(1 << 20).sum()\n"
    "    print(is_loaded, 'libgomp' in open('/proc/self/maps').read())\n"
    "    names = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')\n"
    "    print(*(os.environ.get(name) for name in names))\n"
    "run_program(main, '', Section)\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "waiting"),
    [
        ({}, "passive None None"),
        ({"OMP_WAIT_POLICY": "active"}, "active None None"),
        ({"GOMP_SPINCOUNT": "1000"}, "None 1000 None"),
        ({"KMP_BLOCKTIME": "infinite"}, "None None infinite"),
    ],
)
def test_threads_do_not_spin_unless_the_user_says_so(
    environment: dict[str, str], waiting: str
) -> None:
    """Before OpenMP is loaded, which reads it then and never again."""
    assert run_python(SET_UP, **environment).splitlines() == ["False True", waiting]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch's OpenMP is libgomp on Linux")
def test_openmp_itself_says_how_a_run_was_started(tmp_path: Path) -> None:
    """train.py as a user starts it: it fails after torch is loaded, for want of shards."""
    words = ["config=demo", f"run={tmp_path / 'run'}", f"data.shards={tmp_path}", "loss=ce"]
    clean = {name: value for name, value in os.environ.items() if name not in system.WAITING}
    for more, policy in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, ROOT / "train.py", *words],
            env=clean | {"OMP_DISPLAY_ENV": "true", "MPLBACKEND": "module://no.such"} | more,
            capture_output=True,
            text=True,
        )
        assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
