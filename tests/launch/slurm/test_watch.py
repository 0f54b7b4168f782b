"""status.py watch=true: one table, kept up to date on a terminal."""

import json
import sys
from pathlib import Path

import pytest
from forked import ROOT
from slurm_answers import FakeSlurm, finish, folder_of, slurm, words
from terminal import HIDDEN, SHOWN, UP, Terminal, plain

from launch.status import main as status
from launch.submit import main

__all__ = ["slurm", "words"]  # fixtures


def rows_of(table: str) -> dict[str, str]:
    """The first word of each line, and the others with a space between."""
    rows = (" ".join(line.split()).partition(" ") for line in plain(table) if line)
    return {name: row for name, _, row in rows}


@pytest.mark.slow
def test_a_terminal_shows_what_changes_in_its_place(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    main(words)
    slurm.change("generator", state="RUNNING", reason="None", nodes="n3")
    program = [sys.executable, str(ROOT / "launch" / "status.py")]
    terminal = Terminal([*program, *words, "watch=true"], columns=200)
    first = rows_of(terminal.read(until="report: job"))
    assert first["synthesis"] == "running 0 % - - - - n3 job 102"
    assert first["densify-ce"] == "waiting 0 % - - - - - job 103_1 waits: Dependency"

    line = {"num_images": 4, "total_images": 8, "losses": {"ce": 1.5}, "images_per_second": 0.5}
    run = folder_of(tmp_path) / "synthesis"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    second = rows_of(terminal.read(until="0:08").rpartition(UP)[2])
    assert second["synthesis"].startswith("running ██████ 50 % 0.5 ce 1.5 0:08")

    (slurm.folder / "silent").write_text("Unable to contact slurm controller")
    terminal.read(until="Unable to contact slurm controller")  # it may be back
    (slurm.folder / "silent").unlink()
    finish(words, "synthesis", "densify-none", "densify-ce", "densify-ce_l1")
    for kind in ("shards", "generator", "cells", "report"):
        slurm.change(kind, state="GONE")
    assert terminal.end() == 0
    last = rows_of(terminal.printed.rpartition(UP)[2])
    assert {row.split()[0] for name, row in last.items() if "-" in name} == {"done"}
    assert "report:" not in last
    assert terminal.printed.index(HIDDEN) < terminal.printed.rindex(SHOWN)


def test_without_a_terminal_no_line_is_cut(
    slurm: FakeSlurm,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = folder_of(tmp_path) / "densify-ce"
    run.mkdir(parents=True)
    (run / "error.txt").write_text("it broke " + "x" * 300 + "\nlog: here\n")
    assert status([*words, "watch=true"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4
    (failed,) = (line for line in lines if line.startswith("densify-ce "))
    assert failed.endswith("it broke " + "x" * 300 + " log: here")


def test_accounting_is_asked_once_for_all_cells_that_ended_without_a_word(
    slurm: FakeSlurm, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    finish(words, "densify-none")
    for kind in ("shards", "generator", "cells"):
        slurm.change(kind, state="GONE")
    (slurm.folder / "accounting.json").write_text(json.dumps([("NODE_FAIL", "n1")]))
    capsys.readouterr()
    assert status(words) == 1
    rows = rows_of(capsys.readouterr().out)
    assert "job 102: NODE_FAIL, before it could write" in rows["synthesis"]
    assert "job 103_1: NODE_FAIL, before it could write" in rows["densify-ce"]
    asked = [call for call in slurm.calls("sacct") if "--duplicates" in call]
    assert [word for word in asked[0] if "jobs=" in word] == ["--jobs=102,103_1,103_2"]
    assert len(asked) == 1
    assert len(slurm.calls("squeue")) == 1


def test_a_cell_that_cannot_be_read_is_told_of_in_its_own_line(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(words, "densify-none")
    metrics = folder_of(tmp_path) / "densify-ce" / "metrics.jsonl"
    metrics.mkdir(parents=True)
    assert status(words) == 1
    rows = rows_of(capsys.readouterr().out)
    assert rows["densify-none"].startswith("done")
    assert rows["densify-ce"].startswith("unreadable")
    assert f"{metrics} cannot be read: Is a directory" in rows["densify-ce"]
