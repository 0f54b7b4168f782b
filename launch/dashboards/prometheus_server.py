"""A Prometheus of one's own, on this machine alone, that watches the runs of a folder."""

import ctypes
import http.client
import json
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from maskrestore.config.settings import CONFIGS, read_yaml
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import lock

MONITORING = CONFIGS / "monitoring"
RETENTION = "30d"
RULES_SECONDS = 10.0
"""Between two evaluations of rules and alerts, or five scrapes, if that is less."""
READY_SECONDS = 300.0
"""It reads its history first, which takes long after weeks with hundreds of runs."""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Whatever http_proxy says: it is on this machine."""
PR_SET_PDEATHSIG = 1
"""prctl(2)."""


class PrometheusServer:
    """Debian's `prometheus` with prometheus.yml of the folder `monitoring`, and its rules.

    Raises UserError if it does not start, such as when another one holds the folder of its data.
    """

    def __init__(self, program: str, runs: Path, scrape_seconds: float, monitoring: Path) -> None:
        self.trouble = ""
        """Why it does not answer any more; empty while all is well."""
        home = (runs / "prometheus").resolve()
        # Not all builds lock their data. The process inherits the lock, and holds it to its end.
        try:
            self._lock = lock(home)
        except UserError as error:
            raise UserError(
                f"{home} is in use by another dashboard of these runs; look at that one, or stop "
                "it first"
            ) from error
        self._folder = Path(tempfile.mkdtemp(prefix="maskrestore-dashboard-"))
        self._log = self._folder / "prometheus.log"
        targets = (runs / "targets").resolve()
        targets.mkdir(exist_ok=True)
        # Prometheus takes names of targets for patterns; a link has a name without any.
        (self._folder / "targets").symlink_to(targets)
        config = self._folder / "prometheus.yml"
        files = [str(self._folder / "targets" / "*.json")]
        derived = derive_config(files, scrape_seconds, monitoring)
        config.write_text(json.dumps(derived))  # JSON is YAML
        self.address = f"127.0.0.1:{_free_port()}"
        command = [program, f"--config.file={config}", f"--web.listen-address={self.address}"]
        command += [f"--storage.tsdb.path={home / 'data'}"]
        command += [f"--storage.tsdb.retention.time={RETENTION}"]
        # Else the last values before it was stopped would go on for five minutes, as a flat line.
        command += [f"--query.lookback-delta={max(15, math.ceil(5 * scrape_seconds))}s"]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*command, "--log.level=warn"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._lock.fileno(),),
                start_new_session=True,  # Ctrl-C is for the dashboard, which stops it in turn
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def look(self) -> str:
        """Whether it still runs: `trouble` as of now."""
        status = self._process.poll()
        if status is not None and not self.trouble:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            self.trouble = f"Prometheus {how}. {self._last_words()}".strip()
        return self.trouble

    def ask(self, path: str, timeout: float = 20.0) -> tuple[int, bytes]:
        """Status and body of a GET. Raises OSError if it does not answer."""
        try:
            url = f"http://{self.address}{path}"
            with DIRECT.open(url, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except http.client.HTTPException as error:
            raise OSError(f"Prometheus broke off: {error!r}") from error

    def stop(self) -> None:
        """End it, and wait until what it knows is on the disk."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.look():
                raise UserError(self.trouble)
            with suppress(OSError):
                if self.ask("/-/ready", timeout=2)[0] == 200:
                    return
            time.sleep(0.05)
        raise UserError(
            f"Prometheus was not ready after {READY_SECONDS:.0f} s. {self._last_words()}"
        )

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return " ".join(lines[-2:])[-800:]
        return ""


def derive_config(
    targets: list[str], scrape_seconds: float, monitoring: Path = MONITORING
) -> dict[str, Any]:
    """monitoring/prometheus.yml for another folder: paths absolute, scraped more often."""
    config: dict[str, Any] = _absolute(read_yaml(monitoring / "prometheus.yml"), monitoring)
    pause = f"{round(1000 * scrape_seconds)}ms"
    # Rules look back on minutes and hours: of hundreds of runs that is most of what there is to do.
    seldom = max(scrape_seconds, min(RULES_SECONDS, 5 * scrape_seconds))
    config["global"] = config.get("global", {}) | {
        "scrape_interval": pause,
        "scrape_timeout": pause,
        "evaluation_interval": f"{round(1000 * seldom)}ms",
    }
    for job in config["scrape_configs"]:
        if job["job_name"] == "maskrestore":
            job["file_sd_configs"] = [{"files": targets, "refresh_interval": "5s"}]
            job["relabel_configs"] = [*_not_elsewhere(), *job.get("relabel_configs", [])]
    return config


def _not_elsewhere() -> list[dict[str, Any]]:
    """Rules that leave out runs which only their own, other machine can ask
    (targets.is_out_of_reach): what answers here, if anything, is something else."""
    loopback = r"(?:127\..*|\[::1\].*|localhost):\d+"
    here = f"{loopback};{re.escape(socket.gethostname())}|[^;]+;"  # or it does not say where
    by_host = {"source_labels": ["__address__", "__host"], "regex": here}
    mark = by_host | {"target_label": "__here", "replacement": "yes"}
    unmarked = {"source_labels": ["__address__", "__here"], "regex": f"{loopback};"}
    return [mark, unmarked | {"action": "drop"}]


def _absolute(node: Any, folder: Path, key: str = "") -> Any:
    """The configuration with all files absolute, which were relative to its own folder."""
    if isinstance(node, dict):
        return {name: _absolute(value, folder, name) for name, value in node.items()}
    if isinstance(node, list):
        return [_absolute(value, folder, key) for value in node]
    if isinstance(node, str) and (key in ("files", "rule_files") or key.endswith("_file")):
        return str(folder.resolve() / node)
    return node


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    """Even a dashboard that is killed leaves no Prometheus behind, which would lock its data."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
