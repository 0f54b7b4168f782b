"""A grid's report as files: table, figure and page."""

import csv
import io
from collections.abc import Sequence
from typing import Any, Literal

from launch.grid.cells import Grid, GridSettings, read_grid
from launch.results.figure import draw_figure
from launch.results.formats import latex, markdown
from launch.results.names import PAPER_FIGURES, paper_figures
from launch.results.page import html_report
from launch.results.table import make_table
from launch.results.table_rows import Row, read_rows
from maskrestore.config.settings import flatten
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically


class ReportSettings(GridSettings):
    """The words of launch/report.py: a grid's, and its own."""

    format: Literal["all", "text", "html"] = "all"
    """What to write: text is the table as md, tex and csv and the figure as png; html is the page
    that opens in any browser; all is both."""


def write_report(words: Sequence[str]) -> int:
    """Write the table, the figure and the page, print the table and the paths; the exit status.

    words: of launch/report.py. Raises ConfigError for their mistakes, UserError if there is nothing
    to report.
    """
    settings, grid = read_grid(ReportSettings, words)
    if not grid.folder.is_dir():
        raise UserError(
            f"{grid.folder}: nothing there to report; run the grid with `python launch/submit.py` "
            "and the same words first"
        )
    rows = read_rows(grid)
    table = make_table(grid, rows)
    files: dict[str, bytes] = {}
    texts: dict[str, str] = {}
    if settings.format != "html":
        texts = {"md": markdown(table), "tex": latex(table), "csv": flat(rows)}
        files |= {f"{grid.name}.{ending}": text.encode() for ending, text in texts.items()}
        figure = draw_figure(grid)
        if figure is not None:
            files["figure2.png"] = figure
    if settings.format != "text":
        shared = [word for word in words if not word.startswith("format=")]
        files[f"{grid.name}.html"] = html_report(grid, rows, table, shared).encode()
    for name, content in files.items():
        write_atomically(grid.folder / name, content)
    if texts:
        print(texts["md"])
    print(*(grid.folder / name for name in files), sep="\n")
    if settings.format != "html" and "figure2.png" not in files:
        print("no figure: no cell has pictures yet")
    left_out = further_seeds(grid)
    if left_out:
        print(f"not in the table: {', '.join(left_out)}; give seeds=NUMBER for more seeds")
    return 0


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
    names = []
    for path in sorted(grid.folder.glob("*-seed*/config.yaml")):
        row, _, seed = path.parent.name.rpartition("-seed")
        if row in rows and seed.isdecimal() and path.parent.name not in known:
            names.append(path.parent.name)
    return names
