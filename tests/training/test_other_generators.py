"""Whole runs through image generators that are not SPADE's: trained, evaluated, restored."""

import csv
import json
from pathlib import Path

import plain_generators as plain
import pytest
import torch
from forked import ROOT, run_program
from label_sets import NUM_CLASSES
from masks import draw_mask, words_of
from tiny_runs import Words, run_ranks, run_train

from maskrestore.models.generators import ccfpse

pytestmark = pytest.mark.slow

LABELS = NUM_CLASSES + 1
FILES = {
    "OASIS": plain.oasis_shapes(LABELS, 2, 4, z=3),
    "CC-FPSE": ccfpse.layout(LABELS + 1, 2, 4, 4, 3, 2),
    "pix2pixHD (global)": plain.pix2pixhd_shapes(LABELS + 1, 3, 2, 1),
}
"""Of which the second draws 64x128 alone."""
MORE = {
    "OASIS": ["generator.style=seed"],
    "CC-FPSE": ["generator.size=64x128", "distributed.frozen_precision=bf16"],
    "pix2pixHD (global)": [],
}


@pytest.mark.parametrize("kind", FILES)
def test_it_is_trained_through_and_drawn_with(words: Words, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "g.pth"
    torch.save(plain.random_state(FILES[kind]), path)
    own = [f"generator.path={path}", *MORE[kind]]
    given = [*words("run", "task=densify", "loss=ce_vgg_l1", *own)]
    done = run_train(given)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    protocol = result["protocol"]
    assert protocol["generator"] == kind
    assert protocol["generator size"] == ("64x128" if kind == "CC-FPSE" else "32x64")
    assert protocol["style"] == {"OASIS": "seed", "CC-FPSE": "zero"}.get(kind)
    assert protocol["edges"] == (None if kind == "OASIS" else "argmax")
    assert result["generator_sha256"]

    # The same on any number of processes, whatever the style is drawn with.
    statuses, errors = run_ranks([f"run={tmp_path / 'run'}"], 3, program=ROOT / "evaluate.py")
    assert statuses == [0, 0, 0], errors
    again = json.loads((tmp_path / "run" / "result.json").read_text())
    assert again["protocol"] == protocol
    assert again["metrics"]["fd_lite0"] == pytest.approx(result["metrics"]["fd_lite0"], rel=1e-4)

    draw_mask(tmp_path / "in/a.png", 64, 128)
    restore = words_of(tmp_path / "run", tmp_path / "in", tmp_path / "out", "augment=true")
    done = run_program([str(ROOT / "restore.py"), *restore])
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out/manifest.csv", newline="") as file:
        (pair,) = csv.DictReader(file)
    assert (tmp_path / "out" / pair["image"]).is_file()


def test_true_masks_are_drawn_with_any_file_and_another_file_is_no_resume(
    words: Words, tmp_path: Path
) -> None:
    path = tmp_path / "g.pth"
    torch.save(plain.random_state(FILES["OASIS"]), path)
    given = words("run", "task=synthesis", "loss=none", f"generator.path={path}")
    done = run_train(given)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["fd_lite0"] > 0
    assert result["protocol"]["generator"] == "OASIS"
    (tmp_path / "run" / "result.json").unlink()
    torch.save(plain.random_state(FILES["OASIS"], seed=1), path)
    done = run_train(given)
    assert done.returncode == 2
    assert "was started with other files" in done.stderr
    assert "generator.path: sha256" in done.stderr
