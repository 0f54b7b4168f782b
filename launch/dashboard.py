"""Watch runs in a browser: python launch/dashboard.py [runs=runs] [port=9300]

Shows every run of the folder, and draws their metrics from a Prometheus of its own, if that is
installed (Debian: apt-get install prometheus). What it has seen stays in RUNS/prometheus for 30
days. Ctrl-C ends both.
"""

import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from launch.dashboards.page_server import PageServer
from launch.dashboards.panels import LIMITS, NAMES_ONLY, read_panels
from launch.dashboards.prometheus_server import MONITORING, PrometheusServer
from launch.dashboards.run_list import RunList
from maskrestore.config.cli import run_program
from maskrestore.config.settings import Section, parse
from maskrestore.monitoring.targets import out_of_reach, reap

LOOK_SECONDS = 1.0
"""Between two looks at whether Prometheus still runs."""
TARGETS_EVERY = 10
"""Looks between two at the files of all targets."""
NOT_INSTALLED = (
    "Prometheus is not installed, so there are no graphs and no alerts, only what is in the run "
    "folders. Install it (Debian: apt-get install prometheus) and start the dashboard again."
)


class DashboardSettings(Section):
    """The words of this program."""

    runs: Path = Path("runs")
    """Folder of all runs: RUNS/GRID/RUN or RUNS/RUN, with RUNS/targets, which runs write."""
    address: str = "127.0.0.1"
    """Address to listen on. Others see everything at 0.0.0.0: there is no password."""
    port: Annotated[int, Field(ge=0, lt=65536)] = 9300
    """Port to listen on, or the next free one above it; 0 is any free one."""
    monitoring: Path = MONITORING
    """Folder of prometheus.yml and of the rules that it names."""
    scrape_seconds: Annotated[float, Field(ge=0.1, le=60)] = 2.0
    """Seconds between two looks of Prometheus at each run."""


class Dashboard:
    """What the page asks this program for."""

    def __init__(self, settings: DashboardSettings, prometheus: PrometheusServer | None) -> None:
        self._settings, self._prometheus = settings, prometheus
        self._runs = RunList(settings.runs)
        self._reaped: deque[str] = deque(maxlen=20)
        self._out_of_reach: list[str] = []

    def ask(self, path: str) -> tuple[int, bytes]:
        """Prometheus' answer. Raises OSError if there is none."""
        if self._prometheus is None:
            raise OSError("it is not installed")
        return self._prometheus.ask(path)

    def list_runs(self) -> dict[str, Any]:
        """/runs.json."""
        listing = self._runs.read()
        away = [
            f"no metrics of {', '.join(runs)}: they listen on 127.0.0.1 of another machine; "
            "start them with telemetry.address=0.0.0.0"
            for runs in [self._out_of_reach]
            if runs
        ]
        return {
            "folder": str(self._settings.runs),
            "runs": listing.runs,
            "left_out": [*listing.left_out, *away],
            "reaped": list(self._reaped),
            "trouble": self._prometheus.look() if self._prometheus else NOT_INSTALLED,
            "has_prometheus": self._prometheus is not None,
        }

    def describe_panels(self) -> dict[str, Any]:
        """/panels.json: what to draw, and where values turn bad."""
        return {
            **read_panels().model_dump(mode="json"),
            "limits": LIMITS,
            "names_only": sorted(NAMES_ONLY),
            "scrape_seconds": self._settings.scrape_seconds,
        }

    def look_at_targets(self) -> None:
        """Remove what killed runs left in RUNS/targets, and find those that cannot be asked from
        here."""
        folder = self._settings.runs / "targets"
        self._out_of_reach = out_of_reach(folder)
        for line in reap(folder):
            if line not in self._reaped:
                self._reaped.append(line)
                print(line, flush=True)


def main(words: Sequence[str]) -> int:
    """Serve until Ctrl-C, or SIGTERM."""
    settings = parse(DashboardSettings, words)
    read_panels()  # mistakes in there come first
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not settings.runs.is_dir():
        print(f"{settings.runs}: nothing there yet; it fills with the first run", flush=True)
    try:
        with ExitStack() as stack:
            serve(settings, stack)
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
    return 0


def serve(settings: DashboardSettings, stack: ExitStack) -> None:
    """Start both servers, say where, and look after them for ever."""
    prometheus = None
    program = shutil.which("prometheus")
    if program is None:
        print(NOT_INSTALLED, file=sys.stderr, flush=True)
    else:
        prometheus = PrometheusServer(
            program, settings.runs, settings.scrape_seconds, settings.monitoring
        )
        stack.enter_context(prometheus)
    board = Dashboard(settings, prometheus)
    answers = {"/runs.json": board.list_runs, "/panels.json": board.describe_panels}
    server = stack.enter_context(PageServer(settings.address, settings.port, answers, board))
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    stack.callback(server.shutdown)
    host = f"[{settings.address}]" if ":" in settings.address else settings.address
    if settings.port not in (0, server.server_port):
        print(f"port {settings.port} is taken", flush=True)
    print(f"http://{host}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
    look_after(board, prometheus)


def look_after(board: Dashboard, prometheus: PrometheusServer | None) -> None:
    """Until Ctrl-C: reap targets, and say it if Prometheus ends."""
    pause, told = threading.Event(), False
    looks = 0
    while True:
        if looks % TARGETS_EVERY == 0:
            board.look_at_targets()
        if prometheus is not None and not told and prometheus.look():
            told = True
            print(f"{prometheus.trouble}\nThe page goes on without graphs.", file=sys.stderr)
            sys.stderr.flush()
        looks += 1
        pause.wait(LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, DashboardSettings))
