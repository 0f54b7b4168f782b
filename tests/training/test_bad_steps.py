"""Steps with a loss that is not finite, or jumps: left out, gone back from, given up."""

import json
from itertools import islice
from pathlib import Path

import pytest
from forked import ROOT
from tiny_runs import ENGINES, Words, lines_of, losses_of, run_ranks

from maskrestore.config.run import load_config
from maskrestore.data.loader import training_batches
from maskrestore.models.weights import load_weights

POISONED = ROOT / "tests" / "programs" / "poisoned.py"
SMALL = ("loss=ce", "training.batch_size=4", "training.log_images=16", "training.num_images=96")

pytestmark = pytest.mark.slow


def run_poisoned(words: list[str], number: int, poison: str) -> tuple[list[int], list[str]]:
    environment = {"POISON": poison, "PYTHONPATH": str(ROOT)}
    return run_ranks(words, number, program=POISONED, environment=environment)


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_a_bad_step_of_one_process_is_left_out_by_all_and_told(
    words: Words, tmp_path: Path, engine: str
) -> None:
    given = words("run", *SMALL, *ENGINES[engine])
    statuses, errors = run_poisoned(given, 2, "nan:1:24:32")
    assert statuses == [0, 0], errors
    skipped = [line["skipped"] for line in lines_of(tmp_path / "run") if "skipped" in line]
    batches = training_batches(load_config(given), 24, rank=1, world_size=2)
    keys = [list(batch.keys) for batch in islice(batches, 2)]
    batches.close()
    assert skipped == [
        {"images_after": 28, "terms": ["ce"], "processes": [1], "keys": keys[0]},
        {"images_after": 32, "terms": ["ce"], "processes": [1], "keys": keys[1]},
    ]
    assert all(
        tensor.isfinite().all()
        for tensor in load_weights(tmp_path / "run" / "mask_generator.pth").values()
    )
    assert not (tmp_path / "run" / "rollbacks.json").exists()


def test_a_last_step_that_is_left_out_does_not_keep_a_run_from_its_end(
    words: Words, tmp_path: Path
) -> None:
    statuses, errors = run_poisoned(words("run", *SMALL), 1, "nan:0:92:96")
    assert statuses == [0], errors
    [bad] = [line["skipped"] for line in lines_of(tmp_path / "run") if "skipped" in line]
    assert bad["images_after"] == 96
    assert (tmp_path / "run" / "checkpoints" / "000000096").is_dir()


@pytest.mark.parametrize(
    ("poison", "settings", "passed_over", "reason"),
    [
        ("nan:0:40:60", "health.max_skipped_steps=4", [40, 60], "loss ce is not finite at"),
        ("50:0:180:184", "health.spike_deviations=8", [180, 184], "the loss jumped to"),
    ],
)
def test_a_bad_window_is_gone_back_from_and_passed_over(
    words: Words,
    tmp_path: Path,
    poison: str,
    settings: str,
    passed_over: list[int],
    reason: str,
) -> None:
    more = ("training.num_images=240", "training.checkpoint_images=32", settings)
    run = tmp_path / "run"
    statuses, errors = run_poisoned(words("run", *SMALL, *more), 2, poison)
    assert statuses == [0, 0], errors
    [entry] = json.loads((run / "rollbacks.json").read_text())
    assert entry["images"] == passed_over
    assert reason in entry["reason"]
    assert reason in errors[0]
    assert [line for line in lines_of(run) if "skipped" in line] == []
    losses = [losses["ce"] for _, losses in losses_of(run)]
    assert max(losses) < 10
    result = json.loads((run / "result.json").read_text())
    assert result["images_passed_over"] == passed_over[1] - passed_over[0]


def test_a_run_that_goes_back_too_often_gives_up(words: Words, tmp_path: Path) -> None:
    more = ("health.max_skipped_steps=2", "health.max_rollbacks=2")
    statuses, errors = run_poisoned(words("run", *SMALL, *more), 1, "nan:0:8:1000")
    assert statuses == [2]
    assert "having gone back 2 times (health.max_rollbacks=2)" in errors[0]
    assert "Traceback" not in errors[0]
    assert len(json.loads((tmp_path / "run" / "rollbacks.json").read_text())) == 2
    assert not (tmp_path / "run" / "result.json").exists()
