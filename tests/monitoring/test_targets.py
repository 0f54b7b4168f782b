"""Target files: what is reaped, what is left, and what a later run does not inherit."""

import os
import socket
import time
from pathlib import Path

from maskrestore.monitoring.targets import (
    REAP_SECONDS,
    Target,
    announce,
    keep_alive,
    reap,
    supersede,
    withdraw,
)


def test_reaping(tmp_path: Path) -> None:
    def target(name: str, port: int, age: float = 2 * REAP_SECONDS) -> Target:
        made = Target(tmp_path / f"{name}.json", f"127.0.0.1:{port}", {"run": name})
        announce(made)
        then = time.time() - age
        os.utime(made.path, (then, then))
        return made

    with socket.socket() as alive:
        alive.bind(("127.0.0.1", 0))
        alive.listen()
        target("answers", alive.getsockname()[1])
        young, stale = target("young", 1, age=1), target("stale", 1)
        for name, text in {
            "garbage": "not json",
            "list": "[]",
            "other": '[{"targets": [7]}]',
        }.items():
            (tmp_path / f"{name}.json").write_text(text)
            os.utime(tmp_path / f"{name}.json", (0, 0))
        (tmp_path / "folder.json").mkdir()
        os.utime(tmp_path / "folder.json", (0, 0))
        (tmp_path / "notes.txt").touch()
        told = reap(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    names = {"answers", "young", "garbage", "list", "other", "folder"}
    assert left == {f"{name}.json" for name in names} | {"notes.txt"}
    assert len(told) == 5
    assert any("stale.json: no answer" in line for line in told)
    assert sum("left alone" in line for line in told) == 4
    far = Target(tmp_path / "far.json", "127.0.0.1:1", {"__host": "elsewhere"})
    announce(far)
    os.utime(far.path, (time.time() - 2 * REAP_SECONDS,) * 2)
    assert not any("far" in line for line in reap(tmp_path))
    os.utime(far.path, (0, 0))
    assert any("far" in line for line in reap(tmp_path))
    keep_alive(stale)  # it was alive after all, where nobody could ask it
    assert stale.path.is_file()
    announce(Target(young.path, "127.0.0.1:2", {}))  # a later start of the same run
    withdraw(young)
    assert young.path.is_file()
    withdraw(Target(young.path, "127.0.0.1:2", {}))
    assert not young.path.exists()
    assert reap(tmp_path / "nowhere") == []


def test_what_killed_runs_left_is_not_taken_for_a_later_one(tmp_path: Path) -> None:
    def target(run: str, node: str, port: int, host: str = "here") -> Target:
        labels = {"grid": "g", "run": run, "node": node, "__host": host}
        made = Target(tmp_path / f"{run}-{node}-{host}.json", f"127.0.0.1:{port}", labels)
        announce(made)
        return made

    own, other = target("own", "n1", 7), target("own", "n2", 8)
    left = [target("dead", "n1", 7), target("own", "n9", 9)]  # its port; its node of before
    kept = [target("dead", "n3", 7, "elsewhere"), target("alive", "n1", 10)]
    (tmp_path / "garbage.json").write_text("{")
    supersede(own)
    assert [dead.path.exists() for dead in left] == [False, True]
    supersede(own, {"n1", "n2"})
    assert [dead.path.exists() for dead in left] == [False, False]
    assert all(live.path.exists() for live in (own, other, *kept))
