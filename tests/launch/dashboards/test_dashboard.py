"""launch/dashboard.py, started for real."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_page import Dashboard, metrics_of, needs_prometheus, start_dashboard
from dashboard_runs import RESULT, make_run, states, without_prometheus
from forked import ROOT
from processes import PATIENCE, children_of, is_alive, wait_until
from tiny_runs import free_port

from launch.dashboards.prometheus_server import derive_config
from maskrestore.monitoring.targets import Target, announce, node_name, tell_failure

ODD_NAMES = [
    "it's",
    'say "so"',
    "two words",
    "näme-数",
    "<img src=x onerror=boom()>",
    "a{b}$run.*\\",
]


def test_files_named_in_the_configuration_are_absolute() -> None:
    config = derive_config(["/some/targets/*.json"], 0.5)
    assert config["global"]["scrape_interval"] == "500ms"
    for seconds, pause in ((0.5, "2500ms"), (2.0, "10000ms"), (60.0, "60000ms")):
        assert derive_config([], seconds)["global"]["evaluation_interval"] == pause
    assert all(Path(name).is_file() and Path(name).is_absolute() for name in config["rule_files"])
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "maskrestore"]
    assert job["file_sd_configs"][0]["files"] == ["/some/targets/*.json"]
    assert job["honor_labels"] is True


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
        targets = board.get("/api/v1/targets")["data"]["activeTargets"]
        names = {target["labels"]["run"] for target in targets}
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
        listing = board.get("/runs.json")
        assert sorted(run["run"] for run in listing["runs"]) == sorted(ODD_NAMES)
        assert "apt-get install prometheus" in listing["trouble"]
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


@pytest.fixture(scope="module")
def board_of_nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Dashboard]]:
    """A folder without runs, and a dashboard of it with its Prometheus."""
    folder = tmp_path_factory.mktemp("runs")
    with start_dashboard(folder) as board:
        yield folder, board


@pytest.mark.slow
@needs_prometheus
def test_of_prometheus_only_a_little_can_be_asked(
    board_of_nothing: tuple[Path, Dashboard],
) -> None:
    _, board = board_of_nothing
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
def test_a_second_dashboard_of_the_same_runs_is_refused(
    board_of_nothing: tuple[Path, Dashboard],
) -> None:
    folder, first = board_of_nothing
    command = [sys.executable, str(ROOT / "launch" / "dashboard.py"), f"runs={folder}", "port=0"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert first.query("vector(1)")
    assert second.returncode == 2
    [message] = second.stderr.splitlines()
    assert "in use by another dashboard" in message
    assert str(folder) in message


@pytest.mark.slow
@needs_prometheus
def test_a_prometheus_that_dies_is_told_and_the_page_goes_on(tmp_path: Path) -> None:
    make_run(tmp_path / "grid" / "run", 8, RESULT)
    with start_dashboard(tmp_path) as board:
        assert board.get("/runs.json")["trouble"] == ""
        [prometheus] = children_of(board.process.pid)
        os.kill(prometheus, signal.SIGKILL)
        wait_until("it is told", lambda: any("ended by signal 9" in line for line in board.said))
        listing = board.get("/runs.json")
        assert "ended by signal 9" in listing["trouble"]
        assert states(listing["runs"]) == {"run": "done"}
        assert board.fetch("/api/v1/query?query=up")[0] == 502


@pytest.mark.slow
@needs_prometheus
def test_runs_are_found_and_their_history_stays(tmp_path: Path) -> None:
    runs = tmp_path / 'all [my] * {runs} "x"'  # Prometheus would take some of these for patterns
    name = 'say "so" \\ {x}'
    run = make_run(runs / "a grid" / name)
    with start_dashboard(runs, "scrape_seconds=0.2") as board:
        with metrics_of(runs, run, lambda _: "maskrestore_seen_images 7\n"):
            samples = wait_until("a sample", lambda: board.query("maskrestore_seen_images"))
        labels = samples[0]["metric"]
        assert (labels["grid"], labels["run"], labels["job"]) == ("a grid", name, "maskrestore")
        wait_until("the run is forgotten", lambda: not board.query("maskrestore_seen_images"))
    with start_dashboard(runs, "scrape_seconds=0.2") as board:
        assert board.query("max_over_time(maskrestore_seen_images[1h])")[0]["value"][1] == "7"


@pytest.mark.slow
@needs_prometheus
def test_a_run_that_failed_before_its_first_step_raises_an_alert_that_says_why(
    tmp_path: Path,
) -> None:
    reason = 'generator.path="g {{ $value }}.pth": there is no such file'
    tell_failure(tmp_path / "targets", tmp_path / "grid" / "run", reason)
    with start_dashboard(tmp_path, "scrape_seconds=0.2") as board:
        [alert] = wait_until("alert", lambda: board.get("/api/v1/alerts")["data"]["alerts"])
    assert (alert["labels"]["alertname"], alert["state"]) == ("MaskrestoreFailedStart", "firing")
    assert alert["annotations"]["summary"] == (
        f"grid/run on {node_name()} failed before its first step: {reason}"
    )


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
