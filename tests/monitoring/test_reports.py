"""What a report of some steps comes to in the metrics, among processes and from one to the next."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from metrics_page import by_label, scrape, targets_in, value

from maskrestore.config.run import load_config
from maskrestore.monitoring.health import BadStep, Report
from maskrestore.monitoring.meter import DATA, USAGE, Measured
from maskrestore.monitoring.telemetry import Telemetry

REPORT = Report(2.0, {"ce": 1.5}, {"mask_generator": 3.0}, [BadStep(4, ("ce",), (0,))], None, "")
MEASURED = Measured([1.0, 3.0], {DATA: 0.5, "other": 3.5}, 4e9, torch.zeros(len(USAGE)))


def usage(busy: Sequence[float], errors: float, retries: float) -> list[list[float]]:
    """Of a process each: a GPU of 8 bytes, of which 5 are reserved."""
    facts = {"shard_errors": errors, "host": 7, "host_limit": 9, "allocated": 4, "reserved": 5}
    facts |= {"device_limit": 8, "retries": retries}
    return [[seconds, *(facts[name] for name in USAGE[1:])] for seconds in busy]


def test_two_reports_of_three_processes_on_two_nodes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config([f"run={tmp_path / 'run'}", "telemetry.peak_flops=1e10"])
    ones = {"mask_generator": 1.0}
    with Telemetry(config, 0, ["a", "a", "b"], torch.device("cpu"), 1) as telemetry:
        telemetry.begin(0, 0, [DATA, "other"], ["ce"])
        telemetry.report(REPORT, MEASURED, usage([1, 4, 2], 2, 1), ones, ones, ones)
        telemetry.report(REPORT, MEASURED, usage([1, 4, 2], 3, 5), ones, ones, ones)
        # A meter that has failed tells of nothing: what was counted before stays.
        nothing = [[0.0] * len(USAGE)] * 3
        telemetry.report(REPORT, MEASURED, nothing, ones, ones, ones)
        [(address, _)] = targets_in(tmp_path / "targets")
        series = scrape(address)
    assert capfd.readouterr().err == ""
    assert value(series, "shard_errors_total") == 9  # of all processes
    assert by_label(series, "allocation_retries_total", "rank") == {"0": 5, "1": 5}
    assert value(series, "memory_bytes", rank="1", kind="reserved") == 5
    assert value(series, "memory_limit_bytes", rank="1", kind="reserved") == 8
    assert value(series, "step_seconds_count") == 6
    assert by_label(series, "step_phase_seconds_total", "phase") == {DATA: 1.5, "other": 10.5}
    assert value(series, "data_wait_seconds_total") == 1.5
    assert value(series, "flops_per_second") == pytest.approx(3 * 2e9)
    assert value(series, "mfu_ratio") == pytest.approx(0.2)
    assert value(series, "skipped_steps_total") == 3
    assert by_label(series, "nonfinite_total", "term") == {"ce": 3, "gradient": 0}


def test_the_slowest_process_is_named(tmp_path: Path) -> None:
    config = load_config([f"run={tmp_path / 'run'}"])
    with Telemetry(config, 0, ["a", "a", "b"], torch.device("cpu"), 1) as telemetry:
        telemetry.report(REPORT, MEASURED, usage([1, 4, 2], 0, 0), {}, {}, {})
        [(address, _)] = targets_in(tmp_path / "targets")
        series = scrape(address)
    assert value(series, "slowest_rank") == 1
    assert value(series, "straggler_ratio") == 2
    assert by_label(series, "rank_step_seconds", "rank") == {"0": 1, "1": 4}
