"""The queue of real submitit jobs on this machine."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from terminal import HIDDEN, SHOWN, UP, Terminal, plain

from launch.grid.local_queue import run_queue
from launch.grid.run_here import find_devices
from launch.grid.state import Progress


def make_job(act: Callable[[], str | None]) -> Callable[[str], str | None]:
    """A cheap job. Its class is local, so that it is pickled by value: the job's process does not
    know this module."""

    class Job:
        def __call__(self, devices: str) -> str | None:
            return act()

    return Job()


def run(jobs: dict[str, Any], folder: Path, slots: list[str]) -> dict[str, Any]:
    return run_queue(
        "g in runs", jobs, slots, folder / "logs", lambda _: Progress(0, 0, {}), lambda _: "FID 3"
    )


@pytest.mark.slow
def test_the_queue_runs_every_job_and_never_more_than_there_are_slots(tmp_path: Path) -> None:
    class Job:
        def __init__(self, path: str) -> None:
            self.path = path

        def __call__(self, devices: str) -> None:
            from pathlib import Path

            began = time.time()
            time.sleep(0.3)
            Path(self.path).write_text(f"{devices} {began} {time.time()}")

    paths = {name: tmp_path / name for name in ("a", "b", "c", "d")}
    failures = run({n: Job(str(p)) for n, p in paths.items()}, tmp_path, ["0", "MIG-1"])

    assert failures == {}
    rows = [path.read_text().split() for path in paths.values()]
    assert {devices for devices, *_ in rows} == {"0", "MIG-1"}
    for device in ("0", "MIG-1"):
        spans = sorted((float(a), float(b)) for name, a, b in rows if name == device)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans)), (
            "two jobs shared a slot"
        )


@pytest.mark.slow
def test_a_failing_job_leaves_the_others_alone_and_tells_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down() -> None:
        raise ValueError("no such luck")

    def vanish() -> None:
        import os

        os.kill(os.getpid(), 9)

    jobs = {
        "broken": make_job(break_down),
        "killed": make_job(vanish),
        "wrong": make_job(lambda: "data.shards=x: no shards there"),
        "good": make_job(lambda: None),
    }
    failures = run(jobs, tmp_path, ["", ""])

    assert set(failures) == {"broken", "killed", "wrong"}
    assert failures["broken"].message == "ValueError: no such luck"
    assert "break_down" in failures["broken"].log.read_text()
    assert "killed" in failures["killed"].message
    assert failures["wrong"].message == "data.shards=x: no shards there"
    assert [name for name, failure in failures.items() if failure.by_user] == ["wrong"]
    ends = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(ends) == 4
    assert any("good" in line and "done  FID 3" in line for line in ends)


@pytest.mark.slow
def test_an_old_log_folder_is_not_mistaken_for_a_new_one(tmp_path: Path) -> None:
    assert run({"cell": make_job(lambda: None)}, tmp_path, [""]) == {}
    assert run({"cell": make_job(lambda: "later")}, tmp_path, [""])["cell"].message == "later"
    assert sorted(path.name for path in (tmp_path / "logs" / "cell").iterdir()) == ["001", "002"]


SLEEPERS = """
    import os, sys, time
    from pathlib import Path
    from launch.grid.local_queue import run_queue
    from launch.grid.state import Progress

    class Sleeper:
        def __init__(self, path): self.path = path
        def __call__(self, devices):
            import os, signal, time
            from pathlib import Path
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            Path(self.path).write_text(str(os.getpid()))
            time.sleep(120)

    folder = Path(sys.argv[1])
    jobs = {name: Sleeper(str(folder / name)) for name in "abc"}
    try:
        run_queue("", jobs, ["", ""], folder / "logs", lambda _: Progress(0, 0, {}), lambda _: "")
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "kill"])
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, whole_group: bool) -> None:
    program = [sys.executable, "-c", textwrap.dedent(SLEEPERS), str(tmp_path)]
    process = subprocess.Popen(program, start_new_session=True)
    files = [tmp_path / name for name in "ab"]
    wait_until("both", lambda: all(file.exists() and file.read_text() for file in files))
    pids = [int((tmp_path / name).read_text()) for name in "ab"]
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)

    assert process.wait(timeout=20) == 130
    assert not (tmp_path / "c").exists()
    assert not any(is_alive(pid) for pid in pids)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


WATCHED = """
    import sys, time
    from pathlib import Path
    from launch.grid.local_queue import run_queue
    from launch.grid.state import Progress

    class Job:
        def __init__(self, seconds, mistake): self.seconds, self.mistake = seconds, mistake
        def __call__(self, devices):
            import time
            time.sleep(self.seconds)
            return self.mistake

    def progress(name):
        passed = time.monotonic() - begun
        return Progress(100 if passed > 3 else 50, 100, {"ce": 0.25}, 12.5)

    begun = time.monotonic()
    jobs = {"quick": Job(0, "no such file"), "slow": Job(5, None)}
    jobs["late"] = Job(float(sys.argv[2]), None)
    try:
        run_queue("g in runs", jobs, ["", ""], Path(sys.argv[1]), progress, lambda _: "FID 3")
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
def test_a_terminal_shows_a_table_of_all_jobs_while_they_run(tmp_path: Path) -> None:
    terminal = Terminal([sys.executable, "-c", textwrap.dedent(WATCHED), str(tmp_path), "0"])
    title, _, *rows = plain(terminal.read(until=UP).partition(UP)[0])
    assert title == "g in runs: 2 running, 1 waiting"
    cells = [" ".join(row.split()) for row in rows if row]
    assert cells == [
        "quick running ██████ 50 % 12.5 ce 0.25 0:04",
        "slow running ██████ 50 % 12.5 ce 0.25 0:04",
        "late waiting ██████ 50 % - ce 0.25 -",
    ]
    assert terminal.end() == 0
    assert any("evaluating" in line for line in plain(terminal.printed))
    title, _, *rows = plain(terminal.printed.rpartition(UP)[2])
    assert title == "g in runs: 1 failed, 2 done"
    quick, slow, late = (row.split() for row in rows if row)
    assert quick[:2] == ["quick", "failed"]
    assert quick[-3:] == ["no", "such", "file"]
    assert slow[:2] == ["slow", "done"]
    assert late[-2:] == slow[-2:] == ["FID", "3"]
    assert ": started" not in terminal.printed
    assert terminal.printed.index(HIDDEN) < terminal.printed.rindex(SHOWN)


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_leaves_a_table_in_which_nothing_runs(tmp_path: Path) -> None:
    terminal = Terminal([sys.executable, "-c", textwrap.dedent(WATCHED), str(tmp_path), "60"])
    terminal.read(until="failed")
    os.kill(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == 130
    last = plain(terminal.printed.rpartition(UP)[2])
    states = {line.split()[0]: line.split()[1] for line in last if line}
    assert states["slow"] == "stopped"
    assert terminal.printed.rindex(HIDDEN) < terminal.printed.rindex(SHOWN)


def test_gpus_are_counted_as_nvidia_smi_lists_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: a)'\necho 'GPU 1: H200 (UUID: b)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-b")
    assert find_devices() == ["3", "GPU-b"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_devices() == []
