"""Stopped, killed, damaged, poisoned: what a run on several processes goes on from."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from forked import ROOT, run_program
from processes import PATIENCE
from tiny_runs import (
    ENGINES,
    Words,
    end_of,
    lines_of,
    losses_of,
    run_ranks,
    start_ranks,
    wait_until,
)

from maskrestore.config.cli import RESUME_STATUS
from maskrestore.config.run import load_config
from maskrestore.models.weights import load_weights
from maskrestore.training.loop import train
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import lock
from shards.write import WriteConfig, write_shards

STEPS = ("training.batch_size=6", "training.log_images=6", "training.checkpoint_images=24")
LONG = (*STEPS, "loss=ce", "training.num_images=96", "training.learning_rate=1e-3")

PROGRAMS = ROOT / "tests" / "programs"
HURRIED, FULL = (PROGRAMS / f"{name}.py" for name in ("hurried", "full"))
"""train.py in an hour of need."""

pytestmark = pytest.mark.slow


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_weights(run / "mask_generator.pth")


def assert_same_run(run: Path, unbroken: Path) -> None:
    """Bit for bit: every step's loss, and the weights at the end."""
    assert losses_of(run) == losses_of(unbroken)
    ours, theirs = weights_of(run), weights_of(unbroken)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def assert_close_run(run: Path, unbroken: Path) -> None:
    for (n, ours), (m, theirs) in zip(losses_of(run), losses_of(unbroken), strict=True):
        assert n == m
        assert ours == pytest.approx(theirs, rel=2e-2)


def stop(words: list[str], run: Path, number: signal.Signals, after: int = 6) -> str:
    """Send the signal to the second of two processes once `after` steps are done; stderr."""
    ranks = start_ranks(words, 2)
    log = run / "metrics.jsonl"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= after, ranks)
    ranks[1].send_signal(number)
    statuses, errors = end_of(ranks)
    assert statuses == [RESUME_STATUS, RESUME_STATUS], errors
    assert not (run / "result.json").exists()
    return "".join(errors)


@pytest.mark.parametrize("engine", ENGINES)
def test_many_processes_add_their_gradients_in_one_order(
    words: Words, tmp_path: Path, engine: str
) -> None:
    """The sum of two numbers is the same either way round; that of four is not."""
    more = ("training.batch_size=4", "training.num_images=24", "training.checkpoint_images=8")
    more = (*more, *ENGINES[engine], "training.log_images=4", "training.keep_checkpoints=9")
    statuses, errors = run_ranks(words("unbroken", *more), 4)
    assert statuses == [0] * 4, errors
    shutil.copytree(tmp_path / "unbroken", tmp_path / "broken")
    for name in ("result.json", "mask_generator.pth"):
        (tmp_path / "broken" / name).unlink()
    for number in (16, 24):  # as if it had been killed before
        shutil.rmtree(tmp_path / "broken" / "checkpoints" / f"{number:09d}")
    statuses, errors = run_ranks(words("broken", *more), 4)
    assert statuses == [0] * 4, errors
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("engine", "precision", "number"),
    [
        ("ddp", "fp32", signal.SIGTERM),
        ("ddp", "bf16", signal.SIGUSR2),
        ("zero2", "fp32", signal.SIGINT),
        ("zero2", "bf16", signal.SIGTERM),
    ],
)
def test_a_signal_to_one_process_stops_all_together_and_the_run_goes_on_as_if_unbroken(
    words: Words, tmp_path: Path, engine: str, precision: str, number: signal.Signals
) -> None:
    more = (*LONG, *ENGINES[engine], f"distributed.precision={precision}")
    statuses, errors = run_ranks(words("unbroken", *more), 2)
    assert statuses == [0, 0], errors
    told = stop(words("broken", *more), tmp_path / "broken", number)
    assert told.count("stopped as asked and saved at image") == 1
    assert "Traceback" not in told
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "broken", stopped)
    statuses, errors = run_ranks(words("broken", *more), 2)
    assert statuses == [0, 0], errors
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")
    if precision == "fp32":  # the same on other numbers of processes, within rounding
        for count in (1, 3) if engine == "zero2" else (3,):
            elastic = tmp_path / f"on-{count}"
            shutil.copytree(stopped, elastic)
            statuses, errors = run_ranks(words(elastic.name, *more), count)
            assert statuses == [0] * count, errors
            assert_close_run(elastic, tmp_path / "unbroken")
            at = {line["num_processes"] for line in lines_of(elastic) if "losses" in line}
            assert at == {2, count}
    if engine == "zero2" and precision == "fp32":  # and with the other engine, alone
        moved = (*LONG, *ENGINES["ddp"], "training.save_in_background=true")
        statuses, errors = run_ranks(words("stopped", *moved), 1)
        assert statuses == [0], errors
        assert_close_run(stopped, tmp_path / "unbroken")


def test_a_signal_in_an_evaluation_ends_it_on_all_and_it_is_made_up_for(
    words: Words, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    write_shards(WriteConfig(size="32x64", num_train=4, num_val=48, out=folder, workers=1))
    more = ("loss=ce", "training.num_images=16", "training.evaluate_images=7")
    given = words("run", f"data.shards={folder}", "evaluation.batch_size=1", *more)
    ranks = start_ranks(given, 2)
    # What is saved before an evaluation is there once that begins.
    wait_until((tmp_path / "run" / "checkpoints" / "000000008").is_dir, ranks)
    ranks[1].send_signal(signal.SIGTERM)
    statuses, errors = end_of(ranks)
    assert statuses == [RESUME_STATUS, RESUME_STATUS], errors
    statuses, errors = run_ranks(given, 2)
    assert statuses == [0, 0], errors
    lines = lines_of(tmp_path / "run")
    assert [line["num_images"] for line in lines if "evaluation" in line] == [8, 16]
    assert {line["evaluation"]["num_samples"] for line in lines if "evaluation" in line} == {48}


def test_a_checkpoint_that_one_process_sees_damaged_is_passed_over_by_all(
    words: Words, tmp_path: Path
) -> None:
    """Two machines that each have a folder of their own, of which one is damaged."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    relative = [word for word in words("run", *LONG) if not word.startswith("run=")] + ["run=run"]
    unbroken = train(load_config(words("unbroken", *LONG)))["num_images"]
    assert unbroken == 96
    ranks = start_ranks(relative, 1, folders=folders[:1])
    saves = folders[0] / "run" / "checkpoints"
    wait_until((saves / "000000048").exists, ranks)
    ranks[0].send_signal(signal.SIGTERM)
    assert end_of(ranks)[0] == [RESUME_STATUS]
    shutil.copytree(folders[0] / "run", folders[1] / "run")
    newest = max((folders[1] / "run" / "checkpoints").iterdir()) / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    statuses, errors = run_ranks(relative, 2, folders=folders)
    assert statuses == [0, 0], errors
    fault = "is damaged or missing on process 1 of 2"
    assert f"checkpoint run/checkpoints/{newest.parent.name} {fault}" in errors[0]
    assert_close_run(folders[0] / "run", tmp_path / "unbroken")


def test_a_folder_that_one_process_does_not_see_is_refused(words: Words, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    relative = [word for word in words("run", *LONG) if not word.startswith("run=")] + ["run=run"]
    statuses, errors = run_ranks(relative, 2, folders=folders, program=HURRIED)
    assert statuses == [2, 2]
    assert "run=run is not there for every process" in errors[1]


def test_a_folder_of_a_live_run_is_refused_by_all_processes(words: Words, tmp_path: Path) -> None:
    with lock(tmp_path / "run"):
        statuses, errors = run_ranks(words("run", *LONG), 2)
    assert statuses == [2, 2]
    assert "another process is at work on this run" in errors[0]
    assert errors[1] == ""


def test_a_process_that_stands_still_ends_the_others_with_all_stacks(
    words: Words, tmp_path: Path
) -> None:
    ranks = start_ranks(words("run", *LONG, "health.watchdog_seconds=4"), 2)
    log = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 4, ranks)
    ranks[1].send_signal(signal.SIGSTOP)
    try:
        _, error = ranks[0].communicate(timeout=PATIENCE)
    finally:
        ranks[1].kill()
        ranks[1].communicate()
    assert ranks[0].returncode == 1
    assert "Timeout (0:00:04)!" in error
    assert "training/loop.py" in error


def test_more_processes_than_samples(words: Words, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    write_shards(WriteConfig(size="32x64", num_train=1, num_val=2, out=folder, workers=1))
    more = ("loss=ce", "training.batch_size=3", "training.num_images=9")
    statuses, errors = run_ranks(words("run", f"data.shards={folder}", *more), 3)
    assert statuses == [0, 0, 0], errors
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["num_samples"] == 2


def test_other_code_is_refused_by_name_unless_accepted(words: Words, tmp_path: Path) -> None:
    short = (*STEPS, "loss=ce", "training.num_images=6")
    train(load_config(words("run", *short)))
    run = tmp_path / "run"
    facts = json.loads((run / "inputs.json").read_text())
    facts["code"] |= {"losses": "0" * 64, "torch": "1.0"}
    (run / "inputs.json").write_text(json.dumps(facts))
    train(load_config(words("run", *short)))  # finished: nothing would be computed
    (run / "result.json").unlink()
    with pytest.raises(UserError, match=r"other code: losses, torch 1\.0 -> "):
        train(load_config(words("run", *short)))
    result = train(load_config(words("run", *short, "accept_changed_code=true")))
    assert result["resumed_with_other_code"] is True
    assert "losses" in json.loads((run / "inputs.json").read_text())["earlier_code"][0]


def test_a_full_disk_ends_all_processes_with_one_message(words: Words) -> None:
    for background in ("false", "true"):
        given = words(f"run-{background}", *LONG, f"training.save_in_background={background}")
        done = run_program([str(FULL), *given])
        assert done.returncode == 2, done.stderr
        assert "File too large" in done.stderr
        assert "Traceback" not in done.stderr
