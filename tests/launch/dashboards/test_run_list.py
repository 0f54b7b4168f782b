"""What the dashboard tells of folders that hold all kinds of things."""

import json
from pathlib import Path

import pytest
from dashboard_runs import RESULT, make_run, states

from launch.dashboards.run_list import RunList
from maskrestore.utils import files


def test_each_run_folder_says_how_the_run_is(tmp_path: Path) -> None:
    grid = tmp_path / "demo-table1"
    make_run(grid / "done", 8, RESULT)
    make_run(grid / "stopped", 2)
    make_run(tmp_path / "alone", 4)
    failed = make_run(grid / "failed", 4)
    (failed / "error.txt").write_text("out of memory\nlog: x.out\n")
    (grid / "never-began").mkdir()
    (grid / "never-began" / "error.txt").write_text("no such module")
    (grid / "no-run").mkdir()
    with files.lock(make_run(grid / "running", 6)):
        listing = RunList(tmp_path).read()
    runs = {run["run"]: run for run in listing.runs}
    assert states(listing.runs) == {
        "alone": "stopped",
        "done": "done",
        "failed": "failed",
        "never-began": "failed",
        "running": "running",
        "stopped": "stopped",
    }
    assert runs["done"]["figures"] == [
        *(("accuracy", 0.8, "ratio"), ("mIoU", 0.4, "ratio"), ("FID", 70.5, "plain"))
    ]
    assert runs["failed"]["error"] == "out of memory log: x.out"
    assert [runs[name]["progress"] for name in ("running", "stopped", "done")] == [0.75, 0.25, 1.0]
    assert (runs["done"]["grid"], runs["alone"]["grid"]) == ("demo-table1", tmp_path.name)
    assert listing.left_out == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", b"{"),
        ("result.json", b"[1]"),
        ("result.json", b"\xff\xfe\x00"),
        ("result.json", b'{"num_images": 1, "metrics": {"accu": "good"}, "protocol": {}}'),
        ("result.json", b"[" * 100_000),
        ("result.json", b'{"num_images": 1, "metrics": {"accu": 1%s}}' % (b"0" * 400)),
        ("metrics.jsonl", None),
        ("error.txt", None),
        ("starts", None),
    ],
)
def test_garbage_is_told_and_hides_no_other_run(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    bad = make_run(tmp_path / "grid" / "bad")
    if content is None:
        (bad / name).mkdir()
    else:
        (bad / name).write_bytes(content)
    make_run(tmp_path / "grid" / "good", 8, RESULT)
    listing = RunList(tmp_path).read()
    assert states(listing.runs)["good"] == "done"
    if name == "error.txt":  # no file, so it says nothing
        assert states(listing.runs)["bad"] == "stopped"
        return
    assert len(listing.left_out) == 1
    assert "bad" in listing.left_out[0]
    assert states(listing.runs).get("bad", "unreadable") == "unreadable"


def test_figures_and_progress_that_are_no_numbers_stay_json(tmp_path: Path) -> None:
    metrics = {"accu": float("nan"), "miou19": None, "fd_lite0": float("inf")}
    run = make_run(tmp_path / "grid" / "odd", 8, {**RESULT, "metrics": metrics})
    half = b'{"num_images": 6, "total_images": 8, "images_per_second": NaN}\n\xff\n{"num_images": 7'
    (run / "metrics.jsonl").write_bytes(half)
    (run / "starts").write_text("many")
    [listed] = RunList(tmp_path).read().runs
    json.dumps(listed, allow_nan=False)
    assert (listed["figures"], listed["num_images"], listed["starts"]) == ([], 6, 0)


def test_an_answer_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.dashboards.run_list.KEEP_SECONDS", 0.0)
    run = make_run(tmp_path / "grid" / "run", 2)
    runs = RunList(tmp_path)
    assert runs.read().runs[0]["progress"] == 0.25
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"num_images": 4, "total_images": 8}) + "\n")
    assert runs.read().runs[0]["progress"] == 0.5
    (run / "result.json").write_text(json.dumps(RESULT))
    assert runs.read().runs[0]["state"] == "done"


def test_unchanged_files_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.dashboards.run_list.KEEP_SECONDS", 0.0)
    for number in range(500):
        make_run(tmp_path / "grid" / f"run{number}", 4, RESULT)
    runs = RunList(tmp_path)
    assert len(runs.read().runs) == 500
    monkeypatch.setattr(
        "launch.dashboards.run_list.read_result", lambda _: pytest.fail("read again")
    )
    monkeypatch.setattr(
        "launch.dashboards.run_list.progress_in", lambda _: pytest.fail("read again")
    )
    assert len(runs.read().runs) == 500
