"""Report a grid: python launch/report.py grid=table1 [config=demo] [runs=DIR] [seeds=3]

Writes table1.md, table1.tex, table1.csv, figure2.png and table1.html, a page with all of it and
more, into the grid's folder, from its run folders alone, at any time: cells that are not done are
marked.
"""

import sys

from launch.grid.cells import CELL_KEYS
from launch.results.write_report import ReportSettings
from launch.results.write_report import write_report as main
from maskrestore.config.cli import run_program

if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, ReportSettings, CELL_KEYS))
