"""launch/dashboard.py, started for real on folders that hold all kinds of things."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dashboard_page import (
    children_of,
    is_alive,
    metrics_of,
    needs_prometheus,
    start_dashboard,
    wait_until,
)
from dashboard_runs import RESULT, make_run, without_prometheus
from forked import ROOT
from tiny_runs import free_port

from launch.dashboards.prometheus_server import derive_config
from launch.dashboards.run_list import RunList
from maskrestore.monitoring.targets import Target, announce
from maskrestore.utils import files

ODD_NAMES = [
    "it's",
    'say "so"',
    "two words",
    "näme-数",
    "<img src=x onerror=boom()>",
    "a{b}$run.*\\",
]


def states(runs: list[dict[str, Any]]) -> dict[str, str]:
    return {run["run"]: run["state"] for run in runs}


# ------------------------------------------------------------------------------- the run folders


def test_each_run_folder_says_how_the_run_is(tmp_path: Path) -> None:
    grid = tmp_path / "demo-table1"
    make_run(grid / "done", 8, RESULT)
    make_run(grid / "stopped", 2)
    make_run(tmp_path / "alone", 4)
    failed = make_run(grid / "failed", 4)
    (failed / "error.txt").write_text("out of memory\nlog: x.out\n")
    (grid / "never-began").mkdir()
    (grid / "never-began" / "error.txt").write_text("no such module")
    (grid / "no-run").mkdir()
    with files.lock(make_run(grid / "running", 6)):
        listing = RunList(tmp_path).read()
    runs = {run["run"]: run for run in listing.runs}
    assert states(listing.runs) == {
        "alone": "stopped",
        "done": "done",
        "failed": "failed",
        "never-began": "failed",
        "running": "running",
        "stopped": "stopped",
    }
    assert runs["done"]["figures"] == [
        *(("accuracy", 0.8, "ratio"), ("mIoU", 0.4, "ratio"), ("FID", 70.5, "plain"))
    ]
    assert runs["failed"]["error"] == "out of memory log: x.out"
    assert [runs[name]["progress"] for name in ("running", "stopped", "done")] == [0.75, 0.25, 1.0]
    assert (runs["done"]["grid"], runs["alone"]["grid"]) == ("demo-table1", tmp_path.name)
    assert listing.left_out == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", b"{"),
        ("result.json", b"[1]"),
        ("result.json", b"\xff\xfe\x00"),
        ("result.json", b'{"num_images": 1, "metrics": {"accu": "good"}, "protocol": {}}'),
        ("result.json", b"[" * 100_000),
        ("result.json", b'{"num_images": 1, "metrics": {"accu": 1%s}}' % (b"0" * 400)),
        ("metrics.jsonl", None),
        ("error.txt", None),
        ("starts", None),
    ],
)
def test_garbage_is_told_and_hides_no_other_run(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    bad = make_run(tmp_path / "grid" / "bad")
    if content is None:
        (bad / name).mkdir()
    else:
        (bad / name).write_bytes(content)
    make_run(tmp_path / "grid" / "good", 8, RESULT)
    listing = RunList(tmp_path).read()
    assert states(listing.runs)["good"] == "done"
    if name == "error.txt":  # no file, so it says nothing
        assert states(listing.runs)["bad"] == "stopped"
        return
    assert len(listing.left_out) == 1
    assert "bad" in listing.left_out[0]
    assert states(listing.runs).get("bad", "unreadable") == "unreadable"


def test_figures_and_progress_that_are_no_numbers_stay_json(tmp_path: Path) -> None:
    metrics = {"accu": float("nan"), "miou19": None, "fd_lite0": float("inf")}
    run = make_run(tmp_path / "grid" / "odd", 8, {**RESULT, "metrics": metrics})
    half = b'{"num_images": 6, "total_images": 8, "images_per_second": NaN}\n\xff\n{"num_images": 7'
    (run / "metrics.jsonl").write_bytes(half)
    (run / "starts").write_text("many")
    [found] = RunList(tmp_path).read().runs
    json.dumps(found, allow_nan=False)
    assert (found["figures"], found["num_images"], found["starts"]) == ([], 6, 0)


def test_an_answer_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.dashboards.run_list.KEEP_SECONDS", 0.0)
    run = make_run(tmp_path / "grid" / "run", 2)
    runs = RunList(tmp_path)
    assert runs.read().runs[0]["progress"] == 0.25
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"num_images": 4, "total_images": 8}) + "\n")
    assert runs.read().runs[0]["progress"] == 0.5
    (run / "result.json").write_text(json.dumps(RESULT))
    assert runs.read().runs[0]["state"] == "done"


def test_unchanged_files_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.dashboards.run_list.KEEP_SECONDS", 0.0)
    for number in range(500):
        make_run(tmp_path / "grid" / f"run{number}", 4, RESULT)
    runs = RunList(tmp_path)
    assert len(runs.read().runs) == 500
    monkeypatch.setattr(
        "launch.dashboards.run_list.read_result", lambda _: pytest.fail("read again")
    )
    monkeypatch.setattr(
        "launch.dashboards.run_list.progress_in", lambda _: pytest.fail("read again")
    )
    assert len(runs.read().runs) == 500


def test_files_named_in_the_configuration_are_absolute() -> None:
    config = derive_config(["/some/targets/*.json"], 0.5)
    assert config["global"]["scrape_interval"] == "500ms"
    assert all(Path(name).is_file() and Path(name).is_absolute() for name in config["rule_files"])
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "maskrestore"]
    assert job["file_sd_configs"][0]["files"] == ["/some/targets/*.json"]
    assert job["honor_labels"] is True


# ----------------------------------------------------------------------------------- the program


@pytest.mark.slow
@needs_prometheus
def test_what_listens_on_another_machines_loopback_is_left_out(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for host, address in (
        ("elsewhere", "127.0.0.1:9"),
        ("elsewhere", "10.1.2.3:9"),
        (socket.gethostname(), "127.0.0.1:9"),
        ("", "127.0.0.1:9"),
    ):
        labels = {"grid": "g", "run": f"{host or 'unsaid'} {address}"}
        labels |= {"__host": host} if host else {}
        announce(Target(runs / "targets" / f"{labels['run']}.json", address, labels))
    with start_dashboard(runs, "scrape_seconds=0.2") as board:
        wait_until(
            "targets", lambda: len(board.get("/api/v1/targets")["data"]["activeTargets"]) == 3
        )
        found = board.get("/api/v1/targets")["data"]["activeTargets"]
        names = {target["labels"]["run"] for target in found}
        assert names == {
            "elsewhere 10.1.2.3:9",
            f"{socket.gethostname()} 127.0.0.1:9",
            "unsaid 127.0.0.1:9",
        }
        [line] = board.get("/runs.json")["left_out"]
        assert "g/elsewhere 127.0.0.1:9" in line
        assert "telemetry.address=0.0.0.0" in line


@pytest.mark.slow
def test_without_prometheus_the_run_folders_are_shown(tmp_path: Path) -> None:
    for name in ODD_NAMES:
        make_run(tmp_path / "runs" / "a grid" / name, 8, RESULT)
    os.mkdir(os.fsencode(tmp_path / "runs" / "a grid") + b"/\xff-bytes")
    make_run(Path(os.fsdecode(os.fsencode(tmp_path / "runs" / "a grid") + b"/\xff-bytes")) / "x")
    environment = without_prometheus(tmp_path)
    with start_dashboard(tmp_path / "runs", environment=environment) as board:
        found = board.get("/runs.json")
        assert sorted(run["run"] for run in found["runs"]) == sorted(ODD_NAMES)
        assert "apt-get install prometheus" in found["trouble"]
        status, body = board.fetch("/api/v1/query?query=up")
        assert (status, json.loads(body)["status"]) == (502, "error")
        assert b"<title>maskrestore" in board.fetch("/")[1]
        assert not (tmp_path / "runs" / "prometheus").exists()
    assert any("apt-get install prometheus" in line for line in board.said)
    assert board.process.returncode == 0


@pytest.mark.slow
def test_a_folder_without_runs_and_a_busy_port(tmp_path: Path) -> None:
    environment = without_prometheus(tmp_path)
    with socket.create_server(("127.0.0.1", free_port())) as busy:
        port = busy.getsockname()[1]
        runs = tmp_path / "not there"
        with start_dashboard(runs, f"port={port}", environment=environment) as board:
            assert board.get("/runs.json")["runs"] == []
            assert not board.url.endswith(f":{port}")
    assert f"port {port} is taken" in board.said
    assert any("nothing there yet" in line for line in board.said)


@pytest.mark.slow
def test_only_its_own_address_is_answered_and_only_questions(tmp_path: Path) -> None:
    with start_dashboard(tmp_path, environment=without_prometheus(tmp_path)) as board:
        port = board.url.rpartition(":")[2]
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", "LOCALHOST", f"[::1]:{port}"):
            assert board.fetch("/runs.json", Host=host)[0] == 200, host
        for host in (f"evil.example:{port}", "", "127.0.0.1.evil.example", "localhost.evil:80"):
            assert board.fetch("/runs.json", Host=host)[0] == 403, host
            assert board.fetch("/", Host=host)[0] == 403, host
        for method in ("POST", "PUT", "DELETE"):
            assert board.fetch("/api/v1/query", method)[0] == 501
        for path in ("/../state.py", "/page.py", "/runs.json/", "/web/page.js", "/%2e%2e/state.py"):
            assert board.fetch(path)[0] == 404, path


@pytest.mark.slow
@needs_prometheus
def test_of_prometheus_only_a_little_can_be_asked(tmp_path: Path) -> None:
    with start_dashboard(tmp_path) as board:
        assert board.query("vector(2)")[0]["value"][1] == "2"
        assert board.get("/api/v1/rules")["data"]["groups"]
        assert board.get("/api/v1/alerts")["data"] == {"alerts": []}
        assert board.get("/api/v1/targets")["data"]["activeTargets"] == []
        status, body = board.fetch("/api/v1/query?query=nonsense(")
        assert (status, json.loads(body)["errorType"]) == (400, "bad_data")
        for path in ("status/config", "labels", "query/", "query/../status/flags", "admin/tsdb"):
            assert board.fetch(f"/api/v1/{path}?query=up")[0] == 404, path
        for path in ("/metrics", "/config", "/-/quit"):
            assert board.fetch(path)[0] == 404, path


@pytest.mark.slow
@needs_prometheus
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    """Even a dashboard that is killed takes its Prometheus with it."""
    (tmp_path / "tmp").mkdir()
    with start_dashboard(tmp_path, environment={"TMPDIR": str(tmp_path / "tmp")}) as board:
        [prometheus] = children_of(board.process.pid)
        board.process.send_signal(how)
        board.process.wait(timeout=30)
        wait_until("Prometheus ends", lambda: not is_alive(prometheus))
    if how != signal.SIGKILL:
        assert board.process.returncode == 0
        assert board.said[-1] == "stopped"
        assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
@needs_prometheus
def test_a_second_dashboard_of_the_same_runs_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "launch" / "dashboard.py"), f"runs={tmp_path}", "port=0"]
    with start_dashboard(tmp_path) as first:
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert first.query("vector(1)")
    assert second.returncode == 2
    [message] = second.stderr.splitlines()
    assert "in use by another dashboard" in message
    assert str(tmp_path) in message


@pytest.mark.slow
@needs_prometheus
def test_a_prometheus_that_dies_is_told_and_the_page_goes_on(tmp_path: Path) -> None:
    make_run(tmp_path / "grid" / "run", 8, RESULT)
    with start_dashboard(tmp_path) as board:
        assert board.get("/runs.json")["trouble"] == ""
        [prometheus] = children_of(board.process.pid)
        os.kill(prometheus, signal.SIGKILL)
        wait_until("it is told", lambda: any("ended by signal 9" in line for line in board.said))
        found = board.get("/runs.json")
        assert "ended by signal 9" in found["trouble"]
        assert states(found["runs"]) == {"run": "done"}
        assert board.fetch("/api/v1/query?query=up")[0] == 502


@pytest.mark.slow
@needs_prometheus
def test_runs_are_found_and_their_history_stays(tmp_path: Path) -> None:
    runs = tmp_path / 'all [my] * {runs} "x"'  # Prometheus would take some of these for patterns
    name = 'say "so" \\ {x}'
    run = make_run(runs / "a grid" / name)
    with start_dashboard(runs, "scrape_seconds=0.2") as board:
        with metrics_of(runs, run, lambda _: "maskrestore_seen_images 7\n"):
            found = wait_until("a sample", lambda: board.query("maskrestore_seen_images"))
        labels = found[0]["metric"]
        assert (labels["grid"], labels["run"], labels["job"]) == ("a grid", name, "maskrestore")
        wait_until("the run is forgotten", lambda: not board.query("maskrestore_seen_images"))
    with start_dashboard(runs, "scrape_seconds=0.2") as board:
        assert board.query("max_over_time(maskrestore_seen_images[1h])")[0]["value"][1] == "7"


@pytest.mark.slow
def test_what_killed_runs_left_is_reaped_and_told(tmp_path: Path) -> None:
    old = tmp_path / "runs" / "targets" / "old.json"
    labels = {"instance": "n", "node": "n", "grid": "g", "run": "r"}
    announce(Target(old, f"127.0.0.1:{free_port()}", labels))
    os.utime(old, (0, 0))
    with start_dashboard(tmp_path / "runs", environment=without_prometheus(tmp_path)) as board:
        wait_until("it is told", lambda: board.get("/runs.json")["reaped"])
        assert not old.exists()
        assert "old.json" in board.get("/runs.json")["reaped"][0]
