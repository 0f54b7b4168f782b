"""Where Prometheus finds a process: its port, who may ask there, and its target file."""

import base64
import os
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from metrics_page import scrape, targets_in, value
from tiny_runs import listens

from maskrestore.monitoring import exporter
from maskrestore.monitoring.telemetry import Telemetry
from maskrestore.utils.errors import UserError

MakeTelemetry = Callable[..., Telemetry]


def test_the_next_free_port_is_taken(tmp_path: Path, make_telemetry: MakeTelemetry) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with make_telemetry(f"telemetry.port={port}"):
            [(address, _)] = targets_in(tmp_path / "targets")
            taken = int(address.rpartition(":")[2])
            assert port < taken < port + exporter.MOST_PORTS
            assert value(scrape(address), "starts_total") == 1


def test_a_crash_leaves_a_target_that_does_not_answer(
    tmp_path: Path, make_telemetry: MakeTelemetry
) -> None:
    for end, num_images, left in (
        (UserError("told"), None, 0),
        (MemoryError(), None, 0),  # failed_start.py tells of these
        (KeyboardInterrupt(), 16, 0),
        (MemoryError(), 16, 1),
        (UserError("gave up"), 16, 1),
    ):
        with pytest.raises(type(end)), make_telemetry() as told:  # noqa: PT012
            told.state("training")
            if num_images is not None:
                told.step(num_images)
            raise end
        assert len(targets_in(tmp_path / "targets")) == left
    [(address, _)] = targets_in(tmp_path / "targets")
    assert not listens(int(address.rpartition(":")[2]))


def test_by_https_and_with_a_password(tmp_path: Path, make_telemetry: MakeTelemetry) -> None:
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=here -addext"
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    subprocess.run(
        [*make.split(), "subjectAltName=IP:127.0.0.1", *files], check=True, capture_output=True
    )
    (tmp_path / "password").write_text("prometheus:hunter2:§\n")
    settings = {"tls_certificate": "certificate", "tls_key": "key", "password_file": "password"}
    more = [f"telemetry.{name}={tmp_path / file}" for name, file in settings.items()]
    with make_telemetry(*more):
        [(address, labels)] = targets_in(tmp_path / "targets")
        assert labels["__scheme__"] == "https"
        context = ssl.create_default_context(cafile=tmp_path / "certificate")

        def ask(password: str) -> str:
            request = urllib.request.Request(f"https://{address}/metrics")
            token = base64.b64encode(password.encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:  # noqa: S310
                return answer.read().decode()

        assert "maskrestore_starts_total 1.0" in ask("prometheus:hunter2:§")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask("prometheus:guess")
        # One that connects and says nothing keeps nobody waiting, nor the end.
        idle = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        assert "maskrestore_starts_total 1.0" in ask("prometheus:hunter2:§")
        with pytest.raises(OSError):  # noqa: PT011 - reset, or a URLError, as it comes
            urllib.request.urlopen(f"http://{address}/metrics", timeout=10)
    idle.close()


def test_a_sign_of_life_comes_with_each_step_and_each_evaluated_batch(
    tmp_path: Path, make_telemetry: MakeTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskrestore.monitoring.endpoint.TOUCH_SECONDS", 0.0)
    with make_telemetry() as told:
        told.begin(0, 0, [], [])
        [path] = (tmp_path / "targets").glob("*.json")
        for sign in (told.beat, lambda: told.step(16)):
            os.utime(path, (0, 0))
            sign()
            assert path.stat().st_mtime > 1e9
            path.unlink()  # reaped where it could not be asked
            sign()
            assert path.is_file()
