"""submit.py: the plan, and one whole tiny grid."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.grid.cells import read_grid
from launch.grid.state import read_state
from launch.slurm.handover import SubmitConfig
from launch.submit import main
from maskrestore.config.settings import parse, to_yaml
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import is_locked, lock
from shards.write import WriteConfig, write_shards

ROOT = Path(__file__).resolve().parents[3]

SIZES = {
    "data": {"size": "32x64", "num_train": 8, "num_val": 4},
    "mask_generator": {"width": 4, "hidden": 8},
    "generator": {"width": 4, "hidden": 8, "discriminator_width": 4, "num_images": 8},
    "perceptual": {"network": "lite0"},
    "training": {"num_images": 8, "batch_size": 4, "log_images": 4},
    "evaluation": {"features": "lite0", "batch_size": 4, "num_pictures": 2},
    "distributed": {"device": "cpu"},
}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command line of a grid that lies in tmp_path."""
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(SIZES))  # JSON is YAML
    return [
        "cluster=local",
        f"config={path}",
        f"runs={tmp_path / 'runs'}",
        f"data.shards={tmp_path / 'shards'}",
    ]


def finish(words: list[str], *names: str) -> None:
    """Leave the run folders of cells as finished runs do."""
    _, grid = read_grid(SubmitConfig, words)
    for cell in grid.cells:
        if cell.name in names:
            cell.folder.mkdir(parents=True)
            (cell.folder / "config.yaml").write_text(to_yaml(cell.config))
            result = {"metrics": {"accu": 0.5}, "protocol": {}, "num_images": 8}
            (cell.folder / "result.json").write_text(json.dumps(result))


def plan(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What dry_run says about each cell."""
    assert main([*words, "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    return {line.split()[0]: " ".join(line.split()[1:-1]) for line in lines}


def test_dry_run_tells_done_stopped_failed_and_new_cells_apart_and_writes_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(words, "synthesis")
    folder = tmp_path / "runs" / "tiny-table1"
    (folder / "densify-ce").mkdir()
    (folder / "densify-ce" / "metrics.jsonl").write_text(
        '{"num_images": 4, "total_images": 8, "losses": {"ce": 1.5}}\n{"num_images": 8, "tot'
    )
    (folder / "densify-ce_vgg").mkdir()
    (folder / "densify-ce_vgg" / "error.txt").write_text("it broke\n")
    before = sorted(tmp_path.rglob("*"))

    states = plan(words, capsys)

    assert states["synthesis"] == "done"
    assert states["densify-ce"] == "to continue at 4 of 8 images"
    assert states["densify-ce_vgg"] == "to run, 8 images (failed the last time)"
    assert states["densify-ce_l1"] == "to run, 8 images"
    assert states["densify-none"] == "to evaluate"
    assert len(states) == 21
    assert sorted(tmp_path.rglob("*")) == before


def test_a_finished_cell_of_other_settings_is_refused_by_name_and_key(words: list[str]) -> None:
    finish(words, "densify-ce", "densify-none")
    with pytest.raises(ConfigError) as caught:
        main([*words, "training.num_images=16", "dry_run=true"])
    message = str(caught.value)
    assert "cell densify-ce: training.num_images: 8 -> 16" in message
    assert "cell densify-none: training.num_images: 8 -> 16" in message
    assert "runs=" in message


def test_settings_that_change_no_result_do_not_refuse_a_finished_cell(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    finish(words, "densify-ce")
    more = ["training.log_images=2", "distributed.cpu_threads=1"]
    assert plan([*words, *more], capsys)["densify-ce"] == "done"


def test_a_result_of_another_image_generator_is_refused(words: list[str], tmp_path: Path) -> None:
    finish(words, "synthesis", "densify-ce")
    folder = tmp_path / "runs" / "tiny-table1"
    (folder / "synthesis" / "generator.pth").write_bytes(b"retrained")
    result = {"metrics": {}, "protocol": {}, "num_images": 8, "generator_sha256": "0" * 64}
    (folder / "densify-ce" / "result.json").write_text(json.dumps(result))
    with pytest.raises(ConfigError, match="cell densify-ce: generator 000000000000 -> "):
        main([*words, "dry_run=true"])


def test_shards_that_cannot_be_written_are_asked_for(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"data\.root=FOLDER"):
        main([*words, "data.source=cityscapes", "dry_run=true"])


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("data.source=camvid", "data.source: streetscenes there, camvid asked for"),
        ("data.size=64x64", "data.size: 32x64 there, 64x64 asked for"),
        ("data.num_train=9", "data.num_train: 16 there, 9 asked for"),
        ("data.source_seed=3", "data.source_seed: 0 there, 3 asked for"),
    ],
)
def test_shards_of_other_settings_are_refused(
    shards: Path, tmp_path: Path, words: list[str], word: str, line: str
) -> None:
    same = [*words, f"data.shards={shards}", "data.num_train=16", "data.num_val=5"]
    assert main([*same, "dry_run=true"]) == 0
    with pytest.raises(ConfigError) as caught:
        main([*same, word, "dry_run=true"])
    assert [text.strip() for text in str(caught.value).splitlines()[1:-1]] == [line]
    assert str(shards) in str(caught.value)


def test_a_damaged_manifest_is_named_before_anything_starts(
    words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json is not a shard manifest"):
        main(words)
    assert not (tmp_path / "runs").exists()


def test_every_run_folder_that_cannot_be_read_is_named(words: list[str], tmp_path: Path) -> None:
    finish(words, "densify-ce", "densify-ce_vgg", "synthesis")
    folder = tmp_path / "runs" / "tiny-table1"
    (folder / "densify-ce" / "config.yaml").write_text("of: another program\n")
    (folder / "synthesis" / "config.yaml").write_text("[not, settings]\n")
    (folder / "synthesis" / "generator.pth").write_bytes(b"weights")
    (folder / "densify-ce_vgg" / "result.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        main([*words, "dry_run=true"])
    for name in ("densify-ce/config.yaml", "synthesis/config.yaml", "densify-ce_vgg/result.json"):
        assert str(folder / name) in str(caught.value)


def test_a_run_that_another_process_works_on_is_left_alone(words: list[str]) -> None:
    _, grid = read_grid(SubmitConfig, words)
    cell = grid.cells[3]
    with lock(cell.folder):
        assert read_state(cell).kind == "running"
        with pytest.raises(UserError, match="another process is at work"):
            lock(cell.folder)
        with pytest.raises(UserError, match=cell.name):
            main(words)
    assert not is_locked(cell.folder)


def submit(program: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "launch" / program), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("submit", ["--help"]), ("submit", ["dry_run=true"]), ("report", ["--help"])],
)
def test_help_and_a_dry_run_import_nothing_heavy(
    program: str, arguments: list[str], words: list[str]
) -> None:
    code = (
        f"import runpy, sys; sys.argv[0] = '{program}'\n"
        f"try: runpy.run_path('{ROOT}/launch/{program}.py', run_name='__main__')\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *words, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    imported = set(done.stderr.split())
    assert "pydantic" in imported
    assert not imported & {"torch", "numpy", "scipy", "cv2", "submitit", "webdataset", "rich"}


def test_help_lists_the_settings_of_the_grid() -> None:
    shown = submit("submit.py", "--help")
    assert shown.returncode == 0
    assert "parallel" in shown.stdout
    assert "training.num_images" in shown.stdout
    settings = {line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ")}
    assert not settings & {"task", "loss", "baseline", "run"}  # the rows' own: refused as words


def test_wrong_words_end_with_status_2_and_no_traceback(words: list[str]) -> None:
    ended = submit("submit.py", *words, "paralel=2", "training.num_images=many")
    assert ended.returncode == 2
    assert "did you mean parallel?" in ended.stderr
    assert "training.num_images" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_submit_runs_a_tiny_grid_for_real(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a shell that is one of two tasks, and where a launcher's variables were left: each cell
    # is alone all the same.
    step = {"STEP_NUM_TASKS": "2", "PROCID": "0", "LOCALID": "0", "JOB_ID": "7", "STEP_ID": "0"}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    path = tmp_path / "small.yaml"
    path.write_text(
        "rows:\n  synthesis: {task: synthesis}\n  densify-none: {task: densify, loss: none}\n"
        "  densify-ce_vgg_l1: {task: densify, loss: ce_vgg_l1}\n"
    )
    words = [*words, f"grid={path}"]
    folder = tmp_path / "runs" / "tiny-small"

    first = submit("submit.py", *words)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count(": started") == 3
    assert "launch/report.py" in first.stdout
    results = {name: folder / name / "result.json" for name in ("synthesis", "densify-ce_vgg_l1")}
    times = {name: result.stat().st_mtime_ns for name, result in results.items()}

    again = submit("submit.py", *words)
    assert again.returncode == 0, again.stderr
    assert ": started" not in again.stdout
    assert {name: result.stat().st_mtime_ns for name, result in results.items()} == times

    status = submit("status.py", *words)
    assert status.returncode == 0, status.stderr
    assert "3 done" in status.stdout
    log = submit("status.py", *words, "logs=densify-none")
    assert log.returncode == 0, log.stderr
    assert "logs/densify-none/001/" in log.stdout
    assert submit("status.py", *words, "cancel=all").returncode == 2  # Ctrl-C is for that here

    report = submit("report.py", *words[1:])
    assert report.returncode == 0, report.stderr
    assert "cells done: 3 of 3" in report.stdout
    assert "fd_lite0" in (folder / "small.md").read_text()
    assert (folder / "small.csv").is_file()
    assert (folder / "figure2.png").is_file()


@pytest.mark.slow
def test_cells_that_need_the_generator_are_not_started_when_it_fails(
    words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    sizes = ["num_train=8", "num_val=4", "size=32x64", "workers=1"]
    write_shards(parse(WriteConfig, [f"out={out}", *sizes]))
    (out / "train-000000.tar").write_bytes(b"damaged")
    ended = submit("submit.py", *words)
    assert ended.returncode == 2
    assert "cell synthesis failed" in ended.stderr
    assert "train-000000.tar is damaged" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "not started" in ended.stdout
    assert ended.stdout.count(": started") == 1
    assert (tmp_path / "runs" / "tiny-table1" / "synthesis" / "error.txt").is_file()
