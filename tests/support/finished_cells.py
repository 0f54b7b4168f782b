"""Run folders of a grid as finished runs leave them, and the report that is made of them."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from launch.grid.cells import Cell, GridSettings, read_grid
from launch.report import main
from launch.results.table import GAINS_TITLE
from maskrestore.config.settings import to_yaml


def tiny_grid(tmp_path: Path) -> list[str]:
    """The words of grid table1 with a tiny configuration, in tmp_path/runs/tiny-table1."""
    path = tmp_path / "tiny.yaml"
    path.write_text("training: {num_images: 8, batch_size: 4}\nperceptual: {network: lite0}\n")
    return [f"config={path}", f"runs={tmp_path / 'runs'}"]


def cells_of(words: list[str]) -> dict[str, Cell]:
    return {cell.name: cell for cell in read_grid(GridSettings, words)[1].cells}


def finish(
    cell: Cell,
    accu: float | None,
    miou19: float | None,
    fid: float | None = 80.0,
    commit: str = "abc123+dirty",
    **protocol: object,
) -> None:
    """Leave the run folder of a cell as a finished run does."""
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text(to_yaml(cell.config))
    metrics: dict[str, Any] = {"accu": accu, "miou19": miou19, "miou_all": miou19}
    iou = None if accu is None else {"road": 0.5, "train": None}
    metrics |= {"iou": iou, "num_samples": 5, "fid": fid, "kid": 0.0123}
    config = cell.config
    result = {
        "task": config.task,
        "loss": config.loss,
        "baseline": config.baseline,
        "seed": config.seed,
        "num_images": 8 if config.trains else 0,
        "metrics": metrics,
        "protocol": {
            "features": "inception",
            "edges": "argmax",
            "sampling": "corner",
            "height": 96,
            "width": 192,
            "source": "streetscenes",
            "coarse": "simulated",
            **protocol,
        },
        "commit": commit,
        "versions": {"torch": "2.15"},
        "generator_sha256": "0123456789abcdef",
    }
    (cell.folder / "result.json").write_text(json.dumps(result))


def table_of(words: list[str], tmp_path: Path) -> list[list[str]]:
    """The rows of table1.md, each a list of its cells; the task stands in every row."""
    assert main(words) == 0
    text = (tmp_path / "runs" / "tiny-table1" / "table1.md").read_text().partition(GAINS_TITLE)[0]
    rows = [
        [field.strip() for field in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and set(line) - set("|-: ")
    ]
    for before, row in pairwise(rows):
        row[0] = row[0] or before[0]
    return rows
