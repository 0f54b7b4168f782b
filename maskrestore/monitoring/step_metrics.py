"""Steps as metrics: seconds by phase, arithmetic, memory, and which process is slow."""

from collections.abc import Sequence
from statistics import median_low

from maskrestore.monitoring.exporter import Exporter
from maskrestore.monitoring.meter import DATA, USAGE, Measured


class StepMetrics:
    """ranks: processes that this exporter tells of; peak_flops: of a device, 0 where not known."""

    def __init__(
        self, exporter: Exporter, ranks: Sequence[int], num_processes: int, peak_flops: float
    ) -> None:
        self._exporter, self._ranks = exporter, ranks
        self._num_processes, self._peak_flops = num_processes, peak_flops
        self._retries = dict.fromkeys(ranks, 0.0)
        self._shard_errors = 0.0

    def report(self, measured: Measured, usage: Sequence[Sequence[float]]) -> None:
        """Those since the last report. usage: [processes][len(meter.USAGE)]."""
        add, put = self._exporter.add, self._exporter.set
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
            add("allocation_retries_total", row["retries"] - self._retries[rank], **labels)
            self._retries[rank] = row["retries"]
        errors = sum(row["shard_errors"] for row in rows)
        add("shard_errors_total", errors - self._shard_errors)
        self._shard_errors = errors
        busy = [row["busy"] for row in rows]
        put("slowest_rank", busy.index(max(busy)))
        put("straggler_ratio", max(busy) / max(median_low(busy), 1e-9))
        seconds = sum(measured.steps) / max(len(measured.steps), 1)
        flops = measured.flops / max(seconds, 1e-9)
        put("flops_per_second", flops * self._num_processes)
        if self._peak_flops:
            put("mfu_ratio", flops / self._peak_flops)
