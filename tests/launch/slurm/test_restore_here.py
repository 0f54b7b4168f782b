"""launch/submit.py grid=densify_extra without SLURM (with it: system/test_slurm_restore.py)."""

from pathlib import Path
from subprocess import CompletedProcess

from forked import ROOT, run_program
from masks import draw_mask, make_run, rows_of, words_of

GRID = "grid=densify_extra"


def launch(program: str, *words: str) -> CompletedProcess[str]:
    return run_program([str(ROOT / "launch" / program), *words])


def test_masks_are_restored_here_where_there_is_no_cluster(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for number in range(3):
        draw_mask(tmp_path / f"in/city/{number}.png", seed=number)
    words = [GRID, "cluster=local", *words_of(run, tmp_path / "in", tmp_path / "out")]
    planned = launch("submit.py", *words, "dry_run=true")
    assert (planned.returncode, planned.stdout) == (0, "3 masks, here, without SLURM\n")
    assert not (tmp_path / "out").exists()
    done = launch("submit.py", *words)
    assert done.returncode == 0, done.stderr
    assert "restored: 3\n" in done.stdout
    assert len(rows_of(tmp_path / "out")) == 3
    again = launch("submit.py", *words)
    assert "done before: 3\n" in again.stdout


def test_help_tells_its_own_settings() -> None:
    shown = launch("submit.py", GRID, "--help").stdout
    for text in (
        "  checkpoint",
        "  parts = 8",
        "  slurm.partition",
        "Restore masks: python launch/",
        "densify_extra.yaml sets parts=16, unless words say otherwise.",
    ):
        assert text in shown
    for text in ("  part =", "training.batch_size"):
        assert text not in shown
    assert "grid=densify_extra" in launch("submit.py", "--help").stdout


def test_mistakes_are_told_before_anything_is_started(tmp_path: Path) -> None:
    run, source = make_run(tmp_path / "run"), tmp_path / "in"
    draw_mask(source / "a.png")
    (tmp_path / "empty").mkdir()
    local = [GRID, "cluster=local"]
    words = words_of(run, source, tmp_path / "out")
    done = launch("submit.py", *local, *words, "part=0/2", "parts=0", "fit=tiles")
    assert done.returncode == 2
    for text in ("part: set by the array", "parts: ", "fit: "):
        assert text in done.stderr
    for more, message in (
        (["checkpoint=nowhere"], "checkpoint=nowhere is not of a run"),
        ([f"input={tmp_path}/empty"], "empty"),
        (["loss=ce"], "loss: no such setting"),
        (["grid=densify_extr"], "there are: "),
    ):
        done = launch("submit.py", *local, *words, *more)
        assert done.returncode == 2, more
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_there_is_nothing_to_report_and_without_slurm_no_part_to_watch(tmp_path: Path) -> None:
    words = words_of(tmp_path / "run", tmp_path / "in", tmp_path / "out")
    done = launch("report.py", GRID, f"runs={tmp_path}")
    assert done.returncode == 2
    assert "densify_extra.yaml restores masks" in done.stderr
    done = launch("status.py", GRID, *words, "cluster=local")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path}/out.jobs: nothing was handed to SLURM for this output" in done.stdout
    done = launch("status.py", GRID, *words, "cluster=local", "cancel=all")
    assert done.returncode == 2
    assert "cancel: no such setting" in done.stderr
    both = tmp_path / "both.yaml"
    both.write_text("restore: {parts: 2}\nbase: {loss: ce}\n")
    done = launch("report.py", f"grid={both}", f"runs={tmp_path}")
    assert "both.yaml: `restore` must be a section, and the only one" in done.stderr
