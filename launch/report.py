"""Report a grid: python launch/report.py grid=table1 [config=demo] [runs=DIR] [seeds=3]

Writes table1.md, table1.tex, table1.csv, figure2.png and table1.html, a page with all of it and
more, into the grid's folder, from its run folders alone, at any time: cells that are not done are
marked.
"""

import sys
from collections.abc import Sequence
from typing import Literal

from launch.grid.cells import CELL_KEYS, GridSettings, read_grid
from launch.results.figure import draw_figure
from launch.results.formats import latex, markdown
from launch.results.page import html_report
from launch.results.table import make_table
from launch.results.table_rows import read_rows
from launch.results.write_report import flat, further_seeds
from maskrestore.config.cli import run_program
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically


class ReportSettings(GridSettings):
    """The words of this program: a grid's, and its own."""

    format: Literal["all", "text", "html"] = "all"
    """What to write: text is the table as md, tex and csv and the figure as png; html is the page
    that opens in any browser; all is both."""


def main(words: Sequence[str]) -> int:
    """Write the table, the figure and the page, print the table and the paths."""
    settings, grid = read_grid(ReportSettings, words)
    if not grid.folder.is_dir():
        raise UserError(
            f"{grid.folder}: nothing there to report; run the grid with `python launch/submit.py` "
            "and the same words first"
        )
    rows = read_rows(grid)
    table = make_table(grid, rows)
    files: dict[str, bytes] = {}
    if settings.format != "html":
        texts = {"md": markdown(table), "tex": latex(table), "csv": flat(rows)}
        files |= {f"{grid.name}.{ending}": text.encode() for ending, text in texts.items()}
        figure = draw_figure(grid)
        if figure is not None:
            files["figure2.png"] = figure
        print(texts["md"])
    if settings.format != "text":
        shared = [word for word in words if not word.startswith("format=")]
        files[f"{grid.name}.html"] = html_report(grid, rows, table, shared).encode()
    for name, content in files.items():
        write_atomically(grid.folder / name, content)
        print(grid.folder / name)
    if settings.format != "html" and "figure2.png" not in files:
        print("no figure: no cell has pictures yet")
    left_out = further_seeds(grid)
    if left_out:
        print(f"not in the table: {', '.join(left_out)}; give seeds=NUMBER for more seeds")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", ReportSettings, CELL_KEYS))
