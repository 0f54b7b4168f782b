"""The dashboard as a user starts it, its page in a browser, and runs that it can watch."""

import atexit
import functools
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from forked import ROOT
from processes import PATIENCE
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from maskrestore.monitoring.targets import Target, announce, target_path

Driver = webdriver.Chrome

needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="needs prometheus (Debian: prometheus)"
)
needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs a browser (Debian: chromium chromium-driver)",
)


@dataclass(frozen=True)
class Dashboard:
    """One that runs; `said` grows with the lines it prints."""

    url: str
    process: "subprocess.Popen[str]"
    said: list[str]

    def get(self, path: str, **headers: str) -> Any:
        """The JSON at a path."""
        return json.loads(self.fetch(path, **headers)[1])

    def fetch(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
        """Status and body."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)
        with closing(connection):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What Prometheus finds now."""
        answer = self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


@contextmanager
def start_dashboard(
    runs: Path,
    *words: str,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator[Dashboard]:
    """A dashboard of these runs, started in a folder, on a free port unless `words` say another,
    until the end of the block. AssertionError with what it said if it ends before it serves."""
    command = [sys.executable, str(ROOT / "launch" / "dashboard.py"), f"runs={runs}"]
    process = subprocess.Popen(
        [*command, "port=0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | dict(environment or {}),
        cwd=folder,
    )
    lines: Queue[str | None] = Queue()
    said: list[str] = []
    reader = threading.Thread(target=_read, args=(process, lines, said))
    reader.start()
    try:
        while True:
            try:
                line = lines.get(timeout=PATIENCE)
            except Empty:
                line = None
            assert line is not None, "\n".join(said)
            if line.startswith("http://"):
                break
        yield Dashboard(line.split()[0].rstrip("/"), process, said)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        reader.join(timeout=10)
        assert process.stdout
        process.stdout.close()


def _read(process: "subprocess.Popen[str]", lines: "Queue[str | None]", said: list[str]) -> None:
    assert process.stdout
    for line in process.stdout:
        said.append(line.rstrip("\n"))
        lines.put(said[-1])
    lines.put(None)


@functools.cache
def _browser() -> Driver:
    """One for all tests, until they end."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("--headless=new", "--no-sandbox"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    atexit.register(driver.quit)
    return driver


@contextmanager
def open_page(url: str, width: int = 1400) -> Iterator[Driver]:
    """The browser with a window of its own that shows the page; its console begins empty."""
    driver = _browser()
    outer = driver.current_window_handle
    driver.switch_to.new_window("window")
    try:
        driver.set_window_size(width, 1000)
        driver.get_log("browser")
        driver.get(url)
        yield driver
    finally:
        driver.close()
        driver.switch_to.window(outer)


def emulate(driver: Driver, width: int, scheme: str) -> None:
    """A screen so wide, and what its user prefers."""
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def texts(driver: Driver, selector: str) -> list[str]:
    """What the elements that a CSS selector finds say, as the page shows it; at one moment, since
    the page is drawn anew all the time."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText)"
    )
    shown: list[str] = driver.execute_script(script, selector)
    return shown


def wait_in_page(
    driver: Driver, what: str, condition: Callable[[], Any], seconds: float = PATIENCE
) -> Any:
    """The first true value of `condition`, which may be asked while the page changes."""
    replaced = (StaleElementReferenceException,)  # between the finding and the asking
    wait = WebDriverWait(driver, seconds, 0.1, ignored_exceptions=replaced)
    return wait.until(lambda _: condition(), f"{what}\n{texts(driver, 'body')}")


@contextmanager
def metrics_of(runs: Path, run: Path, text: Callable[[float], str]) -> Iterator[None]:
    """Prometheus finds `run` in runs/targets, which answers with text(seconds since the start)."""
    began = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text(time.monotonic() - began).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            with suppress(ConnectionError):  # Prometheus was ended in the middle of it
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        folder, node = runs / "targets", "here"
        labels = {"instance": node, "node": node, "grid": run.parent.name, "run": run.name}
        path = target_path(folder, run, node)
        announce(Target(path, f"127.0.0.1:{server.server_port}", labels))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            server.shutdown()
            thread.join()
