"""data.crop from training to the masks of users: one network, one size, one way of tiling."""

import json
from pathlib import Path

import numpy as np
import pytest
from forked import ROOT, run_program
from label_sets import LABELS
from masks import config_of, draw_mask, make_run, read, restore
from PIL import Image
from tiny_runs import Words, run_train

from maskrestore.config.inference import ExportConfig
from maskrestore.data.loader import val_batches
from maskrestore.inference import export

pytestmark = pytest.mark.slow
COLORS = np.array([label.color for label in LABELS])


@pytest.mark.parametrize("task", [("task=densify",), ("task=super_resolution", "degrade.factor=4")])
def test_a_run_on_pieces_restores_in_tiles_as_its_evaluation_does(
    words: Words, tmp_path: Path, task: tuple[str, ...]
) -> None:
    own = ("loss=ce", "data.crop=32x32", "training.num_images=8", "generator.path=none")
    assert run_train(words("trained", *task, *own)).returncode == 0
    run, source = tmp_path / "trained", tmp_path / "in"
    config = config_of(run)
    source.mkdir()
    for batch in val_batches(config, 0, 1):
        masks = batch.coarse if config.task == "densify" else batch.fine[:, ::4, ::4]
        for key, mask in zip(batch.keys, masks, strict=True):
            Image.fromarray(mask.numpy().astype(np.uint8)).save(source / f"{key}.png")
    more = ("keep_annotated=false",) if config.task == "densify" else ()
    done = restore(run, source, tmp_path / "out", *more)
    assert done.returncode == 0, done.stderr
    pictures = sorted((run / "pictures").glob("*_restored.png"))
    assert pictures
    for picture in pictures:
        assert np.array_equal(COLORS[read(tmp_path / "out" / picture.name)], read(picture))
    identity = json.loads((tmp_path / "out/restore.json").read_text())
    assert '"fit": "tile"' in json.dumps(identity)
    assert '"size": "32x32"' in json.dumps(identity)
    # Shrunk to the size of a piece it is another mask.
    done = restore(run, source, tmp_path / "shrunk", "fit=resize", *more)
    assert done.returncode == 0, done.stderr
    names = [picture.name for picture in pictures]
    ours, theirs = ([read(tmp_path / out / name) for name in names] for out in ("out", "shrunk"))
    assert not all(np.array_equal(*two) for two in zip(ours, theirs, strict=True))


def test_a_run_on_pieces_is_evaluated_again_with_the_same_figures(
    words: Words, tmp_path: Path
) -> None:
    own = ("task=densify", "loss=ce", "data.crop=32x32", "training.num_images=8")
    assert run_train(words("trained", *own)).returncode == 0  # the generator draws whole scenes
    result = tmp_path / "trained/result.json"
    before = json.loads(result.read_text())["metrics"]
    assert before["fd_lite0"] is not None
    done = run_program([str(ROOT / "evaluate.py"), f"run={tmp_path / 'trained'}"])
    assert done.returncode == 0, done.stderr
    assert json.loads(result.read_text())["metrics"] == before


def test_the_exported_network_is_of_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = make_run(tmp_path / "run", "data.size=64x96", "data.crop=32x64"), tmp_path / "out"
    for name in ("_program", "_onnx"):  # test_export.py makes them
        monkeypatch.setattr(export, name, lambda network: (b"a program", 0.0))
    export.export_run(ExportConfig(run=run, output=out))
    card = (out / "README.md").read_text()
    assert "Input: int64 [B,32,64]. Output: logits, float32 [B,34,32,64]." in card
    assert "| trained on | pieces of 32x64 |" in card
    assert "pieces of 32x64 pixels of scenes of 64x96, put together from tiles" in card
    draw_mask(tmp_path / "in/a.png", 64, 96)
    assert restore(run, tmp_path / "in", tmp_path / "restored").returncode == 0
    assert read(tmp_path / "restored/a_restored.png").shape == (64, 96)
