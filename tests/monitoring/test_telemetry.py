"""What a process tells of its steps: reports that add up, and what may break while it does."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from metrics_page import by_label, scrape, targets_in, value

from maskrestore.monitoring.health import BadStep, Report
from maskrestore.monitoring.meter import DATA, USAGE, Measured
from maskrestore.monitoring.telemetry import Telemetry
from maskrestore.runs.checkpoint import Saved

MakeTelemetry = Callable[..., Telemetry]

REPORT = Report(2.0, {"ce": 1.5}, {"mask_generator": 3.0}, [BadStep(4, ("ce",), (0,))], None, "")
MEASURED = Measured([1.0, 3.0], {DATA: 0.5, "other": 3.5}, 4e9, torch.zeros(len(USAGE)))
NODES = ("a", "a", "b")


def usage(busy: Sequence[float], errors: float, retries: float) -> list[list[float]]:
    """Of a process each: a GPU of 8 bytes, of which 5 are reserved."""
    facts = {"shard_errors": errors, "host": 7, "host_limit": 9, "allocated": 4, "reserved": 5}
    facts |= {"device_limit": 8, "retries": retries}
    return [[seconds, *(facts[name] for name in USAGE[1:])] for seconds in busy]


def test_two_reports_of_three_processes_on_two_nodes(
    tmp_path: Path, make_telemetry: MakeTelemetry, capfd: pytest.CaptureFixture[str]
) -> None:
    ones = {"mask_generator": 1.0}
    with make_telemetry("telemetry.peak_flops=1e10", nodes=NODES) as telemetry:
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


def test_the_slowest_process_is_named(tmp_path: Path, make_telemetry: MakeTelemetry) -> None:
    with make_telemetry(nodes=NODES) as telemetry:
        telemetry.report(REPORT, MEASURED, usage([1, 4, 2], 0, 0), {}, {}, {})
        [(address, _)] = targets_in(tmp_path / "targets")
        series = scrape(address)
    assert value(series, "slowest_rank") == 1
    assert value(series, "straggler_ratio") == 2
    assert by_label(series, "rank_step_seconds", "rank") == {"0": 1, "1": 4}


def test_an_exporter_that_dies_stops_nothing(
    make_telemetry: MakeTelemetry, capfd: pytest.CaptureFixture[str]
) -> None:
    with make_telemetry() as told:
        told.begin(0, 0, [], [])
        told._exporter.close()  # the server's end
        told.step(16)
        told._exporter._metrics["beats_total"] = object()  # the metrics' end
        told.step(32)
        told.step(48)
        told.saved(Saved(32, 1, 1.0, 1.0))
    said = capfd.readouterr().err
    assert said.count("the run goes on") == 1
    assert "telemetry on here: step: AttributeError" in said


def test_a_clock_that_jumps_moves_nothing_but_timestamps(
    tmp_path: Path, make_telemetry: MakeTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_telemetry("training.num_images=160") as told:
        [(address, _)] = targets_in(tmp_path / "targets")
        told.begin(0, 0, [], [])
        told.step(16)
        before = scrape(address)
        monkeypatch.setattr("time.time", lambda: 0.0)  # 1970
        told.step(32)
        after = scrape(address)
        assert value(after, "last_step_timestamp_seconds") == 0
    changed = {name for (name, key), number in after.items() if before[name, key] != number}
    assert changed == {
        *("images_total", "seen_images", "progress_ratio", "beats_total"),
        *("last_step_timestamp_seconds", "telemetry_seconds_total"),
    }
    assert value(after, "images_total") == 32
