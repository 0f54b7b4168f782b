"""Metrics that Prometheus can read over HTTP: their names, and the server. The one home of
prometheus_client.

Names follow Prometheus' naming practice: base units, `_total` for counters, `_ratio` for 0..1.
docs/monitoring.md has the table for users.
"""

import base64
import errno
import hmac
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "maskrestore_"
MOST_PORTS = 100
"""Ports that are tried, from the one of the settings on."""
STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

# A second series for each counter, which nobody reads.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Metric:
    """per_node: exported by the first process of each node, else by the run's main process alone,
    so that sums over nodes count nothing twice."""

    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    per_node: bool = False


INFO_LABELS = (
    *("run", "grid", "task", "loss", "engine", "precision", "device"),
    *("commit", "slurm_job_id", "restart"),
)

METRICS = {
    "run_info": Metric("gauge", "1; what runs here.", INFO_LABELS),
    "state": Metric("gauge", "1 for what the run does now, else 0.", ("state",)),
    "starts_total": Metric("counter", "Starts of the run so far, this one included."),
    "images_total": Metric("counter", "Images seen since this start."),
    "seen_images": Metric("gauge", "Images seen by the run."),
    "planned_images": Metric("gauge", "Images that the whole run sees."),
    "progress_ratio": Metric("gauge", "seen_images of planned_images."),
    "eta_seconds": Metric("gauge", "Time left at the speed of the last report."),
    "processes": Metric("gauge", "Processes that train together."),
    "loss": Metric("gauge", "Unweighted loss term, mean since the last report.", ("term",)),
    "total_loss": Metric("gauge", "Weighted sum of the terms, mean since the last report."),
    "gradient_norm": Metric("gauge", "L2 norm before clipping, mean.", ("network",)),
    "learning_rate": Metric("gauge", "Of the last step.", ("network",)),
    "loss_scale": Metric("gauge", "Factor on the loss (fp16; else 1).", ("network",)),
    "gradient_scale": Metric(
        "gauge", "Factor on the gradient inside a frozen network in half precision.", ("network",)
    ),
    "skipped_steps_total": Metric("counter", "Steps that had no effect: something not finite."),
    "nonfinite_total": Metric("counter", "Of these, by what was not finite.", ("term",)),
    "rollbacks_total": Metric("counter", "Times the run went back to a checkpoint."),
    "rolled_back_steps_total": Metric("counter", "Steps that were undone by that."),
    "eval": Metric("gauge", "Figure of the last evaluation.", ("metric",)),
    "eval_seconds": Metric("gauge", "Duration of the last evaluation."),
    "evaluations_total": Metric("counter", "Evaluations since this start."),
    "checkpoint_timestamp_seconds": Metric("gauge", "Time of the newest checkpoint."),
    "checkpoint_images": Metric("gauge", "Images seen by the newest checkpoint."),
    "checkpoint_save_seconds": Metric("gauge", "Time it took to write."),
    "checkpoint_bytes": Metric("gauge", "Its size."),
    "checkpoints_total": Metric("counter", "Checkpoints written since this start."),
    "last_step_timestamp_seconds": Metric("gauge", "Time of the last step's end."),
    "beats_total": Metric("counter", "Steps and evaluated batches: moves whenever the run does."),
    "shard_errors_total": Metric("counter", "Failed attempts to fetch a shard, all processes."),
    "left_out_shards": Metric("gauge", "Damaged shards that the run works without."),
    "slowest_rank": Metric("gauge", "Process that worked longest for a step."),
    "straggler_ratio": Metric("gauge", "Its time, of the median process's."),
    "flops_per_second": Metric("gauge", "Arithmetic of the convolutions, all processes."),
    "mfu_ratio": Metric("gauge", "That, of what the devices can do at best."),
    "step_seconds": Metric("histogram", "Duration of a step, first process of the node.", (), True),
    "step_phase_seconds_total": Metric(
        "counter", "Time of the steps by phase; the phases add up.", ("phase",), True
    ),
    "data_wait_seconds_total": Metric("counter", "Of that, waiting for data.", (), True),
    "rank_step_seconds": Metric(
        "gauge", "Mean time of a step, less waiting for other processes.", ("rank",), True
    ),
    "memory_bytes": Metric(
        "gauge", "host: resident now; allocated, reserved: the GPU's peaks.", ("rank", "kind"), True
    ),
    "memory_limit_bytes": Metric("gauge", "What there is of it.", ("rank", "kind"), True),
    "allocation_retries_total": Metric(
        "counter", "Allocations for which the GPU's memory was too full at first.", ("rank",), True
    ),
    "telemetry_seconds_total": Metric(
        "counter", "Time that the training thread spent on these metrics.", (), True
    ),
}
"""Name without its prefix -> what it is."""


class Exporter:
    """The metrics of one process, in a registry of their own.

    is_main: of the run's main process; of_node: of the first one on its node. Values for metrics
    that are another process's to export are let pass.
    """

    def __init__(self, is_main: bool, of_node: bool) -> None:
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {}
        self._totals: dict[tuple[str, ...], float] = {}
        self._server: Any = None
        self._owns_all, self._owns_node = is_main, of_node
        for name, metric in METRICS.items():
            if metric.kind != "gauge":  # a counter begins at 0, a gauge when something is known
                self._child(name, {})

    def _make(self, name: str, metric: Metric) -> Any:
        words = (PREFIX + name, metric.help, metric.labels)
        if metric.kind == "histogram":
            return Histogram(*words, buckets=STEP_BUCKETS, registry=self._registry)
        return {"gauge": Gauge, "counter": Counter}[metric.kind](*words, registry=self._registry)

    def _child(self, name: str, labels: Mapping[str, str]) -> Any:
        metric = METRICS[name]
        if not (self._owns_node if metric.per_node else self._owns_all):
            return None
        if name not in self._metrics:
            self._metrics[name] = self._make(name, metric)
        family = self._metrics[name]
        return family.labels(**labels) if labels else family

    def set(self, name: str, value: float, **labels: str) -> None:
        """A gauge's value."""
        child = self._child(name, labels)
        if child is not None:
            child.set(value)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count on."""
        child = self._child(name, labels)
        if child is not None:
            child.inc(amount)

    def set_total(self, name: str, total: float, **labels: str) -> None:
        """Count on to a total that is counted elsewhere; a smaller one changes nothing."""
        key = (name, *labels.values())
        more = total - self._totals.get(key, 0.0)
        if more >= 0:
            self.add(name, more, **labels)
            self._totals[key] = total

    def observe(self, name: str, values: Iterable[float]) -> None:
        """Add values to a histogram."""
        child = self._child(name, {})
        for value in values if child is not None else ():
            child.observe(value)

    def serve(
        self,
        address: str,
        port: int,
        certificate: Path | None = None,
        key: Path | None = None,
        credentials: str = "",
    ) -> int:
        """Answer on the port, or the next free one; 0 is any. Returns the port.

        credentials: USER:PASSWORD to ask for. Raises OSError (ssl.SSLError among them) if it cannot
        listen.
        """
        ports = range(port, min(port + MOST_PORTS, 65536)) if port else (0,)
        empty = CollectorRegistry()  # nothing is told before the password is asked for
        for number in ports:
            try:
                self._server, _ = prometheus_client.start_http_server(
                    number,
                    address,
                    empty,
                    certfile=None if certificate is None else str(certificate),
                    keyfile=None if key is None else str(key),
                )
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or number == ports[-1]:
                    raise
        if certificate:  # by the thread of each client, or one that says nothing would block all
            self._server.socket.do_handshake_on_connect = False
        app = prometheus_client.make_wsgi_app(self._registry)
        self._server.set_app(_guarded(app, credentials) if credentials else app)
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        if self._server is None:
            return
        ending = threading.Thread(target=self._server.shutdown, daemon=True)
        ending.start()
        # It looks up twice a second, or when somebody comes; no run should end that much later.
        with suppress(OSError):
            socket.create_connection(self._server.server_address[:2], timeout=1).close()
        ending.join(timeout=2)
        self._server.server_close()
        self._server = None


def push(url: str, grouping: Mapping[str, str], values: Mapping[str, Mapping[str, float]]) -> None:
    """Replace the group of a Pushgateway by gauges: name -> label's value ("" without) -> value.
    Raises OSError."""
    registry = CollectorRegistry()
    for name, by_label in values.items():
        metric = METRICS[name]
        gauge = Gauge(PREFIX + name, metric.help, metric.labels, registry=registry)
        for label, value in by_label.items():
            (gauge.labels(label) if metric.labels else gauge).set(value)
    prometheus_client.push_to_gateway(url, "maskrestore", registry, dict(grouping), timeout=10)


def forget(url: str, grouping: Mapping[str, str]) -> None:
    """Delete what was pushed for a group. Raises OSError."""
    prometheus_client.delete_from_gateway(url, "maskrestore", dict(grouping), timeout=10)


App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def _guarded(app: App, credentials: str) -> App:
    """Basic authentication (RFC 7617), which prometheus_client has for pushing only."""
    expected = b"Basic " + base64.b64encode(credentials.encode())

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        given = environment.get("HTTP_AUTHORIZATION", "").encode("latin-1")
        if hmac.compare_digest(given, expected):
            return app(environment, start)
        start("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="maskrestore"')])
        return [b""]

    return answer
