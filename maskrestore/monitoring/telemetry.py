"""What a run tells Prometheus while it goes on.

Nothing in here may stop a run: what fails is said once, and the run goes on without it. Nothing
waits for the device: figures come from the reports, which have been read from it by then.
"""

import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median_low
from typing import Any, Concatenate, ParamSpec, Self

import torch
from tqdm import tqdm

from maskrestore.config.run import RunConfig
from maskrestore.monitoring.endpoint import Endpoint
from maskrestore.monitoring.exporter import Exporter
from maskrestore.monitoring.health import GRADIENT, Report
from maskrestore.monitoring.meter import DATA, USAGE, Measured, peak_flops
from maskrestore.runs import provenance
from maskrestore.runs.checkpoint import Saved

STATES = ("starting", "training", "evaluating", "saving")

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
        self._config, self._node = config, nodes[rank]
        self._ranks = [other for other, node in enumerate(nodes) if node == self._node]
        self._peak_flops = peak_flops(device, config.telemetry.peak_flops)
        self._serves = config.telemetry.serve and rank == self._ranks[0]
        self._exporter = Exporter(self._serves and rank == 0, self._serves)
        self._endpoint = Endpoint(config, rank, nodes, self._exporter, self.say)
        self._troubles: set[str] = set()
        self._state, self._has_begun = "", False
        self._num_images, self._last_report = 0, (0.0, 0)
        self._saved: Saved | None = None
        if rank == 0:
            self._describe(device, len(nodes), num_starts)

    def say(self, trouble: str) -> None:
        """Tell the user once of a kind."""
        kind = trouble.partition(":")[0]
        if kind not in self._troubles:
            self._troubles.add(kind)
            tqdm.write(f"telemetry on {self._node}: {trouble}; the run goes on", file=sys.stderr)

    def __enter__(self) -> Self:
        try:
            self._listen()
        except KeyboardInterrupt:  # once it is announced: __exit__ will not be called
            self._endpoint.withdraw()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A failure once it had begun leaves the target: Prometheus then sees that nobody answers.
        # Of one before that, failed_start.py leaves a target that says why.
        is_wanted = kind is None or issubclass(kind, KeyboardInterrupt)
        self.leave(withdrawn=is_wanted or not self._has_begun)

    @_harmless
    def _describe(self, device: torch.device, num_processes: int, num_starts: int) -> None:
        config, put = self._config, self._exporter.set
        info = {
            "task": config.task,
            "loss": config.loss,
            "engine": config.distributed.engine,
            "precision": f"{config.distributed.precision}+{config.distributed.frozen_precision}",
            "device": device.type,
            "commit": provenance.commit() or "",
            "slurm_job_id": os.environ.get("SLURM_JOB_ID", ""),
            "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
        }
        put("run_info", 1, **self._endpoint.labels, **info)
        put("processes", num_processes)
        self._exporter.add("starts_total", num_starts)
        for state in STATES:
            put("state", 0, state=state)
        self.state("starting")

    @_harmless
    def _listen(self) -> None:
        self._endpoint.open()

    @_harmless
    def leave(self, withdrawn: bool = True) -> None:
        """Stop answering. withdrawn: whether Prometheus is to forget the run."""
        self._endpoint.close(withdrawn)

    def withdraw(self) -> None:
        """Prometheus is to forget the run, which is about to be ended by a signal."""
        self._endpoint.withdraw()

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
        self._go_on()

    @_harmless
    def beat(self) -> None:
        """A batch was evaluated."""
        self._exporter.add("beats_total")
        self._go_on()

    def _go_on(self) -> None:
        self._has_begun = True
        self._endpoint.keep_alive()

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
        self._report_steps(measured, usage)

    def _report_steps(self, measured: Measured, usage: Sequence[Sequence[float]]) -> None:
        """Seconds by phase, arithmetic, memory, and which process is slow."""
        add, put, total = self._exporter.add, self._exporter.set, self._exporter.set_total
        self._exporter.observe("step_seconds", measured.steps)
        for phase, seconds in measured.phases.items():
            add("step_phase_seconds_total", seconds, phase=phase)
        add("data_wait_seconds_total", measured.phases[DATA])
        rows = [dict(zip(USAGE, row, strict=True)) for row in usage]
        for rank in self._ranks:
            row, labels = rows[rank], {"rank": str(rank)}
            put("rank_step_seconds", row["busy"], **labels)
            limits = {"host": "host_limit", "allocated": "device_limit", "reserved": "device_limit"}
            for kind, limit in limits.items():
                if row[limit]:
                    put("memory_bytes", row[kind], kind=kind, **labels)
                    put("memory_limit_bytes", row[limit], kind=kind, **labels)
            total("allocation_retries_total", row["retries"], **labels)
        total("shard_errors_total", sum(row["shard_errors"] for row in rows))
        busy = [row["busy"] for row in rows]
        put("slowest_rank", busy.index(max(busy)))
        put("straggler_ratio", max(busy) / max(median_low(busy), 1e-9))
        mean_seconds = sum(measured.steps) / max(len(measured.steps), 1)
        flops = measured.flops / max(mean_seconds, 1e-9)
        put("flops_per_second", flops * len(rows))
        if self._peak_flops:
            put("mfu_ratio", flops / self._peak_flops)

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
        images = {"": float(self._num_images)}
        self._endpoint.push({"eval": _numbers(metrics), "seen_images": images})


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures that are single numbers (not IoU by class, nor how many samples)."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and name != "num_samples"
    }
