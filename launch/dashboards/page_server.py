"""HTTP for the dashboard's page: its files, the run list, and a narrow door to Prometheus."""

import errno
import ipaddress
import json
import socket
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from maskrestore.utils.errors import UserError

WEB = Path(__file__).resolve().parents[1] / "web"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
ALLOWED_PATHS = frozenset(
    f"/api/v1/{name}" for name in ("query", "query_range", "rules", "alerts", "targets")
)
"""What the page may ask Prometheus; nothing of it changes anything."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - known, not bound
MOST_PORTS = 100
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Backend(Protocol):
    """What answers the page's questions to Prometheus."""

    def ask(self, path: str) -> tuple[int, bytes]:
        """Status and JSON; OSError if it does not answer."""


class PageServer(ThreadingHTTPServer):
    """Listens on the first free port from `port` on; UserError if there is none.

    answers: path -> what gives its JSON. Prometheus is asked through `backend`.
    """

    daemon_threads = True

    def __init__(
        self, address: str, port: int, answers: Mapping[str, Callable[[], Any]], backend: Backend
    ) -> None:
        self.answers, self.backend = answers, backend
        self.files = {f"/{path.name}": path for path in WEB.iterdir() if path.suffix in TYPES}
        self.files["/"] = WEB / "page.html"
        self.hosts = LOOPBACK | {address.lower()}
        if address in WILDCARDS:
            self.hosts |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self.takes_any_number = address in WILDCARDS
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for candidate in range(port, min(port + MOST_PORTS, 65536)):
            try:
                super().__init__((address, candidate), PageHandler)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise UserError(f"address={address}, port={port}: {error.strerror}") from error
        raise UserError(f"port={port}: this one and the next {MOST_PORTS - 1} are all taken")

    def server_bind(self) -> None:
        """As it is, but without asking a name server for one's own name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server. A page of elsewhere whose name suddenly leads
        to this machine (DNS rebinding) has another one."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.strip("[]").lower()
        if name in self.hosts:
            return True
        return self.takes_any_number and _is_number(name)  # a number needs no DNS


class PageHandler(BaseHTTPRequestHandler):
    """One request."""

    server: PageServer
    protocol_version = "HTTP/1.1"  # a page asks often: connections stay open
    timeout = 60
    server_version = "maskrestore"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if not self.server.knows(self.headers.get("Host", "")):
            self._say(403, "this page is for this machine alone; ask by the address it was given")
        elif path in self.server.files:
            file = self.server.files[path]
            self._send(200, file.read_bytes(), f"{TYPES[file.suffix]}; charset=utf-8")
        elif path in self.server.answers:
            body = json.dumps(self.server.answers[path](), allow_nan=False)
            self._send(200, body.encode(), "application/json")
        elif path in ALLOWED_PATHS:
            try:
                status, answer = self.server.backend.ask(self.path)
            except (OSError, ValueError) as error:  # a path that is no address, too
                self._say(502, f"Prometheus does not answer: {error}")
            else:
                self._send(status, answer, "application/json")
        else:
            self._say(404, "no such page")

    def _say(self, status: int, text: str) -> None:
        body = json.dumps({"status": "error", "error": text}).encode()
        self._send(status, body, "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: a line for each request would bury what the program has to say."""

    def handle(self) -> None:
        """As it is, but a browser that goes away is no error."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
