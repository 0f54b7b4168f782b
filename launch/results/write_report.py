"""A grid's report as files: table, figure and page."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from launch.grid.cells import Grid
from launch.results.names import PAPER_FIGURES, paper_figures
from launch.results.table_rows import Row
from maskrestore.config.settings import flatten


def flat(rows: Sequence[Row]) -> str:
    """The table as CSV, a line per cell: everything its result holds, and the paper's figures.

    Figures of ours are as measured (accu and IoU in 0..1), NAME_low and NAME_high the ends of their
    95 % intervals; paper_accu and paper_miou are in %.
    """
    records = []
    for outcome in (outcome for row in rows for outcome in row.outcomes):
        cell, config = outcome.cell, outcome.config
        record: dict[str, Any] = {"cell": cell.name, "row": cell.row, "seed": outcome.seed}
        record |= {"state": str(outcome.state), "task": config.task, "loss": config.loss}
        record |= {"baseline": config.baseline}
        if config.task == "synthesis":
            record["loss"] = None
        paper = paper_figures(config)
        record |= dict(zip((f"paper_{key}" for key in PAPER_FIGURES), paper, strict=True))
        metrics = dict(outcome.result.get("metrics", {}))
        for name, (low, high) in (metrics.pop("intervals", None) or {}).items():
            metrics |= {f"{name}_low": low, f"{name}_high": high}
        result = outcome.result.items()
        rest = {key: value for key, value in result if key not in ("metrics", *record)}
        record |= dict(flatten(metrics)) | dict(flatten(rest))
        records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def further_seeds(grid: Grid) -> list[str]:
    """Cells in the grid's folder that were run with more seeds than this report is asked for."""
    known, rows = {cell.name for cell in grid.cells}, {cell.row for cell in grid.cells}
    found = []
    for path in sorted(grid.folder.glob("*-seed*/config.yaml")):
        row, _, seed = path.parent.name.rpartition("-seed")
        if row in rows and seed.isdecimal() and path.parent.name not in known:
            found.append(path.parent.name)
    return found
