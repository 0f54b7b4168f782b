"""Terminals without our characters, names that are no text, closed streams, full disks, -OO."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from finished_cells import cells_of, finish, tiny_grid
from forked import ROOT
from masks import draw_mask, make_run, words_of

from shards.write import WriteConfig, write_shards

LATIN = os.fsdecode(b"lat\xe9")
"""A name of a file that is no UTF-8."""
PROGRAMS = (
    "train.py",
    "evaluate.py",
    "restore.py",
    "export.py",
    "launch/submit.py",
    "launch/submit.py grid=densify_extra",
    "launch/status.py",
    "launch/report.py",
    "launch/dashboard.py",
    "shards/write.py",
    "shards/verify.py",
)


def run(
    program: str, *words: str, redirect: str = "", options: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """A program as a shell starts it, with redirections and with options of Python's."""
    command = shlex.join([*program.split(), *words])
    return subprocess.run(
        ["sh", "-c", f"exec {shlex.quote(sys.executable)} {options} {command} {redirect}"],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / LATIN
    settings = {"num_train": 2, "num_val": 1, "size": "32x64", "workers": 1}
    write_shards(WriteConfig(out=out, **settings))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_the_same_without_docstrings_and_on_any_terminal(program: str) -> None:
    whole = run(program, "--help", PYTHONIOENCODING="utf-8").stdout
    assert len(whole.splitlines()) > 3
    assert b"Traceback" not in whole
    for encoding in ("ascii", "iso-8859-1:strict")[: 2 if program == PROGRAMS[0] else 1]:
        done = run(program, "--help", options="-OO", PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        text = whole.decode().encode(encoding.partition(":")[0], "backslashreplace")
        assert done.stdout == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirect", "told"),
    [
        (">&-", b""),
        ("2>&-", b""),
        (">&- 2>&- <&-", b""),
        (">/dev/full", b"stdout cannot be written: No space left on device"),
        (">/dev/full 2>/dev/full", b""),
        ("2>/dev/full", b""),
    ],
)
def test_streams_that_take_no_word_change_no_exit_status(
    shards: Path, tmp_path: Path, redirect: str, told: bytes
) -> None:
    done = run("shards/verify.py", str(shards), redirect=redirect)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert told in done.stderr
    # Nothing of what it says, or its libraries, gets into files that it opens.
    words = ["num_train=2", "num_val=1", "size=32x64", "workers=1", f"out={tmp_path / 'out'}"]
    assert run("shards/write.py", *words, redirect=redirect).returncode == 0
    for path in shards.glob("*.tar"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert run("shards/verify.py", "nowhere", redirect=redirect).returncode == 2
    assert run("launch/submit.py", "task=densfy", redirect=redirect).returncode == 2


@pytest.mark.slow
def test_a_stream_that_is_full_for_now_is_waited_for(shards: Path) -> None:
    """Somebody has made the pipe non-blocking, and reads late."""
    program = (
        "import os, sys\n"
        "from maskrestore.utils.streams import set_up_streams\n"
        "os.set_blocking(1, False)\n"
        "set_up_streams()\n"
        "print('x' * 1_000_000)\n"
    )
    script = f"{shlex.join([sys.executable, '-c', program])} | (sleep 1; wc -c)"
    for unbuffered in ("", "1"):
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr) == ("1000001", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "terminal",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "utf-8:strict"},
    ],
)
def test_names_that_are_no_text_are_printed_as_they_are(
    shards: Path, tmp_path: Path, terminal: dict[str, str]
) -> None:
    """By all that writes files; the files are those that it names."""
    there = tmp_path / LATIN
    trained = make_run(there / "run")
    draw_mask(there / "in" / "ü.png")
    draw_mask(there / "in" / f"{LATIN}.png")
    out = os.fsencode(there / "out")
    words = words_of(trained, there / "in", there / "out")
    done = run("restore.py", *words, **terminal)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == out + b"/summary.csv"
    assert os.path.exists(out + b"/lat\xe9_restored.png")
    missing = run("evaluate.py", f"run={there / 'nothing'}", **terminal)
    assert missing.returncode == 2
    assert os.fsencode(there / "nothing") in missing.stderr
    assert b"Traceback" not in missing.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8:strict"])
def test_a_report_is_written_whatever_can_be_printed(tmp_path: Path, encoding: str) -> None:
    (tmp_path / LATIN).mkdir()
    words = tiny_grid(tmp_path / LATIN)
    for cell in cells_of(words).values():
        finish(cell, 0.9, 0.5)
    for program in ("launch/report.py", "launch/status.py"):
        done = run(program, *words, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / LATIN / "runs" / "tiny-table1"
    for ending in ("md", "tex", "csv", "html"):
        assert (folder / f"table1.{ending}").stat().st_size > 100


@pytest.mark.slow
def test_a_report_is_written_before_it_is_printed(tmp_path: Path) -> None:
    """Its reader has gone: that is told by the status, and all files are there."""
    words = tiny_grid(tmp_path)
    finish(next(iter(cells_of(words).values())), 0.9, 0.5)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, ROOT / "launch" / "report.py", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    names = {path.name for path in (tmp_path / "runs" / "tiny-table1").glob("table1.*")}
    assert names == {"table1.md", "table1.tex", "table1.csv", "table1.html"}
