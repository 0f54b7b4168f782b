"""Cells as a table: in place on a real terminal, elsewhere whole lines."""

import subprocess
import sys
import textwrap

import pytest
from terminal import HIDDEN, SHOWN, UP, Terminal, plain

from launch.grid.cell_table import Line, Screen, clock, print_table
from launch.grid.state import Progress

LINES = [
    Line("synthesis", "done", Progress(80, 80, {"ce": 1.2}, 3.0)),
    Line("densify-ce", "running", Progress(30, 80, {"ce": 1.3, "vgg": 22.25}, 1.25), "job 98_2", 2),
    Line("densify-none", "missing", Progress(0, 0, {})),
    Line("densify-l1", "failed", Progress(8, 80, {}), "[Errno 28] no space\nleft, " + "x" * 300),
]
PROGRAM = """
    import sys
    from launch.grid.cell_table import Line, Screen, print_table
    from launch.grid.state import Progress

    lines = [
        Line("synthesis", "done", Progress(80, 80, {})),
        Line("densify-ce", "running", Progress(30, 80, {"ce": 1.3}, 1.25), "job 98_2 " + "x" * 300),
        *(Line(f"densify-{number}", "waiting", Progress(0, 80, {})) for number in range(8)),
    ]
"""
ONCE = 'print_table("g in runs", lines, ["report: job 9 pending"])'
TWICE = """
    with Screen() as screen:
        screen.show("g in runs", lines)
        screen.show("g in runs", [lines[0], *lines[:1] * 9])
"""


def on_terminal(text: str, columns: int = 160, lines: int = 50, **environment: str) -> str:
    program = textwrap.dedent(PROGRAM) + textwrap.dedent(text)
    terminal = Terminal([sys.executable, "-c", program], columns, lines, environment)
    assert terminal.end() == 0, terminal.printed
    return terminal.printed


def test_without_a_terminal_each_cell_is_one_whole_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table("g in runs", LINES, ["report: job 9 pending"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    title, headings, *cells, below = shown.splitlines()
    assert title == "g in runs: 1 done, 1 running, 1 missing, 1 failed"
    cells = [" ".join(cell.split()) for cell in cells]
    assert " ".join(headings.split()) == "cell state progress img/s loss ETA restarts nodes note"
    assert below == "report: job 9 pending"
    note = "[Errno 28] no space left, " + "x" * 300
    assert cells == [
        "synthesis done ████████████ 100 % - - - - -",
        "densify-ce running ████▌ 38 % 1.2 ce 1.3 vgg 22.2 0:40 2 - job 98_2",
        "densify-none missing - - - - - -",
        f"densify-l1 failed █▏ 10 % - - - - - {note}",
    ]
    assert not any(line.endswith(" ") for line in shown.splitlines())


def test_tables_without_a_terminal_follow_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        assert not screen.is_live
        for _ in range(2):
            screen.show("g in runs", LINES[:1], on_slurm=False)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == shown[3:]
    assert "restarts" not in shown[1]


def test_on_a_terminal_a_table_has_colours_and_is_cut_at_its_edge() -> None:
    printed = on_terminal(ONCE, columns=80)
    lines = plain(printed)
    assert max(map(len, lines)) == 80
    assert lines[0] == "g in runs: 1 done, 1 running, 8 waiting"
    assert lines[3].startswith("densify-ce  running  ████▌          38 %  1.2    ce 1.3")
    assert lines[-2:] == ["report: job 9 pending", ""]
    assert "\x1b[36m" in printed
    assert UP not in printed
    assert "\x1b[36m" not in on_terminal(ONCE, NO_COLOR="1")


def test_on_a_terminal_a_table_is_drawn_over_the_one_before() -> None:
    printed = on_terminal(TWICE)
    first, second = printed.split(UP, 1)
    assert "1 done, 1 running, 8 waiting" in first
    assert second.count(UP) >= 10  # over a title, headings and ten cells
    assert "g in runs: 10 done" in second
    assert printed.index(HIDDEN) < printed.rindex(SHOWN)


def test_a_terminal_of_few_lines_shows_what_runs_first() -> None:
    first, _ = on_terminal(TWICE, lines=8).split(UP, 1)
    names = [line.split()[0] for line in plain(first)[2:] if line]
    assert names[:2] == ["densify-ce", "densify-0"]
    assert "synthesis" not in names


def test_a_terminal_that_cannot_draw_gets_lines() -> None:
    printed = on_terminal(TWICE, TERM="dumb")
    assert "\x1b" not in printed
    assert "g in runs: 1 done, 1 running, 8 waiting" in printed
    assert "x" * 300 in printed


def test_only_errors_on_a_terminal_are_none() -> None:
    """`submit.py > log` on a terminal."""
    program = textwrap.dedent(PROGRAM) + textwrap.dedent(TWICE)
    command = ["bash", "-c", f"{sys.executable} -c '{program}' | cat >&2"]
    terminal = Terminal(command)
    assert terminal.end() == 0
    assert "\x1b" not in terminal.printed
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"FORCE_COLOR": "1", "COLUMNS": "80"},
    )
    assert "\x1b" not in done.stdout
    assert "x" * 300 in done.stdout


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (3599.7, "1 h 00"), (7325, "2 h 02")]
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text
