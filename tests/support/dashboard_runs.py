"""Run folders for the tests of the dashboard."""

import json
from pathlib import Path
from typing import Any

RESULT = {"num_images": 8, "metrics": {"accu": 0.8, "miou19": 0.4, "fid": 70.5}, "protocol": {}}


def make_run(folder: Path, num_images: int = 0, result: object = None) -> Path:
    """A run folder: with metrics if it has seen images, and with a result."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("task: densify\n")
    if num_images:
        line = {"num_images": num_images, "total_images": 8, "losses": {"ce": 1.0}}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def without_prometheus(tmp_path: Path) -> dict[str, str]:
    """A PATH on which there is nothing."""
    (tmp_path / "bin").mkdir()
    return {"PATH": str(tmp_path / "bin")}


def states(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Name -> state of what /runs.json has."""
    return {run["run"]: run["state"] for run in runs}
