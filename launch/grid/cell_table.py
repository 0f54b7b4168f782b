"""Cells of a grid as a table: in one place on a terminal, elsewhere a plain line for each."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from rich.bar import Bar
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from launch.grid.state import Progress

STYLES = {
    "running": "cyan",
    "failed": "red",
    "gave up": "red",
    "ended": "red",
    "held": "red",
    "waiting": "yellow",
    "cancelled": "",
    "stopped": "",
    "missing": "",
    "done": "green",
}
"""Of each state; those to be seen first where a terminal has too few lines for all cells."""

PLAIN_WIDTH = 10_000
"""Characters: more than any line has, so that none is cut or wrapped."""


@dataclass(frozen=True)
class Line:
    """A cell of the table. restarts, nodes: on SLURM."""

    name: str
    state: str
    progress: Progress
    note: str = ""
    restarts: int = 0
    nodes: str = ""


class Screen:
    """Shows one table after the other, on a terminal each over the one before."""

    def __init__(self) -> None:
        self._live = Live(auto_refresh=False) if is_terminal() else None

    @property
    def is_live(self) -> bool:
        """Whether tables are drawn over each other."""
        return self._live is not None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last table where it is."""
        if self._live is not None:
            self._live.stop()

    def show(
        self, title: str, lines: Sequence[Line], below: Sequence[str] = (), on_slurm: bool = True
    ) -> None:
        """Show a table; below: further texts, a line each. on_slurm: with restarts and nodes."""
        if self._live is None:
            print_table(title, lines, below, on_slurm)
            return
        if len(lines) + len(below) + 2 > self._live.console.height:
            states = [*STYLES, *(line.state for line in lines)]
            lines = sorted(lines, key=lambda line: states.index(line.state))
        self._live.update(_group(title, lines, below, on_slurm), refresh=True)


def is_terminal() -> bool:
    """Whether somebody looks at what this program prints, on a terminal that can draw."""
    return sys.stdout.isatty() and sys.stderr.isatty() and not Console().is_dumb_terminal


def print_table(
    title: str, lines: Sequence[Line], below: Sequence[str] = (), on_slurm: bool = True
) -> None:
    """Print a table: in colours and cut to the width of a terminal, elsewhere in whole lines."""
    group = _group(title, lines, below, on_slurm)
    if is_terminal():
        Console().print(group)
        return
    console = Console(width=PLAIN_WIDTH, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(group)
    print(*(line.rstrip() for line in capture.get().splitlines()), sep="\n", flush=True)


def _group(title: str, lines: Sequence[Line], below: Sequence[str], on_slurm: bool) -> Group:
    counts = Counter(line.state for line in lines)
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    return Group(_text(f"{title}: {summary}"), _Cut(lines, on_slurm), *map(_text, below))


class _Cut:
    """The table as wide as it is, cut at the edge of the terminal."""

    def __init__(self, lines: Sequence[Line], on_slurm: bool) -> None:
        self._table = _table(lines, on_slurm)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = console.render_lines(self._table, options.update(width=PLAIN_WIDTH), pad=False)
        for line in whole:
            yield from Segment.adjust_line_length(line, options.max_width, pad=False)
            yield Segment.line()


def _table(lines: Sequence[Line], on_slurm: bool) -> Table:
    headings = ["cell", "state", "progress", "", "img/s", "loss", "ETA"]
    headings += [*(("restarts", "nodes") if on_slurm else ()), "note"]
    table = Table(*headings, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    for line in lines:
        total, style = line.progress.total_images, STYLES.get(line.state, "")
        seen = total if line.state == "done" else line.progress.num_images
        speed = line.progress.images_per_second if line.state == "running" else 0.0
        # What is done needs no watching.
        losses = line.progress.losses.items() if line.state != "done" else ()
        texts = [
            f"{100 * seen / total:3.0f} %" if total else "",
            f"{speed:.1f}" if speed else "-",
            " ".join(f"{term} {value:.3g}" for term, value in losses) or "-",
            clock((total - seen) / speed) if speed and seen < total else "-",
            *((str(line.restarts or "-"), line.nodes or "-") if on_slurm else ()),
            line.note,
        ]
        bar = Bar(total, 0, seen, width=12, color=style or "default") if total else _text("-")
        table.add_row(_text(line.name), _text(line.state), bar, *map(_text, texts), style=style)
    return table


def _text(text: str) -> Text:
    """In one line, and without rich's markup."""
    return Text(text.replace("\n", " "), no_wrap=True, overflow="ellipsis")


def clock(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
