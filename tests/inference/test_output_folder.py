"""restore.py's output folder: what is refused, done again, or shared among processes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import ROOT, run_program, start_program
from label_sets import NUM_CLASSES
from masks import SIZE, draw_image, draw_mask, make_run, read, restore, rows_of, words_of
from PIL import Image
from processes import PATIENCE, wait_until
from tiny_runs import free_port, run_ranks

from maskrestore.config.inference import RestoreConfig
from maskrestore.config.settings import parse
from maskrestore.inference import restore as restoration
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.weights import save_weights
from maskrestore.utils.errors import ConfigError, UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_bad_masks_are_listed_at_the_end_and_the_rest_is_done(run: Path, tmp_path: Path) -> None:
    source, pictures = tmp_path / "in", tmp_path / "pictures"
    for number, name in enumerate(("good", "lonely", "other_size", "unknown")):
        ids = draw_mask(source / f"{name}.png", seed=number)
        draw_image(pictures / f"{name}.png", 32, 32 if name == "other_size" else 64)
    ids[3, 5] = 77
    Image.fromarray(ids).save(source / "unknown.png")
    Image.fromarray(ids.astype(np.uint16)).save(source / "k_instanceIds.png")
    (source / "cut.png").write_bytes((source / "good.png").read_bytes()[:90])
    (source / "text.png").write_text("no picture")
    (pictures / "lonely.png").unlink()
    done = restore(run, source, tmp_path / "out", f"images={pictures}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "restored: 1, not restored: 6" in done.stdout
    assert done.stderr.count("\n  /") == 6
    for name, problem in {
        "unknown": "1 of 2048 pixels are of values that are not 0..33, the first 77",
        "k_instanceIds": "has 16 bits per channel: instanceIds? give the labelIds",
        "cut": "is not a whole PNG",
        "text": "is not a PNG",
        "lonely": f"there is no picture {pictures}/lonely.png",
        "other_size": "is 32x32, the restored mask will be 32x64",
    }.items():
        assert f"{source}/{name}.png: " in done.stderr
        assert problem in done.stderr
        assert problem in rows_of(tmp_path / "out")[f"{name}.png"]["problem"]
        assert not (tmp_path / f"out/{name}_restored.png").exists()
    assert (tmp_path / "out/good_restored.png").is_file()
    Image.fromarray(np.minimum(ids, 33)).save(source / "unknown.png")
    again = restore(run, source, tmp_path / "out", f"images={pictures}")
    assert "restored: 1, done before: 1, not restored: 5" in again.stdout
    assert rows_of(tmp_path / "out")["unknown.png"]["problem"] == ""


def test_the_same_command_continues_and_touches_nothing_else(run: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in "abc":
        draw_mask(source / f"{name}.png", seed=ord(name))
    assert restore(run, source, out).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    summary = (out / "summary.csv").read_bytes()
    assert len(before) == 9
    (out / "b_overlay.png").unlink()
    draw_mask(source / "c.png", seed=77)
    again = restore(run, source, out)
    assert "restored: 2, done before: 1" in again.stdout
    changed = {path.name[0] for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"b", "c"}
    assert (out / "summary.csv").read_bytes() != summary
    facts = json.loads((out / "restore.json").read_text())
    assert facts["encoding"] == "ids"
    assert len(facts["checkpoint_sha256"]) == 64
    assert facts["commits"] == [facts["commit"]]

    done = restore(run, source, out, "fit=tile")
    assert done.returncode == 2
    assert "was made with other settings:\n  fit: resize -> tile" in done.stderr
    assert (out / "a_restored.png").stat().st_mtime_ns == before[out / "a_restored.png"]
    done = restore(run, source, out, "fit=tile", "overwrite=true")
    assert "restored: 3\n" in done.stdout
    assert (out / "a_restored.png").stat().st_mtime_ns != before[out / "a_restored.png"]
    assert "\nrestored: 3\n" in restore(run, source, out, "overwrite=true").stdout


def test_a_killed_process_s_files_are_its_own_and_are_made_again(run: Path, tmp_path: Path) -> None:
    """It was killed before its journal said that the last mask is done, in mid-line."""
    for name in "abc":
        draw_mask(tmp_path / f"in/{name}.png", seed=ord(name))
    draw_mask(tmp_path / "in/._a.png")
    out = tmp_path / "out"
    assert restore(run, tmp_path / "in", out).returncode == 0
    (journal,) = out.glob(".restore/*/*.jsonl")
    whole = journal.read_text()
    journal.write_text(whole[: whole.rindex('"row"')])
    last = json.loads(whole.splitlines()[-1])["file"]  # two threads write: not always c
    (out / f".{Path(last).stem}_restored.png.partial").write_text("half")
    again = restore(run, tmp_path / "in", out)
    assert "restored: 1, done before: 2" in again.stdout
    assert not list(out.glob("*.partial"))
    assert set(rows_of(out)) == {"a.png", "b.png", "c.png"}
    journal.unlink()
    foreign = restore(run, tmp_path / "in", out)
    assert foreign.returncode == 2
    assert "files in the way that this command did not write: 9" in foreign.stderr


def test_files_of_others_are_not_overwritten(run: Path, tmp_path: Path) -> None:
    draw_mask(tmp_path / "in/a.png")
    draw_mask(tmp_path / "in/b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b_overlay.png").write_text("mine")
    (tmp_path / "out/notes.txt").write_text("mine")
    done = restore(run, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 2
    assert "in the way that this command did not write: 1\n  b_overlay.png" in done.stderr
    assert not (tmp_path / "out/restore.json").exists()
    assert not (tmp_path / "out/a_restored.png").exists()
    done = restore(run, tmp_path / "in", tmp_path / "out", "overwrite=true")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    assert read(tmp_path / "out/b_overlay.png").shape == (32, 64, 3)


def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(run: Path, tmp_path: Path) -> None:
    for number in range(150):
        draw_mask(tmp_path / f"in/{number:03}.png", seed=number)
    words = words_of(run, tmp_path / "in", tmp_path / "out", "batch_size=1")
    process = start_program([str(ROOT / "restore.py"), *words])
    wait_until("masks", lambda: len(list(tmp_path.glob("out/*_confidence.png"))) >= 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, errors
    assert "stopped as asked; the same command goes on" in errors
    assert not list(tmp_path.rglob("*.partial"))
    kinds = [len(list(tmp_path.glob(f"out/*_{kind}.png"))) for kind in ("restored", "overlay")]
    assert kinds[0] == kinds[1] < 150
    again = run_program([str(ROOT / "restore.py"), *words])
    assert again.returncode == 0, again.stderr
    assert f"restored: {150 - kinds[0]}, done before: {kinds[0]}\n" in again.stdout
    assert len(rows_of(tmp_path / "out")) == 150


def test_two_processes_and_several_parts_make_what_one_makes(run: Path, tmp_path: Path) -> None:
    for number in range(7):
        draw_mask(tmp_path / f"in/{number}.png", 40, 70, seed=number)
    (tmp_path / "in/bad.png").write_text("no picture")
    program = ROOT / "restore.py"
    assert restore(run, tmp_path / "in", tmp_path / "one").returncode == 2
    words = words_of(run, tmp_path / "in", tmp_path / "two")
    statuses, errors = run_ranks(words, 2, program=program)
    assert statuses == [2, 2], errors
    assert "not restored:\n" in errors[0]
    assert "restore, process 1 of 2: " in errors[0]
    assert "restored" not in errors[1]
    for number in range(3):
        restore(run, tmp_path / "in", tmp_path / "parts", f"part={number}/3")
    for other in ("two", "parts"):
        assert rows_of(tmp_path / "one") == rows_of(tmp_path / other)
        for path in (tmp_path / "one").glob("*.png"):
            assert path.read_bytes() == (tmp_path / other / path.name).read_bytes()
    done = restore(run, tmp_path / "in", tmp_path / "two")
    assert "done before: 7, not restored: 1" in done.stdout


def test_accelerate_launch_shares_the_masks_out(run: Path, tmp_path: Path) -> None:
    for number in range(5):
        draw_mask(tmp_path / f"in/{number}.png", seed=number)
    launcher = [
        *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"),
        *("--num_machines", "1", "--num_processes", "2", "--main_process_port", str(free_port())),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ]
    words = words_of(run, tmp_path / "in", tmp_path / "out")
    done = subprocess.run(
        [*launcher, str(ROOT / "restore.py"), *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "restored: 5\n" in done.stdout
    assert "restore, process 1 of 2: " in done.stderr
    assert len(rows_of(tmp_path / "out")) == 5


def test_mistakes_in_what_is_given_are_explained(run: Path, tmp_path: Path) -> None:
    draw_mask(tmp_path / "in/a.png")
    (tmp_path / "empty").mkdir()
    draw_mask(tmp_path / "mixed/a.png")
    draw_image(tmp_path / "mixed/b.png")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "mask_generator.pth").write_bytes((run / "mask_generator.pth").read_bytes())
    synthesis, unfinished = make_run(tmp_path / "s", "task=synthesis"), make_run(tmp_path / "u")
    (unfinished / "mask_generator.pth").unlink()
    smaller = make_run(tmp_path / "smaller", "task=super_resolution")
    few, wide = make_run(tmp_path / "few"), make_run(tmp_path / "wide")
    save_weights(MaskGenerator(19, 8, 4, SIZE).state_dict(), few / "mask_generator.pth")
    save_weights(MaskGenerator(NUM_CLASSES, 16, 4, SIZE).state_dict(), wide / "mask_generator.pth")
    source, out = tmp_path / "in", tmp_path / "out"
    for words, message in (
        (["part=4/4"], "part: write NUMBER/PARTS, counted from 0"),
        (["chekpoint=x", "fit=tiles"], "chekpoint: no such setting; did you mean checkpoint?"),
        ([f"checkpoint={bare}"], f"there is no {bare}/config.yaml"),
        ([f"checkpoint={run}/config.yaml"], "give a run folder, or the mask_generator.pth in it"),
        ([f"checkpoint={synthesis}"], "trains no mask generator"),
        ([f"checkpoint={unfinished}"], "the run is not finished"),
        ([f"checkpoint={few}"], "restores 19 classes, but data.labels of"),
        ([f"checkpoint={wide}"], "does not fit MaskGenerator"),
        ([f"input={tmp_path}/empty"], "there are no PNG files (*.png) in this folder"),
        ([f"input={tmp_path}/nowhere"], "there is no such file or folder"),
        ([f"images={tmp_path}/nowhere"], "there is no such file or folder"),
        ([f"input={tmp_path}/mixed"], "b.png holds colours, a.png ids"),
        ([f"output={source}"], "whose masks would get mixed with restored ones"),
        ([f"output={source}/out"], "whose masks would get mixed with restored ones"),
        ([f"checkpoint={smaller}", "keep_annotated=true"], "it would come back as it is"),
        (["augment=true"], "has no image generator; give one as generator=FILE"),
        (["augment=true", "generator=nowhere.pth"], "there is no image generator nowhere.pth"),
    ):
        with pytest.raises((ConfigError, UserError)) as mistake:
            restoration.restore(parse(RestoreConfig, [*words_of(run, source, out), *words]))
        assert message in str(mistake.value)
        assert not out.exists()
    done = restore(run / "mask_generator.pth", source, out, "fit=tiles")
    assert done.returncode == 2
    assert done.stderr.startswith("fit: ")
    assert restore(run / "mask_generator.pth", source, out).returncode == 0


def test_settings_that_the_device_cannot_do_are_named_as_they_are_written_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = make_run(tmp_path / "half", "distributed.precision=fp16")
    draw_mask(tmp_path / "in/a.png")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    why = "precision=fp16 needs a GPU: write bf16 or fp32 on a CPU"
    for words, message in (
        (["precision=fp16"], why),
        ([f"checkpoint={half}"], f"{why} (it is that of checkpoint={half})"),
        (["device=cuda"], "device=cuda: torch sees no GPU; write device=cpu"),
    ):
        given = [*words_of(run, tmp_path / "in", tmp_path / "out"), *words]
        with pytest.raises(ConfigError) as mistake:
            restoration.restore(parse(RestoreConfig, given))
        assert str(mistake.value) == message


def test_what_cannot_be_written_ends_it_with_a_message(run: Path, tmp_path: Path) -> None:
    for name in ("a", "deep/b", "c"):
        draw_mask(tmp_path / f"in/{name}.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/deep").write_text("in the way of a folder")
    done = restore(run, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 2
    assert f"{tmp_path}/out/deep: File exists" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "out/deep").unlink()
    again = restore(run, tmp_path / "in", tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert len(rows_of(tmp_path / "out")) == 3
