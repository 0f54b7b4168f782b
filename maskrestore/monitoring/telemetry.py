"""What a run tells Prometheus while it goes on, and where it can be found.

Nothing in here may stop a run: what fails is said once, and the run goes on without it. Nothing
waits for the device: figures come from the reports, which have been read from it by then.
"""

import functools
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Self

import torch
from tqdm import tqdm

from maskrestore.config.run import RunConfig
from maskrestore.monitoring.exporter import Exporter, forget, push
from maskrestore.monitoring.health import GRADIENT, Report
from maskrestore.monitoring.meter import Measured, peak_flops
from maskrestore.monitoring.step_metrics import StepMetrics
from maskrestore.monitoring.targets import (
    Target,
    announce,
    keep_alive,
    reap,
    supersede,
    target_path,
    withdraw,
)
from maskrestore.runs import provenance
from maskrestore.runs.checkpoint import Saved
from maskrestore.utils.errors import ConfigError, UserError

STATES = ("starting", "training", "evaluating", "saving")
TOUCH_SECONDS = 60.0
"""Between two signs of life of the target file (targets.REAP_SECONDS is the most)."""

Words = ParamSpec("Words")
Method = Callable[Concatenate["Telemetry", Words], None]


def _harmless(method: Method[Words]) -> Method[Words]:
    """Does nothing without an exporter, never raises, and knows what it costs."""

    @functools.wraps(method)
    def call(self: "Telemetry", *words: Words.args, **more: Words.kwargs) -> None:
        if not self._serves:
            return
        began = time.perf_counter()
        try:
            method(self, *words, **more)
            self._exporter.add("telemetry_seconds_total", time.perf_counter() - began)
        except Exception as error:
            self.say(f"{method.__name__.strip('_')}: {error!r}")

    return call  # type: ignore[return-value] # mypy tells `self` from a first argument


def node_name() -> str:
    """This machine, as SLURM or else as it calls itself."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


class Telemetry:
    """Of one process: the first one of each node answers Prometheus, the others do nothing.

    rank: of this process; nodes: the node of each process. num_starts: of the run, this one
    included.
    """

    def __init__(
        self,
        config: RunConfig,
        rank: int,
        nodes: Sequence[str],
        device: torch.device,
        num_starts: int,
    ) -> None:
        self._config, self._node, self._device = config, nodes[rank], device
        self._num_processes, self._is_main, self._nodes = len(nodes), rank == 0, frozenset(nodes)
        ranks = [other for other, node in enumerate(nodes) if node == self._node]
        self._num_starts = num_starts
        self._told: set[str] = set()
        self._target: Target | None = None
        self._touched = 0.0
        self._tidying: threading.Thread | None = None
        self._state = ""
        self._num_images, self._last_report = 0, (0.0, 0)
        self._saved: Saved | None = None
        # Beside the grids, if this is a cell of one of them.
        shared = config.run.parent.parent / "targets"
        beside = shared if shared.is_dir() else config.run.parent / "targets"
        self._targets = config.telemetry.targets or beside
        run = config.run.resolve()
        names = {"grid": run.parent.name, "run": run.name}
        # Names may hold bytes that are no text, which could be written nowhere.
        self._labels = {
            key: os.fsencode(name).decode(errors="replace") for key, name in names.items()
        }
        self._serves = config.telemetry.serve and rank == ranks[0]
        self._exporter = Exporter(self._is_main and self._serves, self._serves)
        peak = peak_flops(device, config.telemetry.peak_flops)
        self._steps = StepMetrics(self._exporter, ranks, len(nodes), peak)

    def say(self, trouble: str) -> None:
        """Tell the user once of a kind."""
        kind = trouble.partition(":")[0]
        if kind not in self._told:
            self._told.add(kind)
            tqdm.write(f"telemetry on {self._node}: {trouble}; the run goes on", file=sys.stderr)

    def __enter__(self) -> Self:
        self._describe()
        self._listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A crash, or a failure once it had begun, leaves the target: Prometheus then sees that
        # nobody answers. What fails at the start tells the person who started it.
        told = (ConfigError, UserError, OSError, SystemExit)
        begun = self._state not in ("", "starting")
        self._leave(
            kind is None
            or issubclass(kind, KeyboardInterrupt)
            or (issubclass(kind, told) and not begun)
        )

    @_harmless
    def _describe(self) -> None:
        config, add, put = self._config, self._exporter.add, self._exporter.set
        info = {
            "task": config.task,
            "loss": config.loss,
            "engine": config.distributed.engine,
            "precision": f"{config.distributed.precision}+{config.distributed.frozen_precision}",
            "device": self._device.type,
            "commit": provenance.commit() or "" if self._is_main else "",
            "slurm_job_id": os.environ.get("SLURM_JOB_ID", ""),
            "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
        }
        put("run_info", 1, **self._labels, **info)
        put("processes", self._num_processes)
        add("starts_total", self._num_starts)
        for state in STATES:
            put("state", 0, state=state)
        self.state("starting")

    @_harmless
    def _listen(self) -> None:
        """Answer, and tell Prometheus where."""
        wanted = self._config.telemetry
        credentials = ""
        try:
            if wanted.password_file is not None:
                credentials = wanted.password_file.read_text(encoding="utf-8").strip()
                if ":" not in credentials:
                    raise ValueError(f"{wanted.password_file} must hold USER:PASSWORD")
            port = self._exporter.serve(
                wanted.address, wanted.port, wanted.tls_certificate, wanted.tls_key, credentials
            )
        except (OSError, ValueError) as error:  # a busy port, a port without permission, a file
            self.say(f"port {wanted.port}: not answering at {wanted.address}: {error}")
            return
        is_open = wanted.address in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        host = socket.gethostname() if is_open else wanted.address
        # The name of the machine itself, so that others can leave its loopback addresses alone.
        own = {"instance": self._node, "node": self._node, "__host": socket.gethostname()}
        labels = own | self._labels
        if wanted.tls_certificate is not None:
            labels["__scheme__"] = "https"
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._target = Target(
            target_path(self._targets, self._config.run, self._node), address, labels
        )
        announce(self._target)
        self._touched = time.monotonic()
        self._tidying = threading.Thread(target=self._tidy_up, daemon=True)
        self._tidying.start()

    def _tidy_up(self) -> None:
        """What may take a while, if somebody does not answer."""
        try:
            if self._target is not None:
                supersede(self._target, self._nodes if self._is_main else None)
            if self._is_main and self._config.telemetry.pushgateway:
                forget(self._config.telemetry.pushgateway, self._labels)
            reap(self._targets)
        except Exception as error:
            self.say(f"tidying up: {error!r}")

    @_harmless
    def _leave(self, withdrawn: bool) -> None:
        if self._target is not None and withdrawn:
            withdraw(self._target)
        self._exporter.close()

    @_harmless
    def begin(
        self, num_images: int, left_out_shards: int, phases: Iterable[str], terms: Iterable[str]
    ) -> None:
        """Training goes on from num_images: the run's start, a resume, or a checkpoint that it went
        back to. phases, terms: those that there will be; counters begin at 0, or their first
        increase would not be seen."""
        add, put = self._exporter.add, self._exporter.set
        undone = (self._num_images - num_images) // self._config.training.batch_size
        add("rollbacks_total", undone > 0)
        add("rolled_back_steps_total", max(undone, 0))
        put("left_out_shards", left_out_shards)
        put("planned_images", self._config.total_images)
        for phase in phases:
            add("step_phase_seconds_total", 0, phase=phase)
        for term in (*terms, GRADIENT):
            add("nonfinite_total", 0, term=term)
        self._last_report = (time.monotonic(), num_images)
        self._at(num_images)

    @_harmless
    def state(self, state: str) -> None:
        """What the run does now: one of STATES."""
        if state != self._state:
            if self._state:
                self._exporter.set("state", 0, state=self._state)
            self._exporter.set("state", 1, state=state)
            self._state = state

    @_harmless
    def step(self, num_images: int) -> None:
        """A step has ended; num_images were seen after it."""
        self._exporter.add("images_total", num_images - self._num_images)
        self._exporter.add("beats_total")
        self._exporter.set("last_step_timestamp_seconds", time.time())
        self._at(num_images)
        self._keep_alive()

    def _keep_alive(self) -> None:
        if self._target is not None and time.monotonic() - self._touched > TOUCH_SECONDS:
            self._touched = time.monotonic()
            keep_alive(self._target)

    @_harmless
    def beat(self) -> None:
        """A batch was evaluated."""
        self._exporter.add("beats_total")
        self._keep_alive()

    def _at(self, num_images: int) -> None:
        self._num_images = num_images
        self._exporter.set("seen_images", num_images)
        self._exporter.set("progress_ratio", num_images / max(self._config.total_images, 1))

    @_harmless
    def report(
        self,
        report: Report,
        measured: Measured,
        usage: Sequence[Sequence[float]],
        learning_rates: Mapping[str, float],
        loss_scales: Mapping[str, float],
        gradient_scales: Mapping[str, float],
    ) -> None:
        """The steps since the last report. usage: [processes][len(meter.USAGE)]; the mappings go
        from a network's name to a number."""
        add, put = self._exporter.add, self._exporter.set
        for name, by_label, label in (
            ("loss", report.losses, "term"),
            ("gradient_norm", report.gradient_norms, "network"),
            ("learning_rate", learning_rates, "network"),
            ("loss_scale", loss_scales, "network"),
            ("gradient_scale", gradient_scales, "network"),
        ):
            for key, value in by_label.items():
                put(name, value, **{label: key})
        put("total_loss", report.total)
        add("skipped_steps_total", len(report.skipped))
        for term in (term for bad in report.skipped for term in bad.terms):
            add("nonfinite_total", term=term)
        self._report_speed()
        self._steps.report(measured, usage)

    def _report_speed(self) -> None:
        now, (then, before) = time.monotonic(), self._last_report
        self._last_report = (now, self._num_images)
        speed = (self._num_images - before) / max(now - then, 1e-9)
        left = self._config.total_images - self._num_images
        self._exporter.set("eta_seconds", left / speed if speed > 0 else math.nan)

    @_harmless
    def saved(self, saved: Saved | None) -> None:
        """The newest checkpoint, unless it is the one that was told of before."""
        if saved is None or saved == self._saved:
            return
        if saved.seconds is not None:  # else it was found, not written
            self._exporter.add("checkpoints_total")
            self._exporter.set("checkpoint_save_seconds", saved.seconds)
        self._saved = saved
        self._exporter.set("checkpoint_timestamp_seconds", saved.timestamp)
        self._exporter.set("checkpoint_images", saved.num_images)
        self._exporter.set("checkpoint_bytes", saved.num_bytes)

    @_harmless
    def evaluated(self, metrics: Mapping[str, Any], seconds: float) -> None:
        """Figures of an evaluation."""
        self._exporter.add("evaluations_total")
        self._exporter.set("eval_seconds", seconds)
        for metric, value in _numbers(metrics).items():
            self._exporter.set("eval", value, metric=metric)

    @_harmless
    def finish(self, metrics: Mapping[str, Any]) -> None:
        """The run is done: its final figures stay with a Pushgateway, until it starts again."""
        if self._is_main and self._config.telemetry.pushgateway:
            if self._tidying is not None:
                self._tidying.join(timeout=15)  # else it could delete what is pushed now
            values = {"eval": _numbers(metrics), "seen_images": {"": float(self._num_images)}}
            push(self._config.telemetry.pushgateway, self._labels, values)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures that are single numbers (not IoU by class, nor how many samples)."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and name != "num_samples"
    }
