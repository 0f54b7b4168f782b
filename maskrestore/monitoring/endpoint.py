"""Where Prometheus finds a process: the port that answers, the target file that says which, and the
figures that stay with a Pushgateway when the run is over."""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from maskrestore.config.run import RunConfig
from maskrestore.monitoring.exporter import Exporter, forget, push
from maskrestore.monitoring.targets import (
    PID,
    Target,
    announce,
    keep_alive,
    labels_of,
    reap,
    supersede,
    target_path,
    targets_folder,
    withdraw,
)

TOUCH_SECONDS = 60.0
"""Between two signs of life of the target file (targets.REAP_SECONDS is the most)."""


class Endpoint:
    """Of the first process of a node, which answers for all of that node.

    rank: of this process; nodes: the node of each process; say: tells the user of trouble.
    """

    def __init__(
        self,
        config: RunConfig,
        rank: int,
        nodes: Sequence[str],
        exporter: Exporter,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._exporter, self._say = config.telemetry, exporter, say
        self._node, self._nodes, self._is_main = nodes[rank], frozenset(nodes), rank == 0
        self._has_checkpoints = config.trains
        self.labels = labels_of(config.run)
        """On all series of the run, on each node."""
        folder = config.telemetry.targets or targets_folder(config.run)
        self._path = target_path(folder, config.run, self._node)
        self._target: Target | None = None
        self._touched = 0.0
        self._tidying: threading.Thread | None = None

    def open(self) -> None:
        """Answer, and tell Prometheus where. Raises OSError where the target cannot be written."""
        config = self._config
        credentials = ""
        try:
            if config.password_file is not None:
                credentials = config.password_file.read_text(encoding="utf-8").strip()
                if ":" not in credentials:
                    raise ValueError(f"{config.password_file} must hold USER:PASSWORD")
            port = self._exporter.serve(
                config.address, config.port, config.tls_certificate, config.tls_key, credentials
            )
        except (OSError, ValueError) as error:  # a busy port, a port without permission, a file
            self._say(f"port {config.port}: not answering at {config.address}: {error}")
            return
        self._target = self._target_at(port)
        announce(self._target)
        self._touched = time.monotonic()
        self._tidying = threading.Thread(target=self._tidy_up, args=(self._target,), daemon=True)
        self._tidying.start()

    def _target_at(self, port: int) -> Target:
        is_open = self._config.address in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        host = socket.gethostname() if is_open else self._config.address
        # The name of the machine itself, so that others can leave its loopback addresses alone.
        own = {"instance": self._node, "node": self._node, "__host": socket.gethostname()}
        labels = own | self.labels
        if not self._has_checkpoints:
            labels[PID] = str(os.getpid())
        if self._config.tls_certificate is not None:
            labels["__scheme__"] = "https"
        return Target(self._path, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", labels)

    def _tidy_up(self, target: Target) -> None:
        """What may take a while, if somebody does not answer."""
        try:
            supersede(target, self._nodes if self._is_main else None)
            if self._is_main and self._config.pushgateway:
                forget(self._config.pushgateway, self.labels)
            reap(target.path.parent)
        except Exception as error:
            self._say(f"tidying up: {error!r}")

    def keep_alive(self) -> None:
        """Touch the target file, once in a while. Raises OSError."""
        if self._target is not None and time.monotonic() - self._touched > TOUCH_SECONDS:
            self._touched = time.monotonic()
            keep_alive(self._target)

    def push(self, values: Mapping[str, Mapping[str, float]]) -> None:
        """Leave figures with the Pushgateway, if there is one, until the run starts again: name ->
        label's value ("" without) -> value. Raises OSError."""
        if self._is_main and self._config.pushgateway:
            if self._tidying is not None:
                self._tidying.join(timeout=15)  # else it could delete what is pushed now
            push(self._config.pushgateway, self.labels, values)

    def close(self, withdrawn: bool) -> None:
        """Stop answering. withdrawn: whether Prometheus is to forget the address."""
        if withdrawn:
            self.withdraw()
        self._exporter.close()

    def withdraw(self) -> None:
        """Let Prometheus forget the address. Takes no lock, and raises nothing."""
        if self._target is not None:
            withdraw(self._target)
